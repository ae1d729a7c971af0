//! The lines by which the guest's program `demo` reports (guest/core, `report`):
//!
//! ```text
//! demo: progress path=NAME bytes=N of=TOTAL
//! demo: path name=NAME initiator=process|kernel|server mode=sync|async trigger=WORD operations=N bytes=N
//!       sha256=HEX ns=N p50_ns=N p99_ns=N max_ns=N max_in_flight=N cpu_overlap=0.NNN  (one line)
//! demo: failed path=NAME error=TEXT...
//! ```
//!
//! A guest can print anything. What does not match to the letter is not a report; numbers are
//! 64-bit, words are short and of letters, digits, hyphens and underscores, so that they can be shown
//! as is.

/// The longest word that a report may contain.
const MAX_WORD_BYTES: usize = 32;
/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// One line of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// How far a path has come.
    Progress {
        /// The path.
        path: String,
        /// Bytes read so far.
        bytes: u64,
        /// Bytes of the disk.
        of: u64,
    },
    /// The result of a path.
    Path(PathResult),
    /// A path failed.
    Failed {
        /// The path, or `-`.
        path: String,
        /// Why.
        error: String,
    },
}

/// What the guest measured along one path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PathResult {
    /// The path's name.
    pub name: String,
    /// Who asks for I/O: `process`, `kernel` or `server`.
    pub initiator: String,
    /// `sync` if the asker stops until it is done, or `async`.
    pub mode: String,
    /// What makes it ask.
    pub trigger: String,
    /// Operations.
    pub operations: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Their SHA-256, 64 lower-case digits.
    pub sha256: String,
    /// Time from start to end in nanoseconds.
    pub ns: u64,
    /// Latency of one operation in nanoseconds: median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// The most requests in flight at once.
    pub max_in_flight: u64,
    /// How much of the time with requests in flight the guest's processor worked, from 0 to 1.
    pub cpu_overlap: f64,
}

/// Reads one line; None if it is not a report.
pub fn parse(line: &str) -> Option<Line> {
    let (kind, rest) = line.strip_prefix("demo: ")?.split_once(' ')?;
    let mut fields = Fields(rest);
    match kind {
        "progress" => {
            let path = fields.word("path")?;
            let bytes = fields.number("bytes")?;
            let of = fields.number("of")?;
            fields.end()?;
            Some(Line::Progress { path, bytes, of })
        }
        "path" => path(fields).map(Line::Path),
        "failed" => {
            let path = fields.word("path")?;
            Some(Line::Failed {
                path,
                error: fields.rest("error")?,
            })
        }
        _ => None,
    }
}

fn path(mut fields: Fields<'_>) -> Option<PathResult> {
    // Evaluated in this order, which is the order of the line.
    let result = PathResult {
        name: fields.word("name")?,
        initiator: fields.one_of("initiator", ["process", "kernel", "server"])?,
        mode: fields.one_of("mode", ["sync", "async"])?,
        trigger: fields.word("trigger")?,
        operations: fields.number("operations")?,
        bytes: fields.number("bytes")?,
        sha256: fields.sha256("sha256")?,
        ns: fields.number("ns")?,
        p50_ns: fields.number("p50_ns")?,
        p99_ns: fields.number("p99_ns")?,
        max_ns: fields.number("max_ns")?,
        max_in_flight: fields.number("max_in_flight")?,
        cpu_overlap: fields.share("cpu_overlap")?,
    };
    fields.end()?;
    Some(result)
}

/// The `key=value` pairs of a line, taken in their order.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn take(&mut self, key: &str) -> Option<&'a str> {
        let value = self.0.strip_prefix(key)?.strip_prefix('=')?;
        let (value, rest) = value.split_once(' ').unwrap_or((value, ""));
        self.0 = rest;
        Some(value)
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.take(key)
            .filter(|v| v.bytes().all(|b| b.is_ascii_digit()))?
            .parse()
            .ok()
    }

    fn word(&mut self, key: &str) -> Option<String> {
        let word = self.take(key)?;
        let plain = word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (plain && (1..=MAX_WORD_BYTES).contains(&word.len())).then(|| word.to_owned())
    }

    fn one_of<const N: usize>(&mut self, key: &str, words: [&str; N]) -> Option<String> {
        self.word(key).filter(|word| words.contains(&word.as_str()))
    }

    /// A part of a whole: 0 or 1, and three digits behind the point.
    fn share(&mut self, key: &str) -> Option<f64> {
        let (whole, part) = self.take(key)?.split_once('.')?;
        let digits = part.len() == 3 && part.bytes().all(|b| b.is_ascii_digit());
        let part: u32 = part.parse().ok().filter(|_| digits)?;
        match whole {
            "0" => Some(f64::from(part) / 1000.0),
            "1" if part == 0 => Some(1.0),
            _ => None,
        }
    }

    fn sha256(&mut self, key: &str) -> Option<String> {
        let digits = self.take(key)?;
        let hex = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex && digits.len() == SHA256_DIGITS).then(|| digits.to_owned())
    }

    /// The value that takes up the rest of the line.
    fn rest(self, key: &str) -> Option<String> {
        Some(self.0.strip_prefix(key)?.strip_prefix('=')?.to_owned())
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "demo: path name=pager initiator=kernel mode=async trigger=page-fault \
        operations=2 bytes=8192 \
        sha256=0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8 \
        ns=5 p50_ns=1 p99_ns=2 max_ns=3 max_in_flight=4 cpu_overlap=0.123";

    #[test]
    fn the_three_lines() {
        let progress = parse("demo: progress path=pager bytes=4096 of=16777216");
        let path = "pager".to_owned();
        assert_eq!(
            progress,
            Some(Line::Progress {
                path,
                bytes: 4096,
                of: 16777216
            })
        );
        let Some(Line::Path(result)) = parse(PATH) else {
            panic!()
        };
        assert_eq!(
            (result.operations, result.bytes, result.max_in_flight),
            (2, 8192, 4)
        );
        assert_eq!(
            (result.ns, result.p50_ns, result.p99_ns, result.max_ns),
            (5, 1, 2, 3)
        );
        assert_eq!(
            (result.initiator.as_str(), result.mode.as_str()),
            ("kernel", "async")
        );
        assert_eq!(result.cpu_overlap, 0.123);
        assert!(parse(&PATH.replacen("0.123", "1.000", 1)).is_some());
        assert!(parse(&PATH.replacen("page-fault", "io_submit", 1)).is_some());
        let failed = parse("demo: failed path=- error=no such file: x=y");
        let (path, error) = ("-".to_owned(), "no such file: x=y".to_owned());
        assert_eq!(failed, Some(Line::Failed { path, error }));
    }

    #[test]
    fn what_does_not_match_is_no_report() {
        let wrong = [
            ("name=pager", "name="),
            ("name=pager", "name=a\u{1b}[31m"),
            ("name=pager", "name=abcdefghijklmnopqrstuvwxyz0123456"),
            ("initiator=kernel", "initiator=dog"),
            ("mode=async", "mode=both"),
            ("operations=2", "operations=-2"),
            ("operations=2", "operations=+2"),
            ("bytes=8192", "bytes=99999999999999999999"),
            ("f0f8", "f0f"),
            ("f0f8", "F0F8"),
            ("ns=5 ", ""),
            (" cpu_overlap=0.123", ""),
            ("0.123", "0.12"),
            ("0.123", "0.+12"),
            ("0.123", "1.001"),
            ("0.123", "-0.123"),
            ("0.123", "nan"),
            ("0.123", "0.123 more=1"),
        ];
        for (right, wrong) in wrong {
            assert!(PATH.contains(right));
            assert_eq!(parse(&PATH.replacen(right, wrong, 1)), None, "{wrong}");
        }
        for line in [
            "",
            "demo:",
            "demo: ",
            "demo: path",
            "demo: progress path=a bytes=1",
            "hello",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in "(demo: )?(path|progress|failed)?.{0,200}") {
            let _ = parse(&line);
        }
    }
}
