//! `iolite demo`: the built-in guest reads a disk along several paths and hashes it; the host
//! hashes the same disk and compares.
//!
//! The guest reports on its console (`protocol`); a thread of ours reads along (`watch`),
//! shows what happens, and keeps the results, which end as a table (`table`) and, if wanted, as
//! JSON (`json`). The guest is not trusted to report anything sensible.

mod disk;
mod json;
mod progress;
mod protocol;
mod table;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use iolite_devices::block::inject::{Injection, Latency};

use crate::builder;
use crate::config::{DiskSpec, MachineConfig};
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::guest;
use crate::output_file::{OutputFile, Outputs};
use crate::panics;
use crate::power::{Power, Stop};
use crate::processor::Accel;
use crate::screen::Screen;
use disk::DemoDisk;
use protocol::PathResult;
use watch::{ConsoleLines, Watched};

/// The paths along which the built-in guest reads: each that is selected has to come back with a
/// result.
pub const PATHS: [&str; 5] = [
    "blocking-read",
    "async-read",
    "pager",
    "kernel-mount",
    "block-server",
];
/// How many asynchronous reads the guest can have in flight (guest/abi, `MAX_IO`).
pub const MAX_IN_FLIGHT: u64 = 512;
/// How many console lines may wait for the thread that reads them, before the guest has to.
const LINES_WAITING: usize = 256;

/// What the user can choose.
#[derive(Debug)]
pub struct Options {
    /// The disk; a temporary one if there is none.
    pub disk: Option<PathBuf>,
    /// Let the guest write back what it has read.
    pub write: bool,
    /// The paths to read along, of [`PATHS`]; all of them if there is none.
    pub paths: Vec<String>,
    /// How many asynchronous reads are in flight, if not the guest's own choice.
    pub in_flight: Option<u64>,
    /// Let the pager read ahead.
    pub read_ahead: bool,
    /// How long each request of the disk takes at least.
    pub latency: Option<Latency>,
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
    /// Where to write a trace.
    pub trace: Option<PathBuf>,
    /// Guest memory in bytes.
    pub memory: u64,
    /// How long the guest may take.
    pub timeout: Option<Duration>,
    /// Who lends the processor; none: whoever is there.
    pub accel: Option<Accel>,
}

impl Options {
    /// What the guest is told.
    fn cmdline(&self) -> String {
        let mut line = String::from("init=demo /dev/vdb");
        if self.write {
            line.push_str(" --write");
        }
        if !self.paths.is_empty() {
            line.push_str(&format!(" --paths {}", self.paths.join(",")));
        }
        if let Some(in_flight) = self.in_flight {
            line.push_str(&format!(" --in-flight {in_flight}"));
        }
        if !self.read_ahead {
            line.push_str(" --read-ahead off");
        }
        line
    }

    fn selects(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|selected| selected == path)
    }
}

/// Runs the demo. `started` is when the process was, as near as we know.
///
/// # Errors
/// Whatever keeps the machine from running, and [`Error::Demo`] if the guest failed or a digest
/// differs.
pub fn run(options: &Options, started: Instant) -> Result<ExitCode, Error> {
    let disk = options.disk.iter().map(|path| ("the disk", path.clone()));
    let mut outputs = Outputs::beside(disk.collect());
    let json = outputs.open_some("--json", options.json.as_deref())?;
    let trace = outputs.open_some("--trace", options.trace.as_deref())?;
    let screen = Screen::beside(json.iter().chain(&trace));
    let disk = DemoDisk::prepare(options.disk.as_deref(), options.write, &screen)?;
    let slow = options
        .latency
        .map(|latency| format!("; each request takes at least {latency}"));
    screen.step(
        "disk",
        &(disk.describe(options.write) + &slow.unwrap_or_default()),
    );
    screen.step(
        "guest",
        &format!(
            "built-in kernel with {} MiB of memory; system disk as vda, the disk as vdb",
            options.memory >> 20
        ),
    );

    let (stop, watched) = run_guest(options, &disk, &screen, started, trace)?;
    if let Stop::Signal(_) | Stop::Panic = stop {
        return stop.exit_code(None);
    }
    if let Err(error) = judge_guest(&stop, &watched, options, disk.bytes()) {
        screen.last_lines(&watched.last_lines);
        return Err(error);
    }

    let digest = disk.digest(&screen)?;
    screen.print(&table::render(&watched.paths, &digest, screen.colour()));
    screen.print(&format!("{digest}  {}", disk.name()));
    if let Some(output) = json {
        let (name, bytes, paths) = (disk.name(), disk.bytes(), &watched.paths);
        output.write(|out| json::write(out, &name, bytes, &digest, paths))?;
    }
    judge_digests(&disk, &digest, &watched.paths)?;
    screen.finish()?;
    Ok(ExitCode::Clean)
}

/// Runs the guest to its end, and returns what it said.
fn run_guest(
    options: &Options,
    disk: &DemoDisk,
    screen: &Screen,
    started: Instant,
    trace: Option<OutputFile>,
) -> Result<(Stop, Watched), Error> {
    let power = Arc::new(Power::new().map_err(Error::host("cannot make an eventfd"))?);
    let (sender, lines) = mpsc::sync_channel(LINES_WAITING);
    let console = Box::new(ConsoleLines::new(sender, power.clone()));
    let mut machine = builder::build(&machine(options, disk), console, power)?;
    machine.trace = trace;
    thread::scope(|scope| {
        let watcher = thread::Builder::new()
            .name("demo-watch".into())
            .spawn_scoped(
                scope,
                panics::telling(|| watch::watch(lines, screen, started)),
            )
            .map_err(Error::host("cannot start a thread"))?;
        // The machine is gone after this, and with it the sender: the watcher ends.
        let stop = machine.run(options.timeout, false);
        let watched = watcher.join().unwrap_or_default();
        Ok((stop?, watched))
    })
}

fn machine(options: &Options, disk: &DemoDisk) -> MachineConfig {
    MachineConfig {
        memory: options.memory,
        kernel: guest::kernel(options.trace.is_some()),
        initrd: None,
        cmdline: options.cmdline(),
        system: Some(guest::SYSTEM),
        disks: vec![DiskSpec {
            read_only: !options.write,
            injection: Injection {
                latency: options.latency,
                ..Injection::default()
            },
            ..DiskSpec::of(disk.image())
        }],
        trace: options.trace.is_some(),
        accel: options.accel,
    }
}

/// Did the guest come to its end, with a result for every path?
fn judge_guest(stop: &Stop, watched: &Watched, options: &Options, bytes: u64) -> Result<(), Error> {
    match stop {
        Stop::Crash(crash) => return Err(Error::Crash(crash.clone())),
        Stop::Timeout => return Err(Error::Timeout(options.timeout.unwrap_or_default())),
        _ => {}
    }
    if let Some((path, error)) = &watched.failed {
        return Err(Error::Demo(format!(
            "the guest reports for path {path}: {error}"
        )));
    }
    if let Stop::ExitPort(value) = stop {
        return Err(Error::Demo(format!(
            "the guest ended with {value} on its exit port"
        )));
    }
    for name in PATHS.into_iter().filter(|path| options.selects(path)) {
        match watched.paths.iter().find(|path| path.name == name) {
            None => return Err(Error::Demo(format!("the guest ended without path {name}"))),
            Some(path) if path.bytes != bytes => {
                let read = path.bytes;
                return Err(Error::Demo(format!(
                    "path {name} read {read} of {bytes} bytes"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Did host and guest see the same bytes, and are they still there?
fn judge_digests(disk: &DemoDisk, digest: &str, paths: &[PathResult]) -> Result<(), Error> {
    if let Some(before) = disk.digest_before().filter(|before| *before != digest) {
        return Err(Error::Demo(format!(
            "the disk was changed; before, its SHA-256 was {before}"
        )));
    }
    match paths.iter().find(|path| path.sha256 != digest) {
        Some(path) => Err(Error::Demo(format!(
            "path {} read other bytes than the host: its SHA-256 is {}",
            path.name, path.sha256
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_what_the_user_chose() {
        let plain = Options {
            disk: None,
            write: false,
            paths: Vec::new(),
            in_flight: None,
            read_ahead: true,
            latency: None,
            json: None,
            trace: None,
            memory: 128 << 20,
            timeout: None,
            accel: None,
        };
        assert_eq!(plain.cmdline(), "init=demo /dev/vdb");
        assert!(PATHS.iter().all(|path| plain.selects(path)));
        let chosen = Options {
            write: true,
            paths: vec!["pager".into(), "async-read".into()],
            in_flight: Some(8),
            read_ahead: false,
            ..plain
        };
        assert_eq!(
            chosen.cmdline(),
            "init=demo /dev/vdb --write --paths pager,async-read --in-flight 8 --read-ahead off"
        );
        assert!(chosen.selects("pager") && !chosen.selects("blocking-read"));
    }
}
