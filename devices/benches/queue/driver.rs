//! The driver: keeps `depth` requests in flight and polls the used ring, or waits for interrupts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, MmioBlock};
use iolite_devices_abi::blk::{F_FLUSH, T_IN, T_OUT};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::ring::{DESC_F_NEXT, DESC_F_WRITE, need_event};
use iolite_devices_abi::status::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, F_EVENT_IDX, F_VERSION_1, FEATURES_OK,
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::FILE_BYTES;
use super::limit::Limit;

pub const QUEUE_SIZE: u16 = 256;
pub const DESC: u64 = 0x1000;
pub const AVAIL: u64 = 0x3000;
pub const USED: u64 = 0x5000;
const HEADERS: u64 = 0x8000;
const STATUS: u64 = 0xc000;
const DATA: u64 = 1 << 20;
const MEMORY_BYTES: usize = 16 << 20;

/// What the driver asks for.
#[derive(Clone, Copy)]
pub struct Pattern {
    write: bool,
    random: bool,
    pub bytes: u32,
    interrupts: bool,
    /// Past the page cache, by this engine.
    pub direct: Option<Engine>,
}

impl Pattern {
    pub const fn reads(bytes: u32) -> Self {
        Pattern {
            write: false,
            random: true,
            bytes,
            interrupts: false,
            direct: None,
        }
    }

    pub const fn direct(self, engine: Engine) -> Self {
        Pattern {
            direct: Some(engine),
            ..self
        }
    }

    pub const fn writes(bytes: u32) -> Self {
        Pattern {
            write: true,
            ..Self::reads(bytes)
        }
    }

    pub const fn sequential(bytes: u32) -> Self {
        Pattern {
            random: false,
            ..Self::reads(bytes)
        }
    }

    pub const fn with_interrupts(self) -> Self {
        Pattern {
            interrupts: true,
            ..self
        }
    }
}

/// Guest memory as host addresses.
#[derive(Clone)]
pub struct Memory {
    memory: Arc<GuestMemoryMmap>,
    base: usize,
}

impl Memory {
    fn new() -> Self {
        let ranges = [(GuestAddress(0), MEMORY_BYTES)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let base = memory.get_host_address(GuestAddress(0)).unwrap() as usize;
        // Present, so that nobody pays for page faults.
        // SAFETY: all of it is ours, and nobody else has seen it yet.
        unsafe { std::ptr::write_bytes(base as *mut u8, 0, MEMORY_BYTES) };
        Memory { memory, base }
    }

    pub fn at<T>(&self, addr: u64) -> *mut T {
        assert!(addr as usize + size_of::<T>() <= MEMORY_BYTES);
        (self.base + addr as usize) as *mut T
    }

    fn write<T>(&self, addr: u64, value: T) {
        // SAFETY: `at` has checked the range, and every T here is an integer.
        unsafe { self.at::<T>(addr).write_volatile(value) }
    }

    fn read<T>(&self, addr: u64) -> T {
        // SAFETY: as above.
        unsafe { self.at::<T>(addr).read_volatile() }
    }

    fn index(&self, addr: u64) -> &AtomicU16 {
        // SAFETY: as above; the address is even, and lives as long as the memory.
        unsafe { &*self.at::<AtomicU16>(addr) }
    }
}

/// Who serves the ring.
pub enum Server {
    Limit {
        memory: Memory,
        _limit: Limit,
    },
    Device {
        memory: Memory,
        device: Box<BlockDevice>,
        interrupt: EventFd,
    },
}

impl Server {
    pub fn limit(path: &Path) -> Self {
        let memory = Memory::new();
        Server::Limit {
            _limit: Limit::new(path, memory.clone()),
            memory,
        }
    }

    pub fn device(path: &Path, pattern: Pattern) -> Self {
        let memory = Memory::new();
        let backend = match pattern.direct {
            Some(_) => FileBackend::open_direct(path, false).unwrap(),
            None => FileBackend::open(path, false).unwrap(),
        };
        let backend = Arc::new(backend);
        let interrupt = EventFd::new(0).unwrap();
        let config = BlockConfig {
            engine: pattern.direct,
            ..BlockConfig::new("bench")
        };
        let line = Arc::new(interrupt.try_clone().unwrap());
        let memory_of_it = memory.memory.clone();
        let MmioBlock { device, window } =
            BlockDevice::on_mmio(memory_of_it, backend, config, line).unwrap();
        let write = |offset, value: u32| window.write(offset, &value.to_le_bytes());
        write(reg::STATUS, ACKNOWLEDGE);
        write(reg::STATUS, ACKNOWLEDGE);
        write(reg::STATUS, ACKNOWLEDGE | DRIVER);
        let features = F_VERSION_1 | F_EVENT_IDX | F_FLUSH;
        for half in 0..2 {
            write(reg::DRIVER_FEATURES_SEL, half);
            write(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        write(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        write(reg::QUEUE_NUM, QUEUE_SIZE.into());
        write(reg::QUEUE_DESC_LOW, DESC as u32);
        write(reg::QUEUE_DRIVER_LOW, AVAIL as u32);
        write(reg::QUEUE_DEVICE_LOW, USED as u32);
        write(reg::QUEUE_READY, 1);
        write(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Server::Device {
            memory,
            device: Box::new(device),
            interrupt,
        }
    }

    fn memory(&self) -> Memory {
        match self {
            Server::Limit { memory, .. } | Server::Device { memory, .. } => memory.clone(),
        }
    }
}

pub struct Driver {
    server: Server,
    memory: Memory,
    pattern: Pattern,
    depth: u16,
    avail: u16,
    notified: u16,
    used: u16,
    done: u64,
    random: u64,
    position: u64,
}

impl Driver {
    pub fn new(server: Server, pattern: Pattern, depth: u16) -> Self {
        let memory = server.memory();
        let bytes = pattern.bytes;
        let (kind, flags) = if pattern.write {
            (T_OUT, 0)
        } else {
            (T_IN, DESC_F_WRITE)
        };
        for slot in 0..u64::from(depth) {
            let (header, status) = (HEADERS + 16 * slot, STATUS + slot);
            let data = DATA + slot * u64::from(bytes);
            memory.write(header, kind);
            let chain = [
                (header, 16, DESC_F_NEXT),
                (data, bytes, flags | DESC_F_NEXT),
                (status, 1, DESC_F_WRITE),
            ];
            for (n, (addr, len, flags)) in (3 * slot..).zip(chain) {
                memory.write(DESC + 16 * n, addr);
                memory.write::<u32>(DESC + 16 * n + 8, len);
                memory.write(DESC + 16 * n + 12, flags);
                memory.write(DESC + 16 * n + 14, n as u16 + 1);
            }
        }
        Driver {
            server,
            memory,
            pattern,
            depth,
            avail: 0,
            notified: 0,
            used: 0,
            done: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            position: 0,
        }
    }

    /// Requests a second.
    pub fn run(&mut self, time: Duration) -> f64 {
        let start = Instant::now();
        for slot in 0..self.depth {
            self.submit(3 * slot);
        }
        self.notify();
        let mut since_clock = 0;
        loop {
            let used = self.memory.index(USED + 2).load(Ordering::Acquire);
            if used == self.used {
                self.wait();
                continue;
            }
            while self.used != used {
                let element = USED + 4 + 8 * u64::from(self.used % QUEUE_SIZE);
                let head: u32 = self.memory.read(element);
                self.used = self.used.wrapping_add(1);
                self.done += 1;
                since_clock += 1;
                self.submit(head as u16);
            }
            self.notify();
            if since_clock >= 64 {
                since_clock = 0;
                if start.elapsed() >= time {
                    return self.done as f64 / start.elapsed().as_secs_f64();
                }
            }
        }
    }

    /// Notifications and interrupts for each request, where the device counts them.
    pub fn signals_per_request(&self) -> (f64, f64) {
        match &self.server {
            Server::Limit { .. } => (0.0, 0.0),
            Server::Device { device, .. } => {
                let counters = device.counters();
                let reads = (counters.reads + counters.writes) as f64;
                (
                    counters.notifications as f64 / reads,
                    counters.interrupts_sent as f64 / reads,
                )
            }
        }
    }

    fn submit(&mut self, head: u16) {
        let sector = self.next_offset() / 512;
        self.memory
            .write(HEADERS + 16 * u64::from(head / 3) + 8, sector);
        self.memory
            .write(AVAIL + 4 + 2 * u64::from(self.avail % QUEUE_SIZE), head);
        self.avail = self.avail.wrapping_add(1);
        if !self.pattern.interrupts {
            self.memory
                .index(AVAIL + 2)
                .store(self.avail, Ordering::Release);
        }
    }

    fn next_offset(&mut self) -> u64 {
        let bytes = u64::from(self.pattern.bytes);
        if self.pattern.random {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            return self.random % (FILE_BYTES / bytes) * bytes;
        }
        self.position = (self.position + bytes) % FILE_BYTES;
        self.position
    }

    fn notify(&mut self) {
        self.memory
            .index(AVAIL + 2)
            .store(self.avail, Ordering::Release);
        let Server::Device { device, .. } = &self.server else {
            return;
        };
        fence(Ordering::SeqCst);
        let event = USED + 4 + 8 * u64::from(QUEUE_SIZE);
        let event = self.memory.index(event).load(Ordering::Relaxed);
        if need_event(event, self.avail, self.notified) {
            let mut queues = device.queue_notify();
            queues.next().unwrap().write(1).unwrap();
        }
        self.notified = self.avail;
    }

    /// Nothing is in the used ring.
    fn wait(&self) {
        match &self.server {
            Server::Device { interrupt, .. } if self.pattern.interrupts => {
                let used_event = self.memory.index(AVAIL + 4 + 2 * u64::from(QUEUE_SIZE));
                used_event.store(self.used, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if self.memory.index(USED + 2).load(Ordering::Acquire) == self.used {
                    interrupt.read().unwrap();
                }
            }
            _ => std::hint::spin_loop(),
        }
    }
}
