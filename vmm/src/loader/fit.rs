//! Whether a kernel fits into a machine, and where an initrd goes beside it.

use iolite_devices_abi::machine::MMIO_HOLE_START;

use super::elf::{ElfError, Kernel, Segment};
use super::{Boot, Protocol};
use crate::memory::{self, HIGH_MEMORY, MapRange, REACH, RangeKind};

/// A page: what an initrd is aligned to.
const PAGE_BYTES: u64 = 4096;

impl Kernel {
    /// How to enter the kernel in a machine with so many bytes of memory.
    ///
    /// # Errors
    /// [`ElfError`] if it does not fit, or is entered where it is not.
    pub fn boot(&self, memory_bytes: u64) -> Result<Boot, ElfError> {
        let map = memory::map(memory_bytes);
        for segment in &self.segments {
            if segment.address < HIGH_MEMORY.0 {
                return Err(ElfError::BelowHighMemory(segment.address));
            }
            if !map.iter().any(|range| is_in_ram(segment, range)) {
                return Err(ElfError::OutsideMemory(segment.end()));
            }
        }
        // In ascending order: so no byte is loaded twice, and no more than there is memory.
        let overlap = self.segments.windows(2).find(|s| s[0].end() > s[1].address);
        if let Some([_, second]) = overlap {
            return Err(ElfError::Overlap(second.address));
        }
        let (entry, protocol) = match self.pvh_entry {
            Some(entry) => (entry, Protocol::Pvh),
            None => (self.entry, Protocol::Linux64),
        };
        let contains = |s: &Segment| (s.address..s.end()).contains(&entry);
        if !self.segments.iter().any(contains) {
            return Err(ElfError::EntryOutside(entry));
        }
        if entry >= REACH {
            return Err(ElfError::EntryTooHigh(entry));
        }
        Ok(Boot { entry, protocol })
    }

    /// Where an initrd of so many bytes goes: below the hole, as high as the kernel leaves room.
    pub fn initrd_start(&self, memory_bytes: u64, initrd_bytes: u64) -> Option<u64> {
        let start = |end: u64| Some(end.checked_sub(initrd_bytes)? & !(PAGE_BYTES - 1));
        let mut end = memory_bytes.min(MMIO_HOLE_START);
        for segment in self.segments.iter().rev() {
            if start(end)? >= segment.end() {
                return start(end);
            }
            end = end.min(segment.address);
        }
        start(end).filter(|start| *start >= HIGH_MEMORY.0)
    }
}

fn is_in_ram(segment: &Segment, range: &MapRange) -> bool {
    let end = range.start + range.size;
    range.kind == RangeKind::Ram && range.start <= segment.address && segment.end() <= end
}
