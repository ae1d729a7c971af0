//! The same load from the host itself, without any virtual machine: what the kernel gives a process
//! that reads and writes the image.

mod blocks;
mod stopwatch;
mod threads;
mod uring;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

use crate::error::Error;
pub use threads::Threads;
pub use uring::Uring;

/// Opens the image as a VMM would.
fn open(path: &Path, direct: bool) -> Result<File, Error> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(Error::host(format!("cannot open {}", path.display())))
}

/// Nanoseconds of processor time that this process has used.
fn own_cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}

fn wrong_content(offset: u64) -> Error {
    Error::Bench(format!("host: wrong content at byte {offset}"))
}
