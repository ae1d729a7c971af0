//! What the machine holds: the same before a test and after it.

use iolite_user::abi::CpuStats;
use iolite_user::{File, cpu_stats, disks, sleep};

/// How often, and how far apart in nanoseconds, it is looked whether all has come to rest.
const LOOKS: u32 = 100;
const APART_NS: u64 = 10_000_000;

/// Threads, processes, pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    threads: u64,
    processes: u64,
    /// Frames that are free or hold a page of the cache, which can be given up.
    frames: u64,
    in_flight: u64,
}

impl Held {
    fn now() -> Held {
        let CpuStats {
            threads,
            processes,
            free_frames,
            cached_pages,
            ..
        } = cpu_stats().unwrap_or_default();
        Held {
            threads,
            processes,
            frames: free_frames + cached_pages,
            in_flight: disks().map(|disk| in_flight(disk.as_str())).sum(),
        }
    }

    /// What there is when no request is in flight any more.
    pub fn settled() -> Held {
        let mut held = Held::now();
        for _ in 0..LOOKS {
            if held.in_flight == 0 {
                break;
            }
            sleep(APART_NS);
            held = Held::now();
        }
        held
    }

    /// Waits until there is as much again as `self`.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn again(&self) -> Result<(), alloc::string::String> {
        let mut now = Held::now();
        for _ in 0..LOOKS {
            if now.is_no_more_than(self) {
                return Ok(());
            }
            sleep(APART_NS);
            now = Held::now();
        }
        Err(alloc::format!(
            "{} threads, {} processes, {} frames, {} requests in flight",
            now.threads as i64 - self.threads as i64,
            now.processes as i64 - self.processes as i64,
            self.frames as i64 - now.frames as i64,
            now.in_flight,
        ))
    }

    fn is_no_more_than(&self, before: &Held) -> bool {
        self.threads <= before.threads
            && self.processes <= before.processes
            && self.frames >= before.frames
            && self.in_flight == 0
    }
}

fn in_flight(path: &str) -> u64 {
    let stats = File::open(path).and_then(|disk| disk.disk_stats());
    stats.map_or(0, |stats| stats.in_flight)
}
