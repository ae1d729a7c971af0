//! Time: the time stamp counter, how fast it ticks, and one timer.

#![allow(unsafe_code)]

use super::{apic, cpu};
use crate::mm::layout;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

const KVM_SIGNATURE_LEAF: u32 = 0x4000_0000;
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d]; // "KVMKVMKVM"
const KVM_FEATURES_LEAF: u32 = 0x4000_0001;
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const CPUID_1_ECX_TSC_DEADLINE: u32 = 1 << 24;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Ticks of the APIC timer for 2^32 ticks of the time stamp counter; 0 with a deadline timer.
static COUNTDOWN_RATIO: AtomicU64 = AtomicU64::new(0);

/// Learns the frequency of the time stamp counter and sets the timer up.
pub fn init() -> Result<(), &'static str> {
    TSC_HZ.store(tsc_hz_from_kvm_clock().or_else(tsc_hz_from_cpuid).ok_or(
        "no clock: neither a KVM clock nor CPUID leaf 0x15 gives the time stamp counter's frequency",
    )?, Ordering::Relaxed);
    if __cpuid(1).ecx & CPUID_1_ECX_TSC_DEADLINE != 0 {
        apic::use_tsc_deadline();
    } else {
        apic::use_countdown();
        COUNTDOWN_RATIO.store(measure_countdown(), Ordering::Relaxed);
    }
    Ok(())
}

/// Ticks of the time stamp counter in a second.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Ticks of the time stamp counter in `nanoseconds`.
pub fn ticks(nanoseconds: u64) -> u64 {
    let ticks = u128::from(nanoseconds) * u128::from(tsc_hz()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// One timer interrupt when the time stamp counter reaches `tsc`, instead of any set before.
pub fn set_timer(tsc: u64) {
    let ratio = COUNTDOWN_RATIO.load(Ordering::Relaxed);
    if ratio == 0 {
        return apic::set_deadline(tsc.max(1));
    }
    let left = tsc.saturating_sub(cpu::tsc()).min(1 << 31);
    apic::set_countdown(((left * ratio) >> 32).clamp(1, u64::from(u32::MAX)) as u32);
}

/// No timer interrupt until [`set_timer`].
pub fn stop_timer() {
    if COUNTDOWN_RATIO.load(Ordering::Relaxed) == 0 {
        apic::set_deadline(0);
    } else {
        apic::set_countdown(0);
    }
}

/// `struct pvclock_vcpu_time_info` (Linux, Documentation/virt/kvm/x86/msr.rst).
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

// SAFETY: used by `tsc_hz_from_kvm_clock` alone, once, on the only processor.
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

/// KVM's paravirtual clock tells how to turn ticks into nanoseconds:
/// `ns = ((ticks << shift) * mul) >> 32`.
fn tsc_hz_from_kvm_clock() -> Option<u64> {
    let signature = __cpuid(KVM_SIGNATURE_LEAF);
    if [signature.ebx, signature.ecx, signature.edx] != KVM_SIGNATURE
        || __cpuid(KVM_FEATURES_LEAF).eax & KVM_FEATURE_CLOCKSOURCE2 == 0
    {
        return None;
    }
    let page = CLOCK.0.get();
    let physical = layout::kernel_to_physical(page as u64);
    // SAFETY: KVM writes the structure, which is ours, until the clock is turned off again.
    let (mul, shift) = unsafe {
        cpu::write_msr(MSR_KVM_SYSTEM_TIME_NEW, physical | 1);
        let scale = (
            (&raw const (*page).tsc_to_system_mul).read_volatile(),
            (&raw const (*page).tsc_shift).read_volatile(),
        );
        cpu::write_msr(MSR_KVM_SYSTEM_TIME_NEW, 0);
        scale
    };
    let hz = (1_000_000_000u64 << 32).checked_div(u64::from(mul))?;
    Some(if shift < 0 { hz << -shift } else { hz >> shift })
}

/// The crystal's frequency and its ratio to the time stamp counter, where CPUID knows them.
fn tsc_hz_from_cpuid() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    hz.checked_div(u64::from(leaf.eax)).filter(|hz| *hz != 0)
}

fn measure_countdown() -> u64 {
    apic::set_countdown(u32::MAX);
    let start = cpu::tsc();
    let end = start + ticks(200_000);
    while cpu::tsc() < end {}
    let counted = u64::from(u32::MAX - apic::countdown());
    let elapsed = cpu::tsc() - start;
    apic::set_countdown(0);
    ((counted << 32) / elapsed.max(1)).max(1)
}
