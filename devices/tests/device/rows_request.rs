//! Rows 53 to 71: what a request means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iolite_devices::block::backend::Backend;
use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::buffers::GuestBuffers;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;

use super::driver::*;

const IOERR: (u8, u32) = (S_IOERR, 1);
const OK: (u8, u32) = (S_OK, 1);

fn read_only() -> Driver {
    let config = BlockConfig {
        read_only: true,
        ..config()
    };
    Driver::live_with(memory_disk(), config, FEATURES)
}

#[test]
fn a_write_is_read_back() {
    let disk = memory_disk();
    let mut driver = Driver::live_with(disk.clone(), config(), FEATURES);
    let bytes: Vec<u8> = (0..1024).map(|at| !(at as u8)).collect();
    for (at, byte) in (DATA..).zip(&bytes) {
        driver.put(at, *byte);
    }
    assert_eq!(
        driver.request(T_OUT, 5, &[r(DATA, 1000), r(DATA + 1000, 24)]),
        OK
    );
    assert_eq!(disk.contents()[5 * 512..7 * 512], bytes);
    assert_eq!(
        driver.request(T_IN, 5, &[w(DATA + 4096, 1024)]),
        (S_OK, 1025)
    );
    assert_eq!(driver.bytes(DATA + 4096, 1024), bytes);
    let counters = driver.device.counters();
    assert_eq!(
        (counters.reads, counters.writes, counters.errors),
        (1, 1, 0)
    );
    assert_eq!((counters.bytes_read, counters.bytes_written), (1024, 1024));
}

#[test]
fn row_53_a_header_in_pieces() {
    let mut driver = Driver::live();
    let Piece { addr, .. } = driver.header(T_IN, 4);
    let pieces = [
        r(addr, 1),
        r(addr + 1, 10),
        r(addr + 11, 5),
        w(DATA, 512),
        status(),
    ];
    assert_eq!(driver.run(&pieces), (S_OK, 513));
    assert_eq!(driver.bytes(DATA, 512), pattern(2560)[2048..]);
    driver.assert_recovers();
}

#[test]
fn row_53_header_and_data_in_one_descriptor() {
    let disk = memory_disk();
    let mut driver = Driver::live_with(disk.clone(), config(), FEATURES);
    let Piece { addr, .. } = driver.header(T_OUT, 4);
    assert_eq!(driver.run(&[r(addr, 16 + 512), status()]), OK);
    assert_eq!(disk.contents()[2048..2560], driver.bytes(addr + 16, 512));
    driver.assert_recovers();
}

#[test]
fn row_54_a_header_that_is_too_short() {
    let mut driver = Driver::live();
    let Piece { addr, .. } = driver.header(T_IN, 0);
    assert_eq!(driver.run(&[r(addr, 15), w(DATA, 512), status()]), IOERR);
    assert_eq!(driver.run(&[r(HOLE, 16), w(DATA, 512), status()]), IOERR);
    driver.assert_recovers();
}

#[test]
fn row_55_a_header_that_is_writable() {
    let mut driver = Driver::live();
    let Piece { addr, len, .. } = driver.header(T_IN, 0);
    assert_eq!(driver.run(&[w(addr, len), w(DATA, 512), status()]), IOERR);
    driver.assert_recovers();
}

#[test]
fn row_56_a_header_alone() {
    let mut driver = Driver::live();
    let header = driver.header(T_IN, 0);
    assert_eq!(driver.run(&[header]), (UNTOUCHED, 0));
    driver.assert_recovers();
}

#[test]
fn row_57_no_place_for_the_status() {
    let mut driver = Driver::live();
    let header = driver.header(T_OUT, 0);
    let none = (UNTOUCHED, 0);
    assert_eq!(driver.run(&[header, r(DATA, 512)]), none, "missing");
    assert_eq!(
        driver.run(&[header, r(DATA, 512), r(STATUS, 1)]),
        none,
        "read-only"
    );
    assert_eq!(
        driver.run(&[header, r(DATA, 512), w(HOLE, 1)]),
        none,
        "outside memory"
    );
    assert_eq!(
        driver.run(&[header, r(DATA, 512), w(u64::MAX, 2)]),
        none,
        "wraps"
    );
    driver.assert_recovers();
}

#[test]
fn row_58_the_status_in_the_last_byte_of_the_data() {
    let mut driver = Driver::live();
    let header = driver.header(T_IN, 1);
    driver.put(DATA + 512, UNTOUCHED);
    assert_eq!(driver.run(&[header, w(DATA, 513)]).1, 513);
    assert_eq!(driver.get::<u8>(DATA + 512), S_OK);
    assert_eq!(driver.bytes(DATA, 512), pattern(1024)[512..]);
    driver.assert_recovers();
}

#[test]
fn row_59_data_outside_memory() {
    let mut driver = Driver::live();
    for addr in [HOLE, HOLE - 256, u64::MAX - 100, 1 << 63] {
        assert_eq!(driver.request(T_IN, 0, &[w(addr, 512)]), IOERR, "{addr:#x}");
        assert_eq!(
            driver.request(T_OUT, 0, &[r(addr, 512)]),
            IOERR,
            "{addr:#x}"
        );
    }
    assert_eq!(
        driver.request(T_IN, 0, &[w(DATA, 512), w(HOLE, 512)]),
        IOERR
    );
    driver.assert_recovers();
}

#[test]
fn row_59_data_over_the_seam_of_two_regions() {
    let mut driver = Driver::live();
    assert_eq!(driver.request(T_IN, 1, &[w(SEAM - 100, 512)]), (S_OK, 513));
    assert_eq!(driver.bytes(SEAM - 100, 512), pattern(1024)[512..]);
    driver.assert_recovers();
}

#[test]
fn row_60_data_of_the_wrong_direction() {
    let mut driver = Driver::live();
    assert_eq!(driver.request(T_IN, 0, &[r(DATA, 512)]), IOERR);
    assert_eq!(driver.request(T_OUT, 0, &[w(DATA, 512)]), IOERR);
    assert_eq!(
        driver.request(T_OUT, 0, &[r(DATA, 512), w(DATA, 512)]),
        IOERR
    );
    driver.assert_recovers();
}

#[test]
fn row_61_a_length_of_no_whole_sectors() {
    let mut driver = Driver::live();
    for len in [1, 511, 513, 1000] {
        assert_eq!(driver.request(T_IN, 0, &[w(DATA, len)]), IOERR, "{len}");
        assert_eq!(driver.request(T_OUT, 0, &[r(DATA, len)]), IOERR, "{len}");
    }
    driver.assert_recovers();
}

#[test]
fn row_62_a_position_that_overflows() {
    let mut driver = Driver::live();
    for sector in [u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 55] {
        assert_eq!(
            driver.request(T_IN, sector, &[w(DATA, 512)]),
            IOERR,
            "{sector:#x}"
        );
        assert_eq!(
            driver.request(T_OUT, sector, &[r(DATA, 512)]),
            IOERR,
            "{sector:#x}"
        );
    }
    driver.assert_recovers();
}

#[test]
fn row_63_beyond_the_capacity() {
    let mut driver = Driver::live();
    assert_eq!(
        driver.request(T_IN, SECTORS - 1, &[w(DATA, 512)]),
        (S_OK, 513)
    );
    assert_eq!(driver.request(T_IN, SECTORS - 1, &[w(DATA, 1024)]), IOERR);
    assert_eq!(driver.request(T_IN, SECTORS, &[w(DATA, 512)]), IOERR);
    assert_eq!(driver.request(T_OUT, SECTORS - 1, &[r(DATA, 1024)]), IOERR);
    driver.assert_recovers();
}

#[test]
fn row_64_thousands_of_segments() {
    // The longest chain that the largest queue takes, all of it data in small pieces of one file.
    let file = tempfile::NamedTempFile::new().unwrap();
    let content = pattern(1 << 20);
    std::fs::write(file.path(), &content).unwrap();
    let backend = Arc::new(FileBackend::open(file.path(), false).unwrap());
    let config = BlockConfig {
        queue_size: 1024,
        ..config()
    };
    let mut driver = Driver::live_with(backend, config, FEATURES);
    let mut pieces = vec![driver.header(T_IN, 3)];
    pieces.extend((0..1022).map(|at| w(DATA + 512 * at, 512)));
    pieces.push(status());
    assert_eq!(driver.run(&pieces), (S_OK, 1022 * 512 + 1));
    assert_eq!(
        driver.bytes(DATA, 1022 * 512),
        content[1536..1536 + 1022 * 512]
    );
    driver.assert_recovers();
}

#[test]
fn row_64_more_pieces_than_one_system_call_takes() {
    // Every buffer lies over the seam of two regions: 1022 descriptors, 2044 pieces.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pattern(1 << 20)).unwrap();
    let backend = Arc::new(FileBackend::open(file.path(), false).unwrap());
    let config = BlockConfig {
        queue_size: 1024,
        ..config()
    };
    let mut driver = Driver::live_with(backend, config, FEATURES);
    for (addr, byte) in (SEAM - 100..).zip(pattern(512)) {
        driver.put(addr, byte);
    }
    assert_eq!(driver.request(T_OUT, 2, &[r(SEAM - 100, 512); 1022]), OK);
    let content = std::fs::read(file.path()).unwrap();
    assert_eq!(content[..1024], pattern(1024));
    assert!(
        content[1024..][..1022 * 512]
            .chunks(512)
            .all(|sector| sector == pattern(512))
    );
    assert_eq!(content[1024 * 512..], pattern(1 << 20)[1024 * 512..]);
    assert_eq!(
        driver.request(T_IN, 1000, &[w(SEAM - 256, 512); 1022]),
        (S_OK, 1022 * 512 + 1)
    );
    assert_eq!(
        driver.bytes(SEAM - 256, 512),
        content[2021 * 512..2022 * 512]
    );
    driver.assert_recovers();
}

/// A disk of 8 GiB that only counts.
#[derive(Default)]
struct Counting(AtomicU64);

impl Backend for Counting {
    fn capacity(&self) -> u64 {
        8 << 30
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, _offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.0.fetch_add(buffers.len(), Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.read(offset, buffers)
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn row_64_four_gibibytes() {
    let counting = Arc::new(Counting::default());
    let config = BlockConfig {
        queue_size: 1024,
        ..config()
    };
    let mut driver = Driver::live_with(counting.clone(), config, FEATURES);
    // All of the first two regions in each buffer: 2^32 bytes less 512, and one sector too many.
    let almost = (1u64 << 32) - 512;
    let mut data = vec![w(0, 5 << 20); 819];
    data.push(w(0, (almost - 819 * (5 << 20)) as u32));
    assert_eq!(driver.request(T_IN, 0, &data), (S_OK, almost as u32 + 1));
    assert_eq!(counting.0.load(Ordering::Relaxed), almost);
    data.push(w(0, 512));
    assert_eq!(driver.request(T_IN, 0, &data), IOERR);
    driver.assert_recovers();
}

#[test]
fn row_65_nothing_to_transfer() {
    let mut driver = Driver::live();
    for sector in [0, SECTORS] {
        assert_eq!(driver.request(T_IN, sector, &[]), OK);
        assert_eq!(driver.request(T_OUT, sector, &[]), OK);
    }
    driver.assert_recovers();
}

#[test]
fn row_66_a_write_to_a_read_only_disk() {
    for features in [FEATURES, FEATURES | F_RO] {
        let mut driver = read_only();
        driver.start(features);
        assert_ne!(driver.offered() & F_RO, 0);
        assert_eq!(driver.request(T_OUT, 0, &[r(DATA, 512)]), IOERR);
        assert_eq!(driver.request(T_IN, 0, &[w(DATA, 512)]), (S_OK, 513));
        assert_eq!(driver.bytes(DATA, 512), pattern(512));
        driver.assert_recovers();
    }
}

#[test]
fn row_67_a_flush_of_a_read_only_disk() {
    let mut driver = read_only();
    assert_eq!(driver.request(T_FLUSH, 0, &[]), OK);
    driver.assert_recovers();
}

#[test]
fn row_68_unknown_types() {
    let mut driver = Driver::live();
    for request_type in [2, 3, 5, 7, 9, 12, 100, 0x8000_0000, u32::MAX] {
        assert_eq!(
            driver.request(request_type, 0, &[]),
            (S_UNSUPP, 1),
            "{request_type:#x}"
        );
        assert_eq!(
            driver.request(request_type, 0, &[w(DATA, 512)]),
            (S_UNSUPP, 1)
        );
    }
    driver.assert_recovers();
}

#[test]
fn row_69_a_flush_with_sector_or_data() {
    let mut driver = Driver::live();
    assert_eq!(driver.request(T_FLUSH, u64::MAX, &[]), OK);
    assert_eq!(driver.request(T_FLUSH, 3, &[r(DATA, 512)]), OK);
    assert_eq!(driver.request(T_FLUSH, 3, &[w(HOLE, 7)]), OK);
    assert_eq!(driver.device.counters().flushes, 3);
    driver.assert_recovers();
}

#[test]
fn row_70_the_identification() {
    let mut driver = Driver::live();
    assert_eq!(
        driver.request(T_GET_ID, 9, &[w(DATA, 7), w(DATA + 7, 13)]),
        (S_OK, 21)
    );
    assert_eq!(driver.bytes(DATA, 20), b"iolite-test-disk-012");
    for len in [0, 19, 21, 512] {
        assert_eq!(driver.request(T_GET_ID, 0, &[w(DATA, len)]), IOERR, "{len}");
    }
    assert_eq!(driver.request(T_GET_ID, 0, &[r(DATA, 20)]), IOERR);
    driver.assert_recovers();
}

#[test]
fn the_configuration_says_what_a_request_may_be() {
    let driver = Driver::live();
    let read32 = |offset| driver.read(reg::CONFIG + offset);
    assert_eq!(read32(config::SEG_MAX), u32::from(QUEUE_SIZE) - 2);
    assert_eq!(read32(config::BLK_SIZE), 512);
}
