//! One clock for both sides. Host and guest take their times from the time stamp counter; the
//! guest's is the host's plus an offset that KVM keeps for each vCPU. This module learns the offset,
//! checks it, and turns ticks into nanoseconds of the host's monotonic clock.

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use iolite_devices::trace;
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

#[allow(missing_docs)]
mod request {
    use super::{ioctl_iow_nr, kvm_device_attr};
    ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, 0xae, 0xe2, kvm_device_attr);
}

const MSR_IA32_TSC: u32 = 0x10;

/// How the guest's time stamp counter relates to the host's.
#[derive(Clone, Debug, Default)]
pub struct Offset {
    /// The guest's minus the host's. None where it does not hold still: then the times of the two
    /// sides cannot be compared.
    pub ticks: Option<i64>,
    /// How that was found, and how well a reading of both agreed.
    pub found: String,
}

impl Offset {
    /// QEMU counts the host's ticks, from an instant that it does not tell.
    pub fn of_qemu() -> Offset {
        Offset {
            ticks: None,
            found: "QEMU lends the processor: its counter begins when nobody knows".into(),
        }
    }

    fn unknown(why: impl Into<String>) -> Offset {
        let found = why.into();
        log::warn!("the guest's half of the trace is left out: {found}");
        Offset { ticks: None, found }
    }
}

/// Asks KVM for the offset, and checks it against a reading of the guest's counter between two
/// readings of the host's.
///
/// Where Linux finds the host's counter unstable (in some virtual machines), KVM moves the guest's
/// whenever it loads the vCPU: the reading disagrees.
pub fn offset(vcpu: &VcpuFd) -> Offset {
    match (kvm_offset(vcpu), between(vcpu)) {
        (Some(ticks), Some((low, high))) if low <= ticks && ticks <= high => Offset {
            ticks: Some(ticks),
            found: format!("KVM's own offset, confirmed to {}", span(vcpu, high - low)),
        },
        (Some(_), Some(_)) => Offset::unknown("the host's time stamp counter is not stable"),
        (None, Some((low, high))) => Offset {
            ticks: Some(low + (high - low) / 2),
            found: format!("read from the vCPU, to {}", span(vcpu, high - low)),
        },
        (_, None) => Offset::unknown("KVM does not tell the guest's time stamp counter"),
    }
}

/// Ticks of the guest's counter as time, where KVM knows its frequency.
fn span(vcpu: &VcpuFd, ticks: i64) -> String {
    match vcpu.get_tsc_khz() {
        Ok(khz @ 1..) => format!("{:.1} us", ticks as f64 * 1e3 / f64::from(khz)),
        _ => format!("{ticks} ticks"),
    }
}

/// KVM_VCPU_TSC_OFFSET, which Linux has since 5.16.
fn kvm_offset(vcpu: &VcpuFd) -> Option<i64> {
    let mut ticks = 0u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw mut ticks).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: KVM reads the attribute and writes eight bytes, the size of this attribute, to its
    // address, which is that of a u64 that lives until the call is over.
    let result = unsafe { ioctl_with_ref(vcpu, request::KVM_GET_DEVICE_ATTR(), &attribute) };
    (result == 0).then_some(ticks as i64)
}

/// The least and the greatest offset that a reading of the guest's counter allows. The narrowest of
/// a few, since each can be interrupted.
fn between(vcpu: &VcpuFd) -> Option<(i64, i64)> {
    let entry = kvm_msr_entry {
        index: MSR_IA32_TSC,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..8 {
        let before = trace::now();
        if vcpu.get_msrs(&mut msrs).ok()? != 1 {
            return None;
        }
        let after = trace::now();
        let guest = msrs.as_slice().first()?.data;
        let (low, high) = (
            guest.wrapping_sub(after) as i64,
            guest.wrapping_sub(before) as i64,
        );
        if best.is_none_or(|(a, b)| high - low < b - a) {
            best = Some((low, high));
        }
    }
    best
}

/// Turns ticks of the host's counter into nanoseconds since a beginning.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    start: u64,
    ticks: u64,
    nanoseconds: u64,
}

/// The beginning of a trace by both of the host's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    ticks: u64,
    instant: Instant,
}

impl Start {
    /// Now.
    pub fn now() -> Start {
        Start {
            ticks: trace::now(),
            instant: Instant::now(),
        }
    }

    /// How long ago that was.
    pub fn elapsed(&self) -> Duration {
        self.instant.elapsed()
    }

    /// What lies between the beginning and now gives the scale.
    pub fn scale(&self) -> Scale {
        Scale {
            start: self.ticks,
            ticks: trace::now().saturating_sub(self.ticks).max(1),
            nanoseconds: u64::try_from(self.instant.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

impl Scale {
    /// So many ticks that are nanoseconds already, for tests.
    #[cfg(test)]
    pub const fn nanoseconds(duration: u64) -> Scale {
        Scale {
            start: 0,
            ticks: duration,
            nanoseconds: duration,
        }
    }

    /// Nanoseconds from the beginning to `tsc`; 0 for what was before.
    pub fn ns(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.start));
        let ns = ticks * u128::from(self.nanoseconds) / u128::from(self.ticks);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Nanoseconds in a tick.
    pub fn tick_ns(&self) -> f64 {
        self.nanoseconds as f64 / self.ticks as f64
    }

    /// How long it has been from the beginning to the making of the scale.
    pub fn duration_ns(&self) -> u64 {
        self.nanoseconds
    }
}
