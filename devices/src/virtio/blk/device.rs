//! A disk as a whole: a register window, a queue, the queue's thread, an engine.
//!
//! Threads: `{name}-queue` waits for available buffer notifications and wakes the engine;
//! `{name}-worker-N` carry requests out; `{name}-delay`, if there is a latency, ends them when they
//! are due. vCPU threads only write registers and eventfds.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use iolite_devices_abi::blk::{self, ID_BYTES, SECTOR_SIZE};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Counters;
use super::config_space::{self, ConfigSpace};
use super::queue::{Disk, RequestQueue};
use super::queue_thread;
use crate::block::backend::Backend;
use crate::block::engine::Engine;
use crate::block::engine::pool::Pool;
use crate::block::inject::{Injection, Which};
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::mmio::VirtioMmio;
use crate::virtio::notifier::Notifier;

/// The largest QueueNumMax.
const MAX_QUEUE_SIZE: u16 = 1024;
/// The smallest: a request takes three descriptors, and sizes are powers of two.
const MIN_QUEUE_SIZE: u16 = 4;
/// The most workers a disk may have.
const MAX_WORKERS: usize = 64;

/// What can be chosen for a disk.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Short name for log lines and thread names: `vda`.
    pub name: String,
    /// What GET_ID answers; the first 20 bytes count.
    pub id: String,
    /// How many worker threads, 1 to 64.
    pub workers: usize,
    /// QueueNumMax: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// Refuse writes even where the backend would take them.
    pub read_only: bool,
    /// How slow and faulty the disk is on purpose.
    pub injection: Injection,
}

impl BlockConfig {
    /// Worker threads of a disk where nobody says otherwise.
    pub const DEFAULT_WORKERS: usize = 4;
    /// QueueNumMax of a disk where nobody says otherwise.
    pub const DEFAULT_QUEUE_SIZE: u16 = 256;

    /// The defaults for a disk of this name.
    pub fn new(name: &str) -> Self {
        BlockConfig {
            name: name.to_owned(),
            id: name.to_owned(),
            workers: Self::DEFAULT_WORKERS,
            queue_size: Self::DEFAULT_QUEUE_SIZE,
            read_only: false,
            injection: Injection::default(),
        }
    }
}

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The queue size is not one of those possible.
    #[error("queue size {0} is not possible: use a power of two from 4 to 1024")]
    QueueSize(u16),
    /// The number of workers is not one of those possible.
    #[error("{0} workers are not possible: use 1 to 64")]
    Workers(usize),
    /// A sector that is to fail lies beyond the disk.
    #[error("sector {sector} cannot fail: the disk has {sectors}, counted from 0")]
    FailingSector {
        /// The sector.
        sector: u64,
        /// How many the disk has.
        sectors: u64,
    },
    /// The system refused something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}

/// A virtio block device.
pub struct BlockDevice {
    core: Arc<Core>,
    window: Arc<VirtioMmio>,
    engine: Arc<dyn Engine>,
    backend: Arc<dyn Backend>,
    stop: EventFd,
    /// None after the shutdown.
    queue_thread: Mutex<Option<JoinHandle<()>>>,
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
        let BlockConfig {
            name,
            id,
            workers,
            queue_size,
            read_only,
            injection,
        } = config;
        if !queue_size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&queue_size)
        {
            return Err(BlockError::QueueSize(queue_size));
        }
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(BlockError::Workers(workers));
        }
        check_failures(&injection, backend.capacity() / SECTOR_SIZE)?;
        let disk = Disk {
            name: name.clone(),
            id: id_bytes(&id),
            capacity: backend.capacity(),
            read_only: read_only || backend.read_only(),
        };
        let notifier = Arc::new(Notifier::new(interrupt));
        let core = Arc::new(Core::new(
            disk,
            queue_size,
            Arc::clone(&memory),
            Arc::clone(&notifier),
        )?);
        let engine = injection
            .engine(&name, core.queue.clone(), |source| {
                Pool::new(&name, workers, source, Arc::clone(&backend))
            })
            .map_err(system("start a worker"))?;
        let stop = EventFd::new(EFD_NONBLOCK).map_err(system("create an eventfd"))?;
        let queue_thread =
            queue_thread::spawn(&name, Arc::clone(&core), Arc::clone(&engine), &stop)
                .map_err(system("start a queue thread"))?;
        Ok(BlockDevice {
            window: Arc::new(VirtioMmio::new(&name, memory, core.clone(), notifier)),
            core,
            engine,
            backend,
            stop,
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
        &self.core.notify
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> Counters {
        self.core.queue.counters.snapshot()
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
        // Workers finish what they have; with the engine stopped nobody pulls, whatever a driver
        // that still runs may activate.
        self.engine.stop();
        // It cannot fail: the counter is far from full.
        let _ = self.stop.write(1);
        if thread.join().is_err() {
            log::error!("{}: the queue thread panicked", self.core.name());
        }
        self.backend.flush()
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
    pub(super) notify: EventFd,
    name: String,
    queue_sizes: [u16; 1],
    features: u64,
    config: ConfigSpace,
}

impl Core {
    fn new(
        disk: Disk,
        queue_size: u16,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<Notifier>,
    ) -> Result<Self, BlockError> {
        Ok(Core {
            name: disk.name.clone(),
            features: config_space::features(&disk),
            config: ConfigSpace::new(&disk, queue_size),
            queue_sizes: [queue_size],
            notify: EventFd::new(EFD_NONBLOCK).map_err(system("create an eventfd"))?,
            queue: Arc::new(RequestQueue::new(disk, memory, notifier)),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl VirtioDevice for Core {
    fn device_type(&self) -> u32 {
        blk::DEVICE_ID
    }

    fn device_features(&self) -> u64 {
        self.features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn activate(&self, activation: Activation) {
        let Activation { features, queues } = activation;
        if let Some(queue) = queues.into_iter().flatten().next() {
            self.queue.activate(queue, features);
        }
    }

    fn notify(&self, _queue: u16) {
        // If the counter is full the thread has a notification to see already.
        let _ = self.notify.write(1);
    }

    fn stop(&self) {
        self.queue.stop();
    }

    fn stopped(&self) -> bool {
        self.queue.is_drained()
    }

    fn reset(&self, wait: Duration) -> bool {
        self.queue.deactivate(wait)
    }
}

/// A failure that cannot happen is a mistake in the sector.
fn check_failures(injection: &Injection, sectors: u64) -> Result<(), BlockError> {
    for failure in &injection.failures {
        match failure.which {
            Which::Sectors { last: sector, .. } if sector >= sectors => {
                return Err(BlockError::FailingSector { sector, sectors });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What GET_ID answers: NUL-padded, and without a NUL when it fills all 20 bytes.
fn id_bytes(id: &str) -> [u8; ID_BYTES] {
    let mut bytes = [0; ID_BYTES];
    for (to, from) in bytes.iter_mut().zip(id.bytes()) {
        *to = from;
    }
    bytes
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> BlockError {
    move |error| BlockError::System { what, error }
}
