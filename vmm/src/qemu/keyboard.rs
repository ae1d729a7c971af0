//! Stdin for a guest in QEMU: a thread writes to QEMU's own stdin, which is the serial port, as fast as
//! the guest takes it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::process::ChildStdin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::console::{CTRL_D, Keyboard};
use crate::error::Error;

/// How many bytes may wait.
const ROOM: usize = 4096;
/// QEMU's serial port has no carrier that could be lost: the end of the input is told this often, to
/// whoever may read.
const END_AGAIN: Duration = Duration::from_millis(100);

/// A kernel that sets its serial port up loses what has arrived before. So what is typed waits for the
/// first byte of the guest's console, or this long if it is a silent one.
const SILENCE: Duration = Duration::from_secs(2);

/// What has been typed.
pub struct Typed(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    room: EventFd,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The guest has spoken.
    spoken: bool,
    /// Somebody has more than there was room for, and waits.
    short: bool,
    /// Nothing more comes.
    ended: bool,
    /// The machine has ended.
    over: bool,
}

impl Typed {
    /// Nothing yet.
    ///
    /// # Errors
    /// If the system has no eventfd left.
    pub fn new() -> io::Result<Typed> {
        Ok(Typed(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            room: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })))
    }

    /// The same, for somebody else.
    pub fn share(&self) -> Typed {
        Typed(Arc::clone(&self.0))
    }

    /// Starts to write to `stdin` on a thread, until it is closed or [`end`](Typed::end) is called.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn write_to(&self, mut stdin: ChildStdin) -> Result<(), Error> {
        let shared = Arc::clone(&self.0);
        let write = move || {
            shared.wait_for_the_guest();
            while let Some(bytes) = shared.next() {
                // QEMU has gone: nobody reads any more.
                if stdin.write_all(&bytes).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("typed".into()).spawn(write);
        thread
            .map(drop)
            .map_err(Error::host("cannot start a thread"))
    }

    /// The guest has its serial port.
    pub fn guest_has_spoken(&self) {
        self.0.lock().spoken = true;
        self.0.changed.notify_all();
    }

    /// Nobody types any more, and nobody reads.
    pub fn end(&self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }

    fn take(&self, bytes: &[u8], ended: bool) -> usize {
        let mut state = self.0.lock();
        let taken = bytes.len().min(ROOM - state.bytes.len().min(ROOM));
        state.bytes.extend(&bytes[..taken]);
        state.short = taken < bytes.len();
        state.ended |= ended && taken == bytes.len();
        self.0.changed.notify_all();
        taken
    }
}

impl Shared {
    fn wait_for_the_guest(&self) {
        let silent = |state: &mut State| !state.spoken && !state.over;
        let _ = self
            .changed
            .wait_timeout_while(self.lock(), SILENCE, silent);
    }

    /// Waits for what is to be written; none at the end.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        while !state.over {
            if !state.bytes.is_empty() {
                if mem::take(&mut state.short) {
                    // It is readable already if it is full.
                    let _ = self.room.write(1);
                }
                return Some(state.bytes.drain(..).collect());
            }
            if !state.ended {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let woken = self.changed.wait_timeout(state, END_AGAIN);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            if !state.over {
                return Some(vec![CTRL_D]);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keyboard for Typed {
    fn enqueue(&self, bytes: &[u8]) -> usize {
        self.take(bytes, false)
    }

    fn enqueue_last(&self, bytes: &[u8]) -> usize {
        self.take(bytes, true)
    }

    fn room(&self) -> &EventFd {
        &self.0.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn what_is_typed_arrives_and_its_end_again_and_again() {
        let typed = Typed::new().unwrap();
        let mut cat = Command::new("head")
            .args(["-c", "9"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        typed.write_to(cat.stdin.take().unwrap()).unwrap();
        typed.guest_has_spoken();
        assert_eq!(typed.enqueue(b"typed"), 5);
        assert_eq!(typed.enqueue_last(b"!"), 1);
        let mut read = Vec::new();
        cat.stdout.take().unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, [b"typed!", &[CTRL_D; 3][..]].concat());
        cat.wait().unwrap();
        typed.end();
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for() {
        let typed = Typed::new().unwrap();
        assert_eq!(typed.enqueue(&[b'x'; ROOM + 1]), ROOM);
        assert_eq!(typed.enqueue_last(b"y"), 0);
        assert_eq!(typed.0.next().unwrap().len(), ROOM);
        assert_eq!(typed.room().read().unwrap(), 1);
        assert_eq!(typed.enqueue_last(b"y"), 1);
        // Nobody waits for room: who is told of it would read what has not been typed yet.
        assert_eq!(typed.0.next().unwrap(), b"y");
        assert!(typed.room().read().is_err());
    }
}
