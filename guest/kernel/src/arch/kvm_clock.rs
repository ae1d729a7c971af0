//! KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst): all it is asked is how fast
//! the time stamp counter ticks.

#![allow(unsafe_code)]

use super::cpu;
use crate::mm::layout;
use core::arch::x86_64::__cpuid;

/// How KVM calls itself: "KVMKVMKVM".
pub const SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
const FEATURES_LEAF: u32 = 0x4000_0001;
const FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;

/// Ticks of the time stamp counter in a second: the clock tells how to turn ticks into nanoseconds,
/// `ns = ((ticks << shift) * mul) >> 32`.
pub fn tsc_hz() -> Option<u64> {
    if cpu::hypervisor() != SIGNATURE || __cpuid(FEATURES_LEAF).eax & FEATURE_CLOCKSOURCE2 == 0 {
        return None;
    }
    let page = CLOCK.0.get();
    let physical = layout::kernel_to_physical(page as u64);
    // SAFETY: KVM writes the structure, which is ours, until the clock is turned off again.
    let (mul, shift) = unsafe {
        cpu::write_msr(MSR_SYSTEM_TIME_NEW, physical | 1);
        let scale = (
            (&raw const (*page).tsc_to_system_mul).read_volatile(),
            (&raw const (*page).tsc_shift).read_volatile(),
        );
        cpu::write_msr(MSR_SYSTEM_TIME_NEW, 0);
        scale
    };
    let hz = (1_000_000_000u64 << 32).checked_div(u64::from(mul))?;
    Some(if shift < 0 { hz << -shift } else { hz >> shift })
}

/// `struct pvclock_vcpu_time_info`.
#[repr(C, align(64))]
struct ClockPage {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

struct Clock(core::cell::UnsafeCell<ClockPage>);

// SAFETY: used by `tsc_hz` alone, once, on the only processor.
unsafe impl Sync for Clock {}

static CLOCK: Clock = Clock(core::cell::UnsafeCell::new(ClockPage {
    version: 0,
    pad: 0,
    tsc_timestamp: 0,
    system_time: 0,
    tsc_to_system_mul: 0,
    tsc_shift: 0,
    flags: 0,
    pad2: [0; 2],
}));
