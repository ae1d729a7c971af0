//! The split virtqueue (virtio 1.2, section 2.7), cut into slots: slot `i` is a header, a status
//! byte and a table of descriptors that never move, so that a request costs a handful of stores.
//!
//! With VIRTIO_F_INDIRECT_DESC a slot's table is an indirect one in its own memory, and descriptor
//! `i` of the queue points to all of it for good. Without, the slot owns [`DIRECT_TABLE`]
//! descriptors of the queue itself.
//!
//! What the device does not take at once goes to it in parts: see [`split`].

#![allow(unsafe_code)]

mod split;

use crate::dma::{DmaRegion, Segment};
use crate::registers::Registers;
use crate::table;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use iolite_devices_abi::blk::{RequestHeader, S_IOERR, S_OK};
use iolite_devices_abi::mmio;
use iolite_devices_abi::ring::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, Descriptor, avail_ring_bytes, desc_table_bytes,
    need_event, used_ring_bytes,
};
use split::{Flight, Rest};

pub(crate) use split::Limits;

/// Most data segments of a request (with indirect descriptors): 32 pages that lie anywhere, and two
/// more for a buffer that begins and ends inside a page.
pub const MAX_SEGMENTS: usize = 34;
/// Without them a slot has four descriptors of the queue.
pub(crate) const DIRECT_SEGMENTS: usize = DIRECT_TABLE as usize - 2;
/// Most requests in flight.
pub const MAX_SLOTS: u16 = 256;

const TABLE: usize = MAX_SEGMENTS + 2;
const DIRECT_TABLE: u16 = 4;
const HEADER_AT: usize = 0;
const STATUS_AT: usize = RequestHeader::SIZE;
const TABLE_AT: usize = 32;
const SLOT_BYTES: usize = TABLE_AT + TABLE * size_of::<Descriptor>();

/// Neither of the two statuses a device may write: what a slot's status byte holds until then.
const STATUS_PENDING: u8 = 0xff;

/// How many bytes of memory a queue of `size` entries takes.
pub const fn dma_bytes(size: u16) -> usize {
    slots_offset(size) + MAX_SLOTS as usize * SLOT_BYTES
}

const fn avail_offset(size: u16) -> usize {
    desc_table_bytes(size)
}

const fn used_offset(size: u16) -> usize {
    (avail_offset(size) + avail_ring_bytes(size)).next_multiple_of(64)
}

const fn slots_offset(size: u16) -> usize {
    (used_offset(size) + used_ring_bytes(size)).next_multiple_of(64)
}

/// What the device has said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub cookie: u32,
    pub status: u8,
    pub head: u16,
}

/// Where a queue lies for the device: the three addresses of section 4.2.2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub descriptors: u64,
    pub driver: u64,
    pub device: u64,
}

/// What driver and device have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Entries of the queue: a power of two.
    pub size: u16,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// [`crate::Registers::locked_instructions_order`]; without it there is no EVENT_IDX either.
    pub ordered: bool,
    /// All features.
    pub features: u64,
    /// What the device takes at once.
    pub limits: Limits,
}

/// Where a queue's available buffer notifications go.
pub(crate) struct Bell<'a, R> {
    pub registers: &'a R,
    /// The queue's number.
    pub queue: u32,
}

impl<R> Clone for Bell<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Bell<'_, R> {}

/// A queue of a disk: see [`crate::Disk::queue`].
pub struct Queue {
    /// Available buffer notifications sent.
    pub(crate) notifications: u64,
    region: DmaRegion,
    setup: Setup,
    size: u16,
    /// The size less one: what an index is cut to.
    mask: u16,
    indirect: bool,
    event_idx: bool,
    descriptors: *mut Descriptor,
    slots: *mut u8,
    slots_physical: u64,
    avail_flags: *const AtomicU16,
    avail_ring: *mut u16,
    avail_idx: *const AtomicU16,
    used_idx: *const AtomicU16,
    used_ring: *const AtomicU32,
    used_event: *const AtomicU16,
    avail_event: *const AtomicU16,
    used_flags: *const AtomicU16,
    /// Next index to publish, and the one last notified.
    next_avail: u16,
    notified: u16,
    last_used: u16,
    /// Free slots, as a stack; what is in flight has its cookie here, not in shared memory.
    free: [u8; MAX_SLOTS as usize],
    free_count: u16,
    slot_count: u16,
    in_flight: [Flight; MAX_SLOTS as usize],
    rest: Rest,
}

// SAFETY: the pointers are into the region, which the queue owns.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue in `region`, which holds at least [`dma_bytes`] of its entries.
    pub(crate) fn new(region: DmaRegion, setup: Setup) -> Queue {
        let Setup {
            size,
            indirect,
            event_idx,
            ..
        } = setup;
        assert!(region.bytes() >= dma_bytes(size));
        let avail = avail_offset(size);
        let used = used_offset(size);
        let mut queue = Queue {
            notifications: 0,
            setup,
            size,
            mask: size - 1,
            indirect,
            event_idx,
            descriptors: region.at(0),
            slots: region.at(slots_offset(size)),
            slots_physical: region.physical(slots_offset(size)),
            avail_flags: region.at::<AtomicU16>(avail),
            avail_ring: region.at(avail + 4),
            avail_idx: region.at::<AtomicU16>(avail + 2),
            used_event: region.at::<AtomicU16>(avail + avail_ring_bytes(size) - 2),
            used_flags: region.at::<AtomicU16>(used),
            used_idx: region.at::<AtomicU16>(used + 2),
            used_ring: region.at::<AtomicU32>(used + 4),
            avail_event: region.at::<AtomicU16>(used + used_ring_bytes(size) - 2),
            region,
            next_avail: 0,
            notified: 0,
            last_used: 0,
            free: [0; MAX_SLOTS as usize],
            free_count: 0,
            slot_count: if indirect {
                size.min(MAX_SLOTS)
            } else {
                (size / DIRECT_TABLE).min(MAX_SLOTS)
            },
            in_flight: [Flight::NONE; MAX_SLOTS as usize],
            rest: Rest::NONE,
        };
        queue.free_all();
        queue
    }

    /// Begins anew, in the same memory: the device has been reset and has forgotten the queue. In
    /// place, for it is too large to be moved about on a kernel's stack.
    pub(crate) fn restart(&mut self) {
        self.region.zero();
        self.next_avail = 0;
        self.notified = 0;
        self.last_used = 0;
        self.in_flight.fill(Flight::NONE);
        self.rest = Rest::NONE;
        self.free_all();
    }

    /// Writes into the used ring that every request in flight has failed, for a device that has been
    /// reset and will write nothing there any more. What it left there does not count.
    pub(crate) fn abandon(&mut self) {
        self.rest = Rest::NONE;
        let mut used = self.last_used;
        for slot in 0..=u8::MAX {
            let flight = self.in_flight[usize::from(slot)];
            let cookie = flight.request(slot);
            self.in_flight[usize::from(slot)] = cookie.map_or(Flight::NONE, Flight::whole);
            if cookie.is_none() {
                continue;
            }
            self.status(slot).store(S_IOERR, Ordering::Relaxed);
            let (place, head) = (usize::from(used & self.mask), self.head(slot));
            // SAFETY: the entry lies in the region.
            unsafe { (*self.used_ring.add(2 * place)).store(head.into(), Ordering::Relaxed) };
            used = used.wrapping_add(1);
        }
        // SAFETY: the index lies in the region.
        unsafe { (*self.used_idx).store(used, Ordering::Release) };
    }

    /// What was agreed on.
    pub(crate) fn setup(&self) -> Setup {
        self.setup
    }

    fn free_all(&mut self) {
        let slots = self.slots();
        for slot in 0..slots {
            // The lowest slot on top of the stack.
            self.free[usize::from(slots - 1 - slot)] = slot as u8;
            self.prepare(slot);
        }
        self.free_count = slots;
    }

    /// Writes the descriptors of a slot that no request changes.
    fn prepare(&mut self, slot: u16) {
        let (table, first) = self.table(slot);
        let physical = self.slot_physical(slot);
        // SAFETY: the slot's own table and descriptor.
        unsafe {
            table::prepare(
                table,
                first,
                physical + HEADER_AT as u64,
                physical + STATUS_AT as u64,
            );
            if self.indirect {
                let own = self.descriptors.add(usize::from(slot));
                let bytes = (TABLE * size_of::<Descriptor>()) as u32;
                table::set_address(own, physical + TABLE_AT as u64);
                table::set_rest(own, bytes, DESC_F_INDIRECT, 0);
            }
        }
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            descriptors: self.region.physical(0),
            driver: self.region.physical(avail_offset(self.size)),
            device: self.region.physical(used_offset(self.size)),
        }
    }

    /// Is there room for any request? While the device has yet to be given a part of one, another
    /// that has to be cut would not be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.has_slot() && self.rest.is_none()
    }

    /// Is a slot free?
    #[inline(always)]
    pub(crate) fn has_slot(&self) -> bool {
        self.free_count > 0
    }

    /// How many slots are in flight.
    #[inline(always)]
    pub(crate) fn in_flight(&self) -> u16 {
        self.slot_count - self.free_count
    }

    /// How many requests fit at once.
    pub(crate) fn slots(&self) -> u16 {
        self.slot_count
    }

    /// Makes a request available, to be noticed after [`Queue::publish`]. The caller has checked
    /// for a slot and the segments.
    #[inline(always)]
    pub(crate) fn add(
        &mut self,
        header: (u32, u64),
        segments: &[Segment],
        device_writes: bool,
        cookie: u32,
    ) {
        let Some(slot) = self.take_slot() else {
            return;
        };
        self.in_flight[usize::from(slot)] = Flight::whole(cookie);
        self.put(slot, header, segments, device_writes);
    }

    #[inline(always)]
    fn take_slot(&mut self) -> Option<u8> {
        self.free_count = self.free_count.checked_sub(1)?;
        // An index of 8 bits is in bounds.
        Some(self.free[usize::from(self.free_count as u8)])
    }

    #[inline(always)]
    fn give_slot(&mut self, slot: u8) {
        // As many slots are free at most as there are.
        self.free[usize::from(self.free_count as u8)] = slot;
        self.free_count += 1;
    }

    /// Makes a request available in a slot that is taken.
    #[inline(always)]
    fn put(
        &mut self,
        slot: u8,
        (request_type, sector): (u32, u64),
        segments: &[Segment],
        device_writes: bool,
    ) {
        debug_assert!(segments.len() <= self.setup.limits.segments);
        // SAFETY: a slot that the device has not got is ours alone, and its table has an entry for each segment and two
        // more; the available ring has `size` entries, a power of two.
        unsafe {
            let base = self.slots.add(usize::from(slot) * SLOT_BYTES);
            // The header as two words: type and reserved, sector.
            let header = base.add(HEADER_AT).cast::<u64>();
            header.write_volatile(u64::from(request_type));
            header.add(1).write_volatile(sector);
            base.add(STATUS_AT).write_volatile(STATUS_PENDING);

            let head = if self.indirect {
                table::fill(base.add(TABLE_AT).cast(), 0, segments, device_writes);
                u16::from(slot)
            } else {
                self.fill_direct(slot, segments, device_writes)
            };
            let place = usize::from(self.next_avail & self.mask);
            self.avail_ring.add(place).write_volatile(head);
        }
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Without indirect descriptors: fills the slot's descriptors of the queue, and gives the first.
    #[cold]
    fn fill_direct(&mut self, slot: u8, segments: &[Segment], device_writes: bool) -> u16 {
        let (table, first) = self.table(slot.into());
        // SAFETY: the slot's own table, which has an entry for each segment and two more.
        unsafe { table::fill(table, first, segments, device_writes) };
        first
    }

    /// The head index of the request that was added last.
    #[inline(always)]
    pub(crate) fn last_head(&self) -> u16 {
        // It was on top of the stack.
        self.head(self.free[usize::from(self.free_count as u8)])
    }

    #[inline(always)]
    fn head(&self, slot: u8) -> u16 {
        if self.indirect {
            slot.into()
        } else {
            u16::from(slot) * DIRECT_TABLE
        }
    }

    /// [`Queue::publish`], and tells the device if it wants to be told.
    #[inline(always)]
    pub(crate) fn notify<R: Registers>(&mut self, bell: Bell<'_, R>) {
        if self.publish() {
            self.notifications += 1;
            bell.registers.write(mmio::QUEUE_NOTIFY, bell.queue);
        }
    }

    /// Shows the device what was added, and says whether it wants to be notified (sections 2.7.13.3
    /// and 2.7.10).
    #[inline(always)]
    fn publish(&mut self) -> bool {
        let old = self.notified;
        let new = self.next_avail;
        if old == new {
            return false;
        }
        self.notified = new;
        // SAFETY: the fields lie in the region. The swap is a full barrier: what was added is seen
        // before the index, and the index before the device's wish is read.
        unsafe {
            (*self.avail_idx).swap(new, Ordering::SeqCst);
            if self.event_idx {
                need_event((*self.avail_event).load(Ordering::SeqCst), new, old)
            } else {
                !self.setup.ordered || (*self.used_flags).load(Ordering::SeqCst) & 1 == 0
            }
        }
    }

    /// The next request that the device has used. When there is none, asks for an interrupt at the
    /// next one.
    #[inline]
    pub(crate) fn harvest<R: Registers>(&mut self, bell: Bell<'_, R>) -> Option<Used> {
        loop {
            if self.used() == self.last_used && !self.asks_for_interrupt() {
                return None;
            }
            match self.take_used() {
                None => self.notify_parts(bell),
                used => return used,
            }
        }
    }

    /// Calls `ended` with every request that the device has used, and asks for an interrupt at the
    /// next one.
    #[inline(always)]
    pub(crate) fn harvest_all<R: Registers>(
        &mut self,
        bell: Bell<'_, R>,
        mut ended: impl FnMut(Used),
    ) {
        loop {
            let used = self.used();
            while self.last_used != used {
                match self.take_used() {
                    None => self.notify_parts(bell),
                    Some(used) => ended(used),
                }
            }
            if !self.asks_for_interrupt() {
                return;
            }
        }
    }

    /// How far the device has come.
    #[inline(always)]
    fn used(&self) -> u16 {
        // SAFETY: the field lies in the region.
        unsafe { (*self.used_idx).load(Ordering::Acquire) }
    }

    /// Asks for an interrupt at the next request used. Has one been used meanwhile?
    #[inline(always)]
    fn asks_for_interrupt(&mut self) -> bool {
        if !self.event_idx {
            return false;
        }
        // SAFETY: the fields lie in the region. The swap is a full barrier: the wish is seen before
        // the index is read again.
        unsafe {
            (*self.used_event).swap(self.last_used, Ordering::SeqCst);
            (*self.used_idx).load(Ordering::SeqCst) != self.last_used
        }
    }

    /// The next request that the device has used, for who polls: asks for nothing.
    #[inline(always)]
    pub(crate) fn poll<R: Registers>(&mut self, bell: Bell<'_, R>) -> Option<Used> {
        while self.used() != self.last_used {
            match self.take_used() {
                None => self.notify_parts(bell),
                used => return used,
            }
        }
        None
    }

    /// Whether the device is to interrupt. With EVENT_IDX one interrupt in 65536 requests comes all
    /// the same: the index that is asked for is the one farthest away (section 2.7.7.1).
    pub(crate) fn set_interrupts(&mut self, wanted: bool) {
        let event = self.last_used.wrapping_sub(u16::from(!wanted));
        let flags = if wanted { 0 } else { AVAIL_F_NO_INTERRUPT };
        // SAFETY: the fields lie in the region.
        unsafe {
            (*self.used_event).store(event, Ordering::SeqCst);
            if !self.event_idx && self.setup.ordered {
                (*self.avail_flags).store(flags, Ordering::SeqCst);
            }
        }
    }

    /// Takes the next used entry, which is there. `None` if it makes no sense, or ends no request.
    #[inline(always)]
    fn take_used(&mut self) -> Option<Used> {
        let place = usize::from(self.last_used & self.mask);
        self.last_used = self.last_used.wrapping_add(1);
        // SAFETY: the entry lies in the region; `place` is below the size.
        let mut id = unsafe { (*self.used_ring.add(2 * place)).load(Ordering::Relaxed) };
        let (slot, flight) = loop {
            let slot = if self.indirect {
                id
            } else {
                id / u32::from(DIRECT_TABLE)
            };
            // A device that names a head index that is not in flight is broken, and what it says of
            // it is ignored.
            let flight = self.in_flight.get_mut(slot as usize)?;
            let flight = core::mem::replace(flight, Flight::NONE);
            if flight.is_whole() {
                break (slot as u8, flight);
            }
            id = self.part_used(slot as u8, flight)?;
        };
        self.give_slot(slot);
        Some(Used {
            cookie: flight.cookie(),
            status: self.status(slot).load(Ordering::Relaxed),
            head: id as u16,
        })
    }

    /// A slot's status byte, for the device to write.
    #[inline(always)]
    fn status(&self, slot: u8) -> &AtomicU8 {
        let status = usize::from(slot) * SLOT_BYTES + STATUS_AT;
        // SAFETY: a slot that is in flight is one of the region's.
        unsafe { &*self.slots.add(status).cast::<AtomicU8>() }
    }

    /// A slot's table, and the index that its first entry has for the device.
    #[inline(always)]
    fn table(&self, slot: u16) -> (*mut Descriptor, u16) {
        if self.indirect {
            let offset = usize::from(slot) * SLOT_BYTES + TABLE_AT;
            (self.slots.wrapping_add(offset).cast(), 0)
        } else {
            let first = slot * DIRECT_TABLE;
            (self.descriptors.wrapping_add(usize::from(first)), first)
        }
    }

    #[inline(always)]
    fn slot_physical(&self, slot: u16) -> u64 {
        self.slots_physical + u64::from(slot) * SLOT_BYTES as u64
    }
}

impl Used {
    pub fn ok(self) -> bool {
        self.status == S_OK
    }
}
