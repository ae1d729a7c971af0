//! The keys of a disk, one by one.

use std::time::Duration;

use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::virtio::blk::Cache;
use iolite_devices_abi::blk::ID_BYTES;

use super::DiskSpec;
use crate::config::injection::{number, parse_failure, parse_latency, parse_rate};
use crate::config::units::time;
use crate::config::{ConfigError, parse_size};

/// Nobody needs a processor to be kept busy for longer.
const LONGEST_POLL: Duration = Duration::from_millis(10);

impl DiskSpec {
    /// Takes one `key` or `key=value`.
    pub(super) fn set(&mut self, item: &str) -> Result<(), ConfigError> {
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
                let engine = match value {
                    Some("pool") => Engine::Pool,
                    Some("uring") => Engine::Uring,
                    Some("sync") => Engine::Sync,
                    _ => return Err(bad("engine", "pool, uring or sync")),
                };
                self.engine = Some(engine);
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
