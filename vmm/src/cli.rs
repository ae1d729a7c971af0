//! The command line.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use iolite_devices::block::inject::Latency;

use crate::bench::args::Bench;
use crate::config::{
    DISK_HELP, DiskSpec, MachineConfig, disk_files, parse_duration, parse_latency, parse_size,
};
use crate::error::Error;
use crate::exit_code::{self, ExitCode};
use crate::loader::Image;
use crate::output_file::Outputs;
use crate::power::{CANNOT_PRINT, Power};
use crate::processor::Accel;
use crate::{builder, check, console, demo, guest, logging, panics, serve, signals, stats, trace};

/// A small KVM virtual machine whose subject is block I/O, seen from both sides.
#[derive(Debug, Parser)]
#[command(version, after_help = exit_code::HELP, args_override_self = true)]
struct Cli {
    /// `demo` if left out
    #[command(subcommand)]
    command: Option<Command>,
    /// Log more: -v each step of a request, -vv register accesses and VM exits too (RUST_LOG
    /// overrides)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = LAST)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a disk along five paths with the built-in guest, and check every byte
    #[command(after_help = exit_code::HELP, args_override_self = true)]
    Demo(Demo),
    /// Boot a kernel, or the built-in guest with its shell
    #[command(after_help = exit_code::HELP, args_override_self = true)]
    Run(Run),
    /// Serve disks to other VMMs (QEMU, Cloud Hypervisor, ...) over vhost-user
    #[command(after_help = exit_code::HELP, args_override_self = true)]
    Serve(Serve),
    /// Show what --trace has recorded
    #[command(subcommand)]
    Trace(trace::command::Command),
    /// Measure how fast a disk is for a guest, and what I/O costs the guest's kernel
    #[command(after_help = exit_code::HELP, args_conflicts_with_subcommands = true)]
    Bench(Bench),
    /// Check whether machines can run here: /dev/kvm, its permissions, the platform, QEMU
    Check(Check),
}

#[derive(Args, Debug, PartialEq)]
struct Demo {
    /// The disk image to read; a temporary one of 16 MiB by default
    #[arg(short, long, value_name = "IMG")]
    disk: Option<PathBuf>,
    /// Attach the disk writable, and have the guest write back what it has read
    #[arg(long)]
    write: bool,
    /// Only these paths: blocking-read, async-read, pager, kernel-mount, block-server
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(demo::PATHS)
    )]
    paths: Vec<String>,
    /// How many asynchronous reads to keep in flight; 32 by default
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=demo::MAX_IN_FLIGHT))]
    in_flight: Option<u64>,
    /// Whether the guest's pager reads ahead
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        hide_possible_values = true
    )]
    read_ahead: Switch,
    /// The least time that each request takes, like 2ms, or 1ms-3ms for a random one
    #[arg(long, value_name = "TIME", value_parser = parse_latency)]
    latency: Option<Latency>,
    /// Write the results to this file; - for stdout, and what is shown there to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Record the life of each request in this file; see 'iolite trace'
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Guest memory, like 128M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = DEFAULT_MEMORY, value_parser = parse_size)]
    memory: u64,
    /// Stop the guest after this time, like 30s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Who lends the processor; /dev/kvm if it can be used, else QEMU
    #[arg(long, value_name = "kvm|qemu", value_enum, env = "IOLITE_ACCEL")]
    accel: Option<Accel>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Args, Debug)]
struct Run {
    /// A PVH or 64-bit ELF file; by default the built-in kernel with its system disk
    kernel: Option<PathBuf>,
    /// A disk image and its keys (--help lists them); repeat for more disks
    #[arg(
        short,
        long = "disk",
        value_name = "PATH[,KEY[=VALUE]]...",
        value_parser = OsStringValueParser::new().try_map(|text| DiskSpec::parse(&text)),
        long_help = DISK_HELP
    )]
    disks: Vec<DiskSpec>,
    /// Guest memory, like 128M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = DEFAULT_MEMORY, value_parser = parse_size)]
    memory: u64,
    /// The kernel's command line; the disks' addresses are appended
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
    /// Record the life of each request in this file; see 'iolite trace'
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print at the end what disks and vCPU did: requests, latencies, VM exits
    #[arg(long)]
    stats: bool,
    /// Write the same as JSON to this file
    #[arg(long, value_name = "FILE")]
    stats_json: Option<PathBuf>,
    /// Print a line this often, like 1s: IOPS, bandwidth, requests in flight, p99, VM exits
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    stats_interval: Option<Duration>,
    /// Stop the guest after this time, like 30s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Who lends the processor; /dev/kvm if it can be used, else QEMU
    #[arg(long, value_name = "kvm|qemu", value_enum, env = "IOLITE_ACCEL")]
    accel: Option<Accel>,
}

#[derive(Args, Debug)]
struct Check {
    /// Look for this one alone
    #[arg(long, value_name = "kvm|qemu", value_enum)]
    accel: Option<Accel>,
}

#[derive(Args, Debug)]
struct Serve {
    /// A disk image and its keys (--help lists them); repeat for more disks
    #[arg(
        short,
        long = "disk",
        value_name = "PATH[,KEY[=VALUE]]...",
        value_parser = OsStringValueParser::new().try_map(|text| DiskSpec::parse(&text)),
        long_help = DISK_HELP,
        required = true
    )]
    disks: Vec<DiskSpec>,
    /// Where to serve it: a UNIX socket that is made; repeat for each disk, in the same order
    #[arg(short, long = "socket", value_name = "PATH", required = true)]
    sockets: Vec<PathBuf>,
    /// Record the device's half of each request's life in this file; see 'iolite trace'
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print at the end what the disks did: requests, latencies
    #[arg(long)]
    stats: bool,
    /// Write the same as JSON to this file
    #[arg(long, value_name = "FILE")]
    stats_json: Option<PathBuf>,
    /// Print a line this often, like 1s: IOPS, bandwidth, requests in flight, p99
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    stats_interval: Option<Duration>,
}

impl Serve {
    fn execute(self) -> Result<ExitCode, Error> {
        let mut outputs = Outputs::beside(disk_files(&self.disks).collect());
        serve::run(serve::Options {
            trace: outputs.open_some("--trace", self.trace.as_deref())?,
            stats: stats::Options {
                table: self.stats,
                json: outputs.open_some("--stats-json", self.stats_json.as_deref())?,
                interval: self.stats_interval,
            },
            disks: self.disks,
            sockets: self.sockets,
        })
    }
}

/// The place of an option after all others, but for `--help`.
const LAST: usize = 998;

/// Guest memory where nobody says otherwise, as text for --help and in bytes.
const DEFAULT_MEMORY: &str = "128M";
const DEFAULT_MEMORY_BYTES: u64 = 128 << 20;

/// The whole program: its result is the process exit code.
pub fn main() -> ExitCode {
    panics::watch();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let started = Instant::now();
        signals::handle()?;
        match Cli::try_parse() {
            Ok(cli) => cli.execute(started),
            Err(text) => help(&text),
        }
    }));
    let code = match ended {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            logging::line(&format!("iolite: {error}"));
            ExitCode::from(&error)
        }
        Err(_) => ExitCode::Panic,
    };
    logging::flush();
    match panics::have_happened() {
        true => ExitCode::Panic,
        false => code,
    }
}

/// Help goes to stdout, a mistake to stderr.
fn help(text: &clap::Error) -> Result<ExitCode, Error> {
    match text.print() {
        // Neither matters if nobody reads it.
        _ if text.use_stderr() => Ok(ExitCode::Usage),
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::host(CANNOT_PRINT)(error))
        }
        _ => Ok(ExitCode::Clean),
    }
}

impl Cli {
    fn execute(self, started: Instant) -> Result<ExitCode, Error> {
        logging::start(self.verbose)?;
        match self.command {
            None => demo::run(&Demo::of_the_environment().options(), started),
            Some(Command::Demo(demo)) => demo::run(&demo.options(), started),
            Some(Command::Run(run)) => run.execute(),
            Some(Command::Serve(serve)) => serve.execute(),
            Some(Command::Trace(command)) => trace::command::run(&command),
            Some(Command::Bench(bench)) => bench.execute(),
            Some(Command::Check(check)) => check::run(check.accel),
        }
    }
}

/// `iolite demo` without options, which is what `iolite` alone does.
impl Default for Demo {
    fn default() -> Self {
        Demo {
            disk: None,
            write: false,
            paths: Vec::new(),
            in_flight: None,
            read_ahead: Switch::On,
            latency: None,
            json: None,
            trace: None,
            memory: DEFAULT_MEMORY_BYTES,
            timeout: None,
            accel: None,
        }
    }
}

impl Demo {
    /// Without options, but for what the environment says.
    fn of_the_environment() -> Demo {
        match Cli::parse_from(["iolite", "demo"]).command {
            Some(Command::Demo(demo)) => demo,
            _ => Demo::default(),
        }
    }

    fn options(self) -> demo::Options {
        demo::Options {
            disk: self.disk,
            write: self.write,
            paths: self.paths,
            in_flight: self.in_flight,
            read_ahead: self.read_ahead == Switch::On,
            latency: self.latency,
            json: self.json,
            trace: self.trace,
            memory: self.memory,
            timeout: self.timeout,
            accel: self.accel,
        }
    }
}

impl Run {
    fn execute(self) -> Result<ExitCode, Error> {
        let timeout = self.timeout;
        let power = Arc::new(Power::new().map_err(Error::host("cannot make an eventfd"))?);
        let output =
            console::Output::new(power.clone()).map_err(Error::host("cannot use stdout"))?;
        let (trace, json) = (self.trace.clone(), self.stats_json.clone());
        let (table, interval) = (self.stats, self.stats_interval);
        let config = self.config();
        let mut outputs = Outputs::with_console(config.files());
        let trace = outputs.open_some("--trace", trace.as_deref())?;
        let stats = stats::Options {
            table,
            json: outputs.open_some("--stats-json", json.as_deref())?,
            interval,
        };
        let mut machine = builder::build(&config, Box::new(output), power)?;
        machine.trace = trace;
        machine.stats = stats.are_wanted().then_some(stats);
        machine.run(timeout, true)?.exit_code(timeout)
    }

    fn config(self) -> MachineConfig {
        let (kernel, system) = match self.kernel {
            Some(path) => (Image::File(path), None),
            None => (guest::kernel(self.trace.is_some()), Some(guest::SYSTEM)),
        };
        MachineConfig {
            memory: self.memory,
            kernel,
            initrd: self.initrd,
            cmdline: self.cmdline,
            system: self.system.map(Image::File).or(system),
            disks: self.disks,
            trace: self.trace.is_some(),
            accel: self.accel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["iolite", "demo"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Demo(demo)) if demo == Demo::default()));
    }
}
