//! What the command line of `demo` chooses.

use crate::PATHS;
use iolite_user::core_logic::report::PathKind;
use iolite_user::core_logic::words;
use iolite_user::{Args, MAX_IO};

const USAGE: &str = "usage: demo DISK [--write] [--paths A,B] [--in-flight N] \
                     [--read-ahead on|off]; paths: blocking-read, async-read, pager, kernel-mount, \
                     block-server";

/// How many asynchronous reads are in flight, and requests to the server, where nobody says otherwise.
const IN_FLIGHT: usize = 32;

/// The choices.
pub struct Options {
    /// The path of the disk.
    pub disk: &'static str,
    /// Write back what was read.
    pub write: bool,
    /// Reads of `async-read` and `block-server` in flight.
    pub in_flight: usize,
    /// The pager reads ahead.
    pub read_ahead: bool,
    /// This process is for one path.
    pub only: Option<&'static PathKind>,
    paths: Option<&'static str>,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    ///
    /// The usage.
    pub fn parse(mut args: Args) -> Result<Options, &'static str> {
        let mut disk = None;
        let mut options = Options {
            disk: "",
            write: false,
            in_flight: IN_FLIGHT,
            read_ahead: true,
            only: None,
            paths: None,
        };
        while let Some(arg) = args.next() {
            match arg {
                "--write" => options.write = true,
                "--paths" => options.paths = Some(args.next().filter(known).ok_or(USAGE)?),
                "--in-flight" => options.in_flight = args.next().and_then(count).ok_or(USAGE)?,
                "--read-ahead" => options.read_ahead = args.next().and_then(on).ok_or(USAGE)?,
                "--only" => options.only = Some(args.next().and_then(path).ok_or(USAGE)?),
                _ if disk.is_none() && !arg.starts_with('-') => disk = Some(arg),
                _ => return Err(USAGE),
            }
        }
        options.disk = disk.ok_or(USAGE)?;
        Ok(options)
    }

    /// Is this path to run?
    pub fn selects(&self, name: &str) -> bool {
        self.paths
            .is_none_or(|names| names.split(',').any(|selected| selected == name))
    }
}

fn known(names: &&str) -> bool {
    names.split(',').all(|name| path(name).is_some())
}

fn path(name: &str) -> Option<&'static PathKind> {
    PATHS.iter().find(|path| path.name == name)
}

fn count(text: &str) -> Option<usize> {
    let count = usize::try_from(words::number(text)?).ok()?;
    (1..=MAX_IO).contains(&count).then_some(count)
}

fn on(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}
