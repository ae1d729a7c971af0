//! Every byte, whatever happens: random reads, writes, zeros, discards and flushes, many in flight at
//! once, some of which fail on purpose, with resets of the disk and of single queues in between, against a
//! model of the disk.
//!
//! Requests that are in flight together touch different sectors, so the model knows what each of them
//! must find or leave. One that failed has left what was there. One that was in flight at a reset has
//! been done or not, as a whole sector each: what the disk says then is looked up, and counts. A
//! disk has one to four queues, and a request goes to any.

mod disk;

use std::sync::Arc;

use iolite_devices::block::backend::fault::{FaultBackend, Faults};
use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::block::backend::{Backend, OpenError};
use iolite_devices::block::inject::{Failure, Injection, Latency, MILLION, Operation, Which};
use iolite_devices::virtio::blk::BlockConfig;

use crate::driver::*;
use disk::{SECTORS, Test};

/// Some of each operation fail, and all take a little longer than they would.
fn faulty_injection(seed: u64) -> Injection {
    let failing = |operation| Failure {
        operation,
        which: Which::Chance(MILLION / 20),
    };
    use Operation::{Discard, Flush, Read, Write};
    Injection {
        failures: [Read, Write, Discard, Flush].map(failing).into(),
        latency: Latency::between(
            std::time::Duration::ZERO,
            std::time::Duration::from_micros(300),
        ),
        seed,
        ..Injection::default()
    }
}

fn memory() -> Arc<MemoryBackend> {
    Arc::new(MemoryBackend::writable(&pattern(512 * SECTORS)).unwrap())
}

/// Runs on `backend`, with and without things that go wrong on purpose; then `contents` are the
/// disk's.
fn every_byte_is_right(
    make: impl Fn() -> (Arc<dyn Backend>, Box<dyn Fn() -> Vec<u8>>),
    rounds: usize,
) {
    for (seed, workers, queues) in [(1, 1, 1), (2, 4, 2), (3, 2, 4)] {
        for injection in [Injection::default(), faulty_injection(seed)] {
            let fails = !injection.failures.is_empty();
            let (backend, contents) = make();
            let config = BlockConfig {
                workers,
                queues,
                injection,
                ..config()
            };
            let mut test = Test::new(backend, config, seed);
            test.run(rounds);
            test.check();
            assert_eq!(test.failed > 0, fails);
            test.driver.device.shutdown().unwrap();
            assert!(contents() == test.model, "{queues} queues");
        }
    }
}

#[test]
fn in_memory() {
    every_byte_is_right(
        || {
            let disk = memory();
            (disk.clone(), Box::new(move || disk.contents()))
        },
        80,
    );
}

#[test]
fn in_memory_that_takes_its_time() {
    every_byte_is_right(
        || {
            let disk = memory();
            let faults = Arc::new(Faults::default());
            faults.stagger(3, std::time::Duration::from_micros(100));
            let slow = FaultBackend::new(disk.clone(), faults);
            (Arc::new(slow), Box::new(move || disk.contents()))
        },
        40,
    );
}

fn in_a_file(open: fn(&std::path::Path, bool) -> Result<FileBackend, OpenError>) {
    every_byte_is_right(
        || {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), pattern(512 * SECTORS)).unwrap();
            let disk: Arc<dyn Backend> = match open(file.path(), false) {
                Ok(backend) => Arc::new(backend),
                Err(OpenError::NoDirect(_)) => {
                    Arc::new(FileBackend::open(file.path(), false).unwrap())
                }
                Err(error) => panic!("{error}"),
            };
            (disk, Box::new(move || std::fs::read(file.path()).unwrap()))
        },
        40,
    );
}

#[test]
fn in_a_file_through_the_page_cache() {
    in_a_file(FileBackend::open);
}

#[test]
fn in_a_file_past_the_page_cache() {
    in_a_file(FileBackend::open_direct);
}
