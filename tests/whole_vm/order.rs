//! Requests that complete out of order on purpose, and reads that fail.
//!
//! The disk key `latency` delays each request by another time; strace delays, interrupts or fails
//! the system calls of the workers themselves, which a plain disk does not do on command.

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
