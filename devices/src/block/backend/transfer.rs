//! Moving all of a request's bytes between a file and memory, however many system calls it takes:
//! short transfers are continued, those that the host puts off repeated for a while, long ones split.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

use crate::block::buffers::GuestBuffers;
use crate::block::retries::Retries;

/// The most pieces that one `preadv` or `pwritev` takes (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;

/// Fills `buffers` from byte `offset` of `file` on.
pub(super) fn read(file: &File, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
    // SAFETY: these are the iovecs of `buffers`, which stays borrowed.
    unsafe { read_iovecs(file, offset, buffers.iovecs()) }
}

/// Writes `buffers` to `file` from byte `offset` on.
pub(super) fn write(file: &File, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
    // SAFETY: as in `read`.
    unsafe { write_iovecs(file, offset, buffers.iovecs()) }
}

/// Fills `memory` from byte `offset` of `file` on.
pub(super) fn read_slice(file: &File, offset: u64, memory: VolatileSlice<'_>) -> io::Result<()> {
    // SAFETY: the iovec is that of `memory`, which stays borrowed.
    unsafe { read_iovecs(file, offset, &[iovec_of(memory)]) }
}

/// Writes `memory` to `file` from byte `offset` on.
pub(super) fn write_slice(file: &File, offset: u64, memory: VolatileSlice<'_>) -> io::Result<()> {
    // SAFETY: as in `read_slice`.
    unsafe { write_iovecs(file, offset, &[iovec_of(memory)]) }
}

/// Writes `bytes` to `file` from byte `offset` on.
pub(super) fn write_bytes(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let iovec = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the bytes stay borrowed, and are only read.
    unsafe { write_iovecs(file, offset, &[iovec]) }
}

fn iovec_of(memory: VolatileSlice<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: memory.ptr_guard_mut().as_ptr().cast(),
        iov_len: memory.len(),
    }
}

/// # Safety
/// The iovecs point into mapped memory to which no Rust reference exists.
unsafe fn read_iovecs(file: &File, offset: u64, iovecs: &[libc::iovec]) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let end = io::ErrorKind::UnexpectedEof;
    transfer_all(offset, iovecs, end, |iovecs, count, at| {
        // SAFETY: the caller vouches for the iovecs, and the descriptor is open.
        unsafe { libc::preadv(fd, iovecs, count, at) }
    })
}

/// # Safety
/// The iovecs point into mapped memory, which nobody changes through a Rust reference.
unsafe fn write_iovecs(file: &File, offset: u64, iovecs: &[libc::iovec]) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let end = io::ErrorKind::WriteZero;
    transfer_all(offset, iovecs, end, |iovecs, count, at| {
        // SAFETY: as above; the kernel only reads through these iovecs.
        unsafe { libc::pwritev(fd, iovecs, count, at) }
    })
}

/// Calls `transfer` until every byte of `iovecs` is done, a piece at a time.
///
/// `transfer(iovecs, count, offset)` returns what the system call returned.
fn transfer_all(
    mut offset: u64,
    iovecs: &[libc::iovec],
    at_end: io::ErrorKind,
    transfer: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut rest = Rest::new(iovecs);
    let mut retries = Retries::default();
    while let Some(iovecs) = rest.next_batch() {
        let at = libc::off_t::try_from(offset)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match transfer(iovecs.as_ptr(), iovecs.len() as libc::c_int, at) {
            0 => return Err(at_end.into()),
            done if done > 0 => {
                rest.advance(done as usize);
                offset += done as u64;
                retries.progress();
            }
            _ => retries.pause_after(io::Error::last_os_error())?,
        }
    }
    Ok(())
}

/// What is still to be transferred of a list of iovecs.
struct Rest<'a> {
    iovecs: &'a [libc::iovec],
    /// How many bytes of the first one are done.
    done: usize,
    /// A batch whose first piece is partly done: it cannot be lent from `iovecs`.
    patched: Vec<libc::iovec>,
}

impl<'a> Rest<'a> {
    fn new(iovecs: &'a [libc::iovec]) -> Self {
        Rest {
            iovecs,
            done: 0,
            patched: Vec::new(),
        }
    }

    /// The next pieces for one system call; none when everything is done.
    fn next_batch(&mut self) -> Option<&[libc::iovec]> {
        // Empty pieces make no progress: without this an all-empty rest would look like the end
        // of the file.
        while let Some((first, others)) = self.iovecs.split_first()
            && first.iov_len == self.done
        {
            self.iovecs = others;
            self.done = 0;
        }
        let batch = self.iovecs.get(..IOV_MAX).unwrap_or(self.iovecs);
        let first = batch.first()?;
        if self.done == 0 {
            return Some(batch);
        }
        self.patched.clear();
        self.patched.push(libc::iovec {
            iov_base: first.iov_base.wrapping_byte_add(self.done),
            iov_len: first.iov_len - self.done,
        });
        self.patched.extend_from_slice(&batch[1..]);
        Some(&self.patched)
    }

    /// Takes note that `bytes` more are done, at most what the last batch held.
    fn advance(&mut self, bytes: usize) {
        self.done += bytes;
        while let Some((first, others)) = self.iovecs.split_first()
            && self.done >= first.iov_len
        {
            self.done -= first.iov_len;
            self.iovecs = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use vm_memory::{GuestAddress, GuestMemoryMmap};

    /// The result of a system call that failed.
    fn fails(number: i32) -> isize {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = number };
        -1
    }

    fn memory() -> Arc<GuestMemoryMmap> {
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap())
    }

    #[test]
    fn short_and_interrupted_transfers_are_continued() {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..0x1_0000u32).map(|at| (at % 251) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let memory = memory();
        let mut buffers = GuestBuffers::new(memory.clone());
        for (addr, len) in [(0, 100), (5000, 0), (1000, 1), (2000, 811), (4000, 112)] {
            buffers.push(GuestAddress(addr), len).unwrap();
        }
        let calls = Cell::new(0);
        let fd = file.as_raw_fd();
        let piecemeal = |iovecs: *const libc::iovec, _count: libc::c_int, at: libc::off_t| {
            calls.set(calls.get() + 1);
            match calls.get() % 4 {
                1 => return fails(libc::EINTR),
                3 => return fails(libc::EAGAIN),
                _ => {}
            }
            // SAFETY: the first iovec is there; only its length is made smaller.
            unsafe {
                let mut first = *iovecs;
                first.iov_len = first.iov_len.min(7);
                libc::preadv(fd, &first, 1, at)
            }
        };
        let end = io::ErrorKind::UnexpectedEof;
        transfer_all(1024, buffers.iovecs(), end, piecemeal).unwrap();
        let mut read = vec![0; 1024];
        assert_eq!(buffers.copy_to(&mut read), 1024);
        assert_eq!(read, content[1024..2048]);
        assert!(calls.get() > 1024 / 7);
    }

    #[test]
    fn what_is_put_off_for_ever_ends_the_transfer() {
        let mut buffers = GuestBuffers::new(memory());
        buffers.push(GuestAddress(0), 512).unwrap();
        for number in [libc::EINTR, libc::EAGAIN] {
            let calls = Cell::new(0);
            let put_off = |_, _, _| {
                calls.set(calls.get() + 1);
                fails(number)
            };
            let end = io::ErrorKind::WriteZero;
            let result = transfer_all(0, buffers.iovecs(), end, put_off);
            assert_eq!(result.unwrap_err().raw_os_error(), Some(number));
            assert!((10..50).contains(&calls.get()), "{} calls", calls.get());
        }
    }

    #[test]
    fn other_errors_end_the_transfer() {
        let mut buffers = GuestBuffers::new(memory());
        buffers.push(GuestAddress(0), 512).unwrap();
        for number in [libc::EIO, libc::ENOSPC, libc::EFBIG] {
            let end = io::ErrorKind::WriteZero;
            let result = transfer_all(0, buffers.iovecs(), end, |_, _, _| fails(number));
            assert_eq!(result.unwrap_err().raw_os_error(), Some(number));
        }
    }
}
