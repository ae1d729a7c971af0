//! The command line.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{DiskSpec, MachineConfig, parse_duration, parse_size};
use crate::error::Error;
use crate::exit_code::{self, ExitCode};
use crate::loader::Image;
use crate::power::{Power, Stop};
use crate::signals::Signals;
use crate::{builder, console, guest, logging};

/// A small KVM virtual machine whose subject is block I/O, seen from both sides.
#[derive(Debug, Parser)]
#[command(version, after_help = exit_code::HELP, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log more: -v one line for each step of a request, -vv registers and exits (RUST_LOG
    /// overrides)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a kernel: a PVH or 64-bit ELF file
    #[command(after_help = exit_code::HELP, args_override_self = true)]
    Run(Run),
}

#[derive(Args, Debug)]
struct Run {
    /// The kernel (PVH or ELF64); the built-in one, with its system disk, if left out
    kernel: Option<PathBuf>,
    /// A disk image: PATH[,readonly][,workers=N][,queue-size=N][,id=TEXT]; repeat for more disks
    #[arg(short, long = "disk", value_name = "PATH[,KEY[=VALUE]]...")]
    disks: Vec<DiskSpec>,
    /// Guest memory, like 128M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = "128M", value_parser = parse_size)]
    memory: u64,
    /// The kernel's command line; disks are appended to it
    #[arg(
        short = 'p',
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    cmdline: String,
    /// An initial RAM disk for the kernel
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The system disk, a ustar archive: the guest's first disk, read-only
    #[arg(long, value_name = "FILE")]
    system: Option<PathBuf>,
    /// Stop the guest after this time, like 30s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// The whole program: its result is the process exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, a mistake to stderr; neither matters if nobody reads it.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Clean
            };
        }
    };
    logging::start(cli.verbose);
    console::restore_on_panic();
    let result = match cli.command {
        Command::Run(run) => run.execute(),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "iolite: {error}");
        ExitCode::from(&error)
    })
}

impl Run {
    fn execute(self) -> Result<ExitCode, Error> {
        let timeout = self.timeout;
        let signals = Signals::take()?;
        let power = Arc::new(Power::new().map_err(Error::host("cannot make an eventfd"))?);
        let output =
            console::Output::new(power.clone()).map_err(Error::host("cannot use stdout"))?;
        let machine = builder::build(&self.config(), Box::new(output), power)?;
        match machine.run(signals, timeout, true)? {
            Stop::Reset => Ok(ExitCode::Clean),
            Stop::ExitPort(value) => Ok(ExitCode::Guest(value)),
            Stop::Signal(number) => Ok(ExitCode::Signal(number)),
            Stop::Crash(crash) => Err(Error::Crash(crash)),
            Stop::Timeout => Err(Error::Timeout(timeout.unwrap_or_default())),
        }
    }

    fn config(self) -> MachineConfig {
        let (kernel, system) = match self.kernel {
            Some(path) => (Image::File(path), None),
            None => (guest::KERNEL, Some(guest::SYSTEM)),
        };
        MachineConfig {
            memory: self.memory,
            kernel,
            initrd: self.initrd,
            cmdline: self.cmdline,
            system: self.system.map(Image::File).or(system),
            disks: self.disks,
        }
    }
}
