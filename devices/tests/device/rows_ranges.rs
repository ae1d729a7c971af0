//! Discards and zeros: rows 71 to 74, what the configuration space says of them, and what they do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;

use super::driver::*;

const OK: (u8, u32) = (S_OK, 1);
const IOERR: (u8, u32) = (S_IOERR, 1);
const UNSUPP: (u8, u32) = (S_UNSUPP, 1);
const BOTH: [u32; 2] = [T_DISCARD, T_WRITE_ZEROES];
const DISK_SECTORS: u64 = 4096;

/// A live disk of [`DISK_SECTORS`] sectors of sevens whose driver accepted both kinds of request.
fn live() -> (Driver, Arc<MemoryBackend>) {
    let disk = Arc::new(MemoryBackend::writable(&sevens_and_zeros(&[])).unwrap());
    let features = FEATURES | F_DISCARD | F_WRITE_ZEROES;
    (Driver::live_with(disk.clone(), config(), features), disk)
}

fn range(sector: u64, num_sectors: u32, flags: u32) -> DiscardWriteZeroes {
    DiscardWriteZeroes {
        sector,
        num_sectors,
        flags,
    }
}

/// Sends a request with these ranges.
fn send(driver: &mut Driver, request_type: u32, ranges: &[DiscardWriteZeroes]) -> (u8, u32) {
    for (at, range) in (DATA..).step_by(16).zip(ranges) {
        driver.put(at, range.to_le_bytes());
    }
    driver.request(request_type, 0, &[r(DATA, 16 * ranges.len() as u32)])
}

/// Sevens, but for zeros in these sectors.
fn sevens_and_zeros(zeros: &[std::ops::Range<usize>]) -> Vec<u8> {
    let mut bytes = vec![7; DISK_SECTORS as usize * 512];
    for range in zeros {
        bytes[range.start * 512..range.end * 512].fill(0);
    }
    bytes
}

#[test]
fn row_71_discard_and_write_zeroes_were_not_negotiated() {
    let mut driver = Driver::live();
    for request_type in [T_DISCARD, T_WRITE_ZEROES, T_SECURE_ERASE, T_GET_LIFETIME] {
        assert_eq!(send(&mut driver, request_type, &[range(0, 1, 0)]), UNSUPP);
    }
    let backend = Arc::new(MemoryBackend::read_only(&[7; 4096]).unwrap());
    let driver = Driver::cold(backend, config());
    assert_eq!(driver.offered() & (F_DISCARD | F_WRITE_ZEROES), 0);
    assert_eq!(driver.read(reg::CONFIG + config::MAX_DISCARD_SEG), 0);
}

#[test]
fn row_72_a_payload_that_is_no_whole_number_of_ranges() {
    let (mut driver, disk) = live();
    for request_type in BOTH {
        for len in [0, 1, 15, 17, 31] {
            let answer = driver.request(request_type, 0, &[r(DATA, len)]);
            assert_eq!(answer, IOERR, "{len}");
        }
        let writable = driver.request(request_type, 0, &[w(DATA, 16)]);
        assert_eq!(writable, IOERR, "device-writable");
        let outside = driver.request(request_type, 0, &[r(HOLE, 16)]);
        assert_eq!(outside, IOERR, "outside memory");
    }
    assert!(disk.contents() == sevens_and_zeros(&[]));
    driver.assert_recovers();
}

#[test]
fn row_72_more_ranges_or_longer_ones_than_announced() {
    let (mut driver, disk) = live();
    for (request_type, seg, sectors) in [
        (
            T_DISCARD,
            config::MAX_DISCARD_SEG,
            config::MAX_DISCARD_SECTORS,
        ),
        (
            T_WRITE_ZEROES,
            config::MAX_WRITE_ZEROES_SEG,
            config::MAX_WRITE_ZEROES_SECTORS,
        ),
    ] {
        let most = driver.read(reg::CONFIG + seg);
        let ranges: Vec<_> = (0..=u64::from(most)).map(|n| range(2 * n, 1, 0)).collect();
        assert_eq!(send(&mut driver, request_type, &ranges), IOERR);
        assert!(
            disk.contents() == sevens_and_zeros(&[]),
            "refused as a whole"
        );
        let longest = driver.read(reg::CONFIG + sectors);
        assert_eq!(
            send(&mut driver, request_type, &[range(0, longest + 1, 0)]),
            IOERR
        );
        assert_eq!(
            send(&mut driver, request_type, &[range(0, u32::MAX, 0)]),
            IOERR
        );
        assert!(disk.contents() == sevens_and_zeros(&[]));
        assert_eq!(send(&mut driver, request_type, &ranges[1..]), OK);
        let zeros: Vec<_> = (1..=most as usize).map(|n| 2 * n..2 * n + 1).collect();
        assert!(disk.contents() == sevens_and_zeros(&zeros));
        driver.memory_fill(DATA, 512, 7);
        for n in 1..=u64::from(most) {
            assert_eq!(driver.request(T_OUT, 2 * n, &[r(DATA, 512)]), OK);
        }
    }
    driver.assert_recovers();
}

#[test]
fn row_73_flags() {
    let (mut driver, disk) = live();
    for flags in [2, 3, 1 << 31, u32::MAX] {
        for request_type in BOTH {
            assert_eq!(
                send(&mut driver, request_type, &[range(0, 1, flags)]),
                UNSUPP
            );
        }
    }
    assert_eq!(
        send(&mut driver, T_DISCARD, &[range(0, 1, FLAG_UNMAP)]),
        UNSUPP
    );
    let second = [range(0, 1, 0), range(1, 1, 2)];
    assert_eq!(send(&mut driver, T_WRITE_ZEROES, &second), UNSUPP);
    assert!(
        disk.contents() == sevens_and_zeros(&[]),
        "refused as a whole"
    );
    driver.assert_recovers();
}

#[test]
fn row_74_ranges_beyond_the_disk_and_empty_ones() {
    let (mut driver, disk) = live();
    for request_type in BOTH {
        for (sector, num_sectors) in [
            (DISK_SECTORS, 1),
            (DISK_SECTORS - 1, 2),
            (DISK_SECTORS + 1, 0),
            (u64::MAX, 1),
            (u64::MAX / 512, 1),
            (u64::MAX / 512 + 1, 0),
            (u64::MAX - 7, 8),
        ] {
            let bad = range(sector, num_sectors, 0);
            assert_eq!(send(&mut driver, request_type, &[bad]), IOERR, "{bad:?}");
            let second = [range(0, 1, 0), bad];
            assert_eq!(send(&mut driver, request_type, &second), IOERR, "{bad:?}");
        }
        for sector in [0, 5, DISK_SECTORS] {
            assert_eq!(send(&mut driver, request_type, &[range(sector, 0, 0)]), OK);
        }
    }
    assert!(disk.contents() == sevens_and_zeros(&[]));
    driver.assert_recovers();
}

#[test]
fn zeros_are_where_they_were_asked_for_and_nowhere_else() {
    let (mut driver, disk) = live();
    let plain = [range(3, 2, 0), range(100, 1, 0)];
    assert_eq!(send(&mut driver, T_WRITE_ZEROES, &plain), OK);
    let unmap = [range(1000, 1001, FLAG_UNMAP), range(50, 9, FLAG_UNMAP)];
    assert_eq!(send(&mut driver, T_WRITE_ZEROES, &unmap), OK);
    let mixed = [range(200, 8, FLAG_UNMAP), range(208, 8, 0)];
    assert_eq!(send(&mut driver, T_WRITE_ZEROES, &mixed), OK);
    let zeros = [3..5, 100..101, 1000..2001, 50..59, 200..216];
    assert!(disk.contents() == sevens_and_zeros(&zeros));
    assert_eq!(driver.request(T_IN, 4, &[w(DATA, 1024)]), (S_OK, 1025));
    assert_eq!(driver.bytes(DATA, 1024), [[0; 512], [7; 512]].concat());
    let counters = driver.device.counters();
    assert_eq!((counters.write_zeroes, counters.discards), (3, 0));
    assert_eq!(counters.errors, 0);
}

#[test]
fn the_payload_may_be_in_pieces_anywhere() {
    let (mut driver, disk) = live();
    let payload = range(9, 2, 0).to_le_bytes();
    driver.put(SEAM - 5, payload);
    let header = driver.header(T_WRITE_ZEROES, 0);
    let pieces = [
        header,
        r(SEAM - 5, 3),
        r(SEAM - 2, 0),
        r(SEAM - 2, 13),
        status(),
    ];
    assert_eq!(driver.run(&pieces), OK);
    assert!(disk.contents() == sevens_and_zeros(&[9..10, 10..11]));
}

#[test]
fn a_discard_of_a_file_gives_its_blocks_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), sevens_and_zeros(&[])).unwrap();
    file.as_file().sync_all().unwrap();
    let blocks = || file.as_file().metadata().unwrap().blocks();
    let full = blocks();
    let backend = Arc::new(FileBackend::open(file.path(), false).unwrap());
    let mut driver = Driver::live_with(backend, config(), FEATURES | F_DISCARD | F_WRITE_ZEROES);
    let half = DISK_SECTORS as u32 / 2;
    assert_eq!(send(&mut driver, T_DISCARD, &[range(0, half, 0)]), OK);
    assert_eq!(driver.device.counters().discards, 1);
    assert!(blocks() <= full / 2 + 8, "{} of {full}", blocks());
    let rest = range(half.into(), half, FLAG_UNMAP);
    assert_eq!(send(&mut driver, T_WRITE_ZEROES, &[rest]), OK);
    assert!(blocks() <= 16, "{} of {full}", blocks());
    let content = fs::read(file.path()).unwrap();
    assert!(content == vec![0; DISK_SECTORS as usize * 512]);
}

#[test]
fn zeros_are_durable_where_flush_was_not_accepted() {
    let faulty = |features| {
        let (mut driver, controls) = faulty(config());
        driver.start(features | F_WRITE_ZEROES);
        let error = iolite_devices::block::backend::fault::Effect::Error(5);
        controls.fail(
            iolite_devices::block::inject::Operation::Flush,
            0..u64::MAX,
            error,
        );
        let answer = send(&mut driver, T_WRITE_ZEROES, &[range(0, 1, 0)]);
        controls.heal();
        answer
    };
    assert_eq!(faulty(FEATURES), OK);
    assert_eq!(faulty(FEATURES & !F_FLUSH), IOERR, "no flush was tried");
}

#[test]
fn the_configuration_space_says_what_is_possible() {
    let driver = Driver::cold(memory_disk(), BlockConfig::new("vdt"));
    let offered = driver.offered();
    assert_eq!(offered & F_DISCARD, F_DISCARD);
    assert_eq!(offered & F_WRITE_ZEROES, F_WRITE_ZEROES);
    let field = |offset| driver.read(reg::CONFIG + offset);
    assert_eq!(field(config::MAX_DISCARD_SECTORS), 1 << 21);
    assert_eq!(field(config::MAX_DISCARD_SEG), 32);
    assert_eq!(field(config::DISCARD_SECTOR_ALIGNMENT), 8);
    assert_eq!(field(config::MAX_WRITE_ZEROES_SECTORS), 1 << 17);
    assert_eq!(field(config::MAX_WRITE_ZEROES_SEG), 8);
    assert_eq!(field(config::WRITE_ZEROES_MAY_UNMAP), 1);
}
