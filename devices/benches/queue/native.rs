//! The limit of direct I/O: one thread that keeps `depth` random reads in flight in an io_uring, past
//! the page cache, and does nothing else.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use super::FILE_BYTES;

/// Reads a second.
pub fn direct_reads(path: &Path, bytes: u32, depth: u16, time: Duration) -> f64 {
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(path);
    let file = file.unwrap();
    let mut ring = IoUring::new(256).unwrap();
    ring.submitter()
        .register_files(&[file.as_raw_fd()])
        .unwrap();
    let layout = std::alloc::Layout::from_size_align(bytes as usize * usize::from(depth), 4096);
    // SAFETY: the size is not zero; it is never freed, and the kernel may write to it for ever.
    let memory = unsafe { std::alloc::alloc_zeroed(layout.unwrap()) };
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut start_one = |ring: &mut IoUring, slot: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % (FILE_BYTES / u64::from(bytes)) * u64::from(bytes);
        let buffer = memory.wrapping_add(slot as usize * bytes as usize);
        let read = opcode::Read::new(types::Fixed(0), buffer, bytes).offset(offset);
        // SAFETY: the buffer is ours, and big enough; no other read in flight has this slot.
        unsafe { ring.submission().push(&read.build().user_data(slot)) }.unwrap();
    };
    for slot in 0..depth.into() {
        start_one(&mut ring, slot);
    }
    let (start, mut done) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        ring.submit_and_wait(1).unwrap();
        let ended: Vec<_> = ring.completion().collect();
        for completion in ended {
            assert_eq!(completion.result(), bytes as i32);
            done += 1;
            start_one(&mut ring, completion.user_data());
        }
    }
    done as f64 / start.elapsed().as_secs_f64()
}
