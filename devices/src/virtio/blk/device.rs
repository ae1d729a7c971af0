//! A disk as a whole, but for its transport: queues, each with its thread and its engine.
//!
//! Threads of each queue: `{name}-queue` is woken by available buffer notifications, and pulls and
//! serves what can be served at once; `{name}-worker-N` carry out what may have to wait for the disk;
//! `{name}-delay`, if there is a latency, ends requests when they are due. Where there are several
//! queues, `{name}` is `vda.0` and so on. vCPU threads only write registers and eventfds.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Counters;
use super::config::{BlockConfig, BlockError};
use super::control::Control;
use super::disk::Disk;
use super::queue::RequestQueue;
use super::queue_thread::QueueThread;
use crate::block::backend::Backend;
use crate::block::engine::Kind as EngineKind;
use crate::block::engine::pool::Pool;
use crate::block::engine::sync::Sync;
use crate::block::engine::uring::Uring;
use crate::block::inject::Injector;
use crate::bus::BusDevice;
use crate::doorbell::Doorbell;
use crate::interrupt::Interrupt;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mmio::VirtioMmio;
use crate::virtio::notifier::{Notifier, Notifiers};

/// A virtio block device.
pub struct BlockDevice {
    control: Arc<Control>,
    backend: Arc<dyn Backend>,
    engine: EngineKind,
    /// None after the shutdown.
    threads: Mutex<Vec<QueueThread>>,
}

/// A virtio block device behind a register window.
pub struct MmioBlock {
    /// The device.
    pub device: BlockDevice,
    /// Its window, for the MMIO bus.
    pub window: Arc<dyn BusDevice>,
}

impl MmioBlock {
    /// The window as a device on a bus.
    pub fn bus_device(&self) -> Arc<dyn BusDevice> {
        self.window.clone()
    }
}

impl Deref for MmioBlock {
    type Target = BlockDevice;

    fn deref(&self) -> &BlockDevice {
        &self.device
    }
}

impl BlockDevice {
    /// Makes a disk and starts its threads.
    ///
    /// # Errors
    /// [`BlockError`] for a configuration that is not possible, or a system that refuses threads
    /// or eventfds.
    pub fn new(
        backend: Arc<dyn Backend>,
        config: BlockConfig,
        notifiers: Notifiers,
    ) -> Result<Self, BlockError> {
        config.check(&*backend)?;
        let suiting = || EngineKind::suiting(&*backend, config.queue_size);
        let engine = config.engine.unwrap_or_else(suiting);
        log::debug!("{}: engine={engine}", config.name);
        let disk = Arc::new(Disk::new(&config, &*backend));
        let control = Arc::new(Control::new(disk, &config, notifiers)?);
        let device = BlockDevice {
            control,
            backend,
            engine,
            threads: Mutex::default(),
        };
        let injector = Injector::new(&config.injection);
        for (number, queue) in device.control.queues.iter().enumerate() {
            let thread = device.start(number, queue, &config, &injector)?;
            device.lock_threads().push(thread);
        }
        Ok(device)
    }

    /// Makes a disk behind a register window of [`VIRTIO_MMIO_SIZE`] bytes, which raises `interrupt`.
    ///
    /// # Errors
    /// As for [`new`](BlockDevice::new).
    ///
    /// [`VIRTIO_MMIO_SIZE`]: iolite_devices_abi::machine::VIRTIO_MMIO_SIZE
    pub fn on_mmio(
        memory: Arc<GuestMemoryMmap>,
        backend: Arc<dyn Backend>,
        config: BlockConfig,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<MmioBlock, BlockError> {
        let (name, queues, budget) = (config.name.clone(), config.queues, config.budget.clone());
        let notifier = Arc::new(Notifier::new(&name, interrupt, &budget));
        let device = Self::new(backend, config, Notifiers::shared(&notifier, queues))?;
        let window = VirtioMmio::new(&name, memory, device.control.clone(), notifier, &budget);
        Ok(MmioBlock {
            device,
            window: Arc::new(window),
        })
    }

    /// Starts the threads of a queue.
    fn start(
        &self,
        number: usize,
        queue: &Arc<RequestQueue>,
        config: &BlockConfig,
        injector: &Injector,
    ) -> Result<QueueThread, BlockError> {
        let (label, bell) = (&*queue.label, &queue.doorbell);
        let &BlockConfig {
            workers,
            queue_size,
            ..
        } = config;
        let throttle = config.budget.share(&config.name);
        let engine = injector.engine(number, label, queue.clone(), bell, |source| {
            let backend = Arc::clone(&self.backend);
            Ok(match self.engine {
                EngineKind::Pool => {
                    Box::new(Pool::new(label, workers, source, backend, throttle, bell)?)
                }
                EngineKind::Uring => Box::new(Uring::new(
                    label, queue_size, workers, source, backend, throttle, bell,
                )?),
                EngineKind::Sync => Box::new(Sync::new(label, source, backend, throttle)),
            })
        });
        let engine = engine.map_err(BlockError::system(match self.engine {
            EngineKind::Uring => "set up io_uring (use engine=pool)",
            EngineKind::Pool | EngineKind::Sync => "start a worker",
        }))?;
        QueueThread::spawn(Arc::clone(queue), engine, config.poll)
            .map_err(BlockError::system("start a queue's thread"))
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<QueueThread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each queue's thread sleeps on.
    pub fn doorbells(&self) -> impl Iterator<Item = &Doorbell> {
        self.control.queues.iter().map(|queue| &queue.doorbell)
    }

    /// What a transport sees of the disk.
    pub fn transport(&self) -> Arc<dyn VirtioDevice> {
        self.control.clone()
    }

    /// What to register as ioeventfds, each for a write of its position (4 bytes) to QueueNotify.
    pub fn queue_notify(&self) -> impl Iterator<Item = &EventFd> {
        self.control
            .queues
            .iter()
            .map(|queue| queue.doorbell.eventfd())
    }

    /// Who carries requests out.
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> Counters {
        self.queue_counters()
            .fold(Counters::default(), Counters::plus)
    }

    /// What each queue of the disk has done so far.
    pub fn queue_counters(&self) -> impl Iterator<Item = Counters> + use<'_> {
        self.control
            .queues
            .iter()
            .map(|queue| queue.counters.snapshot())
    }

    /// Looks how large the backend is now; if that has changed the driver gets a new capacity and a
    /// configuration change notification. Returns the capacity in bytes.
    ///
    /// # Errors
    /// If the backend cannot say, or has become empty; then nothing changes.
    pub fn resize(&self) -> io::Result<u64> {
        let disk = &self.control.disk;
        let size = self.backend.refresh()?;
        let capacity = size - size % u64::from(disk.block_size);
        if capacity == 0 {
            return Err(io::Error::other("there is not one block left"));
        }
        if disk.resize(capacity) {
            self.control.notify_change();
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
        let mut threads = self.lock_threads();
        if threads.is_empty() {
            return Ok(());
        }
        self.control.stop();
        // The threads end their engines, which finish what is in flight. Nobody pulls any more,
        // whatever a driver that still runs may activate.
        threads.drain(..).for_each(QueueThread::end);
        self.control.disk.last_flush(&*self.backend)
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            log::error!(
                "{}: the last flush failed, data may be lost: {error}",
                self.control.disk.name
            );
        }
    }
}
