//! Guest memory, and what lies where in it.
//!
//! RAM begins at 0. The hole from [`MMIO_HOLE_START`] to 4 GiB belongs to devices; RAM beyond goes
//! on above it. The first MiB holds what the VMM leaves for the kernel to find (docs/machine.md);
//! kernels are loaded from [`HIGH_MEMORY`] on.

use std::sync::Arc;

use iolite_devices_abi::machine::{MMIO_HOLE_END, MMIO_HOLE_START};
use iolite_devices_abi::trace::{TRACE_BASE, TRACE_BYTES};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// The boot processor's descriptor table.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// An interrupt descriptor table with no gates.
pub const IDT: GuestAddress = GuestAddress(0x520);
/// `hvm_start_info` of a PVH kernel; its module list and memory map follow.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// `boot_params` ("zero page") of a kernel that is entered in 64-bit mode.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Top of the stack that a 64-bit kernel begins with.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Identity page tables of a 64-bit kernel: PML4, PDPT and four PDs, a page each.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// How much of the address space a kernel reaches when it is entered, by either protocol.
pub const REACH: u64 = 1 << 32;
/// The kernel's command line, NUL-terminated.
pub const CMDLINE: GuestAddress = GuestAddress(0x20000);
/// Size in bytes of the area for the command line, NUL included: as much as Linux takes.
pub const CMDLINE_BYTES: usize = 2048;
/// Where conventional memory ends, and the last KiB of it, the EBDA, begins: kernels look for the
/// MP table here.
pub const EBDA: GuestAddress = GuestAddress(0x9fc00);
/// Where RAM goes on above the PC's video memory and ROMs.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);

/// The least memory a machine can have, in bytes.
pub const MIN_BYTES: u64 = 2 << 20;
/// Guest memory comes in pages.
const PAGE_BYTES: u64 = 4096;

/// Why guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Less than [`MIN_BYTES`].
    #[error("memory of {0} bytes is too small: give at least -m 2M")]
    TooSmall(u64),
    /// Not a whole number of pages.
    #[error("memory of {0} bytes is not a multiple of 4096: give a size like 128M")]
    NotPages(u64),
    /// More than the host has.
    #[error("memory of {wanted} MiB is more than the host's {host} MiB: give -m less")]
    MoreThanHost {
        /// What was asked for, in MiB.
        wanted: u64,
        /// What the host has, in MiB.
        host: u64,
    },
    /// The host refused it.
    #[error("{0} bytes of memory cannot be mapped ({1}): give -m less")]
    Map(u64, String),
}

/// Maps guest memory of `bytes` bytes. The host gives pages to it as they are touched.
///
/// # Errors
/// [`MemoryError`] if the size is not one that the host or the machine can have.
pub fn create(bytes: u64) -> Result<GuestMemoryMmap, MemoryError> {
    check(bytes, host_bytes())?;
    let low = bytes.min(MMIO_HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(MMIO_HOLE_END), (bytes - low) as usize));
    }
    GuestMemoryMmap::from_ranges(&ranges).map_err(|e| MemoryError::Map(bytes, e.to_string()))
}

/// The same memory with the window for the guest's events (docs/tracing.md), which the memory map
/// does not show.
///
/// # Errors
/// [`MemoryError::Map`] if the host refuses it.
pub fn with_trace_window(memory: GuestMemoryMmap) -> Result<GuestMemoryMmap, MemoryError> {
    let refused = |error: &dyn std::fmt::Display| MemoryError::Map(TRACE_BYTES, error.to_string());
    let mapping = MmapRegion::new(TRACE_BYTES as usize).map_err(|e| refused(&e))?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(TRACE_BASE));
    let region = region.ok_or_else(|| refused(&"too large"))?;
    memory
        .insert_region(Arc::new(region))
        .map_err(|e| refused(&e))
}

fn check(bytes: u64, host: u64) -> Result<(), MemoryError> {
    if bytes < MIN_BYTES {
        return Err(MemoryError::TooSmall(bytes));
    }
    if !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(MemoryError::NotPages(bytes));
    }
    if bytes > host {
        return Err(MemoryError::MoreThanHost {
            wanted: bytes >> 20,
            host: host >> 20,
        });
    }
    Ok(())
}

/// The host's physical memory in bytes.
fn host_bytes() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total())
}

/// What the memory map that a kernel gets says about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable memory (e820 type 1).
    Ram,
    /// Not to be used (e820 type 2).
    Reserved,
}

/// One range of the memory map that a kernel gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// First guest physical address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: RangeKind,
}

/// The memory map of a machine with `bytes` bytes of memory, ascending: RAM, the firmware's area
/// below 1 MiB, and the hole.
pub fn map(bytes: u64) -> Vec<MapRange> {
    let range = |start, end, kind| MapRange {
        start,
        size: end - start,
        kind,
    };
    let mut map = vec![
        range(0, EBDA.0, RangeKind::Ram),
        range(EBDA.0, HIGH_MEMORY.0, RangeKind::Reserved),
        range(HIGH_MEMORY.0, bytes.min(MMIO_HOLE_START), RangeKind::Ram),
        range(MMIO_HOLE_START, MMIO_HOLE_END, RangeKind::Reserved),
    ];
    if let Some(high @ 1..) = bytes.checked_sub(MMIO_HOLE_START) {
        map.push(range(MMIO_HOLE_END, MMIO_HOLE_END + high, RangeKind::Ram));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryBackend;

    #[test]
    fn sizes_out_of_range_are_refused() {
        let host = 8 << 30;
        assert!(matches!(check(0, host), Err(MemoryError::TooSmall(0))));
        assert!(matches!(
            check(MIN_BYTES - 1, host),
            Err(MemoryError::TooSmall(_))
        ));
        assert!(matches!(
            check(MIN_BYTES + 512, host),
            Err(MemoryError::NotPages(_))
        ));
        assert!(matches!(
            check(host + 4096, host),
            Err(MemoryError::MoreThanHost { .. })
        ));
        assert!(check(MIN_BYTES, host).is_ok());
        assert!(check(host, host).is_ok());
    }

    #[test]
    fn memory_is_what_was_asked_for() {
        let memory = create(16 << 20).unwrap();
        assert_eq!(memory.last_addr(), GuestAddress((16 << 20) - 1));
    }

    #[test]
    fn the_map_leaves_out_the_hole() {
        for bytes in [MIN_BYTES, MMIO_HOLE_START, MMIO_HOLE_START + 4096, 6 << 30] {
            let map = map(bytes);
            assert!(
                map.windows(2).all(|w| w[0].start + w[0].size <= w[1].start),
                "{map:x?}"
            );
            let ram: u64 = map
                .iter()
                .filter(|r| r.kind == RangeKind::Ram)
                .map(|r| r.size)
                .sum();
            assert_eq!(ram, bytes - (HIGH_MEMORY.0 - EBDA.0));
        }
    }
}
