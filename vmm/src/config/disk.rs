//! A disk as people name it: `PATH[,key[=value]]...`, with the keys of crosvm and Cloud Hypervisor.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::block::inject::{Injection, Latency, Operation, Which};
use iolite_devices::virtio::blk::{BlockConfig, Cache};
use iolite_devices_abi::blk::ID_BYTES;

use super::injection::{number, parse_failure, parse_latency, parse_rate};
use super::units::time;
use super::{ConfigError, parse_size};

/// Nobody needs a processor to be kept busy for longer.
const LONGEST_POLL: Duration = Duration::from_millis(10);

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
    /// Who carries requests out.
    pub engine: Engine,
    /// How many queues.
    pub queues: u16,
    /// How many worker threads for each queue.
    pub workers: usize,
    /// QueueNumMax.
    pub queue_size: u16,
    /// For how long at most the queue's thread polls before it sleeps.
    pub poll: Duration,
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
    /// In memory: so many bytes, at first zeros, gone with the machine.
    Memory(u64),
    /// Nowhere: so many bytes that are always zeros.
    Null(u64),
}

impl Source {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        match text.split_once(':') {
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
            engine: Engine::default(),
            queues: 1,
            workers: BlockConfig::DEFAULT_WORKERS,
            queue_size: BlockConfig::DEFAULT_QUEUE_SIZE,
            poll: BlockConfig::DEFAULT_POLL,
            id: None,
            injection: Injection::default(),
        }
    }

    /// Takes one `key` or `key=value`.
    fn set(&mut self, item: &str) -> Result<(), ConfigError> {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (item, None),
        };
        let bad = |key, possible| ConfigError::BadValue {
            key,
            value: value.unwrap_or_default().to_owned(),
            possible,
        };
        match key {
            "readonly" | "ro" => {
                self.read_only = switch(value).ok_or_else(|| bad("readonly", SWITCH))?;
            }
            "direct" => self.direct = switch(value).ok_or_else(|| bad("direct", SWITCH))?,
            "cache" => {
                self.cache = match value {
                    Some("writeback") => Cache::WriteBack,
                    Some("writethrough") => Cache::WriteThrough,
                    Some("unsafe") => Cache::Unsafe,
                    _ => return Err(bad("cache", "writeback, writethrough or unsafe")),
                }
            }
            "block-size" => {
                self.block_size = match value {
                    Some("512") => 512,
                    Some("4096" | "4K") => 4096,
                    _ => return Err(bad("block-size", "512 or 4096")),
                }
            }
            "engine" => {
                self.engine = match value {
                    Some("pool") => Engine::Pool,
                    Some("uring") => Engine::Uring,
                    Some("sync") => Engine::Sync,
                    _ => return Err(bad("engine", "pool, uring or sync")),
                }
            }
            "queues" => {
                self.queues = value
                    .and_then(|value| value.parse().ok())
                    .filter(|queues| (1..=16).contains(queues))
                    .ok_or_else(|| bad("queues", "a number from 1 to 16"))?;
            }
            "workers" => {
                self.workers = value
                    .and_then(|value| value.parse().ok())
                    .filter(|workers| (1..=64).contains(workers))
                    .ok_or_else(|| bad("workers", "a number from 1 to 64"))?;
            }
            "queue-size" => {
                self.queue_size = value
                    .and_then(|value| value.parse().ok())
                    .filter(|size: &u16| size.is_power_of_two() && (4..=1024).contains(size))
                    .ok_or_else(|| bad("queue-size", "a power of two from 4 to 1024"))?;
            }
            "poll" => {
                self.poll = match value {
                    Some("off") => Some(Duration::ZERO),
                    value => value.and_then(time).filter(|time| *time <= LONGEST_POLL),
                }
                .ok_or_else(|| bad("poll", "off, or a time up to 10ms"))?;
            }
            "id" => {
                let id = value
                    .filter(|id| !id.is_empty() && id.len() <= ID_BYTES && id.is_ascii())
                    .ok_or_else(|| bad("id", "an ASCII text of 1 to 20 characters"))?;
                self.id = Some(id.to_owned());
            }
            "iops" => {
                let rate = parse_rate(value.unwrap_or_default(), number);
                let rate = rate.ok_or_else(|| bad("iops", "N or N:BURST, in requests"))?;
                self.injection.limits.requests = Some(rate);
            }
            "bandwidth" => {
                let size = |text: &str| parse_size(text).ok();
                let rate = parse_rate(value.unwrap_or_default(), size);
                let possible = "SIZE or SIZE:BURST, like 100M or 100M:1M";
                let rate = rate.ok_or_else(|| bad("bandwidth", possible))?;
                self.injection.limits.bytes = Some(rate);
            }
            "latency" => self.injection.latency = Some(parse_latency(value.unwrap_or_default())?),
            "fail" => {
                let failure = parse_failure(value.unwrap_or_default())?;
                self.injection.failures.push(failure);
            }
            "seed" => {
                self.injection.seed = value
                    .and_then(|value| value.parse().ok())
                    .ok_or_else(|| bad("seed", "a number"))?;
            }
            _ => return Err(ConfigError::UnknownKey(key.to_owned())),
        }
        Ok(())
    }

    /// Checks that every one of these keys does something.
    fn check_idle(&self, keys: &[&str]) -> Result<(), ConfigError> {
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
        if given("engine") && !matches!(self.source, Source::Image(_)) {
            return idle("engine", "all of them serve mem: and null: at once");
        }
        if given("workers") && self.engine == Engine::Sync {
            return idle("workers", "with engine=sync there are none");
        }
        if self.queues > 1 && !self.injection.limits.is_none() {
            return Err(ConfigError::LimitedQueues);
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

/// What [`switch`] takes.
const SWITCH: &str = "alone, or true or false";

/// A key that is there or not, or says so.
fn switch(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("true" | "on") => Some(true),
        Some("false" | "off") => Some(false),
        Some(_) => None,
    }
}

impl FromStr for DiskSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut path = None;
        let mut keys = Vec::new();
        for (position, item) in text.split(',').enumerate() {
            let named = item.strip_prefix("path=");
            // The first item is the path, unless it is a key of a disk that names it as `path=`.
            let bare = (position == 0 && !text.contains(",path=")).then_some(item);
            match named.or(bare) {
                Some(named) if path.replace(named).is_some() => {
                    return Err(ConfigError::DiskWithTwoPaths(text.to_owned()));
                }
                Some(_) => {}
                None => keys.push(item),
            }
        }
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| ConfigError::DiskWithoutPath(text.to_owned()))?;
        let mut disk = DiskSpec::of(Source::parse(path)?);
        for key in &keys {
            disk.set(key)?;
        }
        disk.check_idle(&keys)?;
        Ok(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    use iolite_devices::block::inject::Rate;

    #[test]
    fn a_path_alone_has_the_defaults() {
        assert_eq!("a/b.img".parse(), Ok(DiskSpec::new("a/b.img")));
        assert_eq!("path=a/b.img".parse(), Ok(DiskSpec::new("a/b.img")));
    }

    #[test]
    fn keys_are_taken_in_any_order() {
        let wanted = DiskSpec {
            source: Source::Image("x".into()),
            read_only: true,
            direct: true,
            cache: Cache::WriteThrough,
            block_size: 4096,
            engine: Engine::Uring,
            queues: 2,
            workers: 7,
            queue_size: 64,
            poll: Duration::from_micros(7),
            id: Some("left".into()),
            injection: Injection::default(),
        };
        assert_eq!(
            "x,ro,direct,queues=2,engine=uring,workers=7,cache=writethrough,block-size=4096,queue-size=64,poll=7us,id=left"
                .parse(),
            Ok(wanted.clone())
        );
        assert_eq!(
            "direct=on,id=left,readonly=true,engine=uring,queues=2,path=x,block-size=4K,poll=7000ns,queue-size=64,cache=writethrough,workers=7"
                .parse(),
            Ok(wanted)
        );
        assert_eq!("x,ro=false".parse(), Ok(DiskSpec::new("x")));
    }

    #[test]
    fn slowness_and_failures_add_up() {
        let text = "x,latency=1ms-3ms,fail=read:8,fail=write:1%,fail=flush,seed=7";
        let Injection {
            latency,
            failures,
            seed,
            ..
        } = text.parse::<DiskSpec>().unwrap().injection;
        assert_eq!(latency, parse_latency("1ms-3ms").ok());
        let wanted = ["read:8", "write:1%", "flush"].map(|text| parse_failure(text).unwrap());
        assert_eq!(failures, wanted);
        assert_eq!(seed, 7);
        for random in ["latency=1us-2us", "fail=read:50%"] {
            assert!(format!("x,{random},seed=1").parse::<DiskSpec>().is_ok());
        }
        for fixed in ["ro", "latency=2ms", "fail=read:every:3"] {
            assert_eq!(idle(&format!("x,seed=1,{fixed}")), Some("seed"));
        }
    }

    #[test]
    fn limits_are_requests_and_bytes() {
        let limits = |text: &str| text.parse::<DiskSpec>().unwrap().injection.limits;
        let rate = |rate, burst| {
            let rate = NonZeroU64::new(rate).unwrap();
            Some(Rate::new(rate, NonZeroU64::new(burst)))
        };
        let both = limits("x,iops=500,bandwidth=10M:64K");
        assert_eq!(both.requests, rate(500, 50));
        assert_eq!(both.bytes, rate(10 << 20, 64 << 10));
        assert!(limits("x").is_none());
    }

    /// The key of a disk that does nothing, if it is refused for that.
    fn idle(text: &str) -> Option<&'static str> {
        match text.parse::<DiskSpec>() {
            Err(ConfigError::IdleKey { key, .. }) => Some(key),
            _ => None,
        }
    }

    #[test]
    fn keys_that_do_nothing_are_refused() {
        for text in ["mem:1M,cache=writeback", "null:1M,cache=unsafe"] {
            assert_eq!(idle(text), Some("cache"), "{text}");
        }
        for text in ["mem:1M,direct", "null:1M,direct=off"] {
            assert_eq!(idle(text), Some("direct"), "{text}");
        }
        for text in ["x,cache=unsafe,fail=flush", "x,fail=flush:1%,cache=unsafe"] {
            assert_eq!(idle(text), Some("fail=flush"), "{text}");
        }
        assert_eq!(idle("mem:1M,engine=uring"), Some("engine"));
        let limited = "x,queues=2,iops=100".parse::<DiskSpec>();
        assert_eq!(limited, Err(ConfigError::LimitedQueues));
        assert_eq!(idle("x,workers=4,engine=sync"), Some("workers"));
        for text in ["x,cache=unsafe,fail=read", "x,cache=writeback,fail=flush"] {
            assert!(text.parse::<DiskSpec>().is_ok(), "{text}");
        }
    }

    #[test]
    fn disks_without_an_image() {
        let source = |text: &str| text.parse::<DiskSpec>().map(|disk| disk.source);
        assert_eq!(source("mem:1M"), Ok(Source::Memory(1 << 20)));
        assert_eq!(source("null:2G,ro"), Ok(Source::Null(2 << 30)));
        assert_eq!(source("ro,path=null:4K"), Ok(Source::Null(4096)));
        assert_eq!(source("./mem:1M"), Ok(Source::Image("./mem:1M".into())));
        assert_eq!(source("a:b"), Ok(Source::Image("a:b".into())));
        for text in ["mem:", "mem:12", "mem:-1M", "null:1X"] {
            assert!(matches!(source(text), Err(ConfigError::Size(_))), "{text}");
        }
        assert_eq!(source("null:0M"), Err(ConfigError::EmptyDisk));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| text.parse::<DiskSpec>().unwrap_err();
        assert_eq!(
            error("x,color=red"),
            ConfigError::UnknownKey("color".into())
        );
        assert_eq!(error("x,"), ConfigError::UnknownKey("".into()));
        assert_eq!(error(""), ConfigError::DiskWithoutPath("".into()));
        assert_eq!(error("path="), ConfigError::DiskWithoutPath("path=".into()));
        assert_eq!(
            error("path=x,path=y"),
            ConfigError::DiskWithTwoPaths("path=x,path=y".into())
        );
        for text in [
            "x,engine",
            "x,engine=fast",
            "x,queues",
            "x,queues=0",
            "x,queues=17",
            "x,workers=0",
            "x,workers",
            "x,workers=99",
            "x,poll",
            "x,poll=5",
            "x,poll=11ms",
            "x,queue-size=2",
            "x,queue-size=100",
            "x,queue-size=2048",
            "x,queue-size=65536",
            "x,ro=maybe",
            "x,direct=maybe",
            "x,cache",
            "x,cache=none",
            "x,block-size=1024",
            "x,block-size",
            "x,iops",
            "x,iops=0",
            "x,iops=1K",
            "x,bandwidth=100",
            "x,bandwidth=1M:",
            "x,seed",
            "x,seed=-1",
            "x,id=",
            "x,id=123456789012345678901",
        ] {
            assert!(
                matches!(error(text), ConfigError::BadValue { .. }),
                "{text}"
            );
        }
        assert!(error("x,color").to_string().contains("queue-size"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "((x,)?(latency=|fail=(read|flush):(every:)?))?.{0,40}") {
            let _ = text.parse::<DiskSpec>();
            let _ = parse_latency(&text);
            let _ = parse_failure(&text);
            let _ = super::super::parse_size(&text);
            let _ = super::super::parse_duration(&text);
        }
    }
}
