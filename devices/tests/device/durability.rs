//! What the device says is on the disk: it is there, or somebody is told that it is not.

use std::io;
use std::sync::{Arc, Mutex};

use iolite_devices::block::backend::{Backend, RawFile, Waits};
use iolite_devices::block::buffers::GuestBuffers;
use iolite_devices::virtio::blk::{BlockConfig, Cache};
use iolite_devices_abi::blk::*;

use super::driver::*;
use super::test_disk::TestDisk;

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
