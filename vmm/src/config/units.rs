//! Sizes and durations as people write them.

use std::time::Duration;

use super::ConfigError;

/// Parses a size in bytes: digits and one of the units K, M, G, T (powers of 1024; `MiB` and `MB`
/// mean the same). A number without a unit is refused: some tools take it for MiB, some for bytes.
///
/// # Errors
/// [`ConfigError::Size`].
pub fn parse_size(text: &str) -> Result<u64, ConfigError> {
    let bad = || ConfigError::Size(text.to_owned());
    let (number, unit) = split(text).ok_or_else(bad)?;
    let unit = unit.to_ascii_uppercase();
    let shift = match unit
        .strip_suffix("IB")
        .or(unit.strip_suffix('B'))
        .unwrap_or(&unit)
    {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Parses a duration: digits and one of the units ms, s, m, h; seconds where there is none.
///
/// # Errors
/// [`ConfigError::Duration`], also for a duration of zero.
pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
    let bad = || ConfigError::Duration(text.to_owned());
    let (number, unit) = split(text).ok_or_else(bad)?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    match number.checked_mul(milliseconds) {
        Some(duration @ 1..) => Ok(Duration::from_millis(duration)),
        _ => Err(bad()),
    }
}

/// A time of ns, us, ms or s: no unit is no time.
pub(super) fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let nanoseconds = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    Some(Duration::from_nanos(number.checked_mul(nanoseconds)?))
}

/// Splits `12ab` into 12 and `ab`.
pub(super) fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64K", 65536),
            ("128M", 128 << 20),
            ("2g", 2 << 30),
            ("1T", 1 << 40),
            ("3MiB", 3 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "12",
            "12X",
            "-1M",
            "1.5G",
            "99999999999T",
            "1 M",
            "1MM",
            "B",
            "1B",
        ] {
            assert_eq!(
                parse_size(text),
                Err(ConfigError::Size(text.into())),
                "{text}"
            );
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("7", 7000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "s", "0s", "1d", "-1s", "99999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
