//! What a disk says of itself, and what changes while it is in use: the cache mode, which the
//! driver chooses, and the size.

use std::sync::Arc;

use iolite_devices::block::backend::fault::Effect;
use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::block::inject::Operation;
use iolite_devices::virtio::blk::{BlockConfig, BlockError, Cache};
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;

use super::driver::*;

const OK: (u8, u32) = (S_OK, 1);
const IOERR: (u8, u32) = (S_IOERR, 1);

fn byte(driver: &Driver, offset: u64) -> u8 {
    let mut byte = [0xff];
    driver.window.read(reg::CONFIG + offset, &mut byte);
    byte[0]
}

fn sectors(driver: &Driver) -> u64 {
    let mut capacity = [0; 8];
    driver.window.read(reg::CONFIG, &mut capacity);
    u64::from_le_bytes(capacity)
}

#[test]
fn blocks_are_as_large_as_chosen() {
    for (block_size, exponent) in [(512, 3), (4096, 0)] {
        let config = BlockConfig {
            block_size,
            ..config()
        };
        let mut driver = Driver::live_with(memory_disk(), config, FEATURES);
        let field = |offset| driver.read(reg::CONFIG + offset);
        assert_eq!(driver.offered() & F_TOPOLOGY, F_TOPOLOGY);
        assert_eq!(driver.offered() & F_SIZE_MAX, F_SIZE_MAX);
        assert_eq!(field(config::SIZE_MAX), 1 << 30);
        assert_eq!(field(config::BLK_SIZE), block_size);
        assert_eq!(byte(&driver, config::PHYSICAL_BLOCK_EXP), exponent);
        assert_eq!(byte(&driver, config::ALIGNMENT_OFFSET), 0);
        assert_eq!(byte(&driver, config::MIN_IO_SIZE), 1 << exponent);
        assert_eq!(field(config::OPT_IO_SIZE), 0);
        assert_eq!(sectors(&driver), SECTORS, "in sectors all the same");
        assert_eq!(driver.request(T_IN, 3, &[w(DATA, 512)]), (S_OK, 513));
    }
}

#[test]
fn a_disk_is_a_whole_number_of_blocks() {
    let new = |block_size, bytes| {
        let backend = Arc::new(MemoryBackend::zeroed(bytes).unwrap());
        let config = BlockConfig {
            block_size,
            ..config()
        };
        Driver::try_cold(backend, config).map(|_| ())
    };
    assert!(new(4096, 8192).is_ok());
    assert!(matches!(
        new(4096, 8192 + 512),
        Err(BlockError::PartialBlock {
            capacity: 8704,
            block_size: 4096
        })
    ));
    assert!(matches!(new(1024, 8192), Err(BlockError::BlockSize(1024))));
}

/// A live disk whose flushes fail, so that writes tell whether they are durable.
fn cached(cache: Cache, features: u64) -> (Driver, Controls) {
    let (mut driver, controls) = faulty(BlockConfig { cache, ..config() });
    controls.fail(Operation::Flush, 0..0, Effect::Error(libc::EIO));
    driver.start(features);
    (driver, controls)
}

/// Whether a write is made durable before it completes.
fn is_write_through(driver: &mut Driver) -> bool {
    match driver.request(T_OUT, 0, &[r(DATA, 512)]) {
        OK => false,
        IOERR => true,
        other => panic!("{other:?}"),
    }
}

fn choose(driver: &Driver, mode: u8) {
    driver
        .window
        .write(reg::CONFIG + config::WRITEBACK, &[mode]);
}

#[test]
fn the_driver_chooses_the_cache_mode() {
    let features = FEATURES | F_CONFIG_WCE;
    for (cache, initially) in [(Cache::WriteBack, 1), (Cache::WriteThrough, 0)] {
        let (mut driver, _controls) = cached(cache, features);
        assert_eq!(byte(&driver, config::WRITEBACK), initially);
        assert_eq!(is_write_through(&mut driver), initially == 0);
        for mode in [0, 1, 1, 0] {
            choose(&driver, mode);
            assert_eq!(byte(&driver, config::WRITEBACK), mode);
            assert_eq!(is_write_through(&mut driver), mode == 0);
        }
        for nonsense in [2, 0x80, 0xff] {
            choose(&driver, nonsense);
            assert_eq!(byte(&driver, config::WRITEBACK), 0);
        }
        let whole_register = [1; 4];
        driver
            .window
            .write(reg::CONFIG + config::WRITEBACK, &whole_register);
        assert_eq!(byte(&driver, config::WRITEBACK), 0);
        choose(&driver, 1 - initially);
        driver.start(features);
        assert_eq!(byte(&driver, config::WRITEBACK), initially, "a reset");
    }
}

#[test]
fn the_cache_mode_is_chosen_after_features_are() {
    let driver = Driver::cold(memory_disk(), config());
    choose(&driver, 0);
    driver.negotiate(FEATURES | F_CONFIG_WCE);
    assert_eq!(byte(&driver, config::WRITEBACK), 1);
    choose(&driver, 0);
    assert_eq!(byte(&driver, config::WRITEBACK), 0);
}

#[test]
fn without_flush_every_cache_writes_through() {
    for cache in [Cache::WriteBack, Cache::WriteThrough] {
        let (mut driver, _controls) = cached(cache, (FEATURES & !F_FLUSH) | F_CONFIG_WCE);
        assert_eq!(byte(&driver, config::WRITEBACK), 0);
        assert!(is_write_through(&mut driver));
        let (mut driver, _controls) = cached(cache, FEATURES & !F_FLUSH);
        assert!(is_write_through(&mut driver));
    }
}

#[test]
fn a_disk_that_writes_through_does_so_for_drivers_that_flush() {
    let (mut driver, _controls) = cached(Cache::WriteThrough, FEATURES);
    assert!(is_write_through(&mut driver));
}

#[test]
fn an_unsafe_disk_never_flushes() {
    for features in [FEATURES, FEATURES & !F_FLUSH, FEATURES | F_CONFIG_WCE] {
        let (mut driver, _controls) = cached(Cache::Unsafe, features);
        choose(&driver, 0);
        assert!(!is_write_through(&mut driver));
        assert_eq!(driver.request(T_FLUSH, 0, &[]), OK);
        let counters = driver.device.counters();
        assert_eq!((counters.flushes, counters.others), (1, 0));
        driver.device.shutdown().unwrap();
    }
}

#[test]
fn a_disk_that_grows_tells_its_driver() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let resize = |sectors: u64| file.as_file().set_len(512 * sectors).unwrap();
    resize(64);
    let backend = Arc::new(FileBackend::open(file.path(), false).unwrap());
    let mut driver = Driver::live_with(backend, config(), FEATURES);
    let generation = driver.read(reg::CONFIG_GENERATION);
    assert_eq!(driver.request(T_OUT, 64, &[r(DATA, 512)]), IOERR);
    driver.write(reg::INTERRUPT_ACK, reg::INTERRUPT_USED_RING);

    resize(100);
    assert_eq!(sectors(&driver), 64, "nobody has asked yet");
    let edges = driver.edges.count();
    assert_eq!(driver.device.resize().unwrap(), 100 * 512);
    assert_eq!(sectors(&driver), 100);
    assert_ne!(driver.read(reg::CONFIG_GENERATION), generation);
    assert_eq!(driver.edges.count(), edges + 1);
    let reason = driver.read(reg::INTERRUPT_STATUS);
    assert_eq!(reason, reg::INTERRUPT_CONFIG_CHANGE);
    driver.write(reg::INTERRUPT_ACK, reason);
    assert_eq!(driver.request(T_OUT, 99, &[r(DATA, 512)]), OK);
    assert_eq!(driver.request(T_OUT, 100, &[r(DATA, 512)]), IOERR);

    // Nothing has changed: nobody is told.
    let (generation, edges) = (driver.read(reg::CONFIG_GENERATION), driver.edges.count());
    assert_eq!(driver.device.resize().unwrap(), 100 * 512);
    assert_eq!(driver.read(reg::CONFIG_GENERATION), generation);
    assert_eq!(driver.edges.count(), edges);

    // Smaller, and not a whole number of blocks.
    file.as_file().set_len(512 * 10 + 100).unwrap();
    assert_eq!(driver.device.resize().unwrap(), 10 * 512);
    assert_eq!(driver.request(T_IN, 10, &[w(DATA, 512)]), IOERR);
    file.as_file().set_len(100).unwrap();
    assert!(driver.device.resize().is_err());
    assert_eq!(sectors(&driver), 10);
    resize(10);
    driver.assert_recovers();
}

#[test]
fn a_driver_is_told_when_it_is_there_of_what_changed_meanwhile() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(512 * 64).unwrap();
    let backend = Arc::new(FileBackend::open(file.path(), false).unwrap());
    let mut driver = Driver::cold(backend, config());
    driver.negotiate(FEATURES);
    file.as_file().set_len(512 * 65).unwrap();
    driver.device.resize().unwrap();
    assert_eq!(driver.edges.count(), 0);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
    assert_eq!(sectors(&driver), 65);
    // It may have read the capacity before.
    driver.clear_rings();
    driver.place_queue(DESC, AVAIL, USED);
    driver.driver_ok();
    assert_eq!(driver.edges.count(), 1);
    assert_eq!(
        driver.read(reg::INTERRUPT_STATUS),
        reg::INTERRUPT_CONFIG_CHANGE
    );
    // Once; and what was before a reset is known after it.
    driver.assert_recovers();
    assert_eq!(driver.edges.count(), 2, "but for the read");
    driver.write(reg::STATUS, 0);
    file.as_file().set_len(512 * 66).unwrap();
    driver.device.resize().unwrap();
    driver.start(FEATURES);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
}
