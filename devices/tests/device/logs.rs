//! What a guest can do by being complained of: little. There is one logger for a process, so each
//! test here is the parent of a process of its own.

use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use iolite_devices::block::backend::fault::{Effect, FaultBackend, Faults, Operation};
use iolite_devices::block::backend::{Backend, Waits};
use iolite_devices::block::buffers::GuestBuffers;
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::block::inject::{Injection, Limits, Rate};
use iolite_devices::bus::BusDevice;
use iolite_devices::interrupt::Interrupt;
use iolite_devices::serial::Serial;
use iolite_devices::throttle::Budget;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::{F_MQ, S_IOERR};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::driver::*;
use super::queues::{Lane, set_up_with};

/// Two queues, so that there is one to suffer and one to look on.
const FEATURES_MQ: u64 = FEATURES | F_MQ | F_RING_RESET;

#[test]
fn the_lines_of_a_machine_are_few() {
    in_a_process_of_its_own("storm");
}

#[test]
fn nobody_waits_for_a_logger() {
    in_a_process_of_its_own("stuck_in_the_queue");
    in_a_process_of_its_own("stuck_in_the_queue_of_a_limited_disk");
    in_a_process_of_its_own("stuck_while_a_request_is_let_through");
    in_a_process_of_its_own("stuck_in_the_engine");
    in_a_process_of_its_own("stuck_in_the_engine_at_once");
    in_a_process_of_its_own("stuck_in_a_broken_ring");
    in_a_process_of_its_own("stuck_in_the_window");
    in_a_process_of_its_own("stuck_without_interrupts");
    in_a_process_of_its_own("stuck_while_everything_is_told");
    in_a_process_of_its_own("stuck_in_the_serial_port");
    in_a_process_of_its_own("stuck_in_the_output_of_the_serial_port");
}

fn in_a_process_of_its_own(test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture"]);
    let output = command.arg(format!("logs::{test}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Keeps what it is told; or keeps whoever tells it something, for ever.
struct Logger {
    lines: Mutex<Vec<String>>,
    blocks: AtomicBool,
    /// How many threads it keeps.
    kept: AtomicU32,
}

static LOGGER: Logger = Logger {
    lines: Mutex::new(Vec::new()),
    blocks: AtomicBool::new(false),
    kept: AtomicU32::new(0),
};

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if self.blocks.load(Ordering::SeqCst) {
            self.kept.fetch_add(1, Ordering::SeqCst);
            loop {
                thread::park();
            }
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn log_at(level: Level) {
    log::set_logger(&LOGGER).unwrap();
    log::set_max_level(level.to_level_filter());
}

/// A disk that nobody may wait for: its threads are stuck in the logger.
type Lost<T> = ManuallyDrop<T>;

/// A live disk of `queues` queues.
fn disk(
    name: &str,
    queues: u16,
    faults: Arc<Faults>,
    budget: &Budget,
) -> (Lost<Driver>, Vec<Lane>) {
    let config = BlockConfig {
        name: name.into(),
        queues,
        budget: budget.clone(),
        ..config()
    };
    live(faults, config)
}

/// Its two queues share a rate, which they never reach.
fn limited_disk() -> (Lost<Driver>, Vec<Lane>) {
    let million = NonZeroU64::new(1_000_000);
    let rate = million.map(|rate| Rate::new(rate, None));
    let limits = Limits {
        requests: rate,
        bytes: rate,
    };
    let config = BlockConfig {
        queues: 2,
        injection: Injection {
            limits,
            ..Injection::default()
        },
        ..config()
    };
    live(Arc::default(), config)
}

fn live(faults: Arc<Faults>, config: BlockConfig) -> (Lost<Driver>, Vec<Lane>) {
    let backend = Arc::new(FaultBackend::new(memory_disk(), faults));
    let queues = config.queues;
    let driver = ManuallyDrop::new(Driver::cold(backend, config));
    let lanes = set_up_with(&driver, queues, FEATURES_MQ);
    (driver, lanes)
}

/// From now on the logger blocks, and a test that waits for it fails.
fn block_the_logger() {
    LOGGER.blocks.store(true, Ordering::SeqCst);
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(20));
        eprintln!("the test waits for the logger");
        std::process::abort();
    });
}

/// Somebody is stuck, and the disk goes on: `other` is served, and what is asked of the device is
/// done.
fn assert_nobody_else_is(driver: &Driver, other: &mut Lane) {
    let is_kept = || LOGGER.kept.load(Ordering::SeqCst) > 0;
    assert!(eventually(is_kept), "nobody complained");
    if driver.status() & DEVICE_NEEDS_RESET == 0 {
        other.send(driver, 3);
        other.assert_read(driver, 3);
    }
    driver.write(reg::QUEUE_SEL, 0);
    driver.write(reg::QUEUE_RESET, 1);
    assert!(eventually(|| driver.read(reg::QUEUE_RESET) == 0));
    driver.write(reg::STATUS, 0);
    assert!(
        eventually(|| driver.status() == 0),
        "the drain does not end"
    );
    let mut lanes = set_up_with(driver, 2, FEATURES_MQ);
    lanes[1].send(driver, 4);
    lanes[1].assert_read(driver, 4);
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_queue() {
    log_at(Level::Warn);
    let (driver, mut lanes) = disk("vdl", 2, Arc::default(), &Budget::default());
    block_the_logger();
    // There is no such sector. One answer is not held up by its complaint either.
    lanes[0].send(&driver, SECTORS);
    assert!(eventually(|| lanes[0].is_answered(&driver)));
    assert_nobody_else_is(&driver, &mut lanes[1]);
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_queue_of_a_limited_disk() {
    log_at(Level::Warn);
    let (driver, mut lanes) = limited_disk();
    block_the_logger();
    lanes[0].send(&driver, SECTORS);
    assert!(eventually(|| lanes[0].is_answered(&driver)));
    assert_nobody_else_is(&driver, &mut lanes[1]);
}

#[test]
#[ignore = "the child of a test"]
fn stuck_while_a_request_is_let_through() {
    log_at(Level::Warn);
    let (driver, mut lanes) = limited_disk();
    block_the_logger();
    log::set_max_level(LevelFilter::Debug);
    lanes[0].send(&driver, 1);
    assert!(eventually(|| LOGGER.kept.load(Ordering::SeqCst) == 1));
    log::set_max_level(LevelFilter::Warn);
    lanes[1].send(&driver, 2);
    lanes[1].assert_read(&driver, 2);
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_engine() {
    log_at(Level::Warn);
    let faults = Arc::new(Faults::default());
    faults.fail(Operation::Read, 0..512, Effect::Error(libc::EIO));
    let (driver, mut lanes) = disk("vdl", 2, faults, &Budget::default());
    block_the_logger();
    lanes[0].send(&driver, 0);
    assert!(eventually(|| lanes[0].is_answered(&driver)));
    assert_eq!(driver.get::<u8>(lanes[0].base + 0x3800), S_IOERR);
    assert_nobody_else_is(&driver, &mut lanes[1]);
}

/// A disk that fails at once, on the queue's thread.
struct Broken;

impl Backend for Broken {
    fn capacity(&self) -> u64 {
        SECTORS * 512
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, _: &GuestBuffers) -> io::Result<()> {
        match offset {
            0 => Err(io::Error::other("broken")),
            _ => Ok(()),
        }
    }

    fn write(&self, _: u64, _: &GuestBuffers) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn waits(&self) -> Waits {
        Waits::Never
    }
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_engine_at_once() {
    log_at(Level::Warn);
    let config = BlockConfig {
        queues: 2,
        ..config()
    };
    let driver = ManuallyDrop::new(Driver::cold(Arc::new(Broken), config));
    let mut lanes = set_up_with(&driver, 2, FEATURES_MQ);
    block_the_logger();
    lanes[0].send(&driver, 0);
    assert!(eventually(|| lanes[0].is_answered(&driver)));
    assert!(eventually(|| LOGGER.kept.load(Ordering::SeqCst) > 0));
    lanes[1].send(&driver, 1);
    assert!(eventually(|| lanes[1].is_answered(&driver)));
    driver.write(reg::STATUS, 0);
    assert!(
        eventually(|| driver.status() == 0),
        "the drain does not end"
    );
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_a_broken_ring() {
    log_at(Level::Warn);
    let (driver, mut lanes) = disk("vdl", 2, Arc::default(), &Budget::default());
    block_the_logger();
    lanes[0].set_avail_idx(&driver, QUEUE_SIZE + 1);
    assert!(eventually(|| driver.status() & DEVICE_NEEDS_RESET != 0));
    assert_nobody_else_is(&driver, &mut lanes[1]);
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_window() {
    log_at(Level::Warn);
    let (driver, mut lanes) = disk("vdl", 2, Arc::default(), &Budget::default());
    block_the_logger();
    // A vCPU that takes a step back, and stays in the logger.
    let window = driver.window.clone();
    thread::spawn(move || window.write(reg::STATUS, &ACKNOWLEDGE.to_le_bytes()));
    assert_nobody_else_is(&driver, &mut lanes[1]);
}

/// A line that is not there.
struct Cut;

impl Interrupt for Cut {
    fn trigger(&self) -> io::Result<()> {
        Err(io::Error::other("cut"))
    }
}

#[test]
#[ignore = "the child of a test"]
fn stuck_without_interrupts() {
    log_at(Level::Warn);
    let config = BlockConfig {
        queues: 2,
        ..config()
    };
    // Workers raise interrupts too.
    let backend = Arc::new(FaultBackend::new(memory_disk(), Arc::default()));
    let driver = Driver::with_interrupt(backend, config, Arc::new(Cut));
    let driver = ManuallyDrop::new(driver.unwrap());
    let mut lanes = set_up_with(&driver, 2, FEATURES_MQ);
    block_the_logger();
    lanes[0].send(&driver, 1);
    lanes[0].assert_read(&driver, 1);
    assert!(eventually(|| LOGGER.kept.load(Ordering::SeqCst) > 0));
    // Whoever else raises an interrupt may be stuck too, but nobody who only looks, or resets.
    driver.write(reg::STATUS, 0);
    assert!(eventually(|| driver.status() == 0));
}

/// With -v each request is told of while it is in flight: who tells it is stuck with it. Others are
/// not, in the same queue either: no lock is held.
#[test]
#[ignore = "the child of a test"]
fn stuck_while_everything_is_told() {
    log_at(Level::Warn);
    let faults = Arc::new(Faults::default());
    let (driver, mut lanes) = disk("vdl", 2, faults.clone(), &Budget::default());
    let two_at_once = engine() != Engine::Sync;
    if two_at_once {
        faults.hold();
        lanes[0].send_at(&driver, 1, 3);
        assert!(eventually(|| faults.held() == 1));
    }
    block_the_logger();
    log::set_max_level(LevelFilter::Debug);
    lanes[0].send(&driver, 1);
    assert!(eventually(|| LOGGER.kept.load(Ordering::SeqCst) == 1));
    log::set_max_level(LevelFilter::Warn);
    faults.release();
    lanes[1].send(&driver, 2);
    lanes[1].assert_read(&driver, 2);
    assert!(!two_at_once || eventually(|| lanes[0].used(&driver) == 1));
    // The request in flight is never finished; the vCPU that resets it goes on all the same.
    let start = Instant::now();
    driver.write(reg::STATUS, 0);
    driver.status();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(driver.device.queue_counters().count(), 2);
}

/// A terminal that was closed.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A port whose interrupts fail and whose output is lost.
fn bad_serial_port() -> Arc<Serial> {
    Arc::new(Serial::new(Box::new(Closed), Arc::new(Cut)).unwrap())
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_serial_port() {
    log_at(Level::Warn);
    let serial = bad_serial_port();
    serial.write(1, &[1]);
    block_the_logger();
    let other = serial.clone();
    thread::spawn(move || other.enqueue(b"x"));
    assert!(eventually(|| LOGGER.kept.load(Ordering::SeqCst) == 1));
    let mut data = [0];
    serial.read(0, &mut data);
    assert_eq!(data, *b"x");
}

#[test]
#[ignore = "the child of a test"]
fn stuck_in_the_output_of_the_serial_port() {
    log_at(Level::Debug);
    let serial = bad_serial_port();
    block_the_logger();
    let other = serial.clone();
    thread::spawn(move || other.write(0, b"x"));
    assert!(eventually(|| LOGGER.kept.load(Ordering::SeqCst) == 1));
    log::set_max_level(LevelFilter::Warn);
    serial.write(0, b"y");
}

#[test]
#[ignore = "the child of a test"]
fn storm() {
    const QUEUES: u16 = 16;
    log_at(Level::Warn);
    let names = ["vda", "vdb", "vdc", "vdd"];
    let budget = Budget::default();
    let mut disks = names.map(|name| disk(name, QUEUES, Arc::default(), &budget));
    let start = Instant::now();
    let mut complaints = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        for (driver, lanes) in &mut disks {
            driver.write(reg::STATUS, ACKNOWLEDGE);
            for lane in lanes {
                if lane.is_answered(driver) {
                    lane.send(driver, SECTORS);
                    complaints += 1;
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs() + 2;
    let lines = LOGGER.lines.lock().unwrap().clone();
    let few = usize::try_from(10 * seconds).unwrap();
    assert!(lines.len() <= few, "{} lines: {lines:#?}", lines.len());
    assert!(complaints > 10 * few, "only {complaints} complaints");
    for name in names {
        let heard = |line: &&String| line.starts_with(name);
        assert!(lines.iter().any(|line| heard(&line)), "{name}: {lines:#?}");
        let counted = format!(" of {name}");
        assert!(
            lines.iter().any(|line| line.contains(&counted)),
            "nobody says how many lines of {name} were left out: {lines:#?}"
        );
    }
}
