//! Where the bytes of an image end, now: others can cut it off under the machine.
//!
//! A read beyond the end fails by itself. A write would make the file longer again, with zeros where
//! other bytes were before; and a mapping shows the rest of the last page. So both ask first. To ask the
//! kernel each time would take a tenth of a write; the answer is good for 50 us, and a file that is cut
//! off in that time, or between asking and writing, might as well have been so a little later.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::image;
use crate::ticks;

/// For how long the file is taken to be as large as it was.
const FRESH: u64 = ticks::roughly(Duration::from_micros(50));

/// The size of one file.
pub(super) struct End {
    /// In bytes.
    size: AtomicU64,
    /// When that was asked for, in ticks.
    asked: AtomicU64,
}

impl End {
    /// Of a file that has `bytes` bytes now.
    pub(super) fn new(bytes: u64) -> Self {
        End {
            size: AtomicU64::new(bytes),
            asked: AtomicU64::new(ticks::now()),
        }
    }

    /// The size of `file` in bytes, as it was a moment before `now`, in ticks.
    #[inline]
    pub(super) fn size(&self, file: &File, now: u64) -> u64 {
        // A counter that has been set back is no reason to believe what was.
        if now.wrapping_sub(self.asked.load(Ordering::Relaxed)) > FRESH {
            return self.ask(file, now);
        }
        self.size.load(Ordering::Relaxed)
    }

    /// Whether `file` still has each byte before byte `end`, or that is not known.
    #[inline]
    pub(super) fn is_behind(&self, file: &File, end: u64) -> bool {
        let now = ticks::now();
        // It may have grown since.
        end <= self.size(file, now) || end <= self.ask(file, now)
    }

    #[cold]
    fn ask(&self, file: &File, now: u64) -> u64 {
        let size = image::known_size(file).unwrap_or(u64::MAX);
        self.size.store(size, Ordering::Relaxed);
        self.asked.store(now, Ordering::Relaxed);
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_is_seen_soon_and_one_that_grows_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let end = End::new(8192);
        assert!(end.is_behind(&file, 8192) && !end.is_behind(&file, 8193));
        file.set_len(4096).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert!(end.is_behind(&file, 4096) && !end.is_behind(&file, 4097));
        file.set_len(8192).unwrap();
        assert!(end.is_behind(&file, 8192));
    }

    #[test]
    fn what_has_no_size_that_is_known_ends_nowhere() {
        let null = File::open("/dev/null").unwrap();
        assert!(End::new(0).is_behind(&null, 1 << 40));
    }
}
