//! `--trace` and `iolite trace`: real machines' traces keep the format's rules, causes come before
//! effects, the parts add up, and every view can be made of them.

use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

use crate::chrome;
use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

/// The built-in guest without events.
const KERNEL: &[u8] = include_bytes!("../../resources/guest/kernel");
const SYSTEM: &[u8] = include_bytes!("../../resources/guest/system.tar");

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("trace::the_demo_from_both_sides", demo),
        trial::test("trace::programs_have_rings_of_their_own", rings),
        trial::test("trace::a_guest_that_says_nothing_of_itself", host_half),
        trial::test("trace::a_file_that_cannot_be_written", no_file),
    ]
}

/// The requests of a trace: the arguments of their beginnings.
fn requests(json: &str) -> Result<Vec<Value>, Failed> {
    let trace: Value = serde_json::from_str(json)?;
    let events = trace["traceEvents"].as_array().ok_or("no events")?;
    let begun = events.iter().filter(|event| event["ph"] == "b");
    Ok(begun.map(|event| event["args"].clone()).collect())
}

/// A demo of all that the guest's kernel asks for itself, on a small disk.
fn demo() -> Outcome {
    let image = Image::patterned(256 << 10, 5)?;
    let directory = TempDir::new()?;
    let file = directory.path().join("t.json");
    Iolite::demo()
        .option("--disk", image.path())
        .option(
            "--paths",
            "blocking-read,async-read,pager,kernel-mount,block-server",
        )
        .option("--latency", "1ms")
        .option("--trace", &file)
        .expect(0)?;
    let json = fs::read_to_string(&file)?;
    let phases = chrome::check(&json)?;
    let about: Value = serde_json::from_str(&json)?;
    let about = &about["otherData"];
    let lost = &about["guest_lost"];
    ensure!(lost == 0, "{lost} events were lost");
    let machine = about["machine"].as_str().unwrap_or_default();
    ensure!(
        machine.starts_with("128 MiB of memory; vda: ")
            && machine.ends_with("; vdb: 256 KiB, pool engine, read-only"),
        "the machine is not {machine}"
    );
    if about["clock"] == "the host's time stamp counter is not stable" {
        // The nested runner: there is the host's half only.
        return check_host_half(&requests(&json)?);
    }
    for phase in ["M", "X", "b", "e", "s", "t", "f", "C"] {
        ensure!(phases.contains_key(phase), "no event {phase}: {phases:?}");
    }
    check_lives(&requests(&json)?)?;
    check_views(&file, directory.path())
}

/// The moments of a request's life, in their order.
const MOMENTS: [&str; 18] = [
    "asked",
    "taken",
    "added",
    "notified",
    "received",
    "popped",
    "parsed",
    "begun",
    "ended",
    "used",
    "signalled",
    "interrupted",
    "harvested",
    "answered",
    "woken",
    "running",
    "collected",
    "returned",
];

/// Every moment after the one before it, and all that a path's requests must have seen.
fn check_lives(requests: &[Value]) -> Outcome {
    for request in requests {
        let seen = MOMENTS
            .iter()
            .filter_map(|moment| request["at"][moment].as_u64());
        let seen: Vec<u64> = seen.collect();
        ensure!(
            seen.is_sorted(),
            "an effect comes before its cause: {request}"
        );
    }
    let of = |path: &str| requests.iter().filter(|r| r["path"] == path).count();
    for (path, least) in [
        ("blocking-read", 64),
        ("async-read", 64),
        ("kernel-mount", 64),
        ("pager", 1),
        ("read-ahead", 1),
        ("block-server", 32),
    ] {
        ensure!(of(path) >= least, "{} requests of {path}", of(path));
    }
    for (path, other) in [
        (
            "blocking-read",
            ["taken", "answered", "collected"].as_slice(),
        ),
        ("block-server", &["woken", "running", "returned"]),
    ] {
        let optional = ["received", "signalled", "interrupted"];
        let needed = MOMENTS
            .iter()
            .filter(|m| !optional.contains(m) && !other.contains(m));
        let whole = |request: &&Value| needed.clone().all(|m| request["at"][m].is_u64());
        let whole = requests.iter().filter(|r| r["path"] == path).filter(whole);
        let whole = whole.count();
        ensure!(
            whole == of(path),
            "only {whole} of {} of {path} have their whole life",
            of(path)
        );
    }
    Ok(())
}

fn check_views(file: &Path, directory: &Path) -> Outcome {
    let view = |view: &str| Iolite::new().arg("trace").arg(view).arg(file);
    let summary = view("summary").expect(0)?.stdout;
    ensure!(
        summary.contains("causes before effects in all of them"),
        "{summary}"
    );
    let share = |row: &str| -> Vec<f64> {
        let lines = summary.lines().filter(|line| line.contains(row));
        let words = lines.flat_map(str::split_whitespace);
        let shares = words.filter_map(|word| word.strip_suffix('%')?.parse().ok());
        shares.collect()
    };
    let (whole, missing) = (share("whole "), share("unaccounted"));
    ensure!(!whole.is_empty() && !missing.is_empty(), "{summary}");
    ensure!(
        whole.iter().all(|share| (share - 100.0).abs() < 1.0),
        "{summary}"
    );
    ensure!(missing.iter().all(|share| *share < 1.0), "{summary}");

    let lines = view("timeline").expect(0)?.stdout.lines().count();
    let moments = view("timeline").arg("--moments").expect(0)?.stdout;
    ensure!(lines > 200, "{lines} lines");
    ensure!(moments.lines().count() > 10 * lines, "{moments}");

    let page = directory.join("t.html");
    view("html").option("-o", &page).expect(0)?;
    let page = fs::read_to_string(page)?;
    for needed in [
        "<!DOCTYPE html>",
        "blocking-read",
        "pager, read-ahead",
        "99th percentile",
    ] {
        ensure!(page.contains(needed), "the page lacks {needed}");
    }
    for foreign in ["http:", "https:", "<script", "@import", "src="] {
        ensure!(!page.contains(foreign), "the page has {foreign}");
    }
    let picture = directory.join("t.svg");
    view("picture").option("-o", &picture).expect(0)?;
    let picture = fs::read_to_string(picture)?;
    ensure!(picture.starts_with("<svg xmlns="), "{picture}");
    Ok(())
}

/// The guest's own tests of its rings, and what comes of events that mean nothing, and of too many.
fn rings() -> Outcome {
    let directory = TempDir::new()?;
    let file = directory.path().join("t.json");
    let tests = "a_ring_for_events rings_are_lent_to_a_few events_are_cheap";
    let ended = Iolite::traced_program(&format!("usertests {tests}"))
        .option("--trace", &file)
        .expect(0)?
        .says("usertests: 3 passed, 0 failed")?
        .says(" ns, recorded")?;
    ensure!(!ended.stdout.contains("SKIPPED"), "{}", ended.report());
    let json = fs::read_to_string(&file)?;
    chrome::check(&json)?;
    let about: Value = serde_json::from_str(&json)?;
    let about = &about["otherData"];
    if about["clock"] == "the host's time stamp counter is not stable" {
        return Ok(());
    }
    // 100000 were written; a ring of 16384 overflows unless it is emptied in time.
    let count = |key: &str| about[key].as_u64().unwrap_or_default();
    let all = count("guest_events") + count("guest_lost");
    ensure!(all > 100_000, "{about}");
    let summary = Iolite::new().arg("trace").arg("summary").arg(&file);
    let summary = summary.expect(0)?.stdout;
    let lost = summary.contains("lost in the guest's rings");
    ensure!(lost == (count("guest_lost") > 0), "{summary}");
    Ok(())
}

/// A kernel that does not write events: the one for machines that are not traced.
fn host_half() -> Outcome {
    let directory = TempDir::new()?;
    let file = directory.path().join("t.json");
    // Copies: the nested runner has no source tree.
    let guest = directory.path();
    fs::write(guest.join("kernel"), KERNEL)?;
    fs::write(guest.join("system.tar"), SYSTEM)?;
    Iolite::new()
        .arg("run")
        .arg(guest.join("kernel"))
        .option("--system", guest.join("system.tar"))
        .option("--cmdline", "init=hello")
        .option("--trace", &file)
        .expect(0)?;
    let json = fs::read_to_string(&file)?;
    chrome::check(&json)?;
    check_host_half(&requests(&json)?)
}

fn check_host_half(requests: &[Value]) -> Outcome {
    ensure!(requests.len() > 3, "{} requests", requests.len());
    for request in requests {
        let at = |moment: &str| request["at"][moment].as_u64();
        ensure!(
            request["path"] == "guest" && at("popped").is_some() && at("popped") < at("used"),
            "{request}"
        );
    }
    Ok(())
}

fn no_file() -> Outcome {
    let ended = Iolite::run()
        .option("--trace", "/nowhere/t.json")
        .expect(4)?;
    ensure!(
        ended
            .stderr
            .starts_with("iolite: cannot write /nowhere/t.json: "),
        "{}",
        ended.report()
    );
    Ok(())
}

/// What else is on stderr where the host's clock does not allow for the guest's half of a trace.
pub fn but_for_the_clock(stderr: &str) -> String {
    let other = |line: &&str| !line.contains("the host's time stamp counter is not stable");
    stderr.lines().filter(other).collect::<Vec<_>>().join("\n")
}
