//! The console: lines out, bytes in.
//!
//! Each write to the console leaves the virtual machine, so what is printed is gathered and written
//! a line at a time. What is not ended by a newline goes out with [`flush`] or at exit.

use crate::lock::Lock;
use crate::{Result, syscall};
use core::fmt::{self, Write};

const STDIN: u64 = 0;
const STDOUT: u64 = 1;
const BUFFER_BYTES: usize = 512;

static OUT: Lock<Unlocked> = Lock::new(Unlocked::new());

/// Prints to the console, without a newline.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::print!("{}\n", format_args!($($arg)*)) };
}

/// Prints; [`crate::print!`] and [`crate::println!`] are the handy forms.
pub fn print(args: fmt::Arguments) {
    // The console takes everything, so there is no error to report.
    let _ = OUT.lock().write_fmt(args);
}

/// Writes bytes as they are, and whatever was printed before them.
pub fn write(bytes: &[u8]) {
    OUT.lock().put(bytes);
}

/// Writes out what has been printed without a newline.
pub fn flush() {
    OUT.lock().flush();
}

/// Waits for input and takes what there is: at least one byte, or none at the end of input.
pub fn read(buffer: &mut [u8]) -> Result<usize> {
    flush();
    syscall::read(STDIN, buffer)
}

/// Flushes at exit, if no thread that will never run again holds the lock.
pub(crate) fn flush_at_exit() {
    if let Some(mut out) = OUT.try_lock() {
        out.flush();
    }
}

/// A console buffer without a lock.
pub(crate) struct Unlocked {
    bytes: [u8; BUFFER_BYTES],
    len: usize,
}

impl Unlocked {
    pub(crate) const fn new() -> Unlocked {
        Unlocked {
            bytes: [0; BUFFER_BYTES],
            len: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        // What comes after the last newline stays here.
        let lines = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        self.gather(&bytes[..lines]);
        if lines > 0 {
            self.flush();
        }
        self.gather(&bytes[lines..]);
    }

    fn gather(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.len == BUFFER_BYTES {
                self.flush();
            }
            let len = bytes.len().min(BUFFER_BYTES - self.len);
            self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
            self.len += len;
            bytes = &bytes[len..];
        }
    }

    pub(crate) fn flush(&mut self) {
        let mut rest = &self.bytes[..self.len];
        while let Ok(written @ 1..) = syscall::write(STDOUT, rest) {
            rest = rest.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        self.len = 0;
    }
}

impl Write for Unlocked {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}
