//! A disk as people name it: `PATH[,key[=value]]...`, with the keys of crosvm and Cloud Hypervisor.

use std::path::PathBuf;
use std::str::FromStr;

use iolite_devices::block::inject::{Injection, Latency, Which};
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::ID_BYTES;

use super::ConfigError;
use super::injection::{parse_failure, parse_latency};

/// One disk of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// The image: a file or a block device.
    pub path: PathBuf,
    /// Refuse writes.
    pub read_only: bool,
    /// How many worker threads.
    pub workers: usize,
    /// QueueNumMax.
    pub queue_size: u16,
    /// What the guest gets as the disk's identification; its name in the guest if not given.
    pub id: Option<String>,
    /// How slow and faulty it is on purpose.
    pub injection: Injection,
}

impl DiskSpec {
    /// A writable disk with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DiskSpec {
            path: path.into(),
            read_only: false,
            workers: BlockConfig::DEFAULT_WORKERS,
            queue_size: BlockConfig::DEFAULT_QUEUE_SIZE,
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
                self.read_only = match value {
                    None | Some("true" | "on") => true,
                    Some("false" | "off") => false,
                    Some(_) => return Err(bad("readonly", "alone, or true or false")),
                }
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
            "id" => {
                let id = value
                    .filter(|id| !id.is_empty() && id.len() <= ID_BYTES && id.is_ascii())
                    .ok_or_else(|| bad("id", "an ASCII text of 1 to 20 characters"))?;
                self.id = Some(id.to_owned());
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
        let mut disk = DiskSpec::new(path);
        let mut seeded = false;
        for key in keys {
            disk.set(key)?;
            seeded |= key.starts_with("seed=");
        }
        if seeded && !disk.has_random_choices() {
            return Err(ConfigError::IdleSeed);
        }
        Ok(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_alone_has_the_defaults() {
        assert_eq!("a/b.img".parse(), Ok(DiskSpec::new("a/b.img")));
        assert_eq!("path=a/b.img".parse(), Ok(DiskSpec::new("a/b.img")));
    }

    #[test]
    fn keys_are_taken_in_any_order() {
        let wanted = DiskSpec {
            path: "x".into(),
            read_only: true,
            workers: 7,
            queue_size: 64,
            id: Some("left".into()),
            injection: Injection::default(),
        };
        assert_eq!(
            "x,ro,workers=7,queue-size=64,id=left".parse(),
            Ok(wanted.clone())
        );
        assert_eq!(
            "id=left,readonly=true,path=x,queue-size=64,workers=7".parse(),
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
        } = text.parse::<DiskSpec>().unwrap().injection;
        assert_eq!(latency, parse_latency("1ms-3ms").ok());
        let wanted = ["read:8", "write:1%", "flush"].map(|text| parse_failure(text).unwrap());
        assert_eq!(failures, wanted);
        assert_eq!(seed, 7);
        for random in ["latency=1us-2us", "fail=read:50%"] {
            assert!(format!("x,{random},seed=1").parse::<DiskSpec>().is_ok());
        }
        for fixed in ["ro", "latency=2ms", "fail=read:every:3"] {
            let seeded = format!("x,seed=1,{fixed}").parse::<DiskSpec>();
            assert_eq!(seeded, Err(ConfigError::IdleSeed));
        }
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
            "x,workers=0",
            "x,workers",
            "x,workers=99",
            "x,queue-size=2",
            "x,queue-size=100",
            "x,queue-size=2048",
            "x,queue-size=65536",
            "x,ro=maybe",
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
