//! What a queue has in flight, noted in memory that outlives this process: a vhost-user front-end
//! keeps it, and gives it to whoever serves the queue next (vhost-user, "Inflight I/O tracking", split
//! virtqueues). After a SIGKILL nothing is lost, and nothing is published twice.
//!
//! The memory is shared with the front-end, which is not trusted: what it says is checked as a driver's
//! ring is, and read once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// `version` of a region that is in use; 0 before.
const VERSION: u16 = 1;
/// Offsets in a region: `features` (8 bytes), then these.
const AT_VERSION: usize = 8;
const AT_DESC_NUM: usize = 10;
const AT_LAST_BATCH_HEAD: usize = 12;
const AT_USED_IDX: usize = 14;
const HEADER_BYTES: usize = 16;
/// Offsets in an entry, of which there is one for each descriptor.
const AT_INFLIGHT: usize = 0;
const AT_NEXT: usize = 6;
const AT_COUNTER: usize = 8;
const ENTRY_BYTES: usize = 16;
/// Where a region may begin.
const ALIGN: usize = 64;

/// Bytes of the region of a queue of `size` entries, rounded so that the next one is aligned.
pub fn region_bytes(size: u16) -> usize {
    (HEADER_BYTES + ENTRY_BYTES * usize::from(size)).next_multiple_of(ALIGN)
}

/// The region of one queue.
pub struct InFlightRegion {
    memory: Arc<MmapRegion>,
    /// Where it begins in `memory`.
    at: usize,
    size: u16,
    /// The number of the next head that is popped.
    counter: u64,
}

impl InFlightRegion {
    /// The region of a queue of `size` entries, byte `at` of `memory` on. None if it is not aligned, or
    /// does not lie in the memory.
    pub fn new(memory: &Arc<MmapRegion>, at: usize, size: u16) -> Option<Self> {
        let end = at.checked_add(region_bytes(size))?;
        (end <= memory.size() && at.is_multiple_of(ALIGN)).then(|| InFlightRegion {
            memory: Arc::clone(memory),
            at,
            size,
            counter: 0,
        })
    }

    /// Begins: returns the heads that whoever had the queue before left unfinished, in the order in
    /// which they were popped. `used_idx` is that of the used ring.
    pub fn resume(&mut self, used_idx: u16) -> Vec<u16> {
        let found: [u16; 2] = [AT_VERSION, AT_DESC_NUM].map(|at| self.load(at));
        if found != [VERSION, self.size] {
            for head in 0..self.size {
                self.store(entry(head) + AT_INFLIGHT, 0u8);
            }
            self.store(AT_DESC_NUM, self.size);
            self.store(AT_USED_IDX, used_idx);
            self.store(AT_VERSION, VERSION);
            return Vec::new();
        }
        self.finish_last_batch(used_idx);
        let mut heads: Vec<(u64, u16)> = (0..self.size)
            .filter(|&head| self.load::<u8>(entry(head) + AT_INFLIGHT) != 0)
            .map(|head| (self.load(entry(head) + AT_COUNTER), head))
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(last, _)| last.wrapping_add(1));
        heads.into_iter().map(|(_, head)| head).collect()
    }

    /// What was published, and not yet noted as published, when the end came.
    fn finish_last_batch(&self, used_idx: u16) {
        let batch = used_idx.wrapping_sub(self.load(AT_USED_IDX));
        let mut head: u16 = self.load(AT_LAST_BATCH_HEAD);
        for _ in 0..batch.min(self.size) {
            if head >= self.size {
                break;
            }
            self.store(entry(head) + AT_INFLIGHT, 0u8);
            head = self.load(entry(head) + AT_NEXT);
        }
        self.store(AT_USED_IDX, used_idx);
    }

    /// A head was popped.
    pub fn popped(&mut self, head: u16) {
        if head < self.size {
            self.store(entry(head) + AT_COUNTER, self.counter);
            self.counter = self.counter.wrapping_add(1);
            self.store(entry(head) + AT_INFLIGHT, 1u8);
        }
    }

    /// A head is in the used ring, and the used index is about to say so.
    pub fn publishing(&self, head: u16) {
        if head < self.size {
            let last: u16 = self.load(AT_LAST_BATCH_HEAD);
            self.store(entry(head) + AT_NEXT, last);
            self.store(AT_LAST_BATCH_HEAD, head);
        }
    }

    /// The used index, now `used_idx`, says so.
    pub fn published(&self, head: u16, used_idx: u16) {
        if head < self.size {
            self.store(entry(head) + AT_INFLIGHT, 0u8);
        }
        self.store(AT_USED_IDX, used_idx);
    }

    /// Stores in the order of the program: whoever comes next sees all of it but the end.
    fn store<T: vm_memory::AtomicAccess>(&self, at: usize, value: T) {
        // `new` has checked that the region lies in the memory, and fields are aligned.
        let _ = self.slice().store(value, self.at + at, Ordering::Release);
    }

    fn load<T: vm_memory::AtomicAccess + Default>(&self, at: usize) -> T {
        let value = self.slice().load(self.at + at, Ordering::Acquire);
        value.unwrap_or_default()
    }

    fn slice(&self) -> VolatileSlice<'_> {
        self.memory.as_volatile_slice()
    }
}

/// Where the entry of a head begins.
fn entry(head: u16) -> usize {
    HEADER_BYTES + ENTRY_BYTES * usize::from(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u16 = 8;

    fn memory() -> Arc<MmapRegion> {
        Arc::new(MmapRegion::new(3 * region_bytes(SIZE)).unwrap())
    }

    fn region(memory: &Arc<MmapRegion>) -> InFlightRegion {
        InFlightRegion::new(memory, 2 * region_bytes(SIZE), SIZE).unwrap()
    }

    fn unfinished(memory: &Arc<MmapRegion>, used_idx: u16) -> Vec<u16> {
        region(memory).resume(used_idx)
    }

    #[test]
    fn what_was_popped_and_not_published_comes_again_in_order() {
        let memory = memory();
        let mut first = region(&memory);
        assert!(first.resume(5).is_empty());
        for head in [3, 1, 7, 0] {
            first.popped(head);
        }
        first.publishing(1);
        first.published(1, 6);
        first.popped(2);
        assert_eq!(unfinished(&memory, 6), [3, 7, 0, 2]);
        // The counters go on where they were.
        let mut second = region(&memory);
        second.resume(6);
        second.popped(5);
        assert_eq!(unfinished(&memory, 6), [3, 7, 0, 2, 5]);
    }

    /// A kill between any two stores of a completion: before the used index the head comes again, after
    /// it never.
    #[test]
    fn a_kill_at_any_store_neither_loses_nor_repeats() {
        for stores in 0..5 {
            let memory = memory();
            let mut killed = region(&memory);
            killed.resume(0);
            for head in [4, 6] {
                killed.popped(head);
            }
            killed.publishing(4);
            killed.published(4, 1);
            let mut used_idx = 1;
            if stores >= 1 {
                let last: u16 = killed.load(AT_LAST_BATCH_HEAD);
                killed.store(entry(6) + AT_NEXT, last);
            }
            if stores >= 2 {
                killed.store(AT_LAST_BATCH_HEAD, 6u16);
            }
            if stores >= 3 {
                used_idx = 2;
            }
            if stores >= 4 {
                killed.store(entry(6) + AT_INFLIGHT, 0u8);
            }
            let expected: &[u16] = if stores < 3 { &[6] } else { &[] };
            assert_eq!(unfinished(&memory, used_idx), expected, "{stores} stores");
        }
    }

    #[test]
    fn memory_of_another_queue_or_of_a_liar_is_survived() {
        let memory = memory();
        for at in [3 * region_bytes(SIZE), 8, usize::MAX - 63, usize::MAX] {
            assert!(InFlightRegion::new(&memory, at, SIZE).is_none(), "{at}");
        }
        // Another size: it begins anew.
        let mut region = region(&memory);
        region.store(AT_VERSION, VERSION);
        region.store(AT_DESC_NUM, SIZE / 2);
        region.store(entry(1) + AT_INFLIGHT, 1u8);
        assert!(region.resume(9).is_empty());
        // A batch list that is a loop, or leads outside.
        for next in [2u16, SIZE, u16::MAX] {
            region.store(entry(2) + AT_NEXT, next);
            region.store(AT_LAST_BATCH_HEAD, 2u16);
            region.store(AT_USED_IDX, 9u16);
            region.popped(2);
            assert!(region.resume(9 + u16::MAX / 2).is_empty());
        }
        region.popped(SIZE);
        region.published(u16::MAX, 3);
    }
}
