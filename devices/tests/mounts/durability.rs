//! What the device says is on a disk that loses what is written to it: it is there, or somebody is told
//! that it is not.

use std::io;
use std::path::Path;
use std::sync::Arc;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::virtio::blk::{BlockConfig, Cache};
use iolite_devices_abi::blk::*;

use super::driver::*;
use super::scenario::LossyDisk;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// A disk of four workers on the image at `path`.
fn disk(path: &Path, engine: Engine, cache: Cache, features: u64) -> Driver {
    let config = BlockConfig {
        workers: 4,
        queue_size: 256,
        cache,
        engine: Some(engine),
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

/// Linux says once for each open file that something was lost: who of many asks first is told.
pub fn when_writes_are_lost_every_flush_fails(engine: Engine) -> io::Result<()> {
    let disk = LossyDisk::new(24 * MIB)?;
    disk.fill_up(0).unwrap();
    for round in 0..6 {
        let mut driver = self::disk(&disk.image(), engine, Cache::WriteBack, FEATURES);
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
    Ok(())
}

/// Many in flight, and room for a third of them.
fn durable_writes(engine: Engine, cache: Cache, features: u64) -> io::Result<()> {
    const WRITES: u64 = 768;
    const IN_FLIGHT: u16 = 64;
    for _ in 0..2 {
        let bytes = WRITES * BLOCK as u64;
        let disk = LossyDisk::new(bytes)?;
        disk.fill_up(bytes / 3).unwrap();
        let mut promised = Vec::new();
        let mut driver = self::disk(&disk.image(), engine, cache, features);
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
    Ok(())
}

pub fn a_write_that_must_be_durable_is_on_the_disk_without_flushes(
    engine: Engine,
) -> io::Result<()> {
    durable_writes(engine, Cache::WriteBack, FEATURES & !F_FLUSH)
}

pub fn a_write_that_must_be_durable_is_on_the_disk_with_writethrough(
    engine: Engine,
) -> io::Result<()> {
    durable_writes(engine, Cache::WriteThrough, FEATURES)
}
