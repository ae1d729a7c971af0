//! A disk as people name it: `PATH[,key[=value]]...`, with the keys of crosvm and Cloud Hypervisor. Two
//! commas are one that belongs to the path.

mod help;
mod keys;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::iter;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::block::inject::{Injection, Latency, Operation, Which};
use iolite_devices::virtio::blk::{BlockConfig, Cache};

use super::{ConfigError, parse_size};
pub use help::HELP;

/// What the path of a disk may be named with.
const PATH: &[u8] = b"path=";

/// One disk of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Where its bytes are.
    pub source: Source,
    /// Refuse writes.
    pub read_only: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// When writes are durable.
    pub cache: Cache,
    /// Size in bytes of a logical block.
    pub block_size: u32,
    /// Who carries requests out; who suits the disk if not given.
    pub engine: Option<Engine>,
    /// How many queues.
    pub queues: u16,
    /// How many worker threads for each queue.
    pub workers: usize,
    /// QueueNumMax.
    pub queue_size: u16,
    /// For how long at most the queue's thread polls before it sleeps.
    pub poll: Duration,
    /// How many bytes of its image are mapped at most, to be read without system calls.
    pub mapped: u64,
    /// What the guest gets as the disk's identification; its name in the guest if not given.
    pub id: Option<String>,
    /// How slow and faulty it is on purpose.
    pub injection: Injection,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In an image: a file or a block device.
    Image(PathBuf),
    /// In a file that is open, and may have no name.
    Open(OpenFile),
    /// In memory: so many bytes, at first zeros, gone with the machine.
    Memory(u64),
    /// Nowhere: so many bytes that are always zeros.
    Null(u64),
}

/// A file that is open: equal to itself alone.
#[derive(Clone, Debug)]
pub struct OpenFile(pub Arc<File>);

impl PartialEq for OpenFile {
    fn eq(&self, other: &OpenFile) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OpenFile {}

impl Source {
    fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        match text.to_str().and_then(|text| text.split_once(':')) {
            Some(("mem", size)) => disk_size(size).map(Source::Memory),
            Some(("null", size)) => disk_size(size).map(Source::Null),
            _ => Ok(Source::Image(text.into())),
        }
    }
}

fn disk_size(text: &str) -> Result<u64, ConfigError> {
    match parse_size(text)? {
        0 => Err(ConfigError::EmptyDisk),
        bytes => Ok(bytes),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Image(path) => path.display().fmt(f),
            Source::Open(_) => f.write_str("an open file"),
            Source::Memory(bytes) => write!(f, "memory of {bytes} bytes"),
            Source::Null(bytes) => write!(f, "nothing of {bytes} bytes"),
        }
    }
}

impl DiskSpec {
    /// A writable image with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::Image(path.into()))
    }

    /// A writable disk with the defaults.
    pub fn of(source: Source) -> Self {
        DiskSpec {
            source,
            read_only: false,
            direct: false,
            cache: Cache::default(),
            block_size: BlockConfig::DEFAULT_BLOCK_SIZE,
            engine: None,
            queues: 1,
            workers: BlockConfig::DEFAULT_WORKERS,
            queue_size: BlockConfig::DEFAULT_QUEUE_SIZE,
            poll: BlockConfig::DEFAULT_POLL,
            mapped: FileBackend::DEFAULT_MAPPED,
            id: None,
            injection: Injection::default(),
        }
    }

    /// Takes a disk as people name it. Its path need not be UTF-8.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        let whole = || text.to_string_lossy().into_owned();
        let items = items(text);
        let named = |item: &OsString| item.as_bytes().starts_with(PATH);
        // The first item is the path, unless it is a key of a disk that names it as `path=`.
        let is_first = !items.iter().skip(1).any(named);
        let mut path = None;
        let mut keys = Vec::new();
        for (position, item) in items.iter().enumerate() {
            let named = item.as_bytes().strip_prefix(PATH).map(OsStr::from_bytes);
            let bare = (position == 0 && is_first).then_some(item.as_os_str());
            match named.or(bare) {
                Some(named) if path.replace(named).is_some() => {
                    return Err(ConfigError::DiskWithTwoPaths(whole()));
                }
                Some(_) => {}
                None => keys.push(item.to_string_lossy()),
            }
        }
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| ConfigError::DiskWithoutPath(whole()))?;
        let mut disk = DiskSpec::of(Source::parse(path)?);
        for (position, key) in keys.iter().enumerate() {
            if key.is_empty() {
                return Err(ConfigError::EmptyKey(whole()));
            }
            disk.set(key)?;
            if let Some(name) = repeated(key, &keys[..position]) {
                return Err(ConfigError::RepeatedKey(name.to_owned()));
            }
        }
        disk.check_idle(&keys)?;
        Ok(disk)
    }

    /// Checks that every one of these keys does something.
    fn check_idle(&self, keys: &[Cow<'_, str>]) -> Result<(), ConfigError> {
        let given = |name: &str| keys.iter().any(|key| key.split('=').next() == Some(name));
        let idle = |key, why| Err(ConfigError::IdleKey { key, why });
        if given("seed") && !self.has_random_choices() {
            return idle("seed", "it is for a latency range or a failure of P%");
        }
        if given("direct") && !matches!(self.source, Source::Image(_)) {
            return idle("direct", "mem: and null: have no page cache to go past");
        }
        if given("cache") && !matches!(self.source, Source::Image(_)) {
            return idle("cache", "mem: and null: have nothing to make durable");
        }
        if given("mmap") && !matches!(self.source, Source::Image(_)) {
            return idle("mmap", "mem: and null: are in memory anyway");
        }
        if given("mmap") && self.direct {
            return idle("mmap", "with direct nothing is read from the page cache");
        }
        if given("engine") && !matches!(self.source, Source::Image(_)) {
            return idle("engine", "all of them serve mem: and null: at once");
        }
        if given("workers") && self.engine == Some(Engine::Sync) {
            return idle("workers", "with engine=sync there are none");
        }
        let fails = |operation| {
            let mut failures = self.injection.failures.iter();
            failures.any(|failure| failure.operation == operation)
        };
        if self.cache == Cache::Unsafe && fails(Operation::Flush) {
            return idle("fail=flush", "with cache=unsafe there are no flushes");
        }
        Ok(())
    }

    fn has_random_choices(&self) -> bool {
        let Injection {
            latency, failures, ..
        } = &self.injection;
        latency.as_ref().is_some_and(Latency::is_range)
            || failures
                .iter()
                .any(|failure| matches!(failure.which, Which::Chance(_)))
    }
}

impl FromStr for DiskSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        DiskSpec::parse(text.as_ref())
    }
}

/// A path as one item of a list, with its commas: [`DiskSpec::parse`] takes it as `path=`, QEMU as
/// `file=`.
pub fn path_item(name: &str, path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().iter();
    let doubled = bytes.flat_map(|byte| iter::repeat_n(*byte, 1 + usize::from(*byte == b',')));
    OsString::from_vec(name.bytes().chain(doubled).collect())
}

/// What is between commas. Two commas are one of the text, as in QEMU.
fn items(text: &OsStr) -> Vec<OsString> {
    let mut items = vec![Vec::new()];
    let mut bytes = text.as_bytes().iter().peekable();
    while let Some(byte) = bytes.next() {
        if *byte == b',' && bytes.next_if_eq(&&b',').is_none() {
            items.push(Vec::new());
        } else if let Some(item) = items.last_mut() {
            item.push(*byte);
        }
    }
    items.into_iter().map(OsString::from_vec).collect()
}

/// The name of `key` if one of those `before` it has set the same. Failures add up.
fn repeated<'a>(key: &'a str, before: &[Cow<'_, str>]) -> Option<&'a str> {
    let (name, _) = key.split_once('=')?;
    let mut values = before.iter().filter_map(|key| key.split_once('='));
    (name != "fail" && values.any(|(earlier, _)| earlier == name)).then_some(name)
}

#[cfg(test)]
mod tests;
