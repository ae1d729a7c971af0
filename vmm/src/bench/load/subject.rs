//! What is measured and compared.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use iolite_guest_core::bench::{Cell, Measured};

use super::image::Image;
use super::native::{Threads, Uring};
use super::ours::{self, Beside, Traced};
use super::server::Server;
use super::{Options, qemu};
use crate::config::{ConfigError, DiskSpec};
use crate::error::Error;

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// The same guest with a bare loop in place of the device: one thread polls the ring, and calls
    /// preadv or pwritev
    Limit,
    /// The host itself: io_uring, a thread in preadv or pwritev for each request in flight, and one
    /// thread that copies from and to a mapping
    Host,
    /// The same guest under QEMU's microvm, with aio=threads and with aio=io_uring
    Qemu,
    /// The same guest under QEMU's microvm, its disk the first iolite's, by iolite serve
    Serve,
    /// The first iolite with run --trace: what recording costs
    Traced,
    /// The first iolite with a second disk of latency=50ms that the guest keeps busy meanwhile
    Neighbour,
}

/// The engine of iolite's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Worker threads
    Pool,
    /// The kernel's io_uring
    Uring,
    /// The disk's own thread
    Sync,
}

/// As a disk key.
impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Pool => "engine=pool",
            Engine::Uring => "engine=uring",
            Engine::Sync => "engine=sync",
        })
    }
}

/// Something that can carry a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Our guest on iolite, its disk with these keys.
    Iolite(String),
    /// The same with a trace.
    Traced(String),
    /// The same with a slow disk beside it.
    Beside(String),
    /// Our guest on a bare loop.
    Limit,
    /// Our guest on QEMU, its disk with this aio.
    Qemu(&'static str),
    /// Our guest on QEMU, its disk served by iolite, with these keys.
    Served(String),
    /// io_uring on the host, one thread.
    HostUring,
    /// A thread for each request in flight on the host.
    HostThreads,
    /// One thread and a mapping on the host.
    HostMapping,
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
    let all_keys = all_keys(&options.keys, &options.engines);
    for keys in &all_keys {
        let subject = Subject::Iolite(keys.clone());
        // A mistake in them should cost no time.
        let disk = DiskSpec::parse(&subject.disk("disk".into(), options).spec())?;
        if disk.read_only && options.matrix.cells().iter().any(|cell| cell.cell().write) {
            return Err(ConfigError::BenchWritesReadOnly.into());
        }
        subjects.push(subject);
    }
    for against in &options.against {
        let more = match against {
            Against::Limit => vec![Subject::Limit],
            // A mapping is one of the page cache.
            Against::Host if options.direct => vec![Subject::HostUring, Subject::HostThreads],
            Against::Host => vec![
                Subject::HostUring,
                Subject::HostThreads,
                Subject::HostMapping,
            ],
            Against::Qemu | Against::Serve if !crate::qemu::is_installed() => {
                return Err(no_qemu(*against));
            }
            Against::Qemu => ["threads", "io_uring"].map(Subject::Qemu).to_vec(),
            Against::Serve => vec![Subject::Served(all_keys[0].clone())],
            Against::Traced => vec![Subject::Traced(all_keys[0].clone())],
            Against::Neighbour => vec![Subject::Beside(all_keys[0].clone())],
        };
        for subject in more {
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
    }
    Ok(subjects)
}

/// The keys of each iolite: all combinations of what was chosen; at least one, if without keys.
fn all_keys(chosen: &[String], engines: &[Engine]) -> Vec<String> {
    let none = [String::new()];
    let chosen = if chosen.is_empty() { &none } else { chosen };
    if engines.is_empty() {
        return chosen.to_vec();
    }
    let with = |keys: &String, engine: &Engine| format!("{engine}{}{keys}", comma(keys));
    chosen
        .iter()
        .flat_map(|keys| engines.iter().map(move |engine| with(keys, engine)))
        .collect()
}

/// What stands between an item and keys.
fn comma(keys: &str) -> &'static str {
    if keys.is_empty() { "" } else { "," }
}

fn no_qemu(against: Against) -> Error {
    let (program, against) = (crate::qemu::PROGRAM, against.to_possible_value());
    let against = against.map_or_else(String::new, |value| value.get_name().to_owned());
    Error::Bench(format!(
        "--against {against} needs {program} in PATH (Debian: apt-get install qemu-system-x86)"
    ))
}

impl Subject {
    /// The keys of its disk, if it is iolite's.
    pub fn keys(&self) -> Option<&str> {
        match self {
            Subject::Iolite(keys)
            | Subject::Traced(keys)
            | Subject::Beside(keys)
            | Subject::Served(keys) => Some(keys),
            _ => None,
        }
    }

    /// Does it have the image without a lock? (QEMU is told to, as the image may have no name.)
    pub fn locks_nothing(&self) -> bool {
        use Subject::{HostMapping, HostThreads, HostUring, Qemu};
        matches!(self, Qemu(_) | HostUring | HostThreads | HostMapping)
    }

    /// The disk of ours that it has, of the image at `path`.
    fn disk(&self, path: PathBuf, options: &Options) -> ours::Disk {
        ours::Disk {
            name: self.to_string(),
            path,
            keys: self.keys().unwrap_or_default().to_owned(),
            direct: options.direct,
            queues: options.matrix.most_queues(),
        }
    }

    /// Makes it ready to be measured on `image`.
    ///
    /// # Errors
    /// [`Error::Bench`] or [`Error::Host`] if it does not start.
    pub fn start(&self, image: &Image, options: &Options) -> Result<Box<dyn Load>, Error> {
        let (path, direct) = (image.path(), options.direct);
        let queues = options.matrix.most_queues();
        let disk = self.disk(path.clone(), options);
        Ok(match self {
            Subject::Iolite(_) => Box::new(ours::iolite(&disk)?),
            Subject::Traced(_) => Box::new(Traced(disk)),
            Subject::Beside(_) => Box::new(Beside::start(&disk)?),
            Subject::Limit => Box::new(ours::limit(&path, direct)?),
            Subject::Qemu(aio) => Box::new(qemu::start(&path, aio, direct, queues)?),
            Subject::Served(_) => {
                let server = Server::start(&disk)?;
                Box::new(qemu::start_served(&self.to_string(), server, queues)?)
            }
            Subject::HostUring => Box::new(Uring::new(&path, image.bytes(), direct)?),
            Subject::HostThreads => Box::new(Threads::calling(&path, image.bytes(), direct)?),
            Subject::HostMapping => Box::new(Threads::copying(&path, image.bytes())?),
        })
    }
}

/// How the table calls it.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Iolite(keys) if keys.is_empty() => f.write_str("iolite"),
            Subject::Iolite(keys) => write!(f, "iolite {keys}"),
            Subject::Traced(_) => f.write_str("traced"),
            Subject::Beside(_) => write!(f, "beside {}", ours::SLOW_KEYS),
            Subject::Limit => f.write_str("limit"),
            Subject::Qemu(aio) => write!(f, "qemu {aio}"),
            Subject::Served(_) => f.write_str("qemu + serve"),
            Subject::HostUring => f.write_str("host io_uring"),
            Subject::HostThreads => f.write_str("host preadv"),
            Subject::HostMapping => f.write_str("host mmap"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_engines_are_combined() {
        let keys = ["workers=1", "poll=off"].map(String::from);
        let engines = [Engine::Pool, Engine::Uring];
        assert_eq!(all_keys(&[], &[]), [""]);
        assert_eq!(all_keys(&keys, &[]), keys);
        assert_eq!(all_keys(&[], &engines), ["engine=pool", "engine=uring"]);
        let both = [
            "engine=pool,workers=1",
            "engine=uring,workers=1",
            "engine=pool,poll=off",
            "engine=uring,poll=off",
        ];
        assert_eq!(all_keys(&keys, &engines), both);
    }
}
