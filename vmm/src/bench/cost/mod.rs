//! `iolite bench cost`: what one operation of each kind costs the guest's kernel.
//!
//! The guest's program `cost` does each operation many times between two lines on the console. When
//! such a line arrives the vCPU has left the guest, and KVM's counters are read (`marks`): what they
//! moved in between, less what the lines themselves cost, is divided by the number of operations
//! (`table`). Where ring 0 is emulated KVM counts its instructions, one by one; elsewhere it
//! emulates but a few, and the time is all there is to see.

mod marks;
mod table;

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::builder;
use crate::config::{DiskSpec, MachineConfig};
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::guest;
use crate::loader::Image;
use crate::output_file::Outputs;
use crate::power::{Power, Stop};
use crate::processor::Accel;
use crate::screen::Screen;
use marks::{MarkedConsole, Marks};

/// Most operations of each kind (guest/user/src/bin/cost.rs, `PART_PAGES`).
pub const MAX_OPERATIONS: u64 = 1024;
/// Size of the temporary disk in bytes: five parts of that many pages.
const DISK_BYTES: u64 = 5 * MAX_OPERATIONS * 4096;
/// Far beyond what any platform takes.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Guest memory in bytes.
const MEMORY_BYTES: u64 = 128 << 20;

/// What the user can choose.
#[derive(Debug)]
pub struct Options {
    /// How many operations of each kind.
    pub operations: u64,
    /// The directory of another guest than the built-in one.
    pub guest: Option<PathBuf>,
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
}

/// What one operation of a kind costs on average. What the platform does not count is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The kind.
    pub name: String,
    /// How many were measured.
    pub operations: u64,
    /// Microseconds.
    pub us: f64,
    /// Microseconds of these in which the guest's processor slept.
    pub asleep_us: f64,
    /// Ring-0 instructions, where ring 0 is emulated.
    #[serde(rename = "ring_0_instructions")]
    pub instructions: Option<f64>,
    /// VM exits to the VMM: registers of devices.
    pub mmio_exits: Option<f64>,
    /// Times that the processor slept, and so left the guest.
    pub halts: Option<f64>,
    /// Interrupts.
    pub interrupts: Option<f64>,
}

/// The JSON file.
#[derive(Serialize)]
struct Results<'a> {
    schema: &'static str,
    costs: &'a [Cost],
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// Whatever keeps the machine from running, and [`Error::Bench`] if the guest does not come to its
/// end.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    let mut outputs = Outputs::beside(files(options));
    let json = outputs.open_some("--json", options.json.as_deref())?;
    let screen = Screen::beside(&json);
    // It has no name: whatever ends the process, nothing is left of it.
    let disk = tempfile::tempfile()
        .and_then(|file| file.set_len(DISK_BYTES).map(|()| file))
        .map_err(Error::host("cannot make a temporary disk of 20 MiB"))?;
    let marks = Arc::new(Mutex::new(Marks::default()));
    let stop = run_guest(
        options,
        format!("/proc/self/fd/{}", disk.as_raw_fd()).into(),
        &marks,
    )?;
    let marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
    match stop {
        Stop::Reset => {}
        Stop::ExitPort(value) => {
            let said = marks.last_line();
            return Err(Error::Bench(format!(
                "the guest ended with {value}: {said}"
            )));
        }
        stop => return stop.exit_code(Some(TIMEOUT)),
    }
    let costs = marks.costs().map_err(Error::Bench)?;
    screen.print(table::render(&costs).trim_end());
    if let Some(output) = json {
        let results = Results {
            schema: "iolite-bench-cost/1",
            costs: &costs,
        };
        output.write(|out| Ok(serde_json::to_writer_pretty(out, &results)?))?;
    }
    screen.finish()?;
    Ok(ExitCode::Clean)
}

/// What the machine is made of, but for its temporary disk.
fn files(options: &Options) -> Vec<(&'static str, PathBuf)> {
    machine(options, PathBuf::new()).files()
}

fn run_guest(options: &Options, disk: PathBuf, marks: &Arc<Mutex<Marks>>) -> Result<Stop, Error> {
    let power = Arc::new(Power::new().map_err(Error::host("cannot make an eventfd"))?);
    let console = Box::new(MarkedConsole::new(marks.clone()));
    let machine = builder::build(&machine(options, disk), console, power)?;
    let stats = machine
        .vcpu_stats()
        .ok_or_else(|| Error::Bench("KVM has no statistics (Linux 5.14 has)".into()))?;
    marks
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .count_with(stats);
    machine.run(Some(TIMEOUT), false)
}

fn machine(options: &Options, disk: PathBuf) -> MachineConfig {
    let (kernel, system) = match &options.guest {
        Some(directory) => {
            let file = |name| Image::File(directory.join(name));
            (file("kernel"), file("system.tar"))
        }
        None => (guest::KERNEL, guest::SYSTEM),
    };
    MachineConfig {
        trace: false,
        accel: Some(Accel::Kvm),
        memory: MEMORY_BYTES,
        kernel,
        initrd: None,
        cmdline: format!("init=cost /dev/vdb {}", options.operations),
        system: Some(system),
        disks: vec![DiskSpec {
            read_only: true,
            ..DiskSpec::new(disk)
        }],
    }
}
