//! Device registers in the kernel's address space.

use super::layout::{DEVICE_REGISTERS, PAGE};
use super::paging::{self, NO_EXECUTE, PRESENT, UNCACHED, WRITABLE};
use core::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(DEVICE_REGISTERS);

/// Maps the `bytes` of registers at `physical`, for good.
pub fn map(physical: u64, bytes: u64) -> *mut u8 {
    let offset = physical % PAGE;
    let pages = (offset + bytes).div_ceil(PAGE);
    let address = NEXT.fetch_add(pages * PAGE, Ordering::Relaxed);
    for page in 0..pages {
        let value = (physical - offset + page * PAGE) | PRESENT | WRITABLE | UNCACHED | NO_EXECUTE;
        let mapped = paging::map_kernel(address + page * PAGE, value);
        assert!(mapped.is_some(), "no memory to map device registers");
    }
    (address + offset) as *mut u8
}
