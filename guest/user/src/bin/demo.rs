#![no_std]
#![no_main]
//! `demo DISK [--write] [--paths A,B]`: reads a whole disk once along each path, hashes it, times
//! each operation, and reports in lines that the VMM reads (`iolite_guest_core::report`).
//!
//! - `blocking-read`: the process asks by `pread` past the page cache and sleeps until it is done.
//!   With `--write` it writes back each block it has read, and flushes at the end.
//! - `pager`: the process maps the disk and touches its pages in order; the kernel fetches each
//!   that is missing. The latency is that of a page's first touch, the operations are the
//!   requests that the pager made of it.

extern crate alloc;

use alloc::boxed::Box;
use iolite_user::core_logic::histogram::Histogram;
use iolite_user::core_logic::report::{Failed, PathKind, PathReport, Progress};
use iolite_user::{Args, Errno, File, Instant, Mapping, MappingMut, PAGE_BYTES, Sha256};
use iolite_user::{Result, entry, kind, println};

const BLOCKING: PathKind = PathKind {
    name: "blocking-read",
    initiator: "process",
    mode: "sync",
    trigger: "pread",
};
const PAGER: PathKind = PathKind {
    name: "pager",
    initiator: "kernel",
    mode: "async",
    trigger: "page-fault",
};
const PATHS: [&PathKind; 2] = [&BLOCKING, &PAGER];

/// Disks up to this size are read in blocks of a page, larger ones in larger blocks: the first
/// shows the cost of an operation, the second does not take all day.
const SMALL_DISK_BYTES: u64 = 16 << 20;
const SMALL_BLOCK_BYTES: usize = PAGE_BYTES;
const LARGE_BLOCK_BYTES: usize = 128 << 10;
/// How much of the disk is mapped at once: it has to fit into memory.
const WINDOW_BYTES: u64 = 16 << 20;
const PROGRESS_NS: u64 = 250_000_000;

entry!(main);

fn main(args: Args) -> u8 {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(error) => {
            println!("{}", Failed { path: "-", error });
            return 2;
        }
    };
    for &path in &PATHS {
        if !options.selects(path) {
            continue;
        }
        match run(path, &options) {
            Ok(report) => println!("{report}"),
            Err(error) => {
                println!(
                    "{}",
                    Failed {
                        path: path.name,
                        error
                    }
                );
                return 1;
            }
        }
    }
    0
}

struct Options {
    disk: &'static str,
    write: bool,
    paths: Option<&'static str>,
}

impl Options {
    fn parse(mut args: Args) -> core::result::Result<Options, &'static str> {
        const USAGE: &str = "usage: demo DISK [--write] [--paths blocking-read,pager]";
        let (mut disk, mut write, mut paths) = (None, false, None);
        while let Some(arg) = args.next() {
            match arg {
                "--write" => write = true,
                "--paths" => paths = Some(args.next().ok_or(USAGE)?),
                _ if disk.is_none() && !arg.starts_with('-') => disk = Some(arg),
                _ => return Err(USAGE),
            }
        }
        let known = |name| PATHS.iter().any(|path| path.name == name);
        if !paths.is_none_or(|names| names.split(',').all(known)) {
            return Err(USAGE);
        }
        Ok(Options {
            disk: disk.ok_or(USAGE)?,
            write,
            paths,
        })
    }

    fn selects(&self, path: &PathKind) -> bool {
        self.paths
            .is_none_or(|names| names.split(',').any(|name| name == path.name))
    }
}

fn run(path: &'static PathKind, options: &Options) -> Result<PathReport<'static>> {
    let mut pass = Pass::start(path, options)?;
    let operations = match path.name {
        "pager" => pass.page_in()?,
        _ => pass.read_by_system_call(options.write)?,
    };
    pass.report(operations)
}

/// One reading of the whole disk, from its first byte to its last.
struct Pass {
    path: &'static PathKind,
    disk: File,
    size: u64,
    hash: Sha256,
    hashed: u64,
    latencies: Box<Histogram>,
    started: Instant,
    progress: Instant,
}

impl Pass {
    fn start(path: &'static PathKind, options: &Options) -> Result<Pass> {
        let disk = match (path.name, options.write) {
            ("pager", _) => File::open(options.disk)?,
            (_, false) => File::open_direct(options.disk)?,
            (_, true) => File::open_direct_writable(options.disk)?,
        };
        let stat = disk.stat()?;
        if stat.kind != kind::DISK {
            return Err(Errno::ENODEV);
        }
        disk.reset_stats()?;
        let started = Instant::now();
        Ok(Pass {
            path,
            disk,
            size: stat.size,
            hash: Sha256::new(),
            hashed: 0,
            latencies: Box::default(),
            started,
            progress: started,
        })
    }

    /// Reads by `pread`, and rewrites what it has read if `write`. Gives the number of reads.
    fn read_by_system_call(&mut self, write: bool) -> Result<u64> {
        let block = match self.size {
            ..=SMALL_DISK_BYTES => SMALL_BLOCK_BYTES,
            _ => LARGE_BLOCK_BYTES,
        };
        let mut buffer = MappingMut::zeroed(block)?;
        while self.hashed < self.size {
            let len = (self.size - self.hashed).min(block as u64) as usize;
            let asked = Instant::now();
            let read = self.disk.pread(&mut buffer[..len], self.hashed)?;
            self.latencies.record(asked.elapsed_ns());
            if read == 0 {
                return Err(Errno::EIO);
            }
            if write {
                self.disk.pwrite_all(&buffer[..read], self.hashed)?;
            }
            self.take(&buffer[..read]);
        }
        if write {
            self.disk.fsync()?;
        }
        Ok(self.latencies.count())
    }

    /// Reads by touching a mapping, window by window. Gives the number of requests that the pager
    /// made.
    fn page_in(&mut self) -> Result<u64> {
        while self.hashed < self.size {
            let len = (self.size - self.hashed).min(WINDOW_BYTES) as usize;
            let window = Mapping::of(&self.disk, self.hashed, len)?;
            for at in (0..len).step_by(PAGE_BYTES) {
                let asked = Instant::now();
                window.touch(at);
                self.latencies.record(asked.elapsed_ns());
                self.take(&window[at..len.min(at + PAGE_BYTES)]);
            }
        }
        Ok(self.disk.disk_stats()?.reads)
    }

    /// Hashes the next bytes, and says how far it has come a few times a second.
    fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.hashed += bytes.len() as u64;
        if self.progress.elapsed_ns() >= PROGRESS_NS {
            self.progress = Instant::now();
            let (path, bytes, of) = (self.path.name, self.hashed, self.size);
            println!("{}", Progress { path, bytes, of });
        }
    }

    fn report(self, operations: u64) -> Result<PathReport<'static>> {
        let ns = self.started.elapsed_ns();
        Ok(PathReport {
            kind: self.path,
            operations,
            bytes: self.hashed,
            sha256: self.hash.finish().0,
            ns,
            p50_ns: self.latencies.percentile(50),
            p99_ns: self.latencies.percentile(99),
            max_ns: self.latencies.max(),
            max_in_flight: self.disk.disk_stats()?.max_in_flight,
        })
    }
}
