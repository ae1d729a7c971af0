//! Stdin to COM1's input, never faster than the guest takes it.
//!
//! Stdin is read when it is readable and everything read before was taken. Files cannot be polled
//! and are always readable. An input that cannot be read has ended. The end reaches the guest as
//! Ctrl-D, once, and as a carrier that is lost, for good.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use iolite_devices::serial::Serial;
use vmm_sys_util::eventfd::EventFd;

/// What a terminal in the guest understands as the end of input.
pub const CTRL_D: u8 = 0x04;

/// Where input goes: the guest's serial port.
pub trait Keyboard: Send + Sync {
    /// Takes the first bytes of `bytes`, as many as there is room for; returns how many.
    fn enqueue(&self, bytes: &[u8]) -> usize;

    /// The same; if all are taken, nothing more comes.
    fn enqueue_last(&self, bytes: &[u8]) -> usize;

    /// Readable when there is room again.
    fn room(&self) -> &EventFd;
}

impl Keyboard for Serial {
    fn enqueue(&self, bytes: &[u8]) -> usize {
        Serial::enqueue(self, bytes)
    }

    fn enqueue_last(&self, bytes: &[u8]) -> usize {
        Serial::enqueue_last(self, bytes)
    }

    fn room(&self) -> &EventFd {
        Serial::room(self)
    }
}

/// What to wait for before the next [`Input::pump`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until stdin is readable.
    Stdin,
    /// Until the serial port has room.
    Room,
    /// Nothing: input has ended.
    Ended,
}

/// Stdin, on its way to a serial port.
pub struct Input {
    stdin: File,
    is_terminal: bool,
    keyboard: Arc<dyn Keyboard>,
    /// Read, but not taken by the serial port.
    rest: Vec<u8>,
    ended: bool,
}

impl Input {
    /// Stdin for this keyboard.
    ///
    /// # Errors
    /// If stdin is closed.
    pub fn new(keyboard: Arc<dyn Keyboard>) -> io::Result<Self> {
        let stdin = io::stdin();
        Ok(Input {
            is_terminal: stdin.is_terminal(),
            stdin: File::from(stdin.as_fd().try_clone_to_owned()?),
            keyboard,
            rest: Vec::new(),
            ended: false,
        })
    }

    /// Is it a terminal?
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// The descriptor to poll for [`Wait::Stdin`].
    pub fn stdin(&self) -> RawFd {
        self.stdin.as_raw_fd()
    }

    /// The descriptor to poll for [`Wait::Room`].
    pub fn room(&self) -> &EventFd {
        self.keyboard.room()
    }

    /// Moves what there is, with at most one read.
    pub fn pump(&mut self) -> Wait {
        // Reset before the port is asked for room, so that room found later wakes us.
        let _ = self.keyboard.room().read();
        if self.rest.is_empty() && !self.ended {
            self.read();
        }
        let taken = match self.ended {
            true => self.keyboard.enqueue_last(&self.rest),
            false => self.keyboard.enqueue(&self.rest),
        };
        self.rest.drain(..taken);
        match (self.rest.is_empty(), self.ended) {
            (false, _) => Wait::Room,
            (true, false) => Wait::Stdin,
            (true, true) => Wait::Ended,
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 1024];
        match self.stdin.read(&mut buffer) {
            Ok(0) => self.end(),
            Ok(len) => self.rest.extend_from_slice(&buffer[..len]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => {
                log::debug!("stdin cannot be read: {error}");
                self.end();
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.rest.push(CTRL_D);
    }
}
