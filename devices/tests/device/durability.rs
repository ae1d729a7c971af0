//! What the device says is on the disk: it is there, or somebody is told that it is not.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::{Backend, RawFile, Waits};
use iolite_devices::block::buffers::GuestBuffers;
use iolite_devices::virtio::blk::{BlockConfig, Cache};
use iolite_devices_abi::blk::*;

use super::driver::*;
use super::scenario::{LossyDisk, or_skip};
use super::test_disk::TestDisk;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// A disk of four workers on the image at `path`.
fn disk(path: &Path, cache: Cache, features: u64) -> Driver {
    let config = BlockConfig {
        workers: 4,
        queue_size: 256,
        cache,
        ..config()
    };
    let backend = Arc::new(FileBackend::open(path, false).unwrap());
    Driver::live_with(backend, config, features)
}

/// Sends `count` requests of one type under one notification, request n with the block at `block(n)` of
/// the disk, or none. Their statuses.
fn send(driver: &mut Driver, kind: u32, count: u16, block: impl Fn(u16) -> Option<u64>) -> Vec<u8> {
    for n in 0..count {
        let (at, status) = (DATA + u64::from(n) * BLOCK as u64, STATUS + u64::from(n));
        driver.put(status, UNTOUCHED);
        let block = block(n);
        let sector = block.unwrap_or(0) * (BLOCK as u64 / 512);
        let mut pieces = vec![r(driver.header_at(n, kind, sector), 16)];
        pieces.extend(block.map(|_| r(at, BLOCK as u32)));
        pieces.push(w(status, 1));
        driver.chain_in(DESC, 3 * n, &pieces);
        driver.make_available(3 * n);
    }
    driver.notify();
    for _ in 0..count {
        driver.next_used().expect("a request is not answered");
    }
    driver.bytes(STATUS, count.into())
}

/// A disk that remembers what was on it at each flush.
struct Watched {
    disk: TestDisk,
    flushed: Mutex<Vec<Vec<u8>>>,
}

impl Watched {
    /// One in memory, which never waits, and one in a file, which always does.
    fn both() -> [Arc<Self>; 2] {
        let bytes = pattern(SECTORS as usize * 512);
        [TestDisk::memory(&bytes), TestDisk::file(&bytes)].map(|disk| {
            let flushed = Mutex::default();
            Arc::new(Watched { disk, flushed })
        })
    }

    /// How many flushes there were, and whether sector `sector` was full of `byte` at the last one.
    #[track_caller]
    fn assert_flushed(&self, count: usize, sector: usize, byte: u8) {
        let flushed = self.flushed.lock().unwrap().clone();
        assert_eq!(flushed.len(), count);
        let sector = flushed.last().map(|bytes| &bytes[512 * sector..][..512]);
        assert!(sector.is_none_or(|sector| sector == [byte; 512]));
    }
}

impl Backend for Watched {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.disk.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.disk.write(offset, buffers)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.disk.write_zeroes(offset, len, unmap)
    }

    fn flush(&self) -> io::Result<()> {
        self.flushed.lock().unwrap().push(self.disk.contents());
        self.disk.flush()
    }

    fn waits(&self) -> Waits {
        self.disk.waits()
    }

    fn raw_file(&self) -> Option<RawFile<'_>> {
        self.disk.raw_file()
    }
}

#[test]
fn a_flush_is_one_of_the_backend() {
    for disk in Watched::both() {
        let mut driver = Driver::live_with(disk.clone(), config(), FEATURES);
        for n in 1..4 {
            driver.memory_fill(DATA, 512, n);
            assert_eq!(driver.request(T_OUT, 7, &[r(DATA, 512)]), (S_OK, 1));
            disk.assert_flushed(usize::from(n) - 1, 7, n - 1);
            assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
            disk.assert_flushed(usize::from(n), 7, n);
        }
    }
}

#[test]
fn a_write_that_must_be_durable_is_flushed_after_it_was_made() {
    let through = (Cache::WriteThrough, FEATURES);
    for (cache, features) in [(Cache::WriteBack, FEATURES & !F_FLUSH), through] {
        for disk in Watched::both() {
            let config = BlockConfig { cache, ..config() };
            let features = features | F_WRITE_ZEROES;
            let mut driver = Driver::live_with(disk.clone(), config, features);
            driver.memory_fill(DATA, 512, 0x5a);
            assert_eq!(driver.request(T_OUT, 7, &[r(DATA, 512)]), (S_OK, 1));
            disk.assert_flushed(1, 7, 0x5a);
            // One segment: the sector, how many, no flags.
            driver.memory_fill(TABLE, 16, 0);
            driver.put(TABLE, 7u64);
            driver.put(TABLE + 8, 1u32);
            let segment = [r(TABLE, 16)];
            assert_eq!(driver.request(T_WRITE_ZEROES, 0, &segment), (S_OK, 1));
            disk.assert_flushed(2, 7, 0);
        }
    }
}

/// Linux says once for each open file that something was lost: who of many asks first is told.
#[test]
fn when_writes_are_lost_every_flush_fails() {
    let Some(disk) = or_skip(LossyDisk::new(24 * MIB), "flushes at once") else {
        return;
    };
    disk.fill_up(0).unwrap();
    for round in 0..6 {
        let mut driver = self::disk(&disk.image(), Cache::WriteBack, FEATURES);
        driver.memory_fill(DATA, MIB as usize, round + 1);
        for n in 0..24 {
            let data = [r(DATA, MIB as u32)];
            let (status, _) = driver.request(T_OUT, n * MIB / 512, &data);
            assert_eq!(status, S_OK);
        }
        let count = 2 << (round % 2);
        let statuses = send(&mut driver, T_FLUSH, count, |_| None);
        assert_eq!(statuses, vec![S_IOERR; count.into()], "round {round}");
        assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_IOERR, 1), "afterwards");
    }
}

/// Many in flight, and room for a third of them.
fn durable_writes(cache: Cache, features: u64) {
    const WRITES: u64 = 768;
    const IN_FLIGHT: u16 = 64;
    for _ in 0..2 {
        let bytes = WRITES * BLOCK as u64;
        let Some(disk) = or_skip(LossyDisk::new(bytes), "durable writes") else {
            return;
        };
        disk.fill_up(bytes / 3).unwrap();
        let mut promised = Vec::new();
        let mut driver = self::disk(&disk.image(), cache, features);
        driver.memory_fill(DATA, IN_FLIGHT as usize * BLOCK, 0x5a);
        // Each behind the others, so that little is written back with its neighbours.
        let place = |n| n * 37 % WRITES;
        for first in (0..WRITES).step_by(IN_FLIGHT.into()) {
            let block = |n: u16| Some(place(first + u64::from(n)));
            let statuses = send(&mut driver, T_OUT, IN_FLIGHT, block);
            let blocks = (first..).map(place).zip(statuses);
            promised.extend(
                blocks
                    .filter(|&(_, status)| status == S_OK)
                    .map(|(at, _)| at),
            );
        }
        drop(driver);
        assert!(!promised.is_empty() && promised.len() < WRITES as usize);
        let contents = disk.contents().unwrap();
        let block = |at: u64| &contents[at as usize * BLOCK..][..BLOCK];
        let lost = promised.iter().filter(|&&at| block(at) != [0x5a; BLOCK]);
        assert_eq!(lost.count(), 0, "of {} that were promised", promised.len());
    }
}

#[test]
fn a_write_that_must_be_durable_is_on_the_disk_without_flushes() {
    durable_writes(Cache::WriteBack, FEATURES & !F_FLUSH);
}

#[test]
fn a_write_that_must_be_durable_is_on_the_disk_with_writethrough() {
    durable_writes(Cache::WriteThrough, FEATURES);
}
