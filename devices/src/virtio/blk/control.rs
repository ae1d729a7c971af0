//! What the transport sees of a disk: its features, its configuration space, and the life of its
//! queues, from activation to reset.

use std::sync::Arc;
use std::time::{Duration, Instant};

use iolite_devices_abi::blk;

use super::config::{BlockConfig, BlockError};
use super::config_space;
use super::disk::Disk;
use super::queue::RequestQueue;
use crate::doorbell::Doorbell;
use crate::lines::{Lines, Lock};
use crate::virtio::device::{Activation, QueueStart, VirtioDevice};
use crate::virtio::notifier::{Notifier, Notifiers};

/// What the transport sees of the disk.
pub(super) struct Control {
    pub(super) queues: Vec<Arc<RequestQueue>>,
    pub(super) disk: Arc<Disk>,
    notifier: Arc<Notifier>,
    listener: Lock<Listener>,
    queue_sizes: Vec<u16>,
}

/// Who is to hear of a change.
#[derive(Default)]
struct Listener {
    /// There is a driver.
    live: bool,
    /// Something has changed since the last reset, and no driver has heard of it: the one that sets
    /// the device up now may have read what was before.
    unheard: bool,
}

impl Control {
    pub(super) fn new(
        disk: Arc<Disk>,
        config: &BlockConfig,
        notifiers: Notifiers,
    ) -> Result<Self, BlockError> {
        let mut queues = Vec::new();
        for (number, notifier) in notifiers.queues.into_iter().enumerate() {
            let label = match config.queues {
                1 => config.name.clone(),
                _ => format!("{}.{number}", config.name),
            };
            let doorbell = Doorbell::new().map_err(BlockError::system("create an eventfd"))?;
            let (disk, budget) = (Arc::clone(&disk), &config.budget);
            let queue = RequestQueue::new(label, doorbell, disk, notifier, budget);
            queues.push(Arc::new(queue));
        }
        Ok(Control {
            queue_sizes: vec![config.queue_size; queues.len()],
            queues,
            disk,
            notifier: notifiers.config,
            listener: Lock::new(Listener::default()),
        })
    }

    fn queue(&self, number: u16) -> Option<&Arc<RequestQueue>> {
        self.queues.get(usize::from(number))
    }

    /// Tells the driver of a change: now, or when there is one. Locked until it is told, so that
    /// nothing comes after a reset.
    pub(super) fn notify_change(&self) {
        let mut listener = self.listener.lock();
        if listener.live {
            self.notifier.config_changed(&mut listener.lines);
        } else {
            listener.unheard = true;
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
        if features == 0 {
            self.listener.lock().unheard = false;
        }
        self.disk.settle(features);
    }

    fn activate(&self, activation: Activation, lines: &mut Lines) {
        let Activation { features, queues } = activation;
        for (queue, start) in self.queues.iter().zip(queues) {
            if let Some(start) = start {
                queue.activate(start, features, lines);
            }
        }
        let mut listener = self.listener.lock();
        listener.live = true;
        if std::mem::take(&mut listener.unheard) {
            self.notifier.config_changed(lines);
        }
    }

    fn notify(&self, queue: u16) {
        if let Some(queue) = self.queue(queue) {
            queue.doorbell.ring();
        }
    }

    fn release_queue(&self, queue: u16, wait: Duration) -> bool {
        self.queue(queue).is_none_or(|queue| queue.deactivate(wait))
    }

    fn next_avail(&self, queue: u16) -> u16 {
        self.queue(queue).map_or(0, |queue| queue.next_avail())
    }

    fn activate_queue(&self, queue: u16, start: QueueStart, features: u64, lines: &mut Lines) {
        if let Some(queue) = self.queue(queue) {
            queue.activate(start, features, lines);
        }
    }

    fn stop(&self) {
        for queue in &self.queues {
            queue.stop();
        }
    }

    fn reset(&self, wait: Duration) -> bool {
        self.listener.lock().live = false;
        self.stop();
        let end = Instant::now() + wait;
        let mut drained = true;
        for queue in &self.queues {
            drained &= queue.deactivate(end.saturating_duration_since(Instant::now()));
        }
        drained
    }
}
