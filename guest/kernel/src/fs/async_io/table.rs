//! The requests of a process, by number, and the completions that wait for it.
//!
//! A request has a place from its submission to its end; what is left of it then is a completion.
//! Together they are at most [`MAX_IO`], so that a completion always finds room.

use crate::block::{self, DiskId, Owner, Submitter};
use crate::fs::object::ObjectId;
use crate::mm::cache;
use crate::mm::frame::{self, Frame};
use crate::mm::heap;
use crate::task::process::ProcessId;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicUsize, Ordering};
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::{Errno, IoCompletion, MAX_IO};
use iolite_virtio_driver::{Operation, Segment, SubmitError};

/// How many completions are copied to a process at a time.
pub const COPIED_AT_ONCE: usize = 32;

/// Requests that wait for room, of all processes.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The end of a list.
const NONE: u16 = u16::MAX;
/// In no list: the disk has it.
const IN_FLIGHT: u16 = NONE - 1;
const _: () = assert!(MAX_IO < IN_FLIGHT as usize);
/// Nobody waits for completions.
const NOBODY: usize = usize::MAX;

/// The requests of a process.
pub struct AsyncIo {
    requests: Vec<Request>,
    /// The first place without a request; the others follow through [`Request::next`].
    free: u16,
    waiting: List,
    done: Completions,
    /// Requests that have not been collected.
    open: usize,
    /// The fewest completions that a blocked thread wants; [`NOBODY`] when none is blocked.
    wanted: usize,
}

struct Request {
    user_data: u64,
    /// Its memory's physical address if that is one segment of `bytes` bytes, else 0.
    only: u64,
    /// Its segments, if there are several or none. The capacity stays from one request to the next.
    segments: Vec<Segment>,
    /// Its first sector; of a request that neither waits nor writes, anything.
    sector: u64,
    bytes: u32,
    /// The next one in the list this one is in, or [`IN_FLIGHT`].
    next: u16,
    disk: DiskId,
    kind: Kind,
    /// The registered buffer that its memory is in; 0 if the memory is held for the request.
    buffer: u16,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    /// To this object, whose pages it changes past the page cache.
    Write(ObjectId),
    Flush,
}

/// Requests in order, linked through [`Request::next`].
struct List {
    first: u16,
    last: u16,
    count: usize,
}

/// Completions in the order in which they came.
struct Completions {
    /// [`MAX_IO`] places, from the first submission on.
    ring: Vec<IoCompletion>,
    first: usize,
    count: usize,
}

/// What a process asks for, checked.
#[derive(Clone, Copy)]
pub struct Ask {
    pub kind: Kind,
    /// The first sector; 0 of a flush.
    pub sector: u64,
    pub bytes: u32,
    pub user_data: u64,
    /// The registered buffer that its memory is in, or 0.
    pub buffer: u16,
}

/// A place that was taken for a request.
#[derive(Clone, Copy)]
pub struct Place(u16);

impl AsyncIo {
    pub const fn new() -> AsyncIo {
        AsyncIo {
            requests: Vec::new(),
            free: NONE,
            waiting: List {
                first: NONE,
                last: NONE,
                count: 0,
            },
            done: Completions {
                ring: Vec::new(),
                first: 0,
                count: 0,
            },
            open: 0,
            wanted: NOBODY,
        }
    }

    /// How many have completed.
    pub fn done(&self) -> usize {
        self.done.count
    }

    /// How many there are that have not been collected.
    pub fn open(&self) -> usize {
        self.open
    }

    /// How many more there can be.
    #[inline(always)]
    pub fn room(&self) -> usize {
        MAX_IO - self.open
    }

    pub fn in_flight(&self) -> usize {
        self.open - self.done.count - self.waiting.count
    }

    /// A place for another request, if one is free already. There is [`AsyncIo::room`].
    #[inline(always)]
    pub fn take_place(&mut self) -> Option<Place> {
        let number = self.free;
        self.free = self.requests.get(usize::from(number))?.next;
        self.open += 1;
        Some(Place(number))
    }

    /// A place for another request.
    pub fn make_place(&mut self) -> Result<Place, Errno> {
        if self.room() == 0 {
            return Err(Errno::EAGAIN);
        }
        if self.free == NONE {
            self.add_place()?;
        }
        self.take_place().ok_or(Errno::EAGAIN)
    }

    #[cold]
    fn add_place(&mut self) -> Result<(), Errno> {
        let number = self.requests.len();
        heap::check_room()?;
        self.requests.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        if self.done.ring.is_empty() {
            let ring = &mut self.done.ring;
            ring.try_reserve_exact(MAX_IO).map_err(|_| Errno::ENOMEM)?;
            ring.resize(MAX_IO, IoCompletion::default());
        }
        self.requests.push(Request {
            user_data: 0,
            only: 0,
            segments: Vec::new(),
            sector: 0,
            bytes: 0,
            next: NONE,
            disk: DiskId::FIRST,
            kind: Kind::Flush,
            buffer: 0,
        });
        self.free = number as u16;
        Ok(())
    }

    /// Where the segments of the request in `place` go. They have to be held, or in a registered buffer.
    pub fn segments(&mut self, place: Place) -> &mut Vec<Segment> {
        let request = &mut self.requests[usize::from(place.0)];
        request.only = 0;
        &mut request.segments
    }

    /// Gives a place back in which there is no request after all.
    #[cold]
    pub fn give_back(&mut self, place: Place) {
        let request = &mut self.requests[usize::from(place.0)];
        request.let_go();
        request.next = self.free;
        self.free = place.0;
        self.open -= 1;
    }

    /// Gives a request to its disk, or to the list of those that wait if the disk does not take it, or
    /// not at once. Its memory, which is held or in
    /// a registered buffer, are the bytes at the physical address `only`, or the segments in its place.
    #[inline(always)]
    pub fn start(
        &mut self,
        id: ProcessId,
        place: Place,
        disk: &mut Submitter,
        ask: Ask,
        only: Option<u64>,
    ) {
        let request = &mut self.requests[usize::from(place.0)];
        request.user_data = ask.user_data;
        request.bytes = ask.bytes;
        request.kind = ask.kind;
        request.sector = ask.sector;
        request.buffer = ask.buffer;
        request.next = IN_FLIGHT;
        request.only = only.unwrap_or(0);
        let bytes = ask.bytes;
        let one = only.map(|physical| [Segment { physical, bytes }]);
        let segments = match &one {
            Some(one) => &one[..],
            None => &request.segments,
        };
        let owner = Owner::Async(id, place.0);
        let operation = ask.kind.at(ask.sector);
        if self.waiting.count != 0 || disk.submit_at_once(operation, segments, owner).is_err() {
            request.disk = disk.id();
            self.wait_for_room(place.0);
        }
    }

    #[cold]
    fn wait_for_room(&mut self, number: u16) {
        push(&mut self.requests, &mut self.waiting, number);
        WAITING.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a request that asks nothing of its disk. Does somebody want to be woken?
    #[cold]
    pub fn end_at_once(&mut self, place: Place, ask: Ask) -> bool {
        let request = &mut self.requests[usize::from(place.0)];
        request.user_data = ask.user_data;
        request.bytes = ask.bytes;
        request.kind = ask.kind;
        request.buffer = ask.buffer;
        request.only = 0;
        self.ended(place.0, true)
    }

    /// Gives the requests that wait to disks that have room again.
    pub fn start_waiting(&mut self, id: ProcessId) {
        while self.waiting.count > 0 {
            let number = self.waiting.first;
            let request = &self.requests[usize::from(number)];
            let disk = request.disk;
            let only = [Segment {
                physical: request.only,
                bytes: request.bytes,
            }];
            let segments = match request.only {
                0 => &request.segments[..],
                _ => &only,
            };
            let operation = request.kind.at(request.sector);
            match block::submit(disk, operation, segments, Owner::Async(id, number)) {
                Ok(()) => {}
                Err(SubmitError::Full | SubmitError::TooManySegments) => return,
            }
            pop(&mut self.requests, &mut self.waiting);
            self.requests[usize::from(number)].next = IN_FLIGHT;
            WAITING.fetch_sub(1, Ordering::Relaxed);
            block::notify(disk);
        }
    }

    /// Does a request that has not completed name this registered buffer?
    pub fn names(&self, buffer: u16) -> bool {
        self.requests.iter().any(|request| request.buffer == buffer)
    }

    /// Has the threads that wait woken when `count` completions are there, or earlier.
    pub fn wake_at(&mut self, count: usize) {
        self.wanted = self.wanted.min(count);
    }

    /// A request that was in flight has ended. Does somebody want to be woken?
    #[inline(always)]
    pub fn ended(&mut self, number: u16, ok: bool) -> bool {
        let Some(request) = self.requests.get(usize::from(number)) else {
            return false;
        };
        let mut result = i64::from(request.bytes);
        if !ok {
            result = -(Errno::EIO as i64);
        }
        self.complete(number, result);
        let enough = self.done.count >= self.wanted;
        if enough {
            self.wanted = NOBODY; // those who are woken say again what they want
        }
        enough
    }

    #[inline(always)]
    fn complete(&mut self, number: u16, result: i64) {
        let request = &mut self.requests[usize::from(number)];
        request.let_go();
        if let Kind::Write(object) = request.kind {
            drop_pages(object, request.sector, request.bytes);
        }
        let user_data = request.user_data;
        request.next = self.free;
        self.free = number;
        self.done.push(IoCompletion { user_data, result });
    }

    /// Takes completions out, `most` at most.
    pub fn collect(&mut self, most: usize) -> ArrayVec<IoCompletion, COPIED_AT_ONCE> {
        let batch = self.done.take(most);
        self.open -= batch.len();
        batch
    }

    /// See [`iolite_guest_abi::Number::IoCancel`].
    pub fn cancel(&mut self, user_data: u64) -> Result<(), Errno> {
        let mut found = None;
        for _ in 0..self.waiting.count {
            let Some(number) = pop(&mut self.requests, &mut self.waiting) else {
                break;
            };
            if found.is_none() && self.requests[usize::from(number)].user_data == user_data {
                found = Some(number);
            } else {
                push(&mut self.requests, &mut self.waiting, number);
            }
        }
        if let Some(number) = found {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            self.complete(number, -(Errno::ECANCELED as i64));
            return Ok(());
        }
        let in_flight = self
            .requests
            .iter()
            .any(|request| request.user_data == user_data && request.next == IN_FLIGHT);
        Err(if in_flight {
            Errno::EBUSY
        } else {
            Errno::ENOENT
        })
    }

    /// Ends every request that waits for room.
    pub fn drop_waiting(&mut self) {
        while let Some(number) = pop(&mut self.requests, &mut self.waiting) {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            self.complete(number, -(Errno::ECANCELED as i64));
        }
    }
}

/// Does a request of any process wait for room?
#[inline(always)]
pub fn any_waits() -> bool {
    WAITING.load(Ordering::Relaxed) != 0
}

impl Kind {
    /// As the disk's operation from `sector` on.
    #[inline(always)]
    fn at(self, sector: u64) -> Operation {
        match self {
            Kind::Read => Operation::Read { sector },
            Kind::Write(_) => Operation::Write { sector },
            Kind::Flush => Operation::Flush,
        }
    }
}

impl Request {
    /// Lets go of its memory.
    #[inline(always)]
    fn let_go(&mut self) {
        if self.buffer != 0 {
            self.buffer = 0;
            self.segments.clear();
        } else if self.only != 0 {
            frame::release(Frame::containing(self.only));
        } else {
            release_all(&mut self.segments);
        }
    }
}

#[inline(never)]
fn release_all(segments: &mut Vec<Segment>) {
    for segment in segments.drain(..) {
        frame::release(Frame::containing(segment.physical));
    }
}

/// Drops from the cache what was written past it.
#[cold]
fn drop_pages(object: ObjectId, sector: u64, bytes: u32) {
    let extent = object.extent();
    let offset = (sector - extent.first_sector) * SECTOR_SIZE;
    cache::drop_range(object, cache::pages_of(&extent, offset, bytes.into()));
}

impl Completions {
    /// Adds one; there is room, since there are no more requests than places.
    #[inline(always)]
    fn push(&mut self, completion: IoCompletion) {
        let place = (self.first + self.count) % MAX_IO;
        if let Some(place) = self.ring.get_mut(place) {
            *place = completion;
            self.count += 1;
        }
    }

    fn take(&mut self, most: usize) -> ArrayVec<IoCompletion, COPIED_AT_ONCE> {
        let mut taken = ArrayVec::new();
        while taken.len() < most.min(COPIED_AT_ONCE) && self.count > 0 {
            let run = (most.min(COPIED_AT_ONCE) - taken.len())
                .min(self.count)
                .min(MAX_IO - self.first);
            let from = &self.ring[self.first..self.first + run];
            if taken.try_extend_from_slice(from).is_err() {
                break;
            }
            self.first = (self.first + run) % MAX_IO;
            self.count -= run;
        }
        taken
    }
}

fn push(requests: &mut [Request], list: &mut List, number: u16) {
    requests[usize::from(number)].next = NONE;
    if list.count == 0 {
        list.first = number;
    } else {
        requests[usize::from(list.last)].next = number;
    }
    list.last = number;
    list.count += 1;
}

fn pop(requests: &mut [Request], list: &mut List) -> Option<u16> {
    if list.count == 0 {
        return None;
    }
    let number = list.first;
    list.first = requests[usize::from(number)].next;
    list.count -= 1;
    Some(number)
}
