//! What a trace says of where it comes from.

use std::env;
use std::fs;
use std::thread;

/// The command line of this process, without the program's directory.
pub fn command() -> String {
    // Words need not be UTF-8; JSON has to be.
    let mut words = env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = words.map(|word| {
        if word.contains(char::is_whitespace) {
            format!("\"{word}\"")
        } else {
            word
        }
    });
    [program]
        .into_iter()
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The host: its processor, how many of them, its kernel.
pub fn host() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("x86-64", |(_, model)| model.trim());
    let processors = info.lines().filter(|line| line.starts_with("processor"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = match processors.count() {
        // There is no /proc.
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let host = format!("{model}, {processors} CPUs, Linux {}", kernel.trim());
    host.trim_end().to_owned()
}
