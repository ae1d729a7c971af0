//! `iolite bench idle`: what a machine costs that does nothing. Three figures, each of a process of
//! this program as anybody would start it:
//!
//! - the time from the start of the process to the guest's first instructions, which write a byte to
//!   COM1 (`kernel`): until that byte arrives here;
//! - memory besides the guest's, with four disks of four workers each, and our guest at its prompt;
//! - how often the VMM's threads wake up in a second then.

mod kernel;
mod process;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use process::Memory;
use serde_json::json;

use crate::columns;
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::output_file::Outputs;
use crate::screen::Screen;

/// How often the start is timed; the median is shown.
const STARTS: usize = 9;
/// The disks of the idle machine: `null:` keeps no bytes, so that no page cache is counted.
const DISK: &str = "null:64M,workers=4";
const DISKS: usize = 4;
/// Guest memory, in bytes and as an option.
const MEMORY_BYTES: u64 = 128 << 20;
const MEMORY: &str = "128M";
/// What the guest's shell says when it waits for input.
const PROMPT: &[u8] = b"iolite$ ";
/// How long a machine is left alone before it is looked at, and how long it is looked at.
const SETTLE: Duration = Duration::from_millis(500);
const WATCH: Duration = Duration::from_secs(3);

/// What the user can choose.
#[derive(Debug)]
pub struct Options {
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
}

/// The figures.
struct Idle {
    start_ms: f64,
    memory: Memory,
    wake_ups: f64,
}

/// Measures, and prints a table.
///
/// # Errors
/// [`Error::Bench`] if a machine does not do as it should, [`Error::Host`].
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    let json = Outputs::beside(Vec::new()).open_some("--json", options.json.as_deref())?;
    let screen = Screen::beside(&json);
    let start_ms = start()?;
    let (memory, wake_ups) = rest()?;
    let idle = Idle {
        start_ms,
        memory,
        wake_ups,
    };
    screen.print(idle.table().trim_end());
    if let Some(output) = json {
        output.write(|out| writeln!(out, "{:#}", idle.json()))?;
    }
    screen.finish()?;
    Ok(ExitCode::Clean)
}

impl Idle {
    fn table(&self) -> String {
        let row = |what: String, value: f64, digits: usize, unit: &str| {
            vec![what, format!("{value:.digits$}"), unit.to_owned()]
        };
        let mib = |what, bytes| row(what, bytes as f64 / f64::from(1 << 20), 2, "MiB");
        let kernel = kernel::BYTES >> 10;
        let rows = [
            row(
                format!("process start to a guest's first byte, kernel of {kernel} KiB"),
                self.start_ms,
                1,
                "ms",
            ),
            mib(
                format!("memory besides the guest's, {DISKS} disks of 4 workers"),
                self.memory.total(),
            ),
            mib("  of the program's file".into(), self.memory.program),
            mib("  of shared libraries".into(), self.memory.libraries),
            mib("  its own: stacks, heap, buffers".into(), self.memory.own),
            row("wake-ups of the VMM at rest".into(), self.wake_ups, 1, "/s"),
        ];
        columns::render(&[("idle", false), ("value", true), ("unit", false)], &rows)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "schema": "iolite-bench-idle/1",
            "start_ms": self.start_ms,
            "memory_bytes": self.memory.total(),
            "memory": {
                "program_bytes": self.memory.program,
                "library_bytes": self.memory.libraries,
                "own_bytes": self.memory.own,
            },
            "wake_ups_per_second": self.wake_ups,
        })
    }
}

/// The median time of a start in milliseconds.
fn start() -> Result<f64, Error> {
    let kernel = kernel::file().map_err(Error::host("cannot make a temporary file"))?;
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let mut command = command()?;
        command.arg(kernel.path());
        let started = Instant::now();
        let mut machine = Machine::start(command)?;
        let mut byte = [0];
        let read = machine
            .0
            .stdout
            .as_mut()
            .map(|out| out.read_exact(&mut byte));
        if !matches!(read, Some(Ok(()))) {
            return Err(Error::Bench("the guest wrote nothing".into()));
        }
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[STARTS / 2].as_secs_f64() * 1e3)
}

/// Memory, and wake-ups in a second, of a machine at its prompt.
fn rest() -> Result<(Memory, f64), Error> {
    let mut command = command()?;
    for _ in 0..DISKS {
        command.args(["--disk", DISK]);
    }
    let mut machine = Machine::start(command)?;
    machine.wait_for(PROMPT)?;
    thread::sleep(SETTLE);
    let pid = machine.0.id();
    let cannot = || Error::host("cannot look at the machine's process");
    let before = process::wake_ups(pid).map_err(cannot())?;
    thread::sleep(WATCH);
    let after = process::wake_ups(pid).map_err(cannot())?;
    let memory = process::memory_besides(pid, MEMORY_BYTES).map_err(cannot())?;
    Ok((
        memory,
        after.saturating_sub(before) as f64 / WATCH.as_secs_f64(),
    ))
}

/// `iolite run`.
fn command() -> Result<Command, Error> {
    let program = env::current_exe().map_err(Error::host("cannot find this program"))?;
    let mut command = Command::new(program);
    command.args(["run", "--memory", MEMORY]);
    Ok(command)
}

/// A machine as a process, ended when dropped.
struct Machine(Child);

impl Machine {
    fn start(mut command: Command) -> Result<Machine, Error> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn();
        child
            .map(Machine)
            .map_err(Error::host("cannot start a machine"))
    }

    /// Reads what the guest prints until it ends like this.
    fn wait_for(&mut self, end: &[u8]) -> Result<(), Error> {
        let gone = || Error::Bench("the guest does not come to its prompt".into());
        let mut out = BufReader::new(self.0.stdout.as_mut().ok_or_else(gone)?);
        let last = end.last().copied().unwrap_or_default();
        let mut text = Vec::new();
        while !text.ends_with(end) {
            if out.read_until(last, &mut text).map_err(|_| gone())? == 0 {
                return Err(gone());
            }
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for: then nothing is left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
