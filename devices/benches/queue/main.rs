//! How fast one queue is, beside the limit: a bare loop that polls the same ring, calls `preadv` or
//! `pwritev` on the same file, and publishes. Both serve the same driver, which polls the used ring
//! on a thread of its own; slices of both alternate, and medians are compared. Past the page cache,
//! the limit is what an io_uring does without any device.
//!
//!     cargo bench -p iolite-devices --bench queue -- [FILE] [--slices N] [--millis N] [--row N]
//!
//! Without FILE it is a temporary one of 256 MiB, in the page cache. The last column is device by
//! limit. The guest's side of a real machine is missing here: `iolite bench` has it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure ends the benchmark"
)]
#![allow(unsafe_code)]

mod driver;
mod limit;
mod native;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use iolite_devices::block::engine::Kind as Engine;

use driver::{Driver, Pattern, Server};

const FILE_BYTES: u64 = 256 << 20;

const DRIVER_CPU: usize = 0;
/// Where everything runs that serves the ring.
const SERVER_CPU: usize = 1;

/// What is measured: name, pattern, depths.
const ROWS: [(&str, Pattern, &[u16]); 6] = [
    ("4 KiB random read", Pattern::reads(4096), &[1, 4, 32, 64]),
    ("4 KiB random write", Pattern::writes(4096), &[1, 32]),
    ("64 KiB sequential read", Pattern::sequential(65536), &[8]),
    (
        "4 KiB random read, by interrupts",
        Pattern::reads(4096).with_interrupts(),
        &[1, 32],
    ),
    (
        "4 KiB direct read, io_uring",
        Pattern::reads(4096).direct(Engine::Uring),
        &[1, 32],
    ),
    (
        "4 KiB direct read, workers",
        Pattern::reads(4096).direct(Engine::Pool),
        &[1, 32],
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments[at + 1].parse::<u64>().unwrap())
    };
    let (slices, slice) = (
        option("--slices").unwrap_or(9),
        Duration::from_millis(option("--millis").unwrap_or(100)),
    );
    let file = arguments
        .first()
        .filter(|argument| !argument.starts_with('-'));
    let image = Image::new(file.map(PathBuf::from));

    println!(
        "{:34}{:>6}{:>11}{:>11}{:>8}{:>12}{:>12}",
        "", "depth", "limit/s", "device/s", "ratio", "notified/16", "interr./16"
    );
    let rows = (0..).zip(ROWS);
    let chosen = rows.filter(|(row, _)| option("--row").is_none_or(|only| only == *row));
    for (_, (name, pattern, depths)) in chosen {
        for &depth in depths {
            let (mut limits, mut devices) = (Vec::new(), Vec::new());
            let (mut notified, mut interrupts) = (0.0, 0.0);
            for _ in 0..slices {
                pin(SERVER_CPU);
                limits.push(match pattern.direct {
                    Some(_) => native::direct_reads(&image.path, pattern.bytes, depth, slice),
                    None => {
                        let limit = Server::limit(&image.path);
                        pin(DRIVER_CPU);
                        Driver::new(limit, pattern, depth).run(slice)
                    }
                });
                pin(SERVER_CPU);
                let device = Server::device(&image.path, pattern);
                pin(DRIVER_CPU);
                let mut driver = Driver::new(device, pattern, depth);
                devices.push(driver.run(slice));
                (notified, interrupts) = driver.signals_per_request();
            }
            let (limit, device) = (median(limits), median(devices));
            println!(
                "{name:34}{depth:>6}{limit:>11.0}{device:>11.0}{:>8.2}{:>12.2}{:>12.2}",
                device / limit,
                16.0 * notified,
                16.0 * interrupts
            );
        }
    }
}

/// Two threads that poll must not share a processor. New threads inherit their creator's.
fn pin(cpu: usize) {
    // SAFETY: a cpu_set_t is plain data, and the call gets its address and size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(
            libc::sched_setaffinity(0, size_of_val(&set), &set),
            0,
            "two processors are needed"
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The file that is read and written; removed at the end if it is ours.
struct Image {
    path: PathBuf,
    _own: Option<tempfile::NamedTempFile>,
}

impl Image {
    fn new(path: Option<PathBuf>) -> Self {
        let own = path
            .is_none()
            .then(|| tempfile::NamedTempFile::new().unwrap());
        let path = path
            .or(own.as_ref().map(|own| own.path().to_owned()))
            .unwrap();
        let file = File::options()
            .read(true)
            .write(own.is_some())
            .open(&path)
            .unwrap();
        // Everything is to be in the page cache, and allocated; in small pieces, for ext4 searches all
        // of what was once written together.
        let mut chunk = vec![0x5a; 16 << 10];
        for at in (0..FILE_BYTES).step_by(chunk.len()) {
            match own {
                Some(_) => file.write_all_at(&chunk, at).unwrap(),
                None => drop(file.read_at(&mut chunk, at).unwrap()),
            }
        }
        if own.is_some() {
            file.sync_all().unwrap();
        }
        Image { path, _own: own }
    }
}
