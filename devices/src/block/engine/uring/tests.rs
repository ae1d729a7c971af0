//! A ring that stops working.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::*;
use crate::block::backend::{RawFile, Waits};
use crate::block::buffers::GuestBuffers;
use crate::block::engine::tests::{List, throttle};

/// A disk whose file is a pipe: in the ring a read waits until somebody writes. Other reads are done.
struct Pipe(File);

impl Backend for Pipe {
    fn capacity(&self) -> u64 {
        1 << 20
    }

    fn read_only(&self) -> bool {
        true
    }

    fn waits(&self) -> Waits {
        Waits::Always
    }

    fn raw_file(&self) -> Option<RawFile<'_>> {
        Some(RawFile {
            file: &self.0,
            memory: 1,
            block: 1,
            writes: false,
        })
    }

    fn read(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        unreachable!("only reads are sent")
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        unreachable!("only reads are sent")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("only reads are sent")
    }
}

/// From now on each io_uring_enter of this thread fails with `errno`.
fn break_io_uring_enter(errno: i32) {
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = libc::SYS_io_uring_enter as u32;
    let refuse = libc::SECCOMP_RET_ERRNO | errno as u32;
    let mut program = [
        instruction((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        instruction(
            (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            0,
            1,
            number,
        ),
        instruction((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, refuse),
        let_pass(),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter and its program are valid during the call, which copies them; both calls
    // change what this thread may do, and no memory.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &filter), 0);
    }
}

fn let_pass() -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    }
}

/// Two requests are with the kernel when the ring breaks, and more come.
fn breaks_with(errno: i32) {
    if !is_possible(16) {
        return; // The host has none.
    }
    let (reader, mut writer) = io::pipe().unwrap();
    let disk = Arc::new(Pipe(File::from(OwnedFd::from(reader))));
    let list = Arc::new(List::default());
    let doorbell = Doorbell::new().unwrap();
    let mut uring = Uring::new("test", 16, 2, list.clone(), disk, throttle(), &doorbell).unwrap();
    list.add(0..2);
    assert_eq!(uring.turn(), Turn::Busy);
    assert_eq!((uring.ring.in_flight, uring.ring.pushed.len()), (2, 0));

    break_io_uring_enter(errno);
    list.add(2..12);
    while list.wait_for(0).len() < 10 {
        if uring.turn() != Turn::Busy {
            uring.wait(&doorbell);
        }
    }
    let expected: Vec<_> = (2..12).map(|tag| (tag, Outcome::Done)).collect();
    assert_eq!(list.wait_for(10), expected);
    assert_eq!(uring.ring.in_flight, 2, "the kernel has them still");

    let disk_answers = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        writer.write_all(&[7; 1024]).unwrap();
    });
    drop(uring);
    assert_eq!(
        list.wait_for(12).len(),
        12,
        "dropped before the kernel was done"
    );
    disk_answers.join().unwrap();
}

/// In a thread of its own, since it stays broken there.
fn on_a_thread(errno: i32) {
    thread::spawn(move || breaks_with(errno)).join().unwrap();
}

#[test]
fn a_ring_that_is_forbidden_is_given_up() {
    on_a_thread(libc::EPERM);
}

#[test]
fn a_ring_that_is_put_off_for_ever_is_given_up() {
    on_a_thread(libc::EAGAIN);
}
