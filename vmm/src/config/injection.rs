//! How slow and how faulty a disk is on purpose, as people write it.
//!
//! ```text
//! latency = TIME | TIME-TIME            TIME = digits and ns, us, ms or s
//! fail    = OPERATION[:WHICH]           OPERATION = read, write, discard or flush
//! WHICH   = SECTOR | FIRST-LAST         requests that touch them; not for flush
//!         | every:N                     the N-th, the 2N-th, ... of the operation
//!         | P%                          each with this probability: 1%, 0.05%
//! iops      = N[:BURST]                 requests a second
//! bandwidth = SIZE[:BURST]              bytes a second, as sizes are written
//! ```
//!
//! Without WHICH every request of the operation fails.

use std::num::NonZeroU64;

use iolite_devices::block::inject::{Failure, Latency, MILLION, Operation, Rate, Which};

use super::ConfigError;
use super::units::time;

/// The grammar of `fail=`, for messages.
pub(super) const FAILURE: &str = "read, write, discard or flush, and then nothing for all, :SECTOR or \
     :FIRST-LAST (not for flush), :every:N, or :P% with P from 0.0001 to 100";

/// Parses a latency.
///
/// # Errors
/// [`ConfigError::Latency`], also for a latency that is zero, or longer than [`Latency::MAX`], and
/// for a range that runs backwards.
pub fn parse_latency(text: &str) -> Result<Latency, ConfigError> {
    let latency = match text.split_once('-') {
        None => time(text).and_then(Latency::fixed),
        Some((least, most)) => time(least)
            .zip(time(most))
            .and_then(|(least, most)| Latency::between(least, most)),
    };
    latency
        .filter(|latency| !latency.is_zero())
        .ok_or_else(|| ConfigError::Latency(text.to_owned()))
}

/// Parses a rate whose numbers `amount` parses.
pub(super) fn parse_rate(text: &str, amount: impl Fn(&str) -> Option<u64>) -> Option<Rate> {
    let amount = |text| amount(text).and_then(NonZeroU64::new);
    let (per_second, burst) = match text.split_once(':') {
        None => (text, None),
        Some((per_second, burst)) => (per_second, Some(amount(burst)?)),
    };
    Some(Rate::new(amount(per_second)?, burst))
}

/// Parses a kind of failure.
///
/// # Errors
/// [`ConfigError::Failure`].
pub(super) fn parse_failure(text: &str) -> Result<Failure, ConfigError> {
    failure(text).ok_or_else(|| ConfigError::Failure(text.to_owned()))
}

fn failure(text: &str) -> Option<Failure> {
    let (operation, which) = match text.split_once(':') {
        Some((operation, which)) => (operation, which_of(which)?),
        None => (text, Which::All),
    };
    let operation = match operation {
        "read" => Operation::Read,
        "write" => Operation::Write,
        "discard" => Operation::Discard,
        "flush" if !matches!(which, Which::Sectors { .. }) => Operation::Flush,
        _ => return None,
    };
    Some(Failure { operation, which })
}

fn which_of(text: &str) -> Option<Which> {
    if let Some(n) = text.strip_prefix("every:") {
        return NonZeroU64::new(number(n)?).map(Which::Every);
    }
    if let Some(percentage) = text.strip_suffix('%') {
        return chance(percentage).map(Which::Chance);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(Which::Sectors { first, last })
}

/// A percentage with at most four decimal places in parts per million, more than none.
fn chance(percentage: &str) -> Option<u32> {
    const PLACES: usize = 4;
    let (whole, decimals) = percentage.split_once('.').unwrap_or((percentage, "0"));
    if decimals.is_empty() || decimals.len() > PLACES {
        return None;
    }
    let decimals = number(&format!("{decimals:0<PLACES$}"))?;
    let parts = number(whole)?.checked_mul(MILLION.into())? / 100;
    let parts = u32::try_from(parts.checked_add(decimals)?).ok()?;
    (1..=MILLION).contains(&parts).then_some(parts)
}

/// Digits, without the sign that `parse` would take.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn latencies() {
        let ns = Duration::from_nanos;
        for (text, least, most) in [
            ("2ms", 2_000_000, 2_000_000),
            ("1ns", 1, 1),
            ("60s", 60_000_000_000, 60_000_000_000),
            ("500us-3ms", 500_000, 3_000_000),
            ("0us-1us", 0, 1_000),
            ("1000us-1ms", 1_000_000, 1_000_000),
        ] {
            let latency = Latency::between(ns(least), ns(most)).unwrap();
            assert_eq!(parse_latency(text), Ok(latency), "{text}");
        }
        for text in [
            "",
            "2",
            "ms",
            "0ms",
            "0s-0s",
            "61s",
            "1ms-61s",
            "3ms-1ms",
            "1-3ms",
            "1ms-",
            "-1ms",
            "2m",
            "1h",
            "1.5ms",
            "1ms-2ms-3ms",
            "99999999999999999999ns",
            "99999999999999s",
        ] {
            let error = Err(ConfigError::Latency(text.to_owned()));
            assert_eq!(parse_latency(text), error, "{text}");
        }
    }

    #[test]
    fn rates() {
        let rate = |rate, burst| {
            let rate = NonZeroU64::new(rate).unwrap();
            Some(Rate::new(rate, NonZeroU64::new(burst)))
        };
        assert_eq!(parse_rate("1000", number), rate(1000, 0));
        assert_eq!(parse_rate("1000:1", number), rate(1000, 1));
        assert_eq!(parse_rate("5:100", number), rate(5, 100));
        for text in ["", "0", "5:0", ":5", "5:", "-1", "+1", "1:2:3", "1.5", "1K"] {
            assert_eq!(parse_rate(text, number), None, "{text}");
        }
    }

    #[test]
    fn failures() {
        use Operation::{Discard, Flush, Read, Write};
        let every = |n| Which::Every(NonZeroU64::new(n).unwrap());
        let sectors = |first, last| Which::Sectors { first, last };
        for (text, operation, which) in [
            ("read", Read, Which::All),
            ("flush", Flush, Which::All),
            ("read:1000-1007", Read, sectors(1000, 1007)),
            ("write:8", Write, sectors(8, 8)),
            ("discard", Discard, Which::All),
            ("discard:0-7", Discard, sectors(0, 7)),
            ("read:0", Read, sectors(0, 0)),
            ("read:every:100", Read, every(100)),
            ("flush:every:1", Flush, every(1)),
            ("write:1%", Write, Which::Chance(10_000)),
            ("flush:0.05%", Flush, Which::Chance(500)),
            ("read:0.0001%", Read, Which::Chance(1)),
            ("read:12.5%", Read, Which::Chance(125_000)),
            ("read:100%", Read, Which::Chance(MILLION)),
        ] {
            let failure = Failure { operation, which };
            assert_eq!(parse_failure(text), Ok(failure), "{text}");
        }
        for text in [
            "",
            "reads",
            "trim",
            "read:",
            ":8",
            "flush:8",
            "flush:0-9",
            "read:9-8",
            "read:8-",
            "read:-8",
            "read:+8",
            "read:0x8",
            "read:every",
            "read:every:",
            "read:every:0",
            "read:every:+5",
            "read:0%",
            "read:%",
            "read:.5%",
            "read:1.%",
            "read:0.00001%",
            "read:100.1%",
            "read:101%",
            "read:-1%",
            "read:1%%",
            "read:8:9",
            "read:99999999999999999999",
        ] {
            let error = Err(ConfigError::Failure(text.to_owned()));
            assert_eq!(parse_failure(text), error, "{text}");
        }
    }
}
