//! The keys of a disk, one by one.

use std::ops::RangeInclusive;
use std::time::Duration;

use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::virtio::blk::Cache;
use iolite_devices_abi::blk::ID_BYTES;

use super::DiskSpec;
use crate::config::injection::{number, parse_failure, parse_latency, parse_rate};
use crate::config::units::time;
use crate::config::{ConfigError, parse_size};

/// A mapping has this size at least in bytes.
const LEAST_MAPPED: u64 = 2 << 20;
/// Nobody needs a processor to be kept busy for longer.
const LONGEST_POLL: Duration = Duration::from_millis(10);

impl DiskSpec {
    /// Takes one `key` or `key=value`.
    pub(super) fn set(&mut self, item: &str) -> Result<(), ConfigError> {
        let (key, text) = match item.split_once('=') {
            Some((key, text)) => (key, Some(text)),
            None => (item, None),
        };
        let value = |key| Value { key, text };
        let limits = &mut self.injection.limits;
        match key {
            "readonly" | "ro" => self.read_only = value("readonly").switch()?,
            "direct" => self.direct = value("direct").switch()?,
            "cache" => {
                self.cache = value("cache").one_of("writeback, writethrough or unsafe", cache)?;
            }
            "block-size" => {
                self.block_size = value("block-size").one_of("512 or 4096", block_size)?;
            }
            "engine" => {
                self.engine = Some(value("engine").one_of("pool, uring or sync", engine)?);
            }
            "queues" => {
                self.queues = value("queues").one_of("a number from 1 to 16", within(1..=16))?;
            }
            "workers" => {
                self.workers = value("workers").one_of("a number from 1 to 64", within(1..=64))?;
            }
            "queue-size" => {
                let possible = "a power of two from 4 to 1024";
                self.queue_size = value("queue-size").one_of(possible, queue_size)?;
            }
            "poll" => self.poll = value("poll").one_of("off, or a time up to 10ms", poll)?,
            "mmap" => {
                self.mapped = value("mmap").one_of("off, or a size from 2M, like 1G", mapped)?;
            }
            "id" => {
                let possible = "an ASCII text of 1 to 20 characters";
                self.id = Some(value("id").one_of(possible, id)?);
            }
            "iops" => {
                let rate = |text: &str| parse_rate(text, number);
                limits.requests = Some(value("iops").one_of("N or N:BURST, in requests", rate)?);
            }
            "bandwidth" => {
                let possible = "SIZE or SIZE:BURST, like 100M or 100M:1M";
                let rate = |text: &str| parse_rate(text, |size| parse_size(size).ok());
                limits.bytes = Some(value("bandwidth").one_of(possible, rate)?);
            }
            "latency" => self.injection.latency = Some(parse_latency(text.unwrap_or_default())?),
            "fail" => {
                let failure = parse_failure(text.unwrap_or_default())?;
                self.injection.failures.push(failure);
            }
            "seed" => self.injection.seed = value("seed").one_of("a number", number)?,
            _ => return Err(ConfigError::UnknownKey(key.to_owned())),
        }
        Ok(())
    }
}

/// What a key was given, if anything.
struct Value<'a> {
    key: &'static str,
    text: Option<&'a str>,
}

impl Value<'_> {
    /// The value as `parse` understands it; if it does not, the message says what is `possible`.
    fn one_of<T>(
        self,
        possible: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let parsed = self.text.and_then(parse);
        parsed.ok_or_else(|| ConfigError::BadValue {
            key: self.key,
            value: self.text.unwrap_or_default().to_owned(),
            possible,
        })
    }

    /// A key that is there or not, or says so.
    fn switch(self) -> Result<bool, ConfigError> {
        if self.text.is_none() {
            return Ok(true);
        }
        self.one_of("alone, or true or false", |text| match text {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        })
    }
}

fn cache(text: &str) -> Option<Cache> {
    match text {
        "writeback" => Some(Cache::WriteBack),
        "writethrough" => Some(Cache::WriteThrough),
        "unsafe" => Some(Cache::Unsafe),
        _ => None,
    }
}

fn block_size(text: &str) -> Option<u32> {
    match text {
        "512" => Some(512),
        "4096" | "4K" => Some(4096),
        _ => None,
    }
}

fn engine(text: &str) -> Option<Engine> {
    match text {
        "pool" => Some(Engine::Pool),
        "uring" => Some(Engine::Uring),
        "sync" => Some(Engine::Sync),
        _ => None,
    }
}

fn within<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl FnOnce(&str) -> Option<T> {
    move |text| {
        let number = number(text).filter(|number| range.contains(number))?;
        number.try_into().ok()
    }
}

fn queue_size(text: &str) -> Option<u16> {
    within(4..=1024)(text).filter(|size: &u16| size.is_power_of_two())
}

fn poll(text: &str) -> Option<Duration> {
    match text {
        "off" => Some(Duration::ZERO),
        _ => time(text).filter(|time| *time <= LONGEST_POLL),
    }
}

fn mapped(text: &str) -> Option<u64> {
    match text {
        "off" => Some(0),
        _ => parse_size(text).ok().filter(|size| *size >= LEAST_MAPPED),
    }
}

fn id(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= ID_BYTES && text.is_ascii();
    fits.then(|| text.to_owned())
}
