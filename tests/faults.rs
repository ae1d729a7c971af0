//! Disks that are slow or faulty on purpose (the disk keys `latency=`, `fail=` and `seed=`), as the
//! programs of our guest see them: an error reaches who asked for a failing sector and nobody else,
//! and a delayed request holds up no other.
//!
//! One test: `cargo test --test faults -- NAME`. The environment is that of `whole_vm`.

#[allow(dead_code, reason = "shared with whole_vm, which uses all of it")]
mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed};
use nix::sys::signal::Signal;
use serde_json::Value;

use support::Outcome;
use support::image::{Image, pattern, same};
use support::trial;
use support::vm::{Ended, Iolite, deadline};

const SECTOR: u64 = 512;
const SIZE: usize = 1 << 20;
const SEED: u64 = 83;
/// Of the guest's messages.
const EIO: &str = "input/output error";

fn main() {
    support::dispositions::ignore_nothing();
    let arguments = Arguments::from_args();
    let tests = vec![
        trial::test("fail::chosen_sectors_and_no_others", chosen_sectors),
        trial::test("fail::every_way_of_reading_learns_of_it", ways_of_reading),
        trial::test("fail::a_failed_write_leaves_the_old_bytes", failed_write),
        trial::test("fail::a_failed_flush_reaches_the_program", failed_flush),
        trial::test("fail::a_write_back_at_the_end", failed_write_back),
        trial::test("fail::every_second_read", every_second_read),
        trial::test("fail::chance_is_repeatable", chance),
        trial::test("fail::sectors_beyond_the_disk", beyond_the_disk),
        trial::test("latency::a_request_takes_that_long", slow_reads),
        trial::test("latency::one_worker_delays_many_at_once", one_worker),
        trial::test("latency::the_end_does_not_wait_for_it", end_of_a_slow_disk),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn chosen_sectors() -> Outcome {
    let sectors = [999, 1000, 1003, 1007, 1008, 0, 2047];
    let reads = sectors.map(|sector| verify(sector, 1));
    let image = Image::patterned(SIZE, SEED)?;
    let ended = shell(&image.with("ro,fail=read:1000-1007"), &reads)?;
    for sector in sectors {
        let fails = (1000..=1007).contains(&sector);
        saw(&ended, sector, 1, fails)?;
    }
    Ok(())
}

/// Around the failing sectors, past the page cache and through it, by system call and by page fault.
fn ways_of_reading() -> Outcome {
    let image = Image::patterned(SIZE, SEED)?;
    // Read-ahead runs into the failing page, 125; who does not ask for it does not hear of it. A
    // length of no whole sectors goes through the page cache.
    let before = format!("verify /dev/vdb {SEED} 0 {}", 1000 * SECTOR - 1);
    let after = format!("verify /dev/vdb {SEED} {} 20001", 1008 * SECTOR);
    let whole = ["sha256", "sha256 --direct", "sha256 --map"].map(|way| format!("{way} /dev/vdb"));
    let [read, direct, map] = whole;
    let commands = [before, after, read, direct, map, verify(1008, 1040)];
    let ended = shell(&image.with("ro,fail=read:1000-1007"), &commands)?;
    let count = |text: &str| ended.stdout.to_lowercase().matches(text).count();
    ensure!(
        count(": ok") == 3,
        "not all others are read\n{}",
        ended.report()
    );
    ensure!(
        count(&format!("sha256: /dev/vdb: {EIO}")) == 2,
        "not two errors\n{}",
        ended.report()
    );
    let fault = "ended by the kernel: a page could not be read";
    ensure!(count(fault) == 1, "no fault\n{}", ended.report());
    let digest = image.sha256()?;
    ensure!(!ended.stdout.contains(&digest), "{}", ended.report());
    Ok(())
}

fn failed_write() -> Outcome {
    let (other, size) = (SEED + 1, 64 * SECTOR as usize);
    let image = Image::patterned(size, SEED)?;
    let commands = [(0, 8), (8, 1), (9, 55)].map(|(first, sectors)| {
        let (offset, len) = (first * SECTOR, sectors * SECTOR);
        format!("fill /dev/vdb {other} {offset} {len}")
    });
    let ended = shell(&image.with("fail=write:8"), &commands)?;
    let said = ended.stdout.to_lowercase();
    ensure!(said.matches(EIO).count() == 1, "{}", ended.report());
    let mut wanted = pattern(other, 0, size);
    wanted[8 * 512..9 * 512].copy_from_slice(&pattern(SEED, 8 * SECTOR, 512));
    same(&image.bytes()?, &wanted, &image.path())
}

/// Whoever wrote to the page cache and did not sync is gone; the machine says it, and its exit code.
fn failed_write_back() -> Outcome {
    const NOT_WRITTEN: i32 = 102 * 2 + 1;
    let (other, size) = (SEED + 1, 64 * SECTOR as usize);
    let fine = ("workers=2", 0);
    let failing = ("fail=write:7", NOT_WRITTEN);
    for (how, (keys, code)) in ["--no-sync", "--map"]
        .into_iter()
        .flat_map(|how| [(how, fine), (how, failing)])
    {
        let fill = format!("fill {how} /dev/vdb {other}");
        let image = Image::patterned(size, SEED)?;
        let ended = Iolite::program(&fill).disk(image.with(keys)).expect(code)?;
        let lost = ended.stdout.contains("iolite: /dev/vdb: data written");
        ensure!(lost == (code != 0), "{}", ended.report());
        if code == 0 {
            image.holds(other, size)?;
        }
    }
    Ok(())
}

/// The guest is told, and the host's own flush at the end is not concerned.
fn failed_flush() -> Outcome {
    let image = Image::zeroed(64 * SECTOR)?;
    let fill = format!("fill /dev/vdb {SEED}");
    let ended = shell(&image.with("fail=flush"), &[fill])?;
    let said = ended.stdout.to_lowercase();
    ensure!(said.contains(EIO), "{}", ended.report());
    ensure!(!said.contains("written and flushed"), "{}", ended.report());
    image.holds(SEED, 64 * SECTOR as usize)
}

fn every_second_read() -> Outcome {
    let image = Image::patterned(SIZE, SEED)?;
    let reads: Vec<_> = (0..6).map(|sector| verify(sector, 1)).collect();
    let ended = shell(&image.with("ro,fail=read:every:2"), &reads)?;
    for sector in 0..6 {
        saw(&ended, sector, 1, sector % 2 == 1)?;
    }
    Ok(())
}

fn chance() -> Outcome {
    let image = Image::patterned(SIZE, SEED)?;
    let reads: Vec<_> = (0..24).map(|sector| verify(sector, 1)).collect();
    let run = |seed: u64| -> Result<Vec<bool>, Failed> {
        let ended = shell(
            &image.with(&format!("ro,fail=read:50%,seed={seed}")),
            &reads,
        )?;
        let fails = |sector| saw(&ended, sector, 1, true).is_ok();
        Ok((0..24).map(fails).collect())
    };
    let (one, again, other) = (run(1)?, run(1)?, run(2)?);
    let failed = one.iter().filter(|fails| **fails).count();
    ensure!((4..=20).contains(&failed), "{failed} of 24 failed");
    ensure!(one == again, "the same seed: {one:?}, then {again:?}");
    ensure!(one != other, "seeds 1 and 2: {one:?}");
    Ok(())
}

fn beyond_the_disk() -> Outcome {
    let image = Image::zeroed(8 * SECTOR)?;
    let ended = Iolite::run().disk(image.with("fail=read:8")).expect(10)?;
    ensure!(
        ended.stderr.contains("sector 8 cannot fail") && ended.stderr.lines().count() == 1,
        "{}",
        ended.report()
    );
    Ok(())
}

/// One after the other every read waits; 32 in flight wait together.
fn slow_reads() -> Outcome {
    let image = Image::patterned(512 << 10, SEED)?;
    let results = image.beside("results.json");
    Iolite::demo()
        .disk(image.path())
        .option("--latency", "40ms")
        .option("--paths", "blocking-read,async-read")
        .option("--in-flight", "32")
        .option("--json", &results)
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(&results)?)?;
    let number = |value: &Value| value.as_f64().ok_or("no number");
    let [blocking, asynchronous] = [0, 1].map(|row| &results["paths"][row]);
    for row in [blocking, asynchronous] {
        let p50 = number(&row["latency_us"]["p50"])?;
        let slow = p50 >= 40_000.0;
        ensure!(slow, "half of the reads were faster: {row}");
    }
    let ratio = number(&blocking["seconds"])? / number(&asynchronous["seconds"])?;
    // By the four workers of the disk alone it would be 4.
    let sooner = ratio > 6.0;
    ensure!(sooner, "only {ratio} times sooner: {results}");
    Ok(())
}

fn one_worker() -> Outcome {
    let image = Image::patterned(16 * 4096, SEED)?;
    let ended = Iolite::program("threads /dev/vdb 16")
        .disk(image.with("ro,workers=1,latency=100ms-200ms,seed=5"))
        .arg("-v")
        .expect(0)?;
    // The last line about the disk: what it has counted.
    let counters = ended
        .stderr
        .lines()
        .find(|line| line.contains("vdb: Counters"));
    let together = counters.is_some_and(|line| line.contains("max_in_flight: 16"));
    ensure!(together, "not 16 at once\n{}", ended.report());
    Ok(())
}

fn end_of_a_slow_disk() -> Outcome {
    let image = Image::patterned(SIZE, SEED)?;
    let running = Iolite::program("sha256 --direct /dev/vdb")
        .disk(image.with("ro,latency=60s"))
        .arg("-v")
        .start()?;
    // Long enough for the guest to come to its first read, also where everything is slow.
    thread::sleep(deadline() / 40);
    let asked = Instant::now();
    running.signal(Signal::SIGTERM)?;
    let ended = running.finish()?.expect(128 + 15)?;
    let took = asked.elapsed();
    ensure!(ended.stderr.contains("vdb #1 popped"), "{}", ended.report());
    ensure!(ended.stderr.contains("vdb #1 used"), "{}", ended.report());
    ensure!(took < Duration::from_secs(20), "the end took {took:?}");
    Ok(())
}

/// The command that checks `sectors` sectors from `first` on, past the page cache.
fn verify(first: u64, sectors: u64) -> String {
    let (offset, len) = (first * SECTOR, sectors * SECTOR);
    format!("verify /dev/vdb {SEED} {offset} {len}")
}

/// Fails unless [`verify`] of these sectors said what it should: that it failed, or that it did not.
fn saw(ended: &Ended, first: u64, sectors: u64, fails: bool) -> Outcome {
    let (offset, len) = (first * SECTOR, sectors * SECTOR);
    let good = format!("verify: /dev/vdb {offset}+{len} seed {SEED}: ok");
    let bad = format!("/dev/vdb at byte {offset}: {EIO}");
    let (wanted, unwanted) = if fails { (bad, good) } else { (good, bad) };
    let said = ended.stdout.to_lowercase();
    ensure!(said.contains(&wanted), "no {wanted:?}\n{}", ended.report());
    ensure!(
        !said.contains(&unwanted),
        "{unwanted:?}\n{}",
        ended.report()
    );
    Ok(())
}

/// Runs these commands in the guest's shell, on a disk with these keys. The machine ends well,
/// whatever the programs come to.
fn shell(disk: &str, commands: &[String]) -> Result<Ended, Failed> {
    let mut running = Iolite::run().disk(disk).start()?;
    running.send(&(commands.join("\n") + "\nexit 0\n"))?;
    running.finish_with_input_open()?.expect(0)
}
