//! How fast the time stamp counter ticks: who is asked, and how it is measured where nobody knows.

use super::{apic, cpu, kvm_clock, pit};
use crate::println;
use core::arch::x86_64::__cpuid;

/// How QEMU without KVM calls itself: "TCGTCGTCGTCG".
const QEMU_TCG: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];
/// What the local APIC's timer counts in a second in KVM and in QEMU.
const APIC_TIMER_HZ: u64 = 1_000_000_000;
/// Where the 16 bits of the PIT's count are put: their difference then wraps as one of 32 bits
/// does.
const PIT_SHIFT: u32 = 16;

/// How long the PIT is watched, and the local APIC's timer: 10 ms.
const PIT_SPAN: u32 = (pit::HZ as u32 / 100) << PIT_SHIFT;
const APIC_SPAN: u32 = APIC_TIMER_HZ as u32 / 100;
/// How many readings of a counter are tried, the quickest of which counts.
const READINGS: usize = 4;
/// A counter that has not moved after so many looks is none.
const LOOKS: usize = 100;
/// Most measurements until two in a row agree.
const MEASUREMENTS: usize = 8;
/// They agree if they differ by no more than this part.
const TOLERANCE: u64 = 1000;

/// Ticks in a second, as the first one says who knows; at last they are measured.
pub fn hz() -> Option<u64> {
    kvm_clock::tsc_hz()
        .or_else(from_cpuid)
        .or_else(from_pit)
        .or_else(from_apic_timer)
}

/// The crystal's frequency and its ratio to the time stamp counter, where CPUID knows them.
fn from_cpuid() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    hz.checked_div(u64::from(leaf.eax)).filter(|hz| *hz != 0)
}

fn from_pit() -> Option<u64> {
    let count = || u32::from(pit::count()) << PIT_SHIFT;
    let ticks = for_counts(pit::start, count, PIT_SPAN)?;
    Some(times(ticks, pit::HZ << PIT_SHIFT))
}

fn from_apic_timer() -> Option<u64> {
    if ![kvm_clock::SIGNATURE, QEMU_TCG].contains(&cpu::hypervisor()) {
        println!("iolite: a guess: the APIC timer counts at 1 GHz; tsc_early_khz=N tells better");
    }
    Some(times(for_apic_counts()?, APIC_TIMER_HZ))
}

/// What is `ticks` for 2^32 counts, for `counts`.
fn times(ticks: u64, counts: u64) -> u64 {
    ((u128::from(ticks) * u128::from(counts)) >> 32) as u64
}

/// Ticks of the time stamp counter for 2^32 of the local APIC's timer, which counts down.
pub fn for_apic_counts() -> Option<u64> {
    apic::use_countdown();
    let ticks = for_counts(|| apic::set_countdown(u32::MAX), apic::countdown, APIC_SPAN);
    apic::set_countdown(0);
    ticks
}

/// Ticks of the time stamp counter for 2^32 that `count` goes down by once `start` has been called.
/// A host that stops the processor in the midst of it does no harm, unless twice in the same way.
fn for_counts(start: impl Fn(), count: impl Fn() -> u32, span: u32) -> Option<u64> {
    let mut last = 0;
    for _ in 0..MEASUREMENTS {
        start();
        let ticks = measure(&count, span)?;
        if ticks.abs_diff(last) <= ticks / TOLERANCE {
            return Some(ticks);
        }
        last = ticks;
    }
    Some(last)
}

fn measure(count: impl Fn() -> u32, span: u32) -> Option<u64> {
    let (start, first) = read(&count);
    for look in 0.. {
        let (now, left) = read(&count);
        let gone = first.wrapping_sub(left);
        if gone >= span {
            return u64::try_from((u128::from(now - start) << 32) / u128::from(gone)).ok();
        }
        if look == LOOKS && gone == 0 {
            break;
        }
    }
    None
}

/// The time stamp counter and the count at the same time, nearly.
fn read(count: impl Fn() -> u32) -> (u64, u32) {
    let readings = (0..READINGS).map(|_| {
        let before = cpu::tsc();
        let count = count();
        let took = cpu::tsc() - before;
        (took, before + took / 2, count)
    });
    let quickest = readings.min_by_key(|(took, ..)| *took);
    quickest.map_or((0, 0), |(_, tsc, count)| (tsc, count))
}
