//! `iolite bench cost`: what it counts makes sense on any platform.

use std::fs;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::ensure;
use crate::support::Outcome;
use crate::support::trial;
use crate::support::vm::Iolite;

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("bench::cost_counts_exits_and_interrupts", counts),
        trial::test("bench::cost_of_another_guest", another_guest),
    ]
}

fn counts() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    let ended = Iolite::new()
        .arg("bench")
        .arg("cost")
        .option("--operations", "64")
        .option("--json", results.path())
        .expect(0)?
        .says("blocking 4 KiB read")?;
    let results: Value = serde_json::from_str(&fs::read_to_string(results.path())?)?;
    ensure!(
        results["schema"] == "iolite-bench-cost/1",
        "{results}\n{}",
        ended.report()
    );
    // A thread that waits alone for each read takes an interrupt for each, and acknowledges it.
    for name in ["blocking-read", "page-in"] {
        let cost = cost(&results, name)?;
        for counter in ["mmio_exits", "interrupts"] {
            let each = number(cost, counter)?;
            ensure!((0.9..4.0).contains(&each), "{name}: {each} {counter}");
        }
    }
    let batch = number(cost(&results, "async-read")?, "interrupts")?;
    ensure!(batch < 1.0, "{batch} interrupts for one of a batch");
    // An idle system call costs less than one that reads.
    let [least, most] = ["yield", "blocking-read"].map(|name| cost(&results, name));
    let (least, most) = (number(least?, "us")?, number(most?, "us")?);
    ensure!(least < most, "{least} us for nothing, {most} us for a read");
    Ok(())
}

/// A directory without one is an error that names the file.
fn another_guest() -> Outcome {
    let empty = tempfile::tempdir()?;
    let ended = Iolite::new()
        .arg("bench")
        .arg("cost")
        .option("--guest", empty.path())
        .expect(10)?;
    let named = ended.stderr.contains("system.tar: no such file");
    ensure!(named, "the file is not named\n{}", ended.report());
    Ok(())
}

fn cost<'a>(results: &'a Value, name: &str) -> Result<&'a Value, Failed> {
    let costs = results["costs"].as_array().into_iter().flatten();
    let mut found = costs.filter(|cost| cost["name"] == name);
    found.next().ok_or_else(|| format!("no {name}").into())
}

fn number(cost: &Value, key: &str) -> Result<f64, Failed> {
    let missing = || format!("{key} is missing in {cost}");
    cost[key].as_f64().ok_or_else(|| missing().into())
}
