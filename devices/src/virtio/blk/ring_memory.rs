//! The three parts of a split virtqueue (virtio 1.2, section 2.7) as host memory: found once, when
//! the queue goes live, so that a request costs no look-up of addresses.
//!
//! The driver reads and writes the same bytes at any time, so every access is atomic, of the width
//! that the section gives the field, and nothing is read twice that has to be the same twice.
//! Orderings are those of section 2.7.13: an index is loaded with Acquire before what it covers,
//! and stored with Release after it.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use iolite_devices_abi::ring::{Descriptor, avail_ring_bytes, desc_table_bytes, used_ring_bytes};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::virtio::device::QueueLayout;

/// The rings of a live queue. Indices are taken modulo the queue size.
pub(super) struct RingMemory {
    desc_table: *const AtomicU64,
    avail: *const AtomicU16,
    used: *const AtomicU16,
    size: u16,
    /// What the pointers point into.
    _memory: Arc<GuestMemoryMmap>,
}

// SAFETY: the pointers lead to guest memory, which `_memory` keeps mapped; all accesses through them
// are atomic.
unsafe impl Send for RingMemory {}
// SAFETY: as above.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Finds the parts of a checked queue; none if they are not where the check saw them.
    pub(super) fn find(memory: &Arc<GuestMemoryMmap>, layout: &QueueLayout) -> Option<Self> {
        let size = layout.size;
        if !size.is_power_of_two() {
            return None;
        }
        // The size of a part is a multiple of its alignment in all of them but the rings' ends.
        Some(RingMemory {
            desc_table: part(memory, layout.desc_table, desc_table_bytes(size))?,
            avail: part(memory, layout.avail_ring, avail_ring_bytes(size))?,
            used: part::<AtomicU32>(memory, layout.used_ring, used_ring_bytes(size))?.cast(),
            size,
            _memory: Arc::clone(memory),
        })
    }

    /// The queue size.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// `index` modulo the queue size.
    fn wrap(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// The `index`-th descriptor of the table.
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        let at = 2 * self.wrap(index);
        // SAFETY: the table holds two words of 64 bits for each of `size` descriptors.
        let words = unsafe { [&*self.desc_table.add(at), &*self.desc_table.add(at + 1)] };
        let [low, high] = words.map(|word| u128::from(u64::from_le(word.load(Ordering::Relaxed))));
        Descriptor::from_le_bytes((low | high << 64).to_le_bytes())
    }

    /// `avail.idx`; what the driver wrote before it may be read afterwards.
    pub(super) fn avail_idx(&self) -> u16 {
        u16::from_le(self.avail(1).load(Ordering::Acquire))
    }

    /// `avail.ring[index]`.
    pub(super) fn avail_head(&self, index: u16) -> u16 {
        u16::from_le(self.avail(2 + self.wrap(index)).load(Ordering::Relaxed))
    }

    /// `avail.flags`.
    pub(super) fn avail_flags(&self) -> u16 {
        u16::from_le(self.avail(0).load(Ordering::Relaxed))
    }

    /// `used_event` (section 2.7.7).
    pub(super) fn used_event(&self) -> u16 {
        u16::from_le(
            self.avail(2 + usize::from(self.size))
                .load(Ordering::Relaxed),
        )
    }

    /// Writes `used.ring[index]`.
    pub(super) fn put_used(&self, index: u16, head: u16, len: u32) {
        let at = 2 + 4 * self.wrap(index);
        // SAFETY: the used ring is aligned to 4 bytes, and each of its `size` elements, 8 bytes from
        // the fourth byte on, lies inside it.
        let (id, length) = unsafe {
            let element = self.used.add(at).cast::<AtomicU32>();
            (&*element, &*element.add(1))
        };
        id.store(u32::from(head).to_le(), Ordering::Relaxed);
        length.store(len.to_le(), Ordering::Relaxed);
    }

    /// Writes `used.idx`, after everything that was written before.
    pub(super) fn set_used_idx(&self, index: u16) {
        self.used(1).store(index.to_le(), Ordering::Release);
    }

    /// Writes `used.flags`.
    pub(super) fn set_used_flags(&self, flags: u16) {
        self.used(0).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Writes `avail_event` (section 2.7.10).
    pub(super) fn set_avail_event(&self, index: u16) {
        let at = 2 + 4 * usize::from(self.size);
        self.used(at).store(index.to_le(), Ordering::Relaxed);
    }

    /// The `at`-th 16 bits of the available ring.
    fn avail(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the callers stay within flags, idx, `size` heads and used_event.
        unsafe { &*self.avail.add(at) }
    }

    /// The `at`-th 16 bits of the used ring.
    fn used(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the callers stay within flags, idx, `size` elements and avail_event.
        unsafe { &*self.used.add(at) }
    }
}

/// The host address of `bytes` bytes at `addr`, if they lie in one region and are aligned for `T`.
fn part<T>(memory: &GuestMemoryMmap, addr: GuestAddress, bytes: usize) -> Option<*const T> {
    let slice = GuestMemoryBackend::get_slice(memory, addr, bytes).ok()?;
    let start = slice.ptr_guard().as_ptr().cast::<T>();
    start.is_aligned().then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    const LAYOUT: QueueLayout = QueueLayout {
        size: 8,
        desc_table: GuestAddress(0x1000),
        avail_ring: GuestAddress(0x2002),
        used_ring: GuestAddress(0x3004),
    };

    fn memory() -> Arc<GuestMemoryMmap> {
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap())
    }

    #[test]
    fn every_field_is_where_the_section_puts_it() {
        let memory = memory();
        let rings = RingMemory::find(&memory, &LAYOUT).unwrap();
        let put = |value: u16, addr| memory.write_obj(value, GuestAddress(addr)).unwrap();
        put(1, 0x2002);
        put(0xfffe, 0x2004);
        put(5, 0x2006 + 2 * 3);
        put(77, 0x2006 + 2 * 8);
        assert_eq!((rings.avail_flags(), rings.avail_idx()), (1, 0xfffe));
        assert_eq!((rings.avail_head(11), rings.used_event()), (5, 77));

        let descriptor = Descriptor {
            addr: 0x0102_0304_0506_0708,
            len: 9,
            flags: 3,
            next: 7,
        };
        let at = GuestAddress(0x1000 + 16 * 2);
        memory.write_slice(&descriptor.to_le_bytes(), at).unwrap();
        assert_eq!(rings.descriptor(2), descriptor);

        rings.set_used_flags(1);
        rings.set_used_idx(0x1234);
        rings.put_used(9, 4, 513);
        rings.set_avail_event(0x4321);
        let get = |addr| memory.read_obj::<u16>(GuestAddress(addr)).unwrap();
        assert_eq!(
            (get(0x3004), get(0x3006), get(0x3008 + 8 * 8)),
            (1, 0x1234, 0x4321)
        );
        let element: [u32; 2] = memory.read_obj(GuestAddress(0x3008 + 8)).unwrap();
        assert_eq!(element, [4, 513]);
    }

    #[test]
    fn what_is_not_memory_is_not_found() {
        let outside = QueueLayout {
            used_ring: GuestAddress(0x3fc0),
            ..LAYOUT
        };
        assert!(RingMemory::find(&memory(), &outside).is_none());
        let crooked = QueueLayout {
            used_ring: GuestAddress(0x3002),
            ..LAYOUT
        };
        assert!(RingMemory::find(&memory(), &crooked).is_none());
    }
}
