//! The limit: a disk that is nothing but a loop. One thread polls the available ring, carries out one
//! request after the other by preadv(2) and pwritev(2), and publishes each at once. There are no
//! notifications, no engine, no counters and no answers to what a driver should not do: at that the
//! loop ends. `iolite bench --against limit` measures how far the real device is from it.
//!
//! Only indirect descriptors are understood; a driver without them finds a disk that does not answer.
//! Each completion interrupts unless the driver has asked for none, which it may only change while
//! nothing is in flight: there is no barrier for more.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use iolite_devices_abi::blk::{self, S_IOERR, S_OK, SECTOR_SIZE, config};
use iolite_devices_abi::ring::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, Descriptor, USED_F_NO_NOTIFY,
};
use iolite_devices_abi::status::{F_INDIRECT_DESC, F_VERSION_1};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::ring_memory::RingMemory;
use crate::lines::Lines;
use crate::thread;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::notifier::Notifier;

/// QueueNumMax.
const QUEUE_SIZES: [u16; 1] = [256];
/// Most data segments of a request.
const MAX_SEGMENTS: usize = 34;
/// A place for a segment.
const NO_BYTES: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// A disk without a device around it.
pub struct BareDisk {
    memory: Arc<GuestMemoryMmap>,
    file: Arc<File>,
    bytes: u64,
    notifier: Arc<Notifier>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl BareDisk {
    /// The first `bytes` bytes of `file`, which is open for reading and writing.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        file: File,
        bytes: u64,
        notifier: Arc<Notifier>,
    ) -> Self {
        BareDisk {
            memory,
            file: Arc::new(file),
            bytes,
            notifier,
            running: Mutex::default(),
        }
    }

    fn end(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Running { stop, thread }) = running.take() {
            stop.store(true, Ordering::Relaxed);
            // It does not panic; if it did, it has ended.
            let _ = thread.join();
        }
    }
}

impl Drop for BareDisk {
    fn drop(&mut self) {
        self.end();
    }
}

impl VirtioDevice for BareDisk {
    fn device_type(&self) -> u32 {
        blk::DEVICE_ID
    }

    fn device_features(&self) -> u64 {
        F_VERSION_1 | F_INDIRECT_DESC
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; config::SIZE];
        let capacity = config::CAPACITY as usize;
        space[capacity..capacity + 8].copy_from_slice(&(self.bytes / SECTOR_SIZE).to_le_bytes());
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).map_or(0, |at| space.get(at).copied().unwrap_or(0));
        }
    }

    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn config_generation(&self) -> u32 {
        0
    }

    fn settle(&self, _features: u64) {}

    fn activate(&self, activation: Activation, _lines: &mut Lines) {
        let layout = activation.queues.into_iter().flatten().next();
        let ring = layout.and_then(|start| RingMemory::find(&self.memory, &start.layout));
        let Some(ring) = ring else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let poller = Poller {
            memory: Arc::clone(&self.memory),
            file: Arc::clone(&self.file),
            notifier: Arc::clone(&self.notifier),
            ring,
        };
        let flag = Arc::clone(&stop);
        match thread::spawn("bare-loop".into(), move || poller.run(&flag)) {
            Ok(thread) => {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                *running = Some(Running { stop, thread });
            }
            Err(error) => log::error!("the bare loop does not start: {error}"),
        }
    }

    fn notify(&self, _queue: u16) {}

    fn release_queue(&self, _queue: u16, _wait: Duration) -> bool {
        self.end();
        true
    }

    fn stop(&self) {
        self.end();
    }

    fn reset(&self, _wait: Duration) -> bool {
        self.end();
        true
    }
}

/// The loop.
struct Poller {
    memory: Arc<GuestMemoryMmap>,
    file: Arc<File>,
    notifier: Arc<Notifier>,
    ring: RingMemory,
}

impl Poller {
    fn run(self, stop: &AtomicBool) {
        self.ring.set_used_flags(USED_F_NO_NOTIFY);
        // Requests complete in their order, so both rings have the same index.
        let mut next = 0u16;
        while !stop.load(Ordering::Relaxed) {
            if self.ring.avail_idx() == next {
                std::hint::spin_loop();
                continue;
            }
            let head = self.ring.avail_head(next);
            let Some(len) = self.serve(head) else {
                log::error!("the bare loop ends: it does not understand the chain at head {head}");
                return;
            };
            self.ring.put_used(next, head, len);
            next = next.wrapping_add(1);
            self.ring.set_used_idx(next);
            if self.ring.avail_flags() & AVAIL_F_NO_INTERRUPT == 0 {
                self.notifier.used_buffer(&mut Lines::default());
            }
        }
    }

    /// Carries out the request at `head`; gives the used length, or none if it makes no sense.
    fn serve(&self, head: u16) -> Option<u32> {
        let table = self.ring.descriptor(head);
        if table.flags & DESC_F_INDIRECT == 0 {
            return None;
        }
        let table = self
            .memory
            .get_slice(GuestAddress(table.addr), table.len as usize)
            .ok()?;
        let descriptor = |index: u16| {
            let bits: u128 = table.read_obj(usize::from(index) * Descriptor::SIZE).ok()?;
            Some(Descriptor::from_le_bytes(bits.to_ne_bytes()))
        };
        let header = descriptor(0)?;
        let word = |at| self.memory.read_obj::<u64>(GuestAddress(at)).ok();
        let request_type = u64::from_le(word(header.addr)?) as u32;
        let sector = u64::from_le(word(header.addr.checked_add(8)?)?);
        let mut iovecs = [NO_BYTES; MAX_SEGMENTS];
        let (mut segments, mut bytes) = (0, 0);
        let mut last = descriptor(header.next)?;
        while last.flags & DESC_F_NEXT != 0 {
            let slice = self
                .memory
                .get_slice(GuestAddress(last.addr), last.len as usize);
            *iovecs.get_mut(segments)? = libc::iovec {
                iov_base: slice.ok()?.ptr_guard_mut().as_ptr().cast(),
                iov_len: last.len as usize,
            };
            segments += 1;
            bytes = last.len.checked_add(bytes)?;
            last = descriptor(last.next)?;
        }
        let offset = sector.checked_mul(SECTOR_SIZE)?;
        let result = self.transfer(request_type, &iovecs[..segments], offset);
        let done = result.is_ok_and(|moved| moved == bytes as usize);
        let status = if done { S_OK } else { S_IOERR };
        self.memory
            .write_obj(status, GuestAddress(last.addr))
            .ok()?;
        Some(bytes.saturating_add(1))
    }

    /// One system call. Gives the bytes moved.
    fn transfer(
        &self,
        request_type: u32,
        iovecs: &[libc::iovec],
        offset: u64,
    ) -> io::Result<usize> {
        let fd = self.file.as_raw_fd();
        let (at, count) = (offset as libc::off_t, iovecs.len() as libc::c_int);
        let moved = match request_type {
            // SAFETY: each iovec is a piece of guest memory that `get_slice` has checked, which
            // stays mapped as long as `self.memory`; the guest's memory is shared with the guest,
            // and nobody holds references to it.
            blk::T_IN => unsafe { libc::preadv(fd, iovecs.as_ptr(), count, at) },
            // SAFETY: as above.
            blk::T_OUT => unsafe { libc::pwritev(fd, iovecs.as_ptr(), count, at) },
            blk::T_FLUSH => return self.file.sync_data().map(|()| 0),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }
}
