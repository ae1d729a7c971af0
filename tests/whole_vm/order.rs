//! Requests that complete out of order on purpose, and reads that fail.
//!
//! The disk key `latency` delays each request by another time; strace delays, interrupts or fails
//! the system calls of the workers themselves, which a plain disk does not do on command. And it tells
//! in which order they were.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::{Ended, Iolite};

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test(
            "order::random_latencies_let_requests_overtake",
            random_latencies,
        ),
        trial::test_with(
            "strace",
            "order::overtaken_requests_keep_their_bytes",
            overtaken,
        ),
        trial::test_with(
            "strace",
            "order::interrupted_reads_are_repeated",
            interrupted,
        ),
        trial::test_with(
            "strace",
            "order::a_failed_read_is_an_error_for_the_program",
            failed,
        ),
        trial::test_with("strace", "order::an_fsync_is_one_of_the_host", fsync),
    ]
}

fn random_latencies() -> Outcome {
    let image = Image::patterned(1 << 20, 29)?;
    let disk = image.with("ro,workers=8,latency=1ms-5ms");
    let run = Iolite::program("threads /dev/vdb 8").arg("-v").disk(disk);
    some_overtake(&run.expect(0)?)
}

/// Eight threads of the guest read while every third read of each worker takes 3 ms longer.
fn overtaken() -> Outcome {
    let image = Image::patterned(1 << 20, 31)?;
    let run = Iolite::program("threads /dev/vdb 8")
        .arg("-v")
        .disk(image.with("ro,workers=8"));
    let ended = run
        .injecting(&image.path(), "delay_enter=3000:when=1+3")
        .expect(0)?;
    some_overtake(&ended)
}

fn some_overtake(ended: &Ended) -> Outcome {
    let completed: Vec<u64> = ended.stderr.lines().filter_map(completed_id).collect();
    let overtaken = completed
        .windows(2)
        .filter(|pair| pair[0] > pair[1])
        .count();
    ensure!(
        overtaken > 0,
        "all {} completed in order\n{}",
        completed.len(),
        ended.report()
    );
    Ok(())
}

/// The id in a line such as `[...] vdb #17 used: ...`.
fn completed_id(line: &str) -> Option<u64> {
    let (_, request) = line.split_once("vdb #")?;
    let (id, step) = request.split_once(' ')?;
    step.starts_with("used").then(|| id.parse().ok())?
}

fn interrupted() -> Outcome {
    verify_with("error=EINTR:when=1+2")?.expect(0)?;
    Ok(())
}

fn failed() -> Outcome {
    let ended = verify_with("error=EIO:when=2+1")?;
    ensure!(
        ended.code() % 2 == 1,
        "the guest saw no error\n{}",
        ended.report()
    );
    let said = ended.stdout.to_lowercase();
    ensure!(said.contains("input/output error"), "{}", ended.report());
    Ok(())
}

fn verify_with(fault: &str) -> Result<Ended, Failed> {
    let image = Image::patterned(512 << 10, 37)?;
    let run = Iolite::program("verify /dev/vdb 37").disk(image.with("ro,workers=1"));
    run.injecting(&image.path(), fault).finish()
}

/// The guest's program writes, calls fsync, and says so: what was written goes to the host's file, then
/// comes an fdatasync, and when that has ended the program goes on.
fn fsync() -> Outcome {
    for engine in ["pool", "uring", "sync"] {
        let image = Image::zeroed(SIZE as u64)?;
        let log = image.beside("log");
        let disk = image.with(&format!("engine={engine}"));
        let run = Iolite::program("fill /dev/vdb 7").disk(disk);
        let ended = run.recording(CALLS, &log).finish()?;
        if ended.stderr.contains("cannot set up io_uring") {
            continue; // The host has none.
        }
        ended.expect(0)?.says("written and flushed")?;
        image.holds(7, SIZE)?;
        let log = fs::read_to_string(log)?;
        let order = order_of(&log, &image.path().to_string_lossy());
        // What follows is the end of the machine.
        let in_order = order.starts_with("WFD") || order.starts_with("FD") && engine == "uring";
        ensure!(in_order, "{engine}: {order} of\n{log}");
    }
    Ok(())
}

const SIZE: usize = 1 << 20;
/// What strace is to write down.
const CALLS: &str = "write,pwrite64,pwritev,pwritev2,fdatasync";

/// In the order of strace's lines: W for writes to `image`, F for an fdatasync of it that has ended, D
/// for when the program is done.
fn order_of(log: &str, image: &str) -> String {
    let (mut order, mut console) = (String::new(), String::new());
    for line in log.lines() {
        let step = if line.contains("fdatasync") {
            line.ends_with("= 0").then_some('F')
        } else if line.contains("pwrite") && line.contains(image) {
            Some('W')
        } else {
            // A character at a time.
            let written = line.split('"').nth(1).unwrap_or_default();
            console.push_str(written);
            let done = console.ends_with("written and flushed");
            (done && !written.is_empty()).then_some('D')
        };
        if step.is_some_and(|step| !order.ends_with(step)) {
            order.extend(step);
        }
    }
    order
}
