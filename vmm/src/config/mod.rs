//! What a machine is made of, as data: what the command line is turned into, and what the builder
//! builds.

mod disk;
mod injection;
mod units;

use std::path::PathBuf;

use iolite_devices_abi::machine::VIRTIO_MMIO_WINDOWS;

pub use disk::{DiskSpec, HELP as DISK_HELP, OpenFile, Source, path_item};
pub use injection::parse_latency;
pub use units::{parse_duration, parse_size};

use crate::loader::Image;
use crate::processor::Accel;
use injection::FAILURE;

/// Why a configuration is not one that can be built.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not a size.
    #[error("`{0}` is not a size: write a number and a unit, like 64K, 128M or 2G")]
    Size(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write a number and a unit, like 500ms, 30s or 2m")]
    Duration(String),
    /// Not a latency.
    #[error(
        "`{0}` is not a latency: write a time up to 60s like 2ms, or a range like 500us-3ms; units are ns, us, ms and s"
    )]
    Latency(String),
    /// Not a kind of failure.
    #[error("`{0}` does not say which requests fail: write {FAILURE}")]
    Failure(String),
    /// A key that does nothing together with the others.
    #[error("disk key `{key}` does nothing here: {why}")]
    IdleKey {
        /// The key.
        key: &'static str,
        /// What it is for, or what keeps it from doing anything.
        why: &'static str,
    },
    /// Not one socket for each disk.
    #[error("{disks} disks and {sockets} sockets: give each -d its --socket")]
    Sockets {
        /// How many disks there are.
        disks: usize,
        /// How many sockets there are.
        sockets: usize,
    },
    /// A disk without a path.
    #[error("disk `{0}` names no file: write PATH[,key[=value]]...")]
    DiskWithoutPath(String),
    /// A disk of no bytes.
    #[error("a disk of no bytes is not possible: give it a size like 64M")]
    EmptyDisk,
    /// A disk with two paths.
    #[error("disk `{0}` names two files: give each disk its own -d")]
    DiskWithTwoPaths(String),
    /// A comma with nothing behind it.
    #[error("disk `{0}` has an empty key: remove a comma")]
    EmptyKey(String),
    /// A key that is there twice, and can only have one value.
    #[error("disk key `{0}` is given twice")]
    RepeatedKey(String),
    /// A disk that is too small to be measured.
    #[error("a disk of {bytes} bytes is too small to be measured: give it {least}M at least")]
    BenchDiskTooSmall {
        /// Its size in bytes.
        bytes: u64,
        /// The least, in MiB.
        least: u64,
    },
    /// A disk that refuses what is to be measured.
    #[error("disk key `readonly` cannot be measured with writes: choose --rw read,randread")]
    BenchWritesReadOnly,
    /// A disk of the demo with keys.
    #[error(
        "disk `{0}` names no file: demo takes an image without keys; iolite run takes them, and demo \
         has --latency and --write"
    )]
    KeysOfDemo(String),
    /// A key that no disk has.
    #[error(
        "unknown disk key `{0}`: known are path, readonly (ro), direct, cache, block-size, engine, queues, workers, queue-size, poll, mmap, id, iops, bandwidth, latency, fail and seed"
    )]
    UnknownKey(String),
    /// A key with a value that it cannot have.
    #[error("disk key `{key}` cannot be `{value}`: it is {possible}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What can be given.
        possible: &'static str,
    },
    /// More disks than interrupt lines.
    #[error(
        "{0} disks are too many: the interrupt lines limit them to {VIRTIO_MMIO_WINDOWS}, the system disk included"
    )]
    TooManyDisks(usize),
}

/// What [`MachineConfig::files`] calls a disk.
pub const DISK: &str = "a disk";

/// A machine to be built.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Guest memory in bytes.
    pub memory: u64,
    /// The kernel.
    pub kernel: Image,
    /// An initial RAM disk for the kernel.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; disks are appended to it.
    pub cmdline: String,
    /// The system disk: the first one, read-only.
    pub system: Option<Image>,
    /// The user's disks.
    pub disks: Vec<DiskSpec>,
    /// The guest gets a window to report events in.
    pub trace: bool,
    /// Who lends the processor; none: whoever is there.
    pub accel: Option<Accel>,
}

impl MachineConfig {
    /// Checks what can be wrong with the parts together.
    ///
    /// # Errors
    /// [`ConfigError::TooManyDisks`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let disks = self.disks.len() + usize::from(self.system.is_some());
        if disks > VIRTIO_MMIO_WINDOWS {
            return Err(ConfigError::TooManyDisks(disks));
        }
        Ok(())
    }

    /// The files that it is made of: what each is, and its path.
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let file = |image: &Image| match image {
            Image::File(path) => Some(path.clone()),
            Image::BuiltIn(_) => None,
        };
        let one = [
            ("the kernel", file(&self.kernel)),
            ("the initrd", self.initrd.clone()),
            ("the system disk", self.system.as_ref().and_then(file)),
        ];
        let one = one
            .into_iter()
            .filter_map(|(what, path)| Some((what, path?)));
        one.chain(disk_files(&self.disks)).collect()
    }
}

/// The files of disks: what each is, and its path.
pub fn disk_files(disks: &[DiskSpec]) -> impl Iterator<Item = (&'static str, PathBuf)> + use<'_> {
    disks.iter().filter_map(|disk| match &disk.source {
        Source::Image(path) => Some((DISK, path.clone())),
        _ => None,
    })
}
