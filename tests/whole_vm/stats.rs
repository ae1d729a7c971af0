//! `--stats`, `--stats-json` and `--stats-interval`: what they say is what the guest has done.

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
        trial::test("stats::every_byte_is_counted_once", counts),
        trial::test("stats::queues_are_told_apart", queues),
        trial::test("stats::delays_show_in_the_times", times),
        trial::test("stats::a_line_comes_at_each_interval", interval),
        trial::test("stats::beside_a_trace", beside_a_trace),
    ]
}

fn stats(program: &str, disk: &str) -> Result<(Value, String), libtest_mimic::Failed> {
    let json = tempfile::NamedTempFile::new()?;
    let ended = Iolite::program(program)
        .disk(disk)
        .arg("--stats")
        .option("--stats-json", json.path())
        .expect(0)?;
    let stats: Value = serde_json::from_str(&fs::read_to_string(json.path())?)?;
    ensure!(stats["schema"] == "iolite-stats/1", "{stats}");
    Ok((stats, ended.stderr))
}

fn counts() -> Outcome {
    let size = 1 << 20;
    let image = Image::zeroed(size)?;
    let (stats, table) = stats("fill /dev/vdb 7", &image.with("workers=2"))?;
    let disk = &stats["disks"][1];
    ensure!(
        disk["name"] == "vdb" && disk["bytes_written"] == size,
        "{disk}"
    );
    let number = |key: &str| disk[key].as_u64().unwrap_or_default();
    ensure!(number("writes") > 0 && number("errors") == 0, "{disk}");
    let kinds = [
        "reads",
        "writes",
        "flushes",
        "discards",
        "write_zeroes",
        "others",
    ];
    let sum: u64 = kinds.into_iter().map(number).sum();
    ensure!(number("requests") == sum, "{disk}");
    // The guest sleeps until it is interrupted.
    ensure!(
        number("notifications") > 0 && number("interrupts_sent") > 0,
        "{disk}"
    );
    let times = &disk["times_us"];
    for part in ["queued", "service", "total"] {
        let time = &times[part];
        let [p50, p99, max] = ["p50", "p99", "max"].map(|key| time[key].as_f64());
        ensure!(
            p50 <= p99 && p99 <= max && max > Some(0.0),
            "{part}: {time}"
        );
        let steps = time["steps"].as_array().ok_or("no steps")?;
        let counted: u64 = steps.iter().filter_map(|step| step["count"].as_u64()).sum();
        ensure!(time["count"] == counted, "{part}: {time}");
    }
    // GET_ID never reaches the backend.
    let lost = stats["lost_events"].as_u64().unwrap_or_default();
    let all = times["total"]["count"].as_u64();
    ensure!(lost > 0 || all == Some(sum), "{disk}");
    let served = sum - number("others");
    ensure!(lost > 0 || times["service"]["count"] == served, "{disk}");
    let threads = stats["threads"].as_array().ok_or("no threads")?;
    let named = |thread: &Value| {
        thread["name"]
            .as_str()
            .is_some_and(|n| n.starts_with("vdb-"))
    };
    ensure!(threads.iter().any(named), "{stats}");
    let exits = &stats["vcpu"]["exits"]["count"];
    ensure!(exits.as_u64() > Some(0), "{stats}");
    for word in ["vdb", "service", "in backends", "for each request"] {
        ensure!(table.contains(word), "no {word} in the table:\n{table}");
    }
    Ok(())
}

fn queues() -> Outcome {
    let image = Image::zeroed(256 << 10)?;
    let (stats, table) = stats("fill /dev/vdb 7", &image.with("queues=2"))?;
    let disk = &stats["disks"][1];
    let queues = disk["queues"].as_array().ok_or("no queues")?;
    ensure!(queues.len() == 2 && queues[1]["name"] == "vdb.1", "{disk}");
    let sum: u64 = queues
        .iter()
        .filter_map(|queue| queue["requests"].as_u64())
        .sum();
    ensure!(disk["requests"] == sum && sum > 0, "{disk}");
    // Requests come by the first queue: it has times, and the other has none.
    let counted = |of: &Value| of["times_us"]["total"]["count"].as_u64();
    ensure!(
        counted(disk) > Some(0) && counted(&queues[0]) == counted(disk),
        "{disk}"
    );
    ensure!(queues[1]["times_us"].is_null(), "{disk}");
    for row in ["\nvdb.1 ", "\nvdb.0  total "] {
        ensure!(table.contains(row), "no {row} in {table}");
    }
    ensure!(
        stats["disks"][0]["queues"]
            .as_array()
            .is_some_and(Vec::is_empty),
        "{stats}"
    );
    Ok(())
}

fn times() -> Outcome {
    let image = Image::patterned(64 << 10, 8)?;
    let (stats, _) = stats("verify /dev/vdb 8", &image.with("ro,latency=20ms"))?;
    let total = &stats["disks"][1]["times_us"]["total"];
    // GET_ID is not delayed.
    ensure!(total["max"].as_f64() >= Some(19_000.0), "{total}");
    let service = &stats["disks"][1]["times_us"]["service"];
    ensure!(service["max"].as_f64() < total["max"].as_f64(), "{stats}");
    Ok(())
}

fn interval() -> Outcome {
    let image = Image::patterned(64 << 10, 9)?;
    let ended = Iolite::program("verify /dev/vdb 9")
        .disk(image.with("ro,latency=300ms"))
        .option("--stats-interval", "100ms")
        .expect(0)?;
    let lines = || {
        ended
            .stderr
            .lines()
            .filter(|line| line.starts_with("stats: "))
    };
    ensure!(lines().count() >= 2, "{}", ended.report());
    for word in ["IOPS", "MB/s", "in flight", "p99", "exits/s"] {
        ensure!(
            lines().all(|line| line.contains(word)),
            "{}",
            ended.report()
        );
    }
    ensure!(
        lines().any(|line| !line.contains(" 0 in flight")),
        "{}",
        ended.report()
    );
    Ok(())
}

/// Both see the same requests.
fn beside_a_trace() -> Outcome {
    let image = Image::patterned(64 << 10, 10)?;
    let [trace, json] = [
        tempfile::NamedTempFile::new()?,
        tempfile::NamedTempFile::new()?,
    ];
    Iolite::program("verify /dev/vdb 10")
        .disk(image.with("ro"))
        .option("--stats-json", json.path())
        .option("--trace", trace.path())
        .expect(0)?;
    let stats: Value = serde_json::from_str(&fs::read_to_string(json.path())?)?;
    let trace: Value = serde_json::from_str(&fs::read_to_string(trace.path())?)?;
    let events = trace["traceEvents"].as_array().ok_or("no events")?;
    let traced = events.iter().filter(|event| event["ph"] == "b");
    let traced = traced.filter(|event| event["args"]["disk"] == 1).count();
    let disk = &stats["disks"][1];
    ensure!(
        traced > 0 && disk["requests"] == traced && disk["times_us"]["total"]["count"] == traced,
        "{traced} traced, {disk}"
    );
    Ok(())
}
