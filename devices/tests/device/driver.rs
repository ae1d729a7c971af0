//! A driver for tests, as honest or as hostile as a test wants: it writes registers, descriptors
//! and ring indices itself, and looks at what comes back.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use iolite_devices::block::backend::Backend;
use iolite_devices::block::backend::fault::{FaultBackend, Faults};
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::bus::BusDevice;
use iolite_devices::interrupt::Interrupt;
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, BlockError, MmioBlock};
use iolite_devices_abi::blk::{RequestHeader, S_OK, T_IN};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::ring::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_F_NO_NOTIFY, need_event,
};
use iolite_devices_abi::status::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::test_disk::TestDisk;

/// Guest memory: two adjacent regions, a hole, another region.
pub const RAM: [(u64, usize); 3] = [(0, 4 << 20), (4 << 20, 1 << 20), (8 << 20, 1 << 20)];
/// The first address outside memory.
pub const HOLE: u64 = 5 << 20;
/// Where the two adjacent regions meet.
pub const SEAM: u64 = 4 << 20;

pub const DESC: u64 = 0x1000;
pub const AVAIL: u64 = 0x6000;
pub const USED: u64 = 0x8000;
/// Request headers, one for each 16 bytes.
pub const HEADERS: u64 = 0x1_0000;
/// Where status bytes go; filled with [`UNTOUCHED`] before each request.
pub const STATUS: u64 = 0x2_0000;
/// Indirect tables.
pub const TABLE: u64 = 0x3_0000;
/// Data buffers.
pub const DATA: u64 = 0x4_0000;

/// What no device writes as a status.
pub const UNTOUCHED: u8 = 0xaa;
/// QueueNumMax and, unless a test says otherwise, QueueNum.
pub const QUEUE_SIZE: u16 = 16;
/// Sectors of the default disk.
pub const SECTORS: u64 = 64;
/// Everything a well-behaved driver accepts (but RO, which depends on the disk).
pub const FEATURES: u64 = F_VERSION_1
    | F_INDIRECT_DESC
    | iolite_devices_abi::blk::F_FLUSH
    | iolite_devices_abi::blk::F_SEG_MAX;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a test waits for what must not happen.
const SETTLE: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Edges(AtomicU64);

impl Edges {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Interrupt for Edges {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A piece of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub addr: u64,
    pub len: u32,
    pub writable: bool,
}

/// Device-readable.
pub fn r(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        writable: false,
    }
}

/// Device-writable.
pub fn w(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        writable: true,
    }
}

/// The status byte at its usual place.
pub fn status() -> Piece {
    w(STATUS, 1)
}

pub struct Driver {
    pub memory: Arc<GuestMemoryMmap>,
    pub device: BlockDevice,
    pub window: Arc<dyn BusDevice>,
    pub edges: Arc<Edges>,
    pub size: u16,
    pub avail_idx: u16,
    used_seen: u16,
}

/// The controls of a disk's faults. Requests that are still held when the test ends, however it
/// ends, are let go: the disk waits for them.
#[derive(Default)]
pub struct Controls(pub Arc<Faults>);

impl Deref for Controls {
    type Target = Faults;

    fn deref(&self) -> &Faults {
        &self.0
    }
}

impl Drop for Controls {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A live disk with faults.
pub fn faulty(config: BlockConfig) -> (Driver, Controls) {
    let controls = Controls::default();
    let backend = Arc::new(FaultBackend::new(memory_disk(), controls.0.clone()));
    (Driver::live_with(backend, config, FEATURES), controls)
}

/// Bytes that tell their position.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 7 + at % 251) as u8).collect()
}

/// A disk of [`SECTORS`] sectors in memory. For engines that start requests elsewhere it is a file
/// instead, and nothing of it can be had at once.
pub fn memory_disk() -> Arc<TestDisk> {
    let bytes = pattern(SECTORS as usize * 512);
    Arc::new(match engine() {
        Engine::Uring => TestDisk::file(&bytes),
        Engine::Pool | Engine::Sync => TestDisk::memory(&bytes),
    })
}

/// The engine that is tested: what [`super::engines`] says in the environment.
pub fn engine() -> Engine {
    match std::env::var(super::engines::VARIABLE).as_deref() {
        Ok("uring") => Engine::Uring,
        Ok("sync") => Engine::Sync,
        _ => Engine::Pool,
    }
}

pub fn config() -> BlockConfig {
    BlockConfig {
        id: "iolite-test-disk-0123".into(),
        workers: 2,
        queue_size: QUEUE_SIZE,
        engine: Some(engine()),
        ..BlockConfig::new("vdt")
    }
}

impl Driver {
    /// A machine with a fresh disk; nothing is set up.
    pub fn cold(backend: Arc<dyn Backend>, config: BlockConfig) -> Self {
        Self::try_cold(backend, config).unwrap()
    }

    /// A machine with a disk that may not be possible.
    pub fn try_cold(backend: Arc<dyn Backend>, config: BlockConfig) -> Result<Self, BlockError> {
        let edges = Arc::new(Edges::default());
        let mut driver = Self::with_interrupt(backend, config, edges.clone())?;
        driver.edges = edges;
        Ok(driver)
    }

    /// A machine with an interrupt line of the test's own.
    pub fn with_interrupt(
        backend: Arc<dyn Backend>,
        config: BlockConfig,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, BlockError> {
        let ranges = RAM.map(|(base, len)| (GuestAddress(base), len));
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let size = config.queue_size;
        let MmioBlock { device, window } =
            BlockDevice::on_mmio(memory.clone(), backend, config, interrupt)?;
        Ok(Driver {
            memory,
            device,
            window,
            edges: Arc::default(),
            size,
            avail_idx: 0,
            used_seen: 0,
        })
    }

    /// A live disk of [`SECTORS`] sectors.
    pub fn live() -> Self {
        Self::live_with(memory_disk(), config(), FEATURES)
    }

    pub fn live_with(backend: Arc<dyn Backend>, config: BlockConfig, features: u64) -> Self {
        let mut driver = Self::cold(backend, config);
        driver.start(features);
        driver
    }

    // Registers.

    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.window.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.window.write(offset, &value.to_le_bytes());
    }

    pub fn status(&self) -> u32 {
        self.read(reg::STATUS)
    }

    /// Everything up to FEATURES_OK.
    pub fn negotiate(&self, features: u64) {
        self.write(reg::STATUS, 0);
        self.write(reg::STATUS, ACKNOWLEDGE);
        self.write(reg::STATUS, ACKNOWLEDGE);
        self.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            self.write(reg::DRIVER_FEATURES_SEL, half);
            self.write(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.write(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    pub fn place_queue(&self, desc: u64, avail: u64, used: u64) {
        self.write(reg::QUEUE_SEL, 0);
        self.write(reg::QUEUE_NUM, self.size.into());
        for (low, high, addr) in [
            (reg::QUEUE_DESC_LOW, reg::QUEUE_DESC_HIGH, desc),
            (reg::QUEUE_DRIVER_LOW, reg::QUEUE_DRIVER_HIGH, avail),
            (reg::QUEUE_DEVICE_LOW, reg::QUEUE_DEVICE_HIGH, used),
        ] {
            self.write(low, addr as u32);
            self.write(high, (addr >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
    }

    pub fn driver_ok(&self) {
        self.write(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Reset, set-up, DRIVER_OK, with zeroed rings.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        assert_eq!(self.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.clear_rings();
        self.place_queue(DESC, AVAIL, USED);
        self.driver_ok();
        assert_eq!(
            self.status(),
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
        );
    }

    // Memory and rings.

    /// The rings as they are before anything was made available.
    pub fn clear_rings(&mut self) {
        self.memory_fill(AVAIL, 0x2000, 0);
        self.memory_fill(USED, 0x2000, 0);
        (self.avail_idx, self.used_seen) = (0, 0);
    }

    pub fn put<T: vm_memory::ByteValued>(&self, addr: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(addr)).unwrap();
    }

    pub fn get<T: vm_memory::ByteValued>(&self, addr: u64) -> T {
        self.memory.read_obj(GuestAddress(addr)).unwrap()
    }

    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(addr))
            .unwrap();
        bytes
    }

    pub fn memory_fill(&self, addr: u64, len: usize, byte: u8) {
        self.memory
            .write_slice(&vec![byte; len], GuestAddress(addr))
            .unwrap();
    }

    pub fn descriptor(&self, table: u64, index: u16, descriptor: Descriptor) {
        let addr = GuestAddress(table + 16 * u64::from(index));
        self.memory
            .write_slice(&descriptor.to_le_bytes(), addr)
            .unwrap();
    }

    /// A request header at slot `slot`; returns its address.
    pub fn header_at(&self, slot: u16, request_type: u32, sector: u64) -> u64 {
        let addr = HEADERS + 16 * u64::from(slot);
        let header = RequestHeader {
            request_type,
            reserved: 0,
            sector,
        };
        self.memory
            .write_slice(&header.to_le_bytes(), GuestAddress(addr))
            .unwrap();
        addr
    }

    /// A request header as a readable piece.
    pub fn header(&self, request_type: u32, sector: u64) -> Piece {
        r(self.header_at(0, request_type, sector), 16)
    }

    /// Writes a chain of `pieces` into `table` from `first` on.
    pub fn chain_in(&self, table: u64, first: u16, pieces: &[Piece]) {
        for (position, piece) in (0u16..).zip(pieces) {
            let last = usize::from(position) + 1 == pieces.len();
            let flags =
                if piece.writable { DESC_F_WRITE } else { 0 } | if last { 0 } else { DESC_F_NEXT };
            let next = if last { 0 } else { first + position + 1 };
            let descriptor = Descriptor {
                addr: piece.addr,
                len: piece.len,
                flags,
                next,
            };
            self.descriptor(table, first + position, descriptor);
        }
    }

    /// An indirect descriptor at `index` for the `count` descriptors in [`TABLE`].
    pub fn indirect(&self, index: u16, count: u32, more_flags: u16) {
        let flags = DESC_F_INDIRECT | more_flags;
        let descriptor = Descriptor {
            addr: TABLE,
            len: 16 * count,
            flags,
            next: 0,
        };
        self.descriptor(DESC, index, descriptor);
    }

    /// Puts a head into the available ring, without notifying.
    pub fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.put(AVAIL + 4 + 2 * slot, head);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.set_avail_idx(self.avail_idx);
    }

    pub fn set_avail_idx(&self, idx: u16) {
        self.memory
            .store(idx, GuestAddress(AVAIL + 2), Ordering::Release)
            .unwrap();
    }

    pub fn notify(&self) {
        self.write(reg::QUEUE_NOTIFY, 0);
    }

    /// Notifies as a thrifty driver does: only if the device asks to hear of the last buffer.
    /// Returns whether it did.
    pub fn notify_if_wanted(&self, event_idx: bool) -> bool {
        fence(Ordering::SeqCst);
        let wanted = if event_idx {
            let event: u16 = self.get(USED + 4 + 8 * u64::from(self.size));
            need_event(event, self.avail_idx, self.avail_idx.wrapping_sub(1))
        } else {
            self.get::<u16>(USED) & USED_F_NO_NOTIFY == 0
        };
        if wanted {
            self.notify();
        }
        wanted
    }

    pub fn used_idx(&self) -> u16 {
        self.memory
            .load(GuestAddress(USED + 2), Ordering::Acquire)
            .unwrap()
    }

    /// The next used element (head, length), if it comes within reason.
    pub fn next_used(&mut self) -> Option<(u16, u32)> {
        eventually(|| self.used_idx() != self.used_seen).then(|| {
            let slot = u64::from(self.used_seen % self.size);
            self.used_seen = self.used_seen.wrapping_add(1);
            (
                self.get::<u32>(USED + 4 + 8 * slot) as u16,
                self.get(USED + 8 + 8 * slot),
            )
        })
    }

    /// After a start nothing is in the used ring: whatever was in flight before has ended before.
    #[track_caller]
    pub fn assert_untouched_after_start(&self) {
        thread::sleep(Duration::from_micros(300));
        assert_eq!(self.used_idx(), 0, "a request outlived the reset");
        assert_eq!(self.read(reg::INTERRUPT_STATUS), 0);
    }

    // Whole requests.

    /// Sends one chain and waits for its end: status byte and used length.
    pub fn run(&mut self, pieces: &[Piece]) -> (u8, u32) {
        self.put(STATUS, UNTOUCHED);
        self.chain_in(DESC, 0, pieces);
        self.run_head(0)
    }

    /// Sends the chain that begins at `head`.
    pub fn run_head(&mut self, head: u16) -> (u8, u32) {
        self.make_available(head);
        self.notify();
        let (used, len) = self.next_used().expect("the request is not answered");
        assert_eq!(used, head);
        assert_eq!(
            self.used_idx(),
            self.used_seen,
            "more used entries than requests"
        );
        assert_eq!(self.status() & DEVICE_NEEDS_RESET, 0);
        (self.get(STATUS), len)
    }

    /// What must come of a request with a known data area: status and used length.
    pub fn request(&mut self, request_type: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        let mut pieces = vec![self.header(request_type, sector)];
        pieces.extend_from_slice(data);
        pieces.push(status());
        self.run(&pieces)
    }

    // Verdicts.

    /// The device answered `N`: stopped, DEVICE_NEEDS_RESET, configuration change notification;
    /// then a reset brings it back.
    #[track_caller]
    pub fn assert_broken(&mut self) {
        assert!(
            eventually(|| self.status() & DEVICE_NEEDS_RESET != 0),
            "DEVICE_NEEDS_RESET is not set"
        );
        assert!(eventually(|| self.read(reg::INTERRUPT_STATUS)
            & reg::INTERRUPT_CONFIG_CHANGE
            != 0));
        assert!(eventually(|| self.edges.count() > 0));
        let used = self.used_idx();
        self.notify();
        thread::sleep(SETTLE);
        assert_eq!(self.used_idx(), used, "a broken queue goes on");
        self.assert_recovers();
    }

    /// `N` before DRIVER_OK, where no notification is due.
    #[track_caller]
    pub fn assert_set_up_refused(&mut self) {
        assert_ne!(
            self.status() & DEVICE_NEEDS_RESET,
            0,
            "DEVICE_NEEDS_RESET is not set"
        );
        self.driver_ok();
        assert_eq!(self.status() & DRIVER_OK, 0, "the device went live");
        self.assert_recovers();
    }

    /// A reset within 100 ms, and the device works as new.
    #[track_caller]
    pub fn assert_recovers(&mut self) {
        let start = Instant::now();
        self.write(reg::STATUS, 0);
        assert!(eventually(|| self.status() == 0), "the reset does not end");
        assert!(
            start.elapsed() < Duration::from_millis(100),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(self.read(reg::INTERRUPT_STATUS), 0);
        let read_only = self.offered() & iolite_devices_abi::blk::F_RO;
        self.size = self.size.min(QUEUE_SIZE);
        self.start(FEATURES | read_only);
        assert_eq!(self.request(T_IN, 1, &[w(DATA, 512)]), (S_OK, 513));
    }

    pub fn offered(&self) -> u64 {
        let half = |half| {
            self.write(reg::DEVICE_FEATURES_SEL, half);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Nothing comes back for a while.
    #[track_caller]
    pub fn assert_quiet(&self) {
        thread::sleep(SETTLE);
        assert_eq!(self.used_idx(), self.used_seen, "something was used");
    }
}

/// Waits for what must happen.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        thread::yield_now();
    }
    true
}
