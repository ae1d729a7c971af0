//! The command line of `iolite bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, value_parser};
use iolite_guest_core::bench::{MAX_BLOCK_BYTES, MAX_DEPTH, MAX_QUEUES, SECTOR_BYTES};

use super::load::{self, Access, Against, Engine, Matrix, Wait};
use super::{cost, idle};
use crate::config::parse_size;
use crate::error::Error;
use crate::exit_code::{self, ExitCode};

/// `iolite bench`.
#[derive(Args, Debug)]
pub struct Bench {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count what one operation of each kind costs the guest's kernel
    #[command(after_help = exit_code::HELP, args_override_self = true)]
    Cost(Cost),
    /// Measure what a machine costs that does nothing: its start, memory, wake-ups
    #[command(after_help = exit_code::HELP, args_override_self = true)]
    Idle(Idle),
    /// Boot the guest with a bare loop as its disk, and measure what is typed: see --against limit
    Bare(Bare),
}

#[derive(Args, Debug)]
struct Idle {
    /// Write the results to this file; - for stdout, and what is shown there to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Bare {
    /// The file or block device, filled by iolite bench
    #[arg(long, value_name = "PATH")]
    disk: PathBuf,
    /// Past the host's page cache (O_DIRECT)
    #[arg(long)]
    direct: bool,
}

#[derive(Args, Debug)]
struct Cost {
    /// How many operations of each kind
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 512,
        value_parser = value_parser!(u64).range(1..=cost::MAX_OPERATIONS)
    )]
    operations: u64,
    /// The directory of another guest than the built-in one, as guest/build --out makes it
    #[arg(long, value_name = "DIR")]
    guest: Option<PathBuf>,
    /// Write the results to this file; - for stdout, and what is shown there to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Load {
    /// Patterns. All combinations of patterns, block sizes, depths, queues and ways to wait are
    /// measured; without patterns, block sizes and depths, a table of seven that show most
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_enum)]
    rw: Vec<Access>,
    /// Bytes in each request, 512 to 256K
    #[arg(short, long, value_name = "A,B", value_delimiter = ',', value_parser = parse_block)]
    block_size: Vec<u64>,
    /// Requests in flight, 1 to 128
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        value_parser = value_parser!(u64).range(1..=MAX_DEPTH as u64)
    )]
    depth: Vec<u64>,
    /// Queues that the guest spreads its requests over, 1 to 16; 1 if left out
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        value_parser = value_parser!(u64).range(1..=MAX_QUEUES as u64)
    )]
    queues: Vec<u64>,
    /// How the guest waits for completions; poll if left out
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_enum)]
    wait: Vec<Wait>,
    /// Disk keys of iolite's disk (see run --help), like engine=uring,workers=2; repeat to compare
    /// several
    #[arg(long = "keys", value_name = "KEYS")]
    keys: Vec<String>,
    /// Engines of iolite's disk; with --keys all combinations
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_enum)]
    engine: Vec<Engine>,
    /// What to compare with, in the same run
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_enum)]
    against: Vec<Against>,
    /// How long each cell is measured
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = parse_seconds)]
    seconds: Duration,
    /// How often; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// The file or block device to load, which is OVERWRITTEN; a temporary file if left out
    #[arg(
        long,
        value_name = "PATH",
        requires = "overwrite",
        conflicts_with = "size"
    )]
    disk: Option<PathBuf>,
    /// Overwrite --disk
    #[arg(long, requires = "disk")]
    overwrite: bool,
    /// Size of the temporary file
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    size: u64,
    /// Past the host's page cache (O_DIRECT)
    #[arg(long)]
    direct: bool,
    /// Print the table in Markdown, a row for each cell
    #[arg(long)]
    markdown: bool,
    /// Write the results to this file; - for stdout, and what is shown there to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Bench {
    /// Runs what was chosen.
    ///
    /// # Errors
    /// What the benchmark says.
    pub fn execute(self) -> Result<ExitCode, Error> {
        match self.command {
            Some(Command::Cost(cost)) => cost::run(&cost.options()),
            Some(Command::Idle(idle)) => idle::run(&idle::Options { json: idle.json }),
            Some(Command::Bare(bare)) => load::bare::run(&bare.disk, bare.direct),
            None => load::run(&self.load.options()),
        }
    }
}

impl Cost {
    fn options(self) -> cost::Options {
        cost::Options {
            operations: self.operations,
            guest: self.guest,
            json: self.json,
        }
    }
}

impl Load {
    fn options(self) -> load::Options {
        load::Options {
            matrix: Matrix {
                access: self.rw,
                block_bytes: self.block_size,
                depth: self.depth,
                queues: self.queues,
                wait: self.wait,
            },
            keys: self.keys,
            engines: self.engine,
            against: self.against,
            time: self.seconds,
            rounds: self.rounds,
            disk: self.disk,
            size: self.size,
            direct: self.direct,
            markdown: self.markdown,
            json: self.json,
        }
    }
}

/// A block size: bytes, or with a unit.
fn parse_block(text: &str) -> Result<u64, String> {
    let bytes = match text.parse() {
        Ok(bytes) => Some(bytes),
        Err(_) => parse_size(text).ok(),
    };
    let possible = SECTOR_BYTES as u64..=MAX_BLOCK_BYTES as u64;
    bytes
        .filter(|bytes| possible.contains(bytes) && bytes % SECTOR_BYTES as u64 == 0)
        .ok_or_else(|| "a multiple of 512 up to 256K, like 4096 or 64K".into())
}

/// Seconds, a fraction of one too.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s| (0.01..=3600.0).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds from 0.01 to 3600".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_seconds() {
        for (text, bytes) in [
            ("512", 512),
            ("4096", 4096),
            ("4K", 4096),
            ("256K", 1 << 18),
        ] {
            assert_eq!(parse_block(text), Ok(bytes));
        }
        for text in ["", "0", "100", "257K", "1M", "-4K"] {
            assert!(parse_block(text).is_err(), "{text}");
        }
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "0", "-1", "nan", "inf", "1e9", "x"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
