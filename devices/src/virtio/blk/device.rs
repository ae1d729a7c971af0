//! A disk as a whole: a register window, a queue, the queue's thread, an engine.
//!
//! Threads: `{name}-queue` is woken by available buffer notifications, and pulls and serves what can be
//! served at once; `{name}-worker-N` carry out what may have to wait for the disk; `{name}-delay`, if
//! there is a latency, ends requests when they are due. vCPU threads only write registers and
//! eventfds.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iolite_devices_abi::blk;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Counters;
use super::config::{BlockConfig, BlockError};
use super::config_space;
use super::disk::Disk;
use super::queue::RequestQueue;
use super::queue_thread::QueueThread;
use crate::block::backend::Backend;
use crate::block::engine::Kind as EngineKind;
use crate::block::engine::pool::Pool;
use crate::block::engine::sync::Sync;
use crate::block::engine::uring::Uring;
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::mmio::VirtioMmio;
use crate::virtio::notifier::Notifier;

/// A virtio block device.
pub struct BlockDevice {
    core: Arc<Core>,
    window: Arc<VirtioMmio>,
    backend: Arc<dyn Backend>,
    /// None after the shutdown.
    queue_thread: Mutex<Option<QueueThread>>,
}

impl BlockDevice {
    /// Makes a disk and starts its threads.
    ///
    /// # Errors
    /// [`BlockError`] for a configuration that is not possible, or a system that refuses threads
    /// or eventfds.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        backend: Arc<dyn Backend>,
        config: BlockConfig,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, BlockError> {
        config.check(&*backend)?;
        let disk = Arc::new(Disk::new(&config, &*backend));
        let notifier = Arc::new(Notifier::new(interrupt));
        let BlockConfig {
            name,
            engine,
            workers,
            queue_size,
            poll,
            injection,
            ..
        } = config;
        let core = Arc::new(Core::new(
            disk,
            queue_size,
            Arc::clone(&memory),
            Arc::clone(&notifier),
        )?);
        let engine = injection
            .engine(&name, core.queue.clone(), &core.doorbell, |source| {
                let (backend, bell) = (Arc::clone(&backend), &core.doorbell);
                Ok(match engine {
                    EngineKind::Pool => Box::new(Pool::new(&name, workers, source, backend, bell)?),
                    EngineKind::Uring => Box::new(Uring::new(
                        &name, queue_size, workers, source, backend, bell,
                    )?),
                    EngineKind::Sync => Box::new(Sync::new(&name, source, backend)),
                })
            })
            .map_err(system(match engine {
                EngineKind::Uring => "set up io_uring (use engine=pool)",
                EngineKind::Pool | EngineKind::Sync => "start a worker",
            }))?;
        let queue_thread = QueueThread::spawn(&name, Arc::clone(&core), engine, poll)
            .map_err(system("start a queue thread"))?;
        Ok(BlockDevice {
            window: Arc::new(VirtioMmio::new(&name, memory, core.clone(), notifier)),
            core,
            backend,
            queue_thread: Mutex::new(Some(queue_thread)),
        })
    }

    /// The device's register window, [`VIRTIO_MMIO_SIZE`] bytes, for the MMIO bus.
    ///
    /// [`VIRTIO_MMIO_SIZE`]: iolite_devices_abi::machine::VIRTIO_MMIO_SIZE
    pub fn bus_device(&self) -> Arc<dyn BusDevice> {
        self.window.clone()
    }

    /// What to register as ioeventfd for a write of 0 (4 bytes) to QueueNotify.
    pub fn queue_notify(&self) -> &EventFd {
        &self.core.doorbell
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> Counters {
        self.core.queue.counters.snapshot()
    }

    /// Looks how large the backend is now; if that has changed the driver gets a new capacity and a
    /// configuration change notification. Returns the capacity in bytes.
    ///
    /// # Errors
    /// If the backend cannot say, or has become empty; then nothing changes.
    pub fn resize(&self) -> io::Result<u64> {
        let disk = &self.core.disk;
        let size = self.backend.refresh()?;
        let capacity = size - size % u64::from(disk.block_size);
        if capacity == 0 {
            return Err(io::Error::other("there is not one block left"));
        }
        if disk.resize(capacity) {
            self.core.notify_change();
        }
        Ok(capacity)
    }

    /// Stops the disk for good: no request is pulled any more, those in flight are finished, the
    /// backend is flushed, the threads end. Waits for as long as the backend takes. Idempotent;
    /// dropping the device does the same.
    ///
    /// # Errors
    /// If the last flush failed: data may be lost.
    pub fn shutdown(&self) -> io::Result<()> {
        let mut queue_thread = self
            .queue_thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = queue_thread.take() else {
            return Ok(());
        };
        self.core.queue.stop();
        // The thread ends its engine, which finishes what is in flight. Nobody pulls any more,
        // whatever a driver that still runs may activate.
        if thread.end().is_err() {
            log::error!("{}: the queue thread panicked", self.core.name());
        }
        self.core.disk.last_flush(&*self.backend)
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            log::error!(
                "{}: the last flush failed, data may be lost: {error}",
                self.core.name()
            );
        }
    }
}

/// What the transport sees of the disk.
pub(super) struct Core {
    pub(super) queue: Arc<RequestQueue>,
    /// Wakes the queue's thread: the ioeventfd of QueueNotify, and who else has work for it.
    pub(super) doorbell: EventFd,
    disk: Arc<Disk>,
    notifier: Arc<Notifier>,
    /// There is a driver that is to hear of changes.
    live: AtomicBool,
    queue_sizes: [u16; 1],
}

impl Core {
    fn new(
        disk: Arc<Disk>,
        queue_size: u16,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<Notifier>,
    ) -> Result<Self, BlockError> {
        Ok(Core {
            disk: Arc::clone(&disk),
            notifier: Arc::clone(&notifier),
            live: AtomicBool::new(false),
            queue_sizes: [queue_size],
            doorbell: EventFd::new(0).map_err(system("create an eventfd"))?,
            queue: Arc::new(RequestQueue::new(disk, memory, notifier)),
        })
    }

    fn notify_change(&self) {
        if self.live.load(Ordering::Acquire) {
            self.notifier.config_changed();
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.disk.name
    }
}

impl VirtioDevice for Core {
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
        config_space::read(&self.disk, self.queue_sizes[0], offset, data);
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
        if let Some(queue) = queues.into_iter().flatten().next() {
            self.queue.activate(&queue, features);
        }
    }

    fn notify(&self, _queue: u16) {
        // It cannot fail or block: the counter is far from full.
        let _ = self.doorbell.write(1);
    }

    fn stop(&self) {
        self.queue.stop();
    }

    fn stopped(&self) -> bool {
        self.queue.is_drained()
    }

    fn reset(&self, wait: Duration) -> bool {
        self.live.store(false, Ordering::Release);
        self.queue.deactivate(wait)
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> BlockError {
    move |error| BlockError::System { what, error }
}
