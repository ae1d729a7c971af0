//! `iolite bench`: every cell that was asked for is measured, by every subject, and what its requests
//! brought was looked at. Figures are nobody's business here.

use std::fs;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test(
            "bench::every_cell_moves_bytes_that_are_verified",
            every_cell,
        ),
        trial::test("bench::a_disk_that_fails_is_an_error", failing_disk),
        trial::test("bench::engines_and_traces_are_compared", compared),
        trial::test("bench::one_interrupt_is_for_many_requests", interrupts),
        trial::test("bench::requests_go_by_several_queues", several_queues),
        trial::test("bench::a_neighbour_is_kept_busy", neighbour),
        trial::test("bench::idle_machines_are_measured", idle),
        trial::test_with("qemu-system-x86_64", "bench::qemu_is_measured_too", qemu),
    ]
}

fn bench() -> Iolite {
    Iolite::new()
        .arg("bench")
        .option("--size", "32M")
        .option("--rounds", "1")
        .option("--seconds", "0.05")
}

fn every_cell() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    let ended = bench()
        .option("--rw", "read,write,randread,randwrite")
        .option("--block-size", "4K")
        .option("--depth", "8")
        .option("--wait", "poll,interrupt")
        .option("--json", results.path())
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    ensure!(results["schema"] == "iolite-bench/1", "{results}");
    ensure!(results["disk"]["bytes"] == 32 << 20, "{results}");
    let cells = rows(&results, 4 * 2)?;
    for cell in cells {
        sound(cell)?;
        let wait = cell["wait"].as_str().unwrap_or_default();
        ensure!(cell["subject"] == "iolite", "{cell}");
        // Whoever polls is interrupted once in 65536 requests at most.
        let interrupts = cell["interrupts_per_request"].as_f64();
        ensure!(wait != "poll" || interrupts < Some(0.01), "{cell}");
        let requests = cell["requests"].as_u64().unwrap_or_default();
        let line = ended.stdout.lines().find(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.len() > 4
                && cell["rw"] == words[0]
                && words[1] == "4K"
                && cell["depth"].as_u64() == words[2].parse().ok()
                && wait == words[3]
        });
        ensure!(line.is_some() && requests > 0, "{cell}\n{}", ended.report());
    }
    // The least and the most memory that a cell can need.
    bench()
        .option("--block-size", "512,256K")
        .option("--depth", "1,128")
        .option("--wait", "poll,interrupt")
        .expect(0)?;
    Ok(())
}

/// An iolite for each engine, and one with a trace.
fn compared() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    let ended = bench()
        .option("--engine", "pool,uring,sync")
        .option("--against", "traced")
        .option("--depth", "32")
        .option("--json", results.path())
        .arg("--markdown")
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    let subjects = ["engine=pool", "engine=uring", "engine=sync", "engine=pool"];
    for (cell, keys) in rows(&results, subjects.len())?.iter().zip(subjects) {
        sound(cell)?;
        ensure!(cell["keys"] == keys, "{cell}");
    }
    ensure!(results["cells"][3]["subject"] == "traced", "{results}");
    let head = "| | iolite engine=pool | iolite engine=uring | ratio | iolite engine=sync | ratio | traced | ratio |";
    let mut lines = ended.stdout.lines().skip_while(|line| *line != head);
    let row = lines.nth(2).unwrap_or_default();
    ensure!(
        row.starts_with("| randread 4K, depth 32 | ") && row.matches('|').count() == 9,
        "{}",
        ended.report()
    );
    Ok(())
}

/// Where many requests are in flight, a notification and an interrupt is for 16 of them at least.
fn interrupts() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    bench()
        .option("--rw", "randread,randwrite")
        .option("--depth", "32")
        .option("--wait", "interrupt")
        .option("--rounds", "3")
        .option("--json", results.path())
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    for cell in rows(&results, 2)? {
        sound(cell)?;
        for key in ["notifications_per_request", "interrupts_per_request"] {
            let each = cell[key].as_f64();
            ensure!(
                Some(0.0) < each && each <= Some(1.0 / 16.0),
                "{key}: {cell}"
            );
        }
    }
    Ok(())
}

fn several_queues() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    let ended = bench()
        .option("--queues", "1,3")
        .option("--depth", "8")
        .option("--rw", "randread,randwrite")
        .option("--wait", "poll,interrupt")
        .option("--json", results.path())
        .expect(0)?;
    let head = "rw         block  depth  queues  wait";
    ensure!(ended.stdout.contains(head), "{}", ended.report());
    // Two queues of 16 hold no more.
    let short = bench()
        .option("--queues", "2")
        .option("--keys", "queue-size=16");
    let ended = short.option("--depth", "32,33").expect(16)?;
    let why = "depth 33 needs more than 2 queues of 16";
    ensure!(ended.stderr.contains(why), "{}", ended.report());
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    let rows = rows(&results, 2 * 2 * 2)?;
    for (at, cell) in rows.iter().enumerate() {
        sound(cell)?;
        ensure!(cell["queues"] == [1, 1, 3, 3][at % 4], "{cell}");
    }
    Ok(())
}

fn neighbour() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    bench()
        .option("--against", "neighbour")
        .option("--wait", "poll,interrupt")
        .option("--seconds", "0.5")
        .option("--depth", "1")
        .option("--json", results.path())
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    for (at, cell) in rows(&results, 2 * 2)?.iter().enumerate() {
        sound(cell)?;
        let beside = at % 2 == 1;
        let count = cell["neighbour_requests"].as_u64().unwrap_or_default();
        ensure!(beside == (count >= 32), "{cell}");
        // It has 32 in flight and takes 50 ms for each: no more than 640 in a second. A cell lasts
        // longer than it is measured, on a busy host by a lot.
        ensure!(count <= 640 * 2, "{cell}");
    }
    Ok(())
}

fn qemu() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    bench()
        .option("--rw", "randread,randwrite")
        .option("--depth", "4")
        .option("--wait", "poll,interrupt")
        .option("--queues", "2")
        .option("--against", "limit,qemu,host")
        .option("--keys", "workers=1")
        .option("--json", results.path())
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    let subjects = [
        "iolite workers=1",
        "limit",
        "qemu threads",
        "qemu io_uring",
        "host io_uring",
        "host preadv",
        "host mmap",
    ];
    for (at, cell) in rows(&results, 2 * 2 * subjects.len())?.iter().enumerate() {
        sound(cell)?;
        ensure!(cell["subject"] == subjects[at % subjects.len()], "{cell}");
        ensure!(cell["ratio"].as_f64() > Some(0.0), "{cell}");
    }
    Ok(())
}

/// Requests that fail are not counted as fast ones.
fn failing_disk() -> Outcome {
    let image = Image::patterned(32 << 20, 7)?;
    let path = image.path();
    let overwriting = |iolite: Iolite| {
        iolite
            .option("--disk", &path)
            .arg("--overwrite")
            .option("--rounds", "1")
            .option("--seconds", "0.05")
            .option("--depth", "8")
    };
    let bench = || overwriting(Iolite::new().arg("bench"));
    bench().expect(0)?;
    let ended = bench().option("--keys", "fail=read:every:9").expect(16)?;
    ensure!(
        ended.stderr.contains("failed"),
        "no reason is given\n{}",
        ended.report()
    );
    // Without its leave a disk is not touched.
    Iolite::new()
        .arg("bench")
        .option("--disk", &path)
        .expect(2)?;
    Ok(())
}

fn idle() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    let ended = Iolite::new()
        .arg("bench")
        .arg("idle")
        .option("--json", results.path())
        .expect(0)?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    ensure!(results["schema"] == "iolite-bench-idle/1", "{results}");
    ensure!(results["start_ms"].as_f64() > Some(0.0), "{results}");
    // At rest nobody polls: some wake-ups a second, not thousands.
    let wake_ups = results["wake_ups_per_second"].as_f64();
    ensure!(Some(0.0) <= wake_ups && wake_ups < Some(100.0), "{results}");
    // More than nothing, and not the guest's memory with it.
    let memory = results["memory_bytes"].as_u64();
    ensure!(
        Some(1 << 20) < memory && memory < Some(64 << 20),
        "{results}"
    );
    let parts = ["program_bytes", "library_bytes", "own_bytes"];
    let parts = parts.map(|key| results["memory"][key].as_u64().unwrap_or_default());
    ensure!(parts.iter().all(|bytes| *bytes > 0), "{results}");
    ensure!(Some(parts.iter().sum()) == memory, "{results}");
    for word in ["ms", "MiB", "/s"] {
        ensure!(ended.stdout.contains(word), "{}", ended.report());
    }
    Ok(())
}

fn rows(results: &Value, count: usize) -> Result<&Vec<Value>, libtest_mimic::Failed> {
    let rows = results["cells"].as_array().ok_or("no cells")?;
    ensure!(rows.len() == count, "{} cells, not {count}", rows.len());
    Ok(rows)
}

/// Figures that belong together.
fn sound(cell: &Value) -> Outcome {
    let number = |key: &str| cell[key].as_f64().unwrap_or(-1.0);
    ensure!(
        number("requests") > 0.0 && number("verified") > 0.0,
        "{cell}"
    );
    let iops = &cell["iops"];
    let [min, median, max] = ["min", "median", "max"].map(|key| iops[key].as_f64());
    ensure!(Some(0.0) < min && min <= median && median <= max, "{cell}");
    let bytes = median.unwrap_or_default() * number("block_bytes");
    ensure!((bytes - number("bytes_per_second")).abs() < 1.0, "{cell}");
    let latency = &cell["latency_us"];
    let [p50, p99, p999, max] = ["p50", "p99", "p999", "max"].map(|key| latency[key].as_f64());
    ensure!(
        Some(0.0) < p50 && p50 <= p99 && p99 <= p999 && p999 <= max,
        "{cell}"
    );
    for key in [
        "notifications_per_request",
        "interrupts_per_request",
        "cpu_us_per_request",
    ] {
        ensure!(number(key) >= 0.0, "{cell}");
    }
    Ok(())
}
