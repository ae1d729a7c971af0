//! Log lines on stderr: `[   0.012345 debug queue] text`, in seconds since the start.

use std::io::Write;
use std::time::Instant;

use log::LevelFilter;

use crate::status_line;

/// Starts logging: warnings, more with each `-v`; RUST_LOG overrides.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let start = Instant::now();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env();
    builder.format(move |out, record| {
        let time = start.elapsed().as_secs_f64();
        let level = record.level().as_str().to_ascii_lowercase();
        let part = record.target().rsplit("::").next().unwrap_or_default();
        status_line::make_room();
        writeln!(out, "[{time:>11.6} {level:<5} {part}] {}", record.args())
    });
    builder.init();
}
