#![no_std]
#![no_main]
//! `threads DISK [N]`: N threads (8 if left out) read the disk at once, each a part of its own, by
//! blocking direct reads, all starting together; then one thread reads it all again. Both must find
//! the same. Prints how many requests were in flight at most.

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use iolite_user::{Args, DiskStats, Errno, File, MappingMut, PAGE_BYTES, Result, Sha256};
use iolite_user::{Digest, Thread, entry, number_argument, println, yield_now};

/// Whole blocks of this size are read; what is left at the end of the disk is not.
const BLOCK_BYTES: u64 = PAGE_BYTES as u64;
/// How much of a large disk is read.
const MOST_BYTES: u64 = 4 << 20;
const DEFAULT_THREADS: &str = "8";

entry!(main);

fn main(mut args: Args) -> core::result::Result<(), String> {
    let path = args.next().ok_or("usage: threads DISK [N]")?;
    let count = number_argument("N", args.next().unwrap_or(DEFAULT_THREADS))?;
    let parts = parts(path, count).map_err(|error| format!("{path}: {error}"))?;

    let (at_once, stats) = read_at_once(path, &parts).map_err(|error| error.to_string())?;
    let one_by_one = read_one_by_one(path, &parts).map_err(|error| error.to_string())?;
    if at_once != one_by_one {
        return Err(String::from(
            "threads that read at once found other bytes than one alone",
        ));
    }
    println!(
        "threads: {} threads, {} reads, max_in_flight={} ok",
        parts.len(),
        stats.reads,
        stats.max_in_flight
    );
    Ok(())
}

/// First byte and length in bytes.
type Part = (u64, u64);

/// Splits the disk into `count` equal parts of at least one block.
fn parts(path: &str, count: u64) -> Result<Vec<Part>> {
    let size = File::open(path)?.stat()?.size.min(MOST_BYTES);
    let len = size / count.max(1) / BLOCK_BYTES * BLOCK_BYTES;
    if count == 0 || len == 0 {
        return Err(Errno::EINVAL);
    }
    Ok((0..count).map(|index| (index * len, len)).collect())
}

/// Reads every part on a thread of its own. Gives the digests, and what the driver counted.
fn read_at_once(path: &'static str, parts: &[Part]) -> Result<(Vec<Digest>, DiskStats)> {
    let disk = File::open(path)?;
    disk.reset_stats()?;
    let waiting = Arc::new(AtomicUsize::new(parts.len()));
    let threads: Vec<Thread<Result<Digest>>> = parts
        .iter()
        .map(|&part| {
            let waiting = waiting.clone();
            Thread::spawn(move || {
                let reader = Reader::open(path);
                wait_for_all(&waiting);
                reader.and_then(|mut reader| reader.read(part))
            })
        })
        .collect::<Result<_>>()?;
    let digests: Result<Vec<Digest>> = threads
        .into_iter()
        .map(|thread| thread.join().and_then(|digest| digest))
        .collect();
    Ok((digests?, disk.disk_stats()?))
}

/// Returns when as many threads have called this as `waiting` held.
fn wait_for_all(waiting: &AtomicUsize) {
    waiting.fetch_sub(1, Ordering::AcqRel);
    while waiting.load(Ordering::Acquire) > 0 {
        yield_now();
    }
}

fn read_one_by_one(path: &str, parts: &[Part]) -> Result<Vec<Digest>> {
    let mut reader = Reader::open(path)?;
    parts.iter().map(|&part| reader.read(part)).collect()
}

/// What one thread reads with.
struct Reader {
    disk: File,
    block: MappingMut,
}

impl Reader {
    fn open(path: &str) -> Result<Reader> {
        Ok(Reader {
            disk: File::open_direct(path)?,
            block: MappingMut::zeroed(BLOCK_BYTES as usize)?,
        })
    }

    fn read(&mut self, (start, len): Part) -> Result<Digest> {
        let mut hash = Sha256::new();
        for offset in (start..start + len).step_by(BLOCK_BYTES as usize) {
            self.disk.pread_exact(&mut self.block, offset)?;
            hash.update(&self.block);
        }
        Ok(hash.finish())
    }
}
