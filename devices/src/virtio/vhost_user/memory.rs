//! The guest's memory, as its front-end shares it: regions of files, each with two addresses, the
//! guest's (in descriptors) and the front-end's own (of rings).
#![allow(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::message::RegionSpec;
use crate::bus_error::Guard;

/// How many regions there may be.
pub(super) const MAX_REGIONS: usize = 32;

/// Why memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("memory of {0} bytes at {1:#x} is not possible")]
    Range(u64, u64),
    #[error("memory cannot be mapped: {0}")]
    Map(#[from] vm_memory::mmap::MmapRegionError),
    #[error("memory of {0} bytes is not all in its file")]
    File(usize),
    #[error("regions of memory overlap")]
    Overlap,
    #[error("{MAX_REGIONS} regions of memory are the most")]
    TooMany,
    #[error("there is no such region")]
    Unknown,
    #[error("there is no memory yet")]
    None,
}

/// All regions.
#[derive(Default)]
pub(super) struct Memory {
    regions: Vec<Region>,
}

struct Region {
    spec: RegionSpec,
    mapped: Arc<GuestRegionMmap>,
    _shared: Shared,
}

/// A part of a front-end's file, mapped. What is dropped last is dropped when nobody uses it any more.
pub(super) struct Shared {
    _guard: Guard,
    pub(super) mapping: Arc<MmapRegion>,
}

impl Memory {
    /// The regions of a table.
    pub(super) fn new(table: Vec<(RegionSpec, File)>) -> Result<Self, MemoryError> {
        let mut memory = Memory::default();
        for (spec, file) in table {
            memory.add(spec, file)?;
        }
        Ok(memory)
    }

    /// One more region.
    pub(super) fn add(&mut self, spec: RegionSpec, file: File) -> Result<(), MemoryError> {
        if self.regions.len() == MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        let region = Region::map(spec, file)?;
        if self.regions.iter().any(|other| other.overlaps(&spec)) {
            return Err(MemoryError::Overlap);
        }
        self.regions.push(region);
        self.regions.sort_by_key(|region| region.spec.guest);
        Ok(())
    }

    /// One region less; its file's offset does not matter.
    pub(super) fn remove(&mut self, spec: &RegionSpec) -> Result<(), MemoryError> {
        let same = |region: &Region| {
            let has = &region.spec;
            (has.guest, has.bytes, has.user) == (spec.guest, spec.bytes, spec.user)
        };
        let at = self
            .regions
            .iter()
            .position(same)
            .ok_or(MemoryError::Unknown)?;
        self.regions.remove(at);
        Ok(())
    }

    /// The guest address of what the front-end has at `user`, if it is in a region.
    pub(super) fn guest_address(&self, user: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|Region { spec, .. }| {
            let at = user.checked_sub(spec.user).filter(|at| *at < spec.bytes)?;
            Some(GuestAddress(spec.guest + at))
        })
    }

    /// What a device works on.
    pub(super) fn guest(&self) -> Result<Arc<GuestMemoryMmap>, MemoryError> {
        let regions = self.regions.iter().map(|region| Arc::clone(&region.mapped));
        let memory = GuestMemoryMmap::from_arc_regions(regions.collect());
        memory.map(Arc::new).map_err(|_| MemoryError::None)
    }
}

impl Region {
    fn map(spec: RegionSpec, file: File) -> Result<Region, MemoryError> {
        let range = || MemoryError::Range(spec.bytes, spec.guest);
        let bytes = usize::try_from(spec.bytes).map_err(|_| range())?;
        let ends = [spec.guest, spec.user].map(|start| start.checked_add(spec.bytes));
        if bytes == 0 || ends.contains(&None) {
            return Err(range());
        }
        let shared = Shared::map(file, spec.offset, bytes)?;
        let mapping = Arc::clone(&shared.mapping);
        let mapped =
            GuestRegionMmap::with_arc(mapping, GuestAddress(spec.guest)).ok_or_else(range)?;
        Ok(Region {
            spec,
            mapped: Arc::new(mapped),
            _shared: shared,
        })
    }

    fn overlaps(&self, other: &RegionSpec) -> bool {
        let overlap = |a: u64, b: u64| a < b + other.bytes && b < a + self.spec.bytes;
        overlap(self.spec.guest, other.guest) || overlap(self.spec.user, other.user)
    }
}

impl Shared {
    /// Maps `bytes` bytes of a front-end's file. They have to be there now; should the front-end cut
    /// its file short afterwards, zeros take their place.
    pub(super) fn map(file: File, offset: u64, bytes: usize) -> Result<Shared, MemoryError> {
        let found = file.metadata().ok().filter(|found| found.is_file());
        let end = offset.checked_add(bytes as u64);
        if end.is_none_or(|end| found.is_none_or(|found| found.len() < end)) {
            return Err(MemoryError::File(bytes));
        }
        let mapping = Arc::new(MmapRegion::from_file(FileOffset::new(file, offset), bytes)?);
        // SAFETY: the mapping lives as long as the guard, which is dropped before it, and guest memory
        // is touched by volatile and atomic accesses alone.
        let guard = unsafe { Guard::new(mapping.as_ptr(), bytes) };
        Ok(Shared {
            _guard: guard.ok_or(MemoryError::TooMany)?,
            mapping,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn file(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    fn spec(guest: u64, bytes: u64, user: u64, offset: u64) -> RegionSpec {
        RegionSpec {
            guest,
            bytes,
            user,
            offset,
        }
    }

    #[test]
    fn both_kinds_of_addresses_lead_to_the_same_bytes() {
        let shared = file(0x5000);
        let table = vec![
            (
                spec(0x10_0000, 0x2000, 0x7000_0000, 0x3000),
                shared.try_clone().unwrap(),
            ),
            (spec(0, 0x1000, 0x6000_0000, 0), shared.try_clone().unwrap()),
        ];
        let memory = Memory::new(table).unwrap();
        let address = memory.guest_address(0x7000_0004).unwrap();
        assert_eq!(address, GuestAddress(0x10_0004));
        memory
            .guest()
            .unwrap()
            .write_obj(0x1234u16, address)
            .unwrap();
        let mut bytes = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(&shared, &mut bytes, 0x3004).unwrap();
        assert_eq!(bytes, [0x34, 0x12]);
        for outside in [0, 0x6fff_ffff, 0x7000_2000, 0x6000_1000, u64::MAX] {
            assert_eq!(memory.guest_address(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let mut memory = Memory::default();
        assert!(matches!(memory.guest(), Err(MemoryError::None)));
        for bad in [
            spec(0, 0, 0, 0),
            spec(u64::MAX - 0xfff, 0x1001, 0, 0),
            spec(0, 0x1001, u64::MAX - 0xfff, 0),
            spec(0, 1 << 63, 0, 0),
            spec(0, u64::MAX, 0, 0),
            spec(0, 0x2001, 0, 0),      // beyond the file
            spec(0, 0x1000, 0, 0x1001), // no page
            spec(0, 0x1000, 0, u64::MAX),
            spec(0, 0x1000, 0, 0x2000),
        ] {
            assert!(memory.add(bad, file(0x2000)).is_err(), "{bad:x?}");
        }
        memory
            .add(spec(0x1000, 0x2000, 0x8000, 0), file(0x2000))
            .unwrap();
        for overlapping in [spec(0x2fff, 0x1000, 0, 0), spec(0x8000, 0x1000, 0x9000, 0)] {
            let error = memory.add(overlapping, file(0x2000));
            assert!(
                matches!(error, Err(MemoryError::Overlap)),
                "{overlapping:x?}"
            );
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(reader));
        assert!(
            memory
                .add(spec(0x10_0000, 0x1000, 0x10_0000, 0), pipe)
                .is_err()
        );
        let read_only = File::open("/proc/self/exe").unwrap();
        assert!(
            memory
                .add(spec(0x10_0000, 0x1000, 0x10_0000, 0), read_only)
                .is_err()
        );
        assert!(memory.remove(&spec(0x1000, 0x1000, 0x8000, 0)).is_err());
        memory.remove(&spec(0x1000, 0x2000, 0x8000, 0)).unwrap();
        assert!(memory.guest().is_err());
        for index in 0..MAX_REGIONS as u64 {
            let at = index << 20;
            memory.add(spec(at, 0x1000, at, 0), file(0x1000)).unwrap();
        }
        let one_more = memory.add(spec(1 << 40, 0x1000, 1 << 40, 0), file(0x1000));
        assert!(matches!(one_more, Err(MemoryError::TooMany)));
    }
}
