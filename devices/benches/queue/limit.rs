//! The limit: one thread that polls the available ring, transfers, and publishes. It trusts the
//! driver, knows the shape of its chains, and does nothing else.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;

use iolite_devices_abi::blk::{S_OK, T_IN};

use super::driver::{AVAIL, DESC, Memory, QUEUE_SIZE, USED};

pub struct Limit {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Limit {
    pub fn new(path: &Path, memory: Memory) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&file, &memory, &stopped));
        Limit {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(file: &File, memory: &Memory, stop: &AtomicBool) {
    let fd = file.as_raw_fd();
    let (mut next, mut used) = (0u16, 0u16);
    // SAFETY: all addresses are constants inside the memory, or were put there by our own driver.
    unsafe {
        let avail_idx = &*memory.at::<AtomicU16>(AVAIL + 2);
        let used_idx = &*memory.at::<AtomicU16>(USED + 2);
        while !stop.load(Ordering::Relaxed) {
            if avail_idx.load(Ordering::Acquire) == next {
                std::hint::spin_loop();
                continue;
            }
            let head: u16 = memory
                .at::<u16>(AVAIL + 4 + 2 * u64::from(next % QUEUE_SIZE))
                .read_volatile();
            next = next.wrapping_add(1);
            let descriptor = |n: u64| DESC + 16 * (u64::from(head) + n);
            let addr = |n| memory.at::<u64>(descriptor(n)).read_volatile();
            let len = memory.at::<u32>(descriptor(1) + 8).read_volatile();
            let kind = memory.at::<u32>(addr(0)).read_volatile();
            let offset = memory.at::<u64>(addr(0) + 8).read_volatile() * 512;
            let iovec = libc::iovec {
                iov_base: memory.at(addr(1)),
                iov_len: len as usize,
            };
            let done = if kind == T_IN {
                libc::preadv(fd, &iovec, 1, offset as i64)
            } else {
                libc::pwritev(fd, &iovec, 1, offset as i64)
            };
            assert_eq!(done, len as isize);
            memory.at::<u8>(addr(2)).write_volatile(S_OK);
            let element = USED + 4 + 8 * u64::from(used % QUEUE_SIZE);
            memory.at::<u32>(element).write_volatile(head.into());
            memory.at::<u32>(element + 4).write_volatile(len + 1);
            used = used.wrapping_add(1);
            used_idx.store(used, Ordering::Release);
        }
    }
}
