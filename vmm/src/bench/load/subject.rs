//! What is measured and compared.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use iolite_guest_core::bench::{Cell, Measured};

use super::image::Image;
use super::machine::Machine;
use super::native::{Threads, Uring};
use super::{Options, qemu};
use crate::config::DiskSpec;
use crate::error::Error;

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// The same guest with a bare loop in place of the device: one thread polls the ring, and calls
    /// preadv or pwritev
    Limit,
    /// The host itself: io_uring, and a thread in preadv or pwritev for each request in flight
    Host,
    /// The same guest under QEMU's microvm, with aio=threads and with aio=io_uring
    Qemu,
}

/// Something that can carry a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Our guest on iolite, its disk with these keys.
    Iolite(String),
    /// Our guest on a bare loop.
    Limit,
    /// Our guest on QEMU, its disk with this aio.
    Qemu(&'static str),
    /// io_uring on the host, one thread.
    HostUring,
    /// A thread for each request in flight on the host.
    HostThreads,
}

/// One cell, measured once.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What whoever put the load on saw.
    pub measured: Measured,
    /// Processor time of the other side in nanoseconds: a VMM's threads but the vCPU's, or the
    /// host's threads; for all requests of the cell.
    pub cpu_ns: u64,
}

/// A subject that is ready.
pub trait Load {
    /// Measures a cell.
    ///
    /// # Errors
    /// [`Error::Bench`] if a request failed or brought what it should not.
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error>;

    /// Ends it.
    ///
    /// # Errors
    /// [`Error::Bench`] if it does not end well.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// The subjects that `options` ask for, ours first.
///
/// # Errors
/// Keys that no disk can have; [`Error::Bench`] if something to compare with is not installed.
pub fn all(options: &Options) -> Result<Vec<Subject>, Error> {
    let mut subjects = Vec::new();
    for keys in &options.keys {
        DiskSpec::from_str(&format!("disk,{keys}"))?;
        subjects.push(Subject::Iolite(keys.clone()));
    }
    if subjects.is_empty() {
        subjects.push(Subject::Iolite(String::new()));
    }
    for against in &options.against {
        let more: &[Subject] = match against {
            Against::Limit => &[Subject::Limit],
            Against::Host => &[Subject::HostUring, Subject::HostThreads],
            Against::Qemu if !qemu::is_installed() => return Err(no_qemu()),
            Against::Qemu => &[Subject::Qemu("threads"), Subject::Qemu("io_uring")],
        };
        for subject in more {
            if !subjects.contains(subject) {
                subjects.push(subject.clone());
            }
        }
    }
    Ok(subjects)
}

fn no_qemu() -> Error {
    let program = qemu::PROGRAM;
    Error::Bench(format!(
        "--against qemu needs {program} in PATH (Debian: apt-get install qemu-system-x86)"
    ))
}

impl Subject {
    /// Makes it ready to be measured on `image`.
    ///
    /// # Errors
    /// [`Error::Bench`] or [`Error::Host`] if it does not start.
    pub fn start(&self, image: &Image, options: &Options) -> Result<Box<dyn Load>, Error> {
        let (path, direct) = (image.path(), options.direct);
        Ok(match self {
            Subject::Iolite(keys) => Box::new(Machine::iolite(&path, keys, direct)?),
            Subject::Limit => Box::new(Machine::limit(&path, direct)?),
            Subject::Qemu(aio) => Box::new(qemu::start(&path, aio, direct)?),
            Subject::HostUring => Box::new(Uring::new(&path, image.bytes(), direct)?),
            Subject::HostThreads => Box::new(Threads::new(&path, image.bytes(), direct)?),
        })
    }
}

/// How the table calls it.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Iolite(keys) if keys.is_empty() => f.write_str("iolite"),
            Subject::Iolite(keys) => write!(f, "iolite {keys}"),
            Subject::Limit => f.write_str("limit"),
            Subject::Qemu(aio) => write!(f, "qemu {aio}"),
            Subject::HostUring => f.write_str("host io_uring"),
            Subject::HostThreads => f.write_str("host preadv"),
        }
    }
}
