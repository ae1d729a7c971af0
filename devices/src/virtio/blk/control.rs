//! What the transport sees of a disk: its features, its configuration space, and the life of its
//! queues, from activation to reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iolite_devices_abi::blk;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::config::{BlockConfig, BlockError};
use super::config_space;
use super::disk::Disk;
use super::queue::RequestQueue;
use crate::virtio::device::{Activation, QueueLayout, VirtioDevice};
use crate::virtio::notifier::Notifier;

/// What the transport sees of the disk.
pub(super) struct Control {
    pub(super) queues: Vec<Arc<RequestQueue>>,
    pub(super) disk: Arc<Disk>,
    notifier: Arc<Notifier>,
    /// There is a driver that is to hear of changes.
    live: AtomicBool,
    queue_sizes: Vec<u16>,
}

impl Control {
    pub(super) fn new(
        disk: Arc<Disk>,
        config: &BlockConfig,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<Notifier>,
    ) -> Result<Self, BlockError> {
        let mut queues = Vec::new();
        for number in 0..config.queues {
            let label = match config.queues {
                1 => config.name.clone(),
                _ => format!("{}.{number}", config.name),
            };
            let doorbell =
                EventFd::new(EFD_CLOEXEC).map_err(BlockError::system("create an eventfd"))?;
            let (disk, memory) = (Arc::clone(&disk), Arc::clone(&memory));
            let queue = RequestQueue::new(label, doorbell, disk, memory, Arc::clone(&notifier));
            queues.push(Arc::new(queue));
        }
        Ok(Control {
            queue_sizes: vec![config.queue_size; queues.len()],
            queues,
            disk,
            notifier,
            live: AtomicBool::new(false),
        })
    }

    fn queue(&self, number: u16) -> Option<&Arc<RequestQueue>> {
        self.queues.get(usize::from(number))
    }

    /// Tells the driver of a change, if there is one.
    pub(super) fn notify_change(&self) {
        if self.live.load(Ordering::Acquire) {
            self.notifier.config_changed();
        }
    }
}

impl VirtioDevice for Control {
    fn device_type(&self) -> u32 {
        blk::DEVICE_ID
    }

    fn device_features(&self) -> u64 {
        config_space::features(&self.disk)
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&self.disk, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        config_space::write(&self.disk, offset, data);
    }

    fn config_generation(&self) -> u32 {
        *self.disk.generation()
    }

    fn settle(&self, features: u64) {
        self.disk.settle(features);
    }

    fn activate(&self, activation: Activation) {
        self.live.store(true, Ordering::Release);
        let Activation { features, queues } = activation;
        for (queue, layout) in self.queues.iter().zip(&queues) {
            if let Some(layout) = layout {
                queue.activate(layout, features);
            }
        }
    }

    fn notify(&self, queue: u16) {
        if let Some(queue) = self.queue(queue) {
            // It cannot fail or block: the counter is far from full.
            let _ = queue.doorbell.write(1);
        }
    }

    fn release_queue(&self, queue: u16, wait: Duration) -> bool {
        self.queue(queue).is_none_or(|queue| queue.deactivate(wait))
    }

    fn activate_queue(&self, queue: u16, layout: &QueueLayout, features: u64) {
        if let Some(queue) = self.queue(queue) {
            queue.activate(layout, features);
        }
    }

    fn stop(&self) {
        for queue in &self.queues {
            queue.stop();
        }
    }

    fn reset(&self, wait: Duration) -> bool {
        self.live.store(false, Ordering::Release);
        self.stop();
        let end = Instant::now() + wait;
        let mut drained = true;
        for queue in &self.queues {
            drained &= queue.deactivate(end.saturating_duration_since(Instant::now()));
        }
        drained
    }
}
