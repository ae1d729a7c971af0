//! Requests that are more than the device takes at once: more segments than `seg_max`, or longer
//! ones than `size_max` (virtio 1.2, section 5.2.4), or than a chain has room for. They go to the
//! device in parts, each a request of its own, and complete once, when the last part has: with the
//! first status that was not VIRTIO_BLK_S_OK, after which no further part begins.
//!
//! The first part's slot stands for the whole request: it keeps the cookie, and stays taken to the
//! end. While there are more parts than free slots, the rest of one request waits in [`Rest`], and
//! each of its parts that ends makes room for the next.
//!
//! A device that takes [`MAX_SEGMENTS`](super::MAX_SEGMENTS) segments never sees any of this.

use super::{Bell, MAX_SEGMENTS, Queue};
use crate::dma::{MAX_SEGMENT_BYTES, Segment};
use crate::registers::Registers;
use crate::request::SubmitError;
use core::sync::atomic::Ordering;
use iolite_devices_abi::blk::{S_OK, SECTOR_SIZE};

/// How much the device takes in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Most data segments.
    pub segments: usize,
    /// Longest segment: whole sectors.
    pub segment_bytes: u32,
}

impl Limits {
    /// Requests of no more segments than this need no closer look.
    #[inline(always)]
    pub fn surely(self) -> usize {
        match self.segment_bytes {
            MAX_SEGMENT_BYTES.. => self.segments,
            _ => 0,
        }
    }

    fn take(self, segments: &[Segment]) -> bool {
        let short = |segment: &Segment| segment.bytes <= self.segment_bytes;
        segments.len() <= self.segments && segments.iter().all(short)
    }
}

/// What a slot has in flight: nothing, or a whole request with its cookie, or a [`Part`], which is
/// negative: so one look tells what comes often from everything else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight(i64);

impl Flight {
    pub const NONE: Flight = Flight(0);
    const WHOLE: i64 = 1 << 32;

    #[inline(always)]
    pub fn whole(cookie: u32) -> Flight {
        Flight(Flight::WHOLE | i64::from(cookie))
    }

    #[inline(always)]
    pub fn is_whole(self) -> bool {
        self.0 > 0
    }

    #[inline(always)]
    pub fn cookie(self) -> u32 {
        self.0 as u32
    }

    /// The cookie of the request that begins in this slot, if one does.
    pub fn request(self, slot: u8) -> Option<u32> {
        match self.part() {
            Some(part) => (part.first == slot).then_some(part.cookie),
            None => self.is_whole().then_some(self.cookie()),
        }
    }

    /// As a part, if it is one.
    fn part(self) -> Option<Part> {
        let bits = self.0;
        (bits < 0).then_some(Part {
            first: (bits >> 32) as u8,
            at_device: bits >> 60 & 1 != 0,
            cookie: bits as u32,
            status: (bits >> 40) as u8,
            open: (bits >> 48) as u16 & 0xfff,
        })
    }
}

/// What the slot of a part knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    /// The slot of the first part. The fields from `cookie` on are true there alone.
    first: u8,
    /// The device has it.
    at_device: bool,
    cookie: u32,
    /// The first status that was not VIRTIO_BLK_S_OK.
    status: u8,
    /// How many parts the device has.
    open: u16,
}

impl Part {
    fn pack(self) -> Flight {
        let Part {
            first,
            at_device,
            cookie,
            status,
            open,
        } = self;
        let low = i64::from(cookie) | i64::from(first) << 32 | i64::from(status) << 40;
        Flight(i64::MIN | i64::from(at_device) << 60 | i64::from(open) << 48 | low)
    }
}

/// What the device has yet to be given of a request.
pub(super) struct Rest {
    /// Type and first sector of the next part.
    header: (u32, u64),
    device_writes: bool,
    /// The slot of the first part.
    first: u8,
    segments: [Segment; MAX_SEGMENTS],
    /// Those from `next` to `end` are left.
    next: usize,
    end: usize,
}

impl Rest {
    pub const NONE: Rest = Rest {
        header: (0, 0),
        device_writes: false,
        first: 0,
        segments: [Segment {
            physical: 0,
            bytes: 0,
        }; MAX_SEGMENTS],
        next: 0,
        end: 0,
    };

    pub fn is_none(&self) -> bool {
        self.next == self.end
    }

    fn is_of(&self, first: u8) -> bool {
        !self.is_none() && self.first == first
    }

    /// The next part: as many pieces as the device takes. Gives its header and its segments.
    fn cut<'a>(
        &mut self,
        limits: Limits,
        pieces: &'a mut [Segment; MAX_SEGMENTS],
    ) -> ((u32, u64), &'a [Segment]) {
        let header = self.header;
        let mut count = 0;
        while count < limits.segments && !self.is_none() {
            let left = &mut self.segments[self.next];
            let bytes = left.bytes.min(limits.segment_bytes);
            pieces[count] = Segment { bytes, ..*left };
            count += 1;
            left.physical += u64::from(bytes);
            left.bytes -= bytes;
            self.header.1 += u64::from(bytes) / SECTOR_SIZE;
            if left.bytes == 0 {
                self.next += 1;
            }
        }
        (header, &pieces[..count])
    }
}

impl Queue {
    /// [`Queue::add`] for a request that may be more than the device takes. A slot is free.
    #[cold]
    pub(crate) fn add_in_parts(
        &mut self,
        header: (u32, u64),
        segments: &[Segment],
        device_writes: bool,
        cookie: u32,
    ) -> Result<(), SubmitError> {
        if self.setup.limits.take(segments) {
            self.add(header, segments, device_writes, cookie);
            return Ok(());
        }
        // The device transfers whole sectors: only between them can it be cut.
        let whole = |segment: &Segment| segment.bytes.is_multiple_of(SECTOR_SIZE as u32);
        if segments.len() > MAX_SEGMENTS || !segments.iter().all(whole) {
            return Err(SubmitError::TooManySegments);
        }
        if !self.rest.is_none() {
            return Err(SubmitError::Full);
        }
        let Some(first) = self.take_slot() else {
            return Err(SubmitError::Full);
        };
        self.rest.header = header;
        self.rest.device_writes = device_writes;
        self.rest.first = first;
        self.rest.segments[..segments.len()].copy_from_slice(segments);
        self.rest.next = 0;
        self.rest.end = segments.len();
        let part = Part {
            first,
            at_device: false,
            cookie,
            status: S_OK,
            open: 0,
        };
        self.in_flight[usize::from(first)] = part.pack();
        self.send_rest();
        // Where `last_head` looks.
        self.free[usize::from(self.free_count as u8)] = first;
        Ok(())
    }

    /// A slot that holds no whole request was used. If that was the last part of one, its first part's
    /// slot holds it as a whole, with its status: gives the head index of that.
    #[cold]
    pub(super) fn part_used(&mut self, slot: u8, flight: Flight) -> Option<u32> {
        self.in_flight[usize::from(slot)] = flight;
        // If the device has not got the slot, what it says makes no sense.
        let part = flight.part().filter(|part| part.at_device)?;
        let status = self.status(slot).load(Ordering::Relaxed);
        let first = part.first;
        if first != slot {
            self.in_flight[usize::from(slot)] = Flight::NONE;
            self.give_slot(slot);
        }
        let mut request = self.in_flight[usize::from(first)].part()?;
        request.at_device &= first != slot;
        request.open -= 1;
        if request.status == S_OK {
            request.status = status;
        }
        if request.status != S_OK && self.rest.is_of(first) {
            self.rest.next = self.rest.end;
        }
        if request.open > 0 || self.rest.is_of(first) {
            self.in_flight[usize::from(first)] = request.pack();
            self.send_rest();
            return None;
        }
        self.in_flight[usize::from(first)] = Flight::whole(request.cookie);
        self.status(first).store(request.status, Ordering::Relaxed);
        Some(self.head(first).into())
    }

    /// Tells the device of what [`Queue::part_used`] has made available.
    #[cold]
    pub(super) fn notify_parts<R: Registers>(&mut self, bell: Bell<'_, R>) {
        self.notify(bell);
    }

    /// Makes as many parts of the rest available as there are slots. Its first part's slot is used
    /// again, so one slot is enough.
    fn send_rest(&mut self) {
        let first = self.rest.first;
        while !self.rest.is_none()
            && let Some(mut request) = self.in_flight[usize::from(first)].part()
        {
            let slot = match request.at_device {
                false => first,
                true => match self.take_slot() {
                    Some(slot) => slot,
                    None => return,
                },
            };
            request.open += 1;
            request.at_device = true;
            self.in_flight[usize::from(first)] = request.pack();
            if slot != first {
                let part = Part {
                    first,
                    at_device: true,
                    cookie: 0,
                    status: S_OK,
                    open: 0,
                };
                self.in_flight[usize::from(slot)] = part.pack();
            }
            let mut pieces = Rest::NONE.segments;
            let (header, segments) = self.rest.cut(self.setup.limits, &mut pieces);
            self.put(slot, header, segments, self.rest.device_writes);
        }
    }
}
