//! The whole guest against strict devices alone.

use std::process::Command;

use iolite_devices_abi::blk::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_SEG_MAX, F_SIZE_MAX, F_TOPOLOGY,
    F_WRITE_ZEROES,
};
use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC};
use libtest_mimic::{Failed, Trial};

use crate::ensure;
use crate::strict_disk::Model;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::{Ended, Iolite};

/// The models, by name: what is there of each feature, what is missing, and what is nasty.
const MODELS: [(&str, u64, bool); 8] = [
    // As Firecracker is.
    ("plain", F_EVENT_IDX, false),
    ("nothing", 0, false),
    ("nasty", 0, true),
    ("flush", F_FLUSH | F_CONFIG_WCE, true),
    ("indirect", F_INDIRECT_DESC | F_EVENT_IDX, true),
    ("segments", F_SEG_MAX | F_SIZE_MAX | F_FLUSH, false),
    (
        "indirect-segments",
        F_INDIRECT_DESC | F_SEG_MAX | F_SIZE_MAX | F_BLK_SIZE,
        true,
    ),
    ("everything", ALL, true),
];
const ALL: u64 = F_INDIRECT_DESC
    | F_EVENT_IDX
    | F_FLUSH
    | F_SEG_MAX
    | F_SIZE_MAX
    | F_BLK_SIZE
    | F_DISCARD
    | F_WRITE_ZEROES
    | F_MQ
    | F_CONFIG_WCE
    | F_TOPOLOGY;

/// What of `usertests` does not pass on a device without a flush: each of them counts flushes.
pub const NEED_A_FLUSH: [&str; 4] = [
    "async_flush",
    "disk_stats_count_and_reset",
    "fsync_writes_back_and_flushes",
    "msync_is_durable",
];

/// The model with this name.
pub fn model(name: &str) -> Option<Model> {
    let &(_, features, nasty) = MODELS.iter().find(|model| model.0 == name)?;
    Some(Model {
        features,
        nasty,
        seg_max: 3,
        size_max: 1536,
        queue_max: if nasty { 16 } else { 256 },
        ..Model::plain("disk")
    })
}

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        trial::test("strict::every_path_reads_the_same_bytes", demo),
        trial::test("strict::an_end_with_a_status_is_a_reset", ends),
    ];
    for part in 1..=3 {
        let name = format!("strict::usertests_part_{part}_of_3");
        tests.push(trial::test_of(&name, move || usertests(part)));
    }
    for (name, ..) in MODELS {
        let run = move || writes_and_reads(name);
        tests.push(trial::test_of(&format!("strict::bytes_on_{name}"), run));
    }
    tests
}

/// Runs `init` in our guest on a machine of strict disks.
fn machine(model: &str, init: &str, images: &[&Image]) -> Result<Ended, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["machine", model, &format!("init={init}")]);
    command.args(images.iter().map(|image| image.path()));
    Iolite::other(command).expect(0)
}

fn demo() -> Outcome {
    let image = Image::patterned((1 << 20) + 512, 61)?;
    let ended = machine("plain", "demo /dev/vdb", &[&image])?;
    five_digests(&image, &ended)
}

/// Does the demo say of each path what the image holds?
pub fn five_digests(image: &Image, ended: &Ended) -> Outcome {
    let right = format!("sha256={}", image.sha256()?);
    let paths = ended.stdout.matches(&right).count();
    ensure!(paths == 5, "{paths} paths\n{}", ended.report());
    Ok(())
}

/// A panic, a shell that says 3: without an exit port the machine ends all the same.
fn ends() -> Outcome {
    machine("plain", "no-such-program", &[])?;
    machine("plain", "crash undefined", &[])?;
    Ok(())
}

fn usertests(part: usize) -> Outcome {
    let scratch = Image::zeroed(8 << 20)?;
    let faulty = Image::patterned(2 << 20, 1)?;
    let init = format!("usertests --part {part}/3");
    let ended = machine("plain", &init, &[&scratch, &faulty])?;
    passes_but_for_what_is_missing(&ended)
}

/// Is each test of `usertests` that failed one that needs what the device lacks?
pub fn passes_but_for_what_is_missing(ended: &Ended) -> Outcome {
    let failed = ended
        .stdout
        .lines()
        .filter(|line| line.contains(": FAILED"));
    let surprising: Vec<&str> = failed
        .filter(|line| {
            !NEED_A_FLUSH
                .iter()
                .any(|name| line.starts_with(&format!("test {name}:")))
        })
        .collect();
    ensure!(surprising.is_empty(), "{surprising:?}\n{}", ended.report());
    ensure!(
        ended.stdout.contains("usertests: "),
        "no end\n{}",
        ended.report()
    );
    let passed = ended.stdout.matches(": OK").count();
    ensure!(passed >= 20, "{passed} tests\n{}", ended.report());
    Ok(())
}

/// What one machine writes, through the cache and past it, is on the disk, and read back.
fn writes_and_reads(model: &str) -> Outcome {
    let size = 1 << 20;
    let image = Image::zeroed(size as u64)?;
    machine(model, "fill /dev/vdb 62", &[&image])?.says("written and flushed")?;
    image.holds(62, size)?;
    machine(model, "verify /dev/vdb 62", &[&image])?.says("seed 62: ok")?;
    Ok(())
}
