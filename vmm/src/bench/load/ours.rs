//! Machines of this program: `iolite run` as anybody would start it, the same with a trace or with a
//! slow disk more, and the bare loop in place of a device.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use iolite_guest_core::bench::Cell;

use super::image::Image;
use super::machine::{INIT, Machine};
use super::subject::{Load, Sample};
use crate::config::path_item;
use crate::error::Error;

/// The name of our vCPU's thread.
const VCPU: &str = "vcpu";
/// What part of a cell's time a machine of its own gets before it.
const WARM_UP: u64 = 5;
/// What is slow about a slow disk.
pub const SLOW_KEYS: &str = "latency=50ms";

/// A disk of `iolite run`.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What to call the machine.
    pub name: String,
    /// The image.
    pub path: PathBuf,
    /// Its keys.
    pub keys: String,
    /// Past the host's page cache.
    pub direct: bool,
    /// How many queues it has.
    pub queues: u64,
}

impl Disk {
    /// As `run --disk` wants it.
    pub fn spec(&self) -> OsString {
        let queues = match self.queues {
            1 => String::new(),
            count => format!("queues={count}"),
        };
        let mut spec = path_item("path=", &self.path);
        for keys in [if self.direct { "direct" } else { "" }, &queues, &self.keys] {
            if !keys.is_empty() {
                spec.push(",");
                spec.push(keys);
            }
        }
        spec
    }
}

/// Our guest on iolite.
///
/// # Errors
/// [`Error::Bench`] if the guest does not get ready.
pub fn iolite(disk: &Disk) -> Result<Machine, Error> {
    Machine::start(&disk.name, run(disk, "")?, VCPU)
}

/// The same guest, with a loop in place of a device.
///
/// # Errors
/// As [`iolite`].
pub fn limit(disk: &Path, direct: bool) -> Result<Machine, Error> {
    let mut command = this_program()?;
    command.args(["bench", "bare", "--disk"]).arg(disk);
    if direct {
        command.arg("--direct");
    }
    Machine::start("limit", command, VCPU)
}

/// Our guest on iolite, with a trace. There is a machine for each cell, for a trace keeps its first
/// events only, and once it is full it costs less.
pub struct Traced(pub Disk);

impl Load for Traced {
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error> {
        let mut command = run(&self.0, "")?;
        command.args(["--trace", "/dev/null"]);
        // It is killed, not ended: what it has recorded would be put together only then, for
        // seconds, while others are measured.
        let mut machine = Machine::start(&self.0.name, command, VCPU)?;
        // The machines of others have done something before.
        machine.measure(&Cell {
            ms: cell.ms / WARM_UP,
            ..*cell
        })?;
        machine.measure(cell)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// Our guest on iolite, with a slow disk beside the one that is measured.
pub struct Beside {
    machine: Machine,
    _slow: Image,
}

impl Beside {
    /// Starts it.
    ///
    /// # Errors
    /// As [`iolite`].
    pub fn start(disk: &Disk) -> Result<Beside, Error> {
        let slow = Image::prepare(None, Image::MIN_BYTES)?;
        let mut spec = path_item("path=", &slow.path());
        spec.push(",");
        spec.push(SLOW_KEYS);
        let mut command = run(disk, "neighbour=/dev/vdc")?;
        command.arg("--disk").arg(&spec);
        Ok(Beside {
            machine: Machine::start(&disk.name, command, VCPU)?,
            _slow: slow,
        })
    }
}

impl Load for Beside {
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error> {
        self.machine.measure(cell)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        Box::new(self.machine).finish()
    }
}

/// `more` is for the guest's program.
fn run(disk: &Disk, more: &str) -> Result<Command, Error> {
    let mut command = this_program()?;
    command.args(["run", "--disk"]).arg(disk.spec());
    command.args([
        "--cmdline",
        &format!("{INIT} queues={} {more}", disk.queues),
    ]);
    Ok(command)
}

/// The program that this is.
///
/// # Errors
/// If the system does not say.
pub fn this_program() -> Result<Command, Error> {
    let path = env::current_exe().map_err(Error::host("cannot find this program"))?;
    Ok(Command::new(path))
}
