//! What all parts of a disk know of it, and the two things of these that change while it is in use:
//! its capacity, by a resize, and its cache mode, by the driver (CONFIG_WCE).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iolite_devices_abi::blk::{F_CONFIG_WCE, F_FLUSH, ID_BYTES};

use super::config::{BlockConfig, Cache};
use super::request::Limits;
use crate::block::backend::Backend;

/// A disk's properties.
pub(super) struct Disk {
    /// For log lines.
    pub(super) name: String,
    /// What GET_ID answers: NUL-padded, and without a NUL when it fills all 20 bytes.
    pub(super) id: [u8; ID_BYTES],
    /// Writes are refused.
    pub(super) read_only: bool,
    /// How many queues there are.
    pub(super) queues: u16,
    /// QueueNumMax of each.
    pub(super) queue_size: u16,
    /// Size in bytes of a logical block: what a driver should count in.
    pub(super) block_size: u32,
    /// Size in bytes of a physical block: what the backend likes best.
    pub(super) physical_block: u32,
    /// The cache mode to begin with.
    cache: Cache,
    /// Size in bytes.
    capacity: AtomicU64,
    /// The driver may have writes made durable by a flush; otherwise each is durable by itself.
    write_back: AtomicBool,
    /// The driver accepted CONFIG_WCE.
    driver_chooses: AtomicBool,
    /// ConfigGeneration; locked while what the driver sees is changed, or read.
    generation: Mutex<u32>,
}

impl Disk {
    pub(super) fn new(config: &BlockConfig, backend: &dyn Backend) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(config.id.bytes()) {
            *to = from;
        }
        Disk {
            name: config.name.clone(),
            id,
            read_only: config.read_only || backend.read_only(),
            queues: config.queues,
            queue_size: config.queue_size,
            block_size: config.block_size,
            physical_block: backend.block_size().max(config.block_size),
            cache: config.cache,
            capacity: AtomicU64::new(backend.capacity()),
            write_back: AtomicBool::new(config.cache != Cache::WriteThrough),
            driver_chooses: AtomicBool::new(false),
            generation: Mutex::new(0),
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(super) fn is_write_back(&self) -> bool {
        self.write_back.load(Ordering::Relaxed)
    }

    /// What a request is checked against now, `features` being negotiated.
    pub(super) fn limits(&self, features: u64) -> Limits {
        // A write is durable when it completes, where no flush is to come (section 5.2.6.2).
        let write_through = features & F_FLUSH == 0 || !self.is_write_back();
        let flushes = self.cache != Cache::Unsafe;
        Limits {
            capacity: self.capacity(),
            read_only: self.read_only,
            write_through: write_through && flushes,
            flushes,
            features,
        }
    }

    /// The driver has settled its features: the cache mode begins anew. With CONFIG_WCE, but without
    /// FLUSH, it is write-through (section 5.2.5.2).
    pub(super) fn settle(&self, features: u64) {
        let chooses = features & F_CONFIG_WCE != 0;
        self.driver_chooses.store(chooses, Ordering::Relaxed);
        let no_flush = chooses && features & F_FLUSH == 0;
        let on = self.cache != Cache::WriteThrough && !no_flush;
        self.write_back.store(on, Ordering::Relaxed);
    }

    /// The driver chooses the cache mode, if it may.
    pub(super) fn choose_write_back(&self, on: bool) {
        if self.driver_chooses.load(Ordering::Relaxed) {
            self.write_back.store(on, Ordering::Relaxed);
        }
    }

    /// The disk has `bytes` bytes from now on. False if it has them already.
    pub(super) fn resize(&self, bytes: u64) -> bool {
        let mut generation = self.generation();
        let changed = self.capacity.swap(bytes, Ordering::Relaxed) != bytes;
        if changed {
            *generation = generation.wrapping_add(1);
        }
        changed
    }

    /// The flush at the end of a disk's life.
    pub(super) fn last_flush(&self, backend: &dyn Backend) -> io::Result<()> {
        match self.cache {
            Cache::Unsafe => Ok(()),
            Cache::WriteBack | Cache::WriteThrough => backend.flush(),
        }
    }

    /// ConfigGeneration, which stands still as long as the guard lives.
    pub(super) fn generation(&self) -> MutexGuard<'_, u32> {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
