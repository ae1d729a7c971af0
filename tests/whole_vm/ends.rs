//! How a machine ends: by itself, by a crash, by a timeout, by a signal; and what its disks hold
//! then.

use std::fs::{self, File};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::{Image, pattern};
use crate::support::trial;
use crate::support::vm::Iolite;

const TIMEOUT: i32 = 14;

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("ends::a_status_leaves_through_the_exit_port", exit_port),
        trial::test("ends::a_timeout_has_its_code", timeout),
        trial::test("ends::a_signal_stops_a_busy_guest", busy_guest),
        trial::test(
            "ends::a_signal_during_writes_tears_no_sector",
            signal_during_writes,
        ),
        trial::test("ends::a_killed_machine_releases_its_image", killed),
        trial::test("ends::a_closed_stdout_ends_the_machine", closed_stdout),
        trial::test("ends::a_full_stdout_has_its_code", full_stdout),
    ]
}

fn exit_port() -> Outcome {
    // `verify` without arguments is a usage error, so its status is not 0.
    let ended = Iolite::program("verify").finish()?;
    ensure!(
        ended.code() % 2 == 1,
        "exit code {}\n{}",
        ended.code(),
        ended.report()
    );
    for (line, code) in [("exit 0", 0), ("exit 1", 3), ("exit 42", 85)] {
        let mut running = Iolite::run().start()?;
        running.send(&format!("{line}\n"))?;
        running.finish()?.expect(code)?;
    }
    Ok(())
}

fn timeout() -> Outcome {
    let ended = Iolite::program("spin")
        .option("--timeout", "700ms")
        .expect(TIMEOUT)?;
    ensure!(
        ended.took >= Duration::from_millis(700),
        "it ended early\n{}",
        ended.report()
    );
    ensure!(
        ended.stderr.lines().count() == 1,
        "not one line\n{}",
        ended.report()
    );
    Ok(())
}

fn busy_guest() -> Outcome {
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let mut running = Iolite::run().start()?;
        running.wait_for("iolite$ ", 1)?;
        running.send("spin\n")?;
        running
            .wait_for("spin\r\n", 1)
            .or_else(|_| running.wait_for("spin\n", 1))?;
        running.signal(signal)?;
        running.finish_with_input_open()?.expect(code)?;
    }
    Ok(())
}

/// The guest fills the same disk over and over with two seeds; a signal falls somewhere in
/// between. Every sector must then be one of the two patterns as a whole, and the image usable.
fn signal_during_writes() -> Outcome {
    let size = 8 << 20;
    for delay in [5, 30, 120] {
        let image = Image::patterned(size, 1)?;
        let mut running = Iolite::run().disk(image.path()).start()?;
        running.wait_for("iolite$ ", 1)?;
        running.send(&"fill /dev/vdb 2\nfill /dev/vdb 1\n".repeat(200))?;
        // Only once the first byte has changed is it a test of writes in flight.
        wait_for_first_write(&image, size)?;
        std::thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::SIGTERM)?;
        running.finish_with_input_open()?.expect(143)?;

        let bytes = image.bytes()?;
        ensure!(
            bytes.len() == size,
            "the image has {} bytes now",
            bytes.len()
        );
        let (one, two) = (pattern(1, 0, size), pattern(2, 0, size));
        let sectors = bytes.chunks(512).zip(one.chunks(512).zip(two.chunks(512)));
        for (sector, (found, (one, two))) in sectors.enumerate() {
            ensure!(found == one || found == two, "sector {sector} is torn");
        }
        Iolite::program("fill /dev/vdb 3")
            .disk(image.path())
            .expect(0)?;
        image.holds(3, size)?;
    }
    Ok(())
}

fn wait_for_first_write(image: &Image, size: usize) -> Outcome {
    let untouched = pattern(1, 0, size);
    for _ in 0..10_000 {
        if image.bytes()? != untouched {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Failed::from("the guest wrote nothing"))
}

/// After SIGKILL nothing has been drained or flushed by us, but the file is whole and unlocked.
fn killed() -> Outcome {
    let image = Image::zeroed(1 << 20)?;
    let running = Iolite::program("spin").disk(image.path()).start()?;
    let status = format!("/proc/{}/status", running.pid());
    ensure!(fs::exists(&status)?, "it ended before it was killed");
    running.signal(Signal::SIGKILL)?;
    running.finish()?.expect(1000 + Signal::SIGKILL as i32)?;
    Iolite::program("fill /dev/vdb 6")
        .disk(image.path())
        .expect(0)?;
    image.holds(6, 1 << 20)
}

fn closed_stdout() -> Outcome {
    let mut running = Iolite::run().start()?;
    running.wait_for("iolite$ ", 1)?;
    running.close_stdout();
    // The reader goes away on the first of these lines, if not before the second.
    running.send(&"echo into the void\n".repeat(20))?;
    let ended = running.finish_with_input_open()?.expect(141)?;
    ensure!(
        ended.stderr.is_empty(),
        "it is not calm about it\n{}",
        ended.report()
    );
    Ok(())
}

/// What is printed has no place: one line, whoever prints.
fn full_stdout() -> Outcome {
    let image = Image::patterned(1 << 20, 1)?;
    let trace = image.beside("trace");
    Iolite::traced_program("verify /dev/vdb 1")
        .disk(image.with("ro"))
        .option("--trace", &trace)
        .expect(0)?;
    let full = || File::options().write(true).open("/dev/full");
    for iolite in [
        Iolite::run(),
        Iolite::demo().option("--paths", "async-read"),
        Iolite::new().arg("check"),
        Iolite::new().args(["bench", "cost", "--operations", "1"]),
        Iolite::new().args(["trace", "summary"]).arg(&trace),
        Iolite::new().args(["trace", "timeline"]).arg(&trace),
        Iolite::new().arg("--help"),
    ] {
        let ended = iolite.stdout(full()?).expect(4)?;
        // A slow demo shows its progress besides.
        let errors = ended.stderr.lines().filter(|line| !line.ends_with(" %"));
        let errors: Vec<_> = errors.collect();
        let said = ended.stderr.contains("cannot write to stdout: No space");
        ensure!(said && errors.len() == 1, "{}", ended.report());
    }
    Ok(())
}
