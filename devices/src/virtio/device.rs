//! What a transport wants of a virtio device.
//!
//! A device is inactive until [`VirtioDevice::activate`] hands it its queues, and is inactive again
//! when [`VirtioDevice::reset`] has returned true. In between it owns the queues; the transport
//! does not look at them.

use std::sync::Arc;
use std::time::Duration;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::in_flight::InFlightRegion;

use crate::lines::Lines;

/// A split virtqueue as its driver has set it up, checked: the size is a power of two up to
/// QueueNumMax; the three parts are aligned, and each lies in one region of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// Queue size in entries.
    pub size: u16,
    /// The descriptor table.
    pub desc_table: GuestAddress,
    /// The available ring ("driver area").
    pub avail_ring: GuestAddress,
    /// The used ring ("device area").
    pub used_ring: GuestAddress,
}

/// A queue that a device is to take over.
pub struct QueueStart {
    /// Where its parts are.
    pub layout: QueueLayout,
    /// The memory that these, and all addresses in descriptors, are addresses of.
    pub memory: Arc<GuestMemoryMmap>,
    /// How far it has got.
    pub from: Position,
}

impl QueueStart {
    /// A queue in `memory` that nobody has used yet.
    pub fn fresh(layout: QueueLayout, memory: &Arc<GuestMemoryMmap>) -> Self {
        QueueStart {
            layout,
            memory: Arc::clone(memory),
            from: Position::default(),
        }
    }
}

/// How far a queue has got: nowhere by default, as every queue of a driver that has just set it up.
#[derive(Default)]
pub struct Position {
    /// The available index of the next head to pop.
    pub next_avail: u16,
    /// The used index of the next head to publish.
    pub next_used: u16,
    /// Heads that somebody popped and never published: they come first.
    pub again: Vec<u16>,
    /// Where to note what is in flight, for whoever comes after us.
    pub region: Option<InFlightRegion>,
    /// The most descriptors of a chain, where an indirect table may hold more than the queue.
    pub longest_chain: Option<u16>,
}

/// What a driver has set up when it sets DRIVER_OK.
pub struct Activation {
    /// The negotiated features: offered by the device and accepted by the driver.
    pub features: u64,
    /// One for each of the device's queues. None where the driver left the queue disabled.
    pub queues: Vec<Option<QueueStart>>,
}

/// A virtio device behind a transport. All calls come from vCPU threads, one at a time.
pub trait VirtioDevice: Send + Sync {
    /// DeviceID.
    fn device_type(&self) -> u32;

    /// device_features: everything the device offers.
    fn device_features(&self) -> u64;

    /// QueueNumMax of each queue.
    fn queue_max_sizes(&self) -> &[u16];

    /// Reads the device configuration space; zeros past its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the device configuration space. Called only after
    /// [`settle`](VirtioDevice::settle).
    fn write_config(&self, offset: u64, data: &[u8]);

    /// ConfigGeneration: another value after the device has changed its configuration space by
    /// itself.
    fn config_generation(&self) -> u32;

    /// Features are negotiated (FEATURES_OK), or none any more after a reset. Called only while
    /// inactive.
    fn settle(&self, features: u64);

    /// The driver is set up: the device is live from now on. Called only while inactive. What there is
    /// to say goes to `lines`: the caller holds a lock.
    fn activate(&self, activation: Activation, lines: &mut Lines);

    /// The driver says that `queue`, which exists, has available buffers. Called only while
    /// active.
    fn notify(&self, queue: u16);

    /// Stops a queue of a live device, waits at most `wait` for what is in flight, and lets go of it.
    /// Returns true when that is done; otherwise the caller asks again.
    fn release_queue(&self, queue: u16, wait: Duration) -> bool;

    /// The available index at which a queue that was released goes on.
    fn next_avail(&self, _queue: u16) -> u16 {
        0
    }

    /// A queue of a live device that was released is set up again, or for the first time.
    fn activate_queue(&self, _queue: u16, _start: QueueStart, _features: u64, _lines: &mut Lines) {}

    /// Pops nothing from any queue any more; what is in flight is finished.
    fn stop(&self);

    /// Stops, waits at most `wait` for what is in flight, and lets go of the queues. Returns true
    /// when that is done and the device is inactive; otherwise the caller asks again.
    fn reset(&self, wait: Duration) -> bool;
}
