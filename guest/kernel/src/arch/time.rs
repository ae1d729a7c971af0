//! Time: the time stamp counter, how fast it ticks, and one timer.

#![allow(unsafe_code)]

use super::{apic, cpu, tsc};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

const CPUID_1_ECX_TSC_DEADLINE: u32 = 1 << 24;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Ticks of the APIC timer for 2^32 ticks of the time stamp counter; 0 with a deadline timer.
static COUNTDOWN_RATIO: AtomicU64 = AtomicU64::new(0);

/// Learns the frequency of the time stamp counter, unless it is `told`, and sets the timer up.
pub fn init(told: Option<u64>) -> Result<(), &'static str> {
    let hz = told.or_else(tsc::hz);
    TSC_HZ.store(
        hz.ok_or("no clock: no timer is running")?,
        Ordering::Relaxed,
    );
    if __cpuid(1).ecx & CPUID_1_ECX_TSC_DEADLINE == 0 {
        let ticks = tsc::for_apic_counts().ok_or("no timer: the local APIC's stands still")?;
        COUNTDOWN_RATIO.store((u64::MAX / ticks.max(1)).max(1), Ordering::Relaxed);
    } else {
        apic::use_tsc_deadline();
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
