//! What of a file can be transferred at once, on a thread that others wait for.
//!
//! A transfer is tried with RWF_NOWAIT: what is in the page cache, or finds room there, is copied;
//! anything else is left to whoever may wait. Many file systems do not know the flag: tmpfs, FUSE, NFS,
//! overlayfs and others for reads, these and ext4 for writes. There the transfer is simply made: it is
//! a copy from or to the page cache too, as a rule. The exceptions (a page that is not there, a journal
//! that is being committed, too many dirty pages) are noticed by the sleep that they cost: after one
//! the next transfers of that direction are left to others ([`Patience`]). So a file that lives in
//! memory is served at once for ever, and one behind a network hardly ever.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::patience::Patience;
use crate::block::buffers::GuestBuffers;

/// The most pieces that one system call takes (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;

/// The most bytes that are transferred at once: a copy of as many takes some 50 us.
const MAX_BYTES: u64 = 512 << 10;

/// A read that slept and took longer was one from a disk.
const QUICK_READ: Duration = Duration::from_micros(50);
/// A write may wait for another one of the same file; workers would have to do that as well.
const QUICK_WRITE: Duration = Duration::from_millis(1);

/// What is known of a file's ability to do without waiting.
pub(super) struct Now {
    reads: Direction,
    writes: Direction,
}

/// The same of one direction.
struct Direction {
    /// RWF_NOWAIT was refused.
    refused: AtomicBool,
    patience: Patience,
}

impl Now {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Now {
            reads: Direction::new(QUICK_READ),
            writes: Direction::new(QUICK_WRITE),
        }
    }

    /// Reads all of `buffers`, if that is possible at once, or will be as a rule.
    pub(super) fn read(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> bool {
        self.reads.transfer(buffers, |flags| {
            // SAFETY: preadv2 writes through the iovecs of `buffers`.
            unsafe { transfer(libc::SYS_preadv2, file, offset, buffers, flags) }
        })
    }

    /// Writes all of `buffers`, if that is possible at once, or will be as a rule.
    pub(super) fn write(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> bool {
        self.writes.transfer(buffers, |flags| {
            // SAFETY: pwritev2 reads through the iovecs of `buffers`.
            unsafe { transfer(libc::SYS_pwritev2, file, offset, buffers, flags) }
        })
    }
}

impl Direction {
    fn new(quick: Duration) -> Self {
        Direction {
            refused: AtomicBool::new(false),
            patience: Patience::new(quick),
        }
    }

    /// Whether `call`, which gets flags and returns how many bytes it moved, moved all of `buffers`.
    fn transfer(
        &self,
        buffers: &GuestBuffers,
        call: impl Fn(libc::c_int) -> io::Result<u64>,
    ) -> bool {
        if !is_small(buffers) {
            return false;
        }
        let all = |done| matches!(done, Ok(bytes) if bytes == buffers.len());
        if !self.refused.load(Ordering::Relaxed) {
            let done = call(libc::RWF_NOWAIT);
            if !is_refusal(&done) {
                return all(done);
            }
            self.refused.store(true, Ordering::Relaxed);
        }
        self.patience.try_with(|| all(call(0)))
    }
}

/// Whether these are so few bytes that others may wait for them.
pub(super) fn is_small(buffers: &GuestBuffers) -> bool {
    buffers.len() <= MAX_BYTES && buffers.iovecs().len() <= IOV_MAX
}

/// One system call for all of `buffers`; returns how many bytes were transferred.
///
/// # Safety
/// `number` is that of preadv2 or pwritev2, or of a call that does the same with its arguments.
unsafe fn transfer(
    number: libc::c_long,
    file: &File,
    offset: u64,
    buffers: &GuestBuffers,
    flags: libc::c_int,
) -> io::Result<u64> {
    let iovecs = buffers.iovecs();
    let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (fd, pieces, count) = (file.as_raw_fd(), iovecs.as_ptr(), iovecs.len());
    // Not by libc's wrapper, which is a cancellation point and takes its time for it. The upper half
    // of the position (the 0) counts on 32-bit systems only.
    // SAFETY: the iovecs are those of `buffers`, which stays borrowed during the call: they point
    // into mapped guest memory, to which no Rust reference exists.
    match unsafe { libc::syscall(number, fd, pieces, count, at, 0, flags) } {
        done @ 0.. => Ok(done as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the flag RWF_NOWAIT was refused.
fn is_refusal(done: &io::Result<u64>) -> bool {
    let errno = done.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(errno, Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
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

    #[track_caller]
    fn assert_reads(file: &File) {
        file.write_all_at(&[7; 8192], 0).unwrap();
        let (memory, buffers) = buffers(4096);
        let now = Now::new();
        for _ in 0..100 {
            assert!(now.read(file, 4096, &buffers));
        }
        let byte: u8 = memory.read_obj(GuestAddress(4095)).unwrap();
        assert_eq!(byte, 7);
    }

    #[test]
    fn what_is_in_the_page_cache_is_read_at_once() {
        assert_reads(&tempfile::tempfile().unwrap());
    }

    #[test]
    fn a_file_in_memory_is_read_at_once() {
        // A tmpfs, which does not know RWF_NOWAIT; few hosts have none there.
        if let Ok(file) = tempfile::tempfile_in("/dev/shm") {
            assert_reads(&file);
        }
    }

    #[test]
    fn what_is_not_in_the_page_cache_is_left_to_others() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 64 << 10], 0).unwrap();
        file.sync_all().unwrap();
        // SAFETY: the descriptor is open, and the rest are numbers.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let now = Now::new();
        let read = now.read(&file, 0, &buffers(4096).1);
        // Without RWF_NOWAIT it is read, however long that takes.
        assert_eq!(read, now.reads.refused.load(Ordering::Relaxed));
    }

    #[test]
    fn what_is_not_all_there_is_left_to_others() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 6000], 0).unwrap();
        let now = Now::new();
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
        assert!(Now::new().write(&file, 512, &buffers));
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 512).unwrap();
        assert_eq!(bytes, [9; 4096]);
    }
}
