//! `iolite demo`: its results agree with the host's own reading of the image, for any image.

use std::fs;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::{Ended, Iolite};

/// Each path of the demo: name, initiator, mode.
const PATHS: [(&str, &str, &str); 5] = [
    ("blocking-read", "process", "sync"),
    ("async-read", "process", "async"),
    ("pager", "kernel", "async"),
    ("kernel-mount", "kernel", "sync"),
    ("block-server", "server", "async"),
];

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        trial::test("demo::the_built_in_disk", built_in_disk),
        trial::test("demo::no_command_is_the_demo", no_command),
        trial::test("demo::write_keeps_the_image", write),
        trial::test("demo::paths_and_in_flight_are_chosen", chosen),
        trial::test_with(
            "strace",
            "demo::an_image_that_fails_is_an_error",
            failing_image,
        ),
    ];
    let sizes = [512, 63 << 10, (1 << 20) + 512, (16 << 20) + 4096 + 512];
    for size in sizes {
        let name = format!("demo::an_image_of_{size}_bytes");
        tests.push(trial::test_of(&name, move || users_image(size)));
    }
    tests
}

fn built_in_disk() -> Outcome {
    let results = tempfile::NamedTempFile::new()?;
    let ended = Iolite::demo().option("--json", results.path()).expect(0)?;
    check(&fs::read_to_string(results.path())?, 16 << 20, None, &ended)
}

fn no_command() -> Outcome {
    let ended = Iolite::new().expect(0)?;
    for (name, ..) in PATHS {
        ensure!(
            ended.stdout.contains(name),
            "no row of {name}\n{}",
            ended.report()
        );
    }
    Ok(())
}

fn users_image(size: usize) -> Outcome {
    let image = Image::patterned(size, size as u64)?;
    let results = image.beside("results.json");
    let ended = Iolite::demo()
        .disk(image.path())
        .arg("--json")
        .arg(&results)
        .expect(0)?;
    let digest = image.sha256()?;
    ensure!(
        ended.stdout.contains(&digest),
        "{digest} is not printed\n{}",
        ended.report()
    );
    check(&fs::read_to_string(results)?, size, Some(&image), &ended)?;
    image.holds(size as u64, size)
}

fn write() -> Outcome {
    let size = (2 << 20) + 512;
    let image = Image::patterned(size, 4)?;
    let results = image.beside("results.json");
    let ended = Iolite::demo()
        .disk(image.path())
        .arg("--write")
        .arg("--json")
        .arg(&results)
        .expect(0)?;
    check(&fs::read_to_string(results)?, size, Some(&image), &ended)?;
    image.holds(4, size)
}

/// The rows are those that were asked for, and so is the number of reads in flight.
fn chosen() -> Outcome {
    let image = Image::patterned(2 << 20, 5)?;
    let results = image.beside("results.json");
    let in_flight = |row: &Value| row["max_in_flight"].as_u64().unwrap_or_default();
    for (ahead, most) in [("on", 3), ("off", 1)] {
        Iolite::demo()
            .disk(image.path())
            .option("--paths", "pager,async-read")
            .option("--in-flight", "7")
            .option("--read-ahead", ahead)
            .option("--json", &results)
            .expect(0)?;
        let results: Value = serde_json::from_str(&fs::read_to_string(&results)?)?;
        let rows = results["paths"].as_array().ok_or("no rows")?;
        ensure!(
            rows.len() == 2 && rows[0]["name"] == "async-read" && rows[1]["name"] == "pager",
            "{results}"
        );
        ensure!(in_flight(&rows[0]) == 7, "{results}");
        ensure!(in_flight(&rows[1]) <= most, "{results}");
        // A page of its own for each fault, or far fewer, larger requests.
        let alone = rows[1]["operations"].as_u64() >= Some((2 << 20) / 4096);
        ensure!(alone == (ahead == "off"), "read-ahead {ahead}: {results}");
    }
    Ok(())
}

/// The demo must not be able to pass by chance: without its bytes it fails.
fn failing_image() -> Outcome {
    let image = Image::patterned(1 << 20, 4)?;
    let ended = Iolite::demo()
        .disk(image.path())
        .injecting(&image.path(), "error=EIO:when=8+1")
        .finish()?;
    ensure!(
        ended.code() == 16,
        "exit code {}\n{}",
        ended.code(),
        ended.report()
    );
    Ok(())
}

/// Every key of the schema, no other, and values that fit the disk.
pub fn check(json: &str, size: usize, image: Option<&Image>, ended: &Ended) -> Outcome {
    let results: Value = serde_json::from_str(json)?;
    keys(&results, &["schema", "disk", "paths"])?;
    ensure!(
        results["schema"] == "iolite-demo/1",
        "schema is {}",
        results["schema"]
    );
    let disk = &results["disk"];
    keys(disk, &["path", "bytes", "sha256"])?;
    ensure!(
        disk["bytes"] == size,
        "{} bytes, not {size}\n{}",
        disk["bytes"],
        ended.report()
    );
    if let Some(image) = image {
        ensure!(
            disk["sha256"] == image.sha256()?.as_str(),
            "digest {}",
            disk["sha256"]
        );
        ensure!(
            disk["path"] == image.path().to_string_lossy().as_ref(),
            "path {}",
            disk["path"]
        );
    }
    let paths = results["paths"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    ensure!(paths.len() == PATHS.len(), "{} paths\n{json}", paths.len());
    for (path, (name, initiator, mode)) in paths.iter().zip(PATHS) {
        keys(
            path,
            &[
                "name",
                "initiator",
                "mode",
                "trigger",
                "operations",
                "bytes",
                "sha256",
                "seconds",
                "latency_us",
                "max_in_flight",
                "cpu_overlap",
            ],
        )?;
        ensure!(path["name"] == name, "{} is not {name}", path["name"]);
        ensure!(
            path["initiator"] == initiator && path["mode"] == mode,
            "{path}"
        );
        ensure!(
            path["bytes"] == size && path["sha256"] == disk["sha256"],
            "{path}"
        );
        ensure!(path["operations"].as_u64() > Some(0), "{path}");
        ensure!(path["max_in_flight"].as_u64() > Some(0), "{path}");
        ensure!(path["seconds"].as_f64() > Some(0.0), "{path}");
        let overlap = path["cpu_overlap"].as_f64();
        ensure!(overlap >= Some(0.0) && overlap <= Some(1.0), "{path}");
        let latency = &path["latency_us"];
        keys(latency, &["p50", "p99", "max"])?;
        let [p50, p99, max] = ["p50", "p99", "max"].map(|key| latency[key].as_f64());
        ensure!(p50 > Some(0.0) && p50 <= p99 && p99 <= max, "{latency}");
    }
    Ok(())
}

fn keys(object: &Value, expected: &[&str]) -> Result<(), Failed> {
    let mut found: Vec<&str> = object
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    ensure!(found == expected, "keys {found:?}, not {expected:?}");
    Ok(())
}
