//! The registers of a virtio-mmio window that hold what the driver wrote.

use iolite_devices_abi::status::{FAILED, FEATURES_OK};

use super::device::VirtioDevice;
use super::setup::{Holder, QueueRegisters};

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

    /// Number of the selected queue, if there is one: there are fewer than 16 bits can count.
    pub(super) fn queue_number(&self) -> u16 {
        self.queue_sel as u16
    }

    pub(super) fn queue_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    /// The selected queue, if the driver may set it up now.
    pub(super) fn free_queue(&mut self) -> Option<&mut QueueRegisters> {
        let (phase, failed) = (self.phase, self.status & FAILED != 0);
        self.queue_mut().filter(|queue| match phase {
            Phase::SetUp => !queue.ready,
            Phase::Live => queue.holder == Holder::Driver && !failed,
            Phase::Draining => false,
        })
    }

    /// QueueReset.
    pub(super) fn is_resetting(&self) -> bool {
        let resetting = |queue: &QueueRegisters| queue.holder == Holder::Resetting;
        self.queue().is_some_and(resetting)
    }

    /// Whether `feature` was negotiated.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.status & FEATURES_OK != 0 && self.driver_features & feature != 0
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
