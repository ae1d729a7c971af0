//! The registers of a virtio-mmio window that hold what the driver wrote.

use iolite_devices_abi::status::FEATURES_OK;

use super::device::VirtioDevice;
use super::setup::QueueRegisters;

/// What the driver has written, and the phase that it has brought the device to.
pub(super) struct Registers {
    pub(super) phase: Phase,
    pub(super) status: u32,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    pub(super) queues: Vec<QueueRegisters>,
}

/// Who owns the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The driver sets them up here.
    SetUp,
    /// The device works on them.
    Live,
    /// The device finishes what is in flight, then lets go.
    Draining,
}

impl Registers {
    pub(super) fn after_reset(device: &dyn VirtioDevice) -> Self {
        let queues = device
            .queue_max_sizes()
            .iter()
            .map(|&size| QueueRegisters::new(size));
        Registers {
            phase: Phase::SetUp,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues: queues.collect(),
        }
    }

    pub(super) fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    pub(super) fn queue_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    pub(super) fn set_driver_features(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let (shift, value) = match self.driver_features_sel {
            0 => (0, u64::from(value)),
            1 => (32, u64::from(value)),
            _ => return,
        };
        self.driver_features &= !(u64::from(u32::MAX) << shift);
        self.driver_features |= value << shift;
    }
}

/// The 32 feature bits that a selector chooses; none past the 64 there are.
pub(super) fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
