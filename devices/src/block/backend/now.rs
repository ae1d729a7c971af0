//! What of a file can be transferred at once, on a thread that others wait for.
//!
//! Reads are tried with RWF_NOWAIT: what is in the page cache is copied, anything else is left to
//! whoever may wait. Few file systems know RWF_NOWAIT for buffered writes. On the others a write is
//! simply made: it is a copy into the page cache too, as a rule. The exceptions (a page that has to
//! be read first, a journal that is being committed, too many dirty pages) are noticed by the time
//! they take: after a slow write the next ones are left to others, twice as many each time it
//! happens again.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::block::buffers::GuestBuffers;

/// The most pieces that one system call takes (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;

/// The most bytes that are transferred at once: a copy of as many takes some 50 us.
const MAX_BYTES: u64 = 512 << 10;

/// What is known of a file's ability to do without waiting.
#[derive(Default)]
pub(super) struct Now {
    reads_unsupported: AtomicBool,
    writes_unsupported: AtomicBool,
    patience: Patience,
}

impl Now {
    /// Reads all of `buffers`, if that is possible at once.
    pub(super) fn read(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> bool {
        if self.reads_unsupported.load(Ordering::Relaxed) || !is_small(buffers) {
            return false;
        }
        let done = transfer(offset, buffers, |iovecs, count, at| {
            // SAFETY: the iovecs are those of `buffers`, which stays borrowed during the call: they
            // point into mapped guest memory, to which no Rust reference exists.
            unsafe {
                // Not by libc's wrapper, which is a cancellation point and takes its time for it.
                let (number, fd) = (libc::SYS_preadv2, file.as_raw_fd());
                libc::syscall(number, fd, iovecs, count, at, 0, libc::RWF_NOWAIT) as isize
            }
        });
        note_support(&done, &self.reads_unsupported);
        matches!(done, Ok(bytes) if bytes == buffers.len())
    }

    /// Writes all of `buffers`, if that is possible at once, or will be as a rule.
    pub(super) fn write(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> bool {
        if !is_small(buffers) {
            return false;
        }
        if !self.writes_unsupported.load(Ordering::Relaxed) {
            let done = transfer(offset, buffers, |iovecs, count, at| {
                // SAFETY: as in `read`; the kernel only reads through these iovecs.
                unsafe { libc::pwritev2(file.as_raw_fd(), iovecs, count, at, libc::RWF_NOWAIT) }
            });
            if !note_support(&done, &self.writes_unsupported) {
                return matches!(done, Ok(bytes) if bytes == buffers.len());
            }
        }
        self.patience.try_with(|| {
            let done = transfer(offset, buffers, |iovecs, count, at| {
                // SAFETY: as above.
                unsafe { libc::pwritev(file.as_raw_fd(), iovecs, count, at) }
            });
            matches!(done, Ok(bytes) if bytes == buffers.len())
        })
    }
}

fn is_small(buffers: &GuestBuffers) -> bool {
    buffers.len() <= MAX_BYTES && buffers.iovecs().len() <= IOV_MAX
}

/// One system call for all of `buffers`; returns how many bytes were transferred.
fn transfer(
    offset: u64,
    buffers: &GuestBuffers,
    call: impl FnOnce(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<u64> {
    let iovecs = buffers.iovecs();
    let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    match call(iovecs.as_ptr(), iovecs.len() as libc::c_int, at) {
        done @ 0.. => Ok(done as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the flag RWF_NOWAIT was refused; remembers it in `unsupported`.
fn note_support(done: &io::Result<u64>, unsupported: &AtomicBool) -> bool {
    let errno = done.as_ref().err().and_then(io::Error::raw_os_error);
    let refused = matches!(errno, Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL));
    if refused {
        unsupported.store(true, Ordering::Relaxed);
    }
    refused
}

/// Tries something that is quick as a rule, and less often when it was not.
#[derive(Default)]
struct Patience {
    /// How many tries are to be left out.
    left_out: AtomicU32,
    /// How many are left out after the next slow one.
    penalty: AtomicU32,
}

impl Patience {
    /// A try that takes longer is a slow one.
    const QUICK: Duration = Duration::from_millis(1);
    const FIRST_PENALTY: u32 = 8;
    const LAST_PENALTY: u32 = 4096;

    /// The result of `action`, or false if it is left out. The counts need not be exact.
    fn try_with(&self, action: impl FnOnce() -> bool) -> bool {
        let left_out = self.left_out.load(Ordering::Relaxed);
        if left_out > 0 {
            self.left_out.store(left_out - 1, Ordering::Relaxed);
            return false;
        }
        let start = Instant::now();
        let done = action();
        self.learn(start.elapsed() > Self::QUICK);
        done
    }

    fn learn(&self, slow: bool) {
        let penalty = self.penalty.load(Ordering::Relaxed);
        if slow {
            let penalty = (2 * penalty).clamp(Self::FIRST_PENALTY, Self::LAST_PENALTY);
            self.left_out.store(penalty, Ordering::Relaxed);
            self.penalty.store(penalty, Ordering::Relaxed);
        } else if penalty > 0 {
            // So many quick ones as were left out, and the slow one is forgotten.
            self.penalty.store(penalty - 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    fn buffers(len: u32) -> (Arc<GuestMemoryMmap>, GuestBuffers) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let memory = Arc::new(memory);
        let mut buffers = GuestBuffers::new(memory.clone());
        buffers.push(GuestAddress(0), len).unwrap();
        (memory, buffers)
    }

    #[test]
    fn what_is_in_the_page_cache_is_read_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        let (memory, buffers) = buffers(4096);
        let now = Now::default();
        let read = now.read(&file, 4096, &buffers);
        // A file system without RWF_NOWAIT reads nothing at once; it is asked only once.
        assert_ne!(read, now.reads_unsupported.load(Ordering::Relaxed));
        let byte: u8 = memory.read_obj(GuestAddress(4095)).unwrap();
        assert_eq!(byte, if read { 7 } else { 0 });
    }

    #[test]
    fn what_is_not_all_there_is_left_to_others() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 6000], 0).unwrap();
        let now = Now::default();
        assert!(!now.read(&file, 4096, &buffers(4096).1), "past the end");
        assert!(!now.read(&file, u64::MAX, &buffers(4096).1));
        assert!(!now.read(&file, 0, &buffers(1 << 20).1), "too large");
        assert!(!now.write(&file, 0, &buffers(1 << 20).1), "too large");
    }

    #[test]
    fn writes_reach_the_file() {
        let file = tempfile::tempfile().unwrap();
        let (memory, buffers) = buffers(4096);
        memory.write_slice(&[9; 4096], GuestAddress(0)).unwrap();
        assert!(Now::default().write(&file, 512, &buffers));
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 512).unwrap();
        assert_eq!(bytes, [9; 4096]);
    }

    #[test]
    fn slow_ones_are_tried_less_often() {
        let patience = Patience::default();
        let tries = |count: u32| (0..count).filter(|_| patience.try_with(|| true)).count();
        assert_eq!(tries(100), 100);
        patience.learn(true);
        assert_eq!(tries(9), 1, "eight are left out");
        patience.learn(true);
        patience.learn(true);
        assert_eq!(tries(1000), 1000 - 28);
        for _ in 0..100 {
            patience.learn(true);
        }
        assert_eq!(tries(4097), 1);
        assert_eq!(tries(5000), 5000);
        patience.learn(true);
        assert_eq!(tries(9), 1, "the slow ones before are forgotten");
    }
}
