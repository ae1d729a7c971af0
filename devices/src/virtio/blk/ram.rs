//! Guest memory for the few bytes that each request costs: descriptors, header, status. To look an address
//! up among the regions takes longer than to read what is there, so the largest region is tried first,
//! by one comparison; whatever lies elsewhere, or across a border, goes the usual way.
//!
//! The driver may write the same bytes at any time: accesses are atomic or volatile, and nothing is read
//! twice.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Guest memory.
pub(super) struct Ram {
    memory: Arc<GuestMemoryMmap>,
    /// The largest region: where it begins, how long it is, and where the host has it.
    start: u64,
    bytes: u64,
    host: *const u8,
}

// SAFETY: the pointer leads to guest memory, which `memory` keeps mapped; it is read and written by
// atomic accesses only.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// All of `memory`.
    pub(super) fn new(memory: Arc<GuestMemoryMmap>) -> Ram {
        let largest = memory.iter().max_by_key(|region| region.len());
        let found = largest.and_then(|region: &GuestRegionMmap| {
            let slice = region.as_volatile_slice().ok()?;
            let host = slice.ptr_guard().as_ptr();
            Some((region.start_addr().0, slice.len() as u64, host))
        });
        let (start, bytes, host) = found.unwrap_or((0, 0, std::ptr::null()));
        Ram {
            memory,
            start,
            bytes,
            host,
        }
    }

    /// For what is not done for each request.
    pub(super) fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// The 16 bytes at `addr`; none if not all of them are memory.
    #[inline]
    pub(super) fn read(&self, addr: GuestAddress) -> Option<[u8; 16]> {
        match self.find::<[AtomicU64; 2]>(addr) {
            Some(words) => {
                // SAFETY: `find` has found memory of that size and alignment.
                let words = unsafe { &*words };
                let [low, high] = words.each_ref().map(|word| word.load(Ordering::Relaxed));
                Some((u128::from(low) | u128::from(high) << 64).to_ne_bytes())
            }
            None => {
                let mut bytes = [0; 16];
                self.memory.read_slice(&mut bytes, addr).ok()?;
                Some(bytes)
            }
        }
    }

    /// Whether there is memory at `addr`.
    #[inline]
    pub(super) fn has(&self, addr: GuestAddress) -> bool {
        self.find::<AtomicU8>(addr).is_some() || self.memory.address_in_range(addr)
    }

    /// Writes a byte, if there is memory at `addr`.
    #[inline]
    pub(super) fn write_byte(&self, addr: GuestAddress, value: u8) {
        match self.find::<AtomicU8>(addr) {
            // SAFETY: `find` has found memory there.
            Some(byte) => unsafe { (*byte).store(value, Ordering::Relaxed) },
            None => drop(self.memory.write_obj(value, addr)),
        }
    }

    /// Where the host has the `T` at `addr`, if it is in the largest region and aligned.
    #[inline(always)]
    fn find<T>(&self, addr: GuestAddress) -> Option<*const T> {
        let at = addr.0.wrapping_sub(self.start);
        let is_inside = at < self.bytes && self.bytes - at >= size_of::<T>() as u64;
        // SAFETY: inside the region.
        let place = is_inside.then(|| unsafe { self.host.add(at as usize).cast::<T>() })?;
        place.is_aligned().then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_found_or_is_not_there() {
        let regions = [(0, 0x1000), (0x4000, 0x3000), (0x7000, 0x1000)];
        let regions = regions.map(|(start, bytes)| (GuestAddress(start), bytes));
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        let ram = Ram::new(Arc::clone(&memory));
        let at = GuestAddress;
        for addr in [
            0, 0xff0, 0x4000, 0x4001, 0x4008, 0x6ff0, 0x6ff8, 0x7008, 0x7ff0,
        ] {
            let bytes: [u8; 16] = std::array::from_fn(|n| (addr as usize + n) as u8);
            memory.write_slice(&bytes, at(addr)).unwrap();
            assert_eq!(ram.read(at(addr)), Some(bytes), "{addr:#x}");
            ram.write_byte(at(addr), 0xee);
            assert_eq!(memory.read_obj::<u8>(at(addr)).unwrap(), 0xee);
            assert!(ram.has(at(addr)));
        }
        for addr in [
            0xff1,
            0x1000,
            0x3ff8,
            0x7ff1,
            0x8000,
            u64::MAX,
            u64::MAX - 15,
        ] {
            assert_eq!(ram.read(at(addr)), None, "{addr:#x}");
        }
        for addr in [0x1000, 0x3fff, 0x8000, u64::MAX] {
            assert!(!ram.has(at(addr)), "{addr:#x}");
            ram.write_byte(at(addr), 1);
        }
        assert!(ram.has(at(0xfff)) && ram.has(at(0x6fff)) && ram.has(at(0x7fff)));
    }
}
