//! The console: COM1 for the kernel's own messages and for descriptors 0, 1 and 2.
//!
//! A line leaves in one piece, and so with one VM exit. Input arrives by interrupt, waits in a small
//! ring, and is not echoed: that is for the program that reads it.

use crate::arch::{serial, user_access};
use crate::sync::CpuCell;
use crate::task::scheduler::{self, Wait};
use core::fmt::{self, Write};
use iolite_guest_abi::Errno;

const LINE_BYTES: usize = 256;
const INPUT_BYTES: usize = 256;
const END_OF_TRANSMISSION: u8 = 0x04;

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}

/// Prints a line.
pub fn print_line(text: fmt::Arguments) {
    let mut line = Line {
        bytes: [0; LINE_BYTES],
        length: 0,
    };
    // Writing to a line cannot fail.
    let _ = line.write_fmt(text);
    let _ = line.write_char('\n');
    line.flush();
}

struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Line {
    fn flush(&mut self) {
        serial::write(&self.bytes[..self.length]);
        self.length = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(LINE_BYTES) {
            if self.length + piece.len() > LINE_BYTES {
                self.flush();
            }
            self.bytes[self.length..self.length + piece.len()].copy_from_slice(piece);
            self.length += piece.len();
        }
        Ok(())
    }
}

/// Prints `len` bytes of the process's memory.
pub fn write_from_user(buf: u64, len: u64) -> Result<u64, Errno> {
    let mut done = 0;
    let mut piece = [0; LINE_BYTES];
    while done < len {
        let bytes = (len - done).min(LINE_BYTES as u64) as usize;
        user_access::read(&mut piece[..bytes], buf + done)?;
        serial::write(&piece[..bytes]);
        done += bytes as u64;
    }
    Ok(len)
}

struct Input {
    bytes: [u8; INPUT_BYTES],
    first: usize,
    count: usize,
}

static INPUT: CpuCell<Input> = CpuCell::new(Input {
    bytes: [0; INPUT_BYTES],
    first: 0,
    count: 0,
});

/// The serial port's interrupt: something has arrived.
pub fn interrupt() {
    if fill() {
        scheduler::wake_matching(Wait::Console);
    }
}

/// Takes what has arrived into the ring, as far as it has room; the rest waits in the UART. Has
/// anything been taken?
fn fill() -> bool {
    let mut input = INPUT.borrow_mut();
    let before = input.count;
    while input.count < INPUT_BYTES
        && let Some(byte) = serial::read()
    {
        let place = (input.first + input.count) % INPUT_BYTES;
        input.bytes[place] = byte;
        input.count += 1;
    }
    input.count > before
}

/// Reads what has arrived, at least a byte; 0 at the end of input, which is a byte 4 (Ctrl-D) at
/// the beginning, or for good a line whose other end has hung up.
pub fn read_to_user(buf: u64, len: u64) -> Result<u64, Errno> {
    if len == 0 {
        return Ok(0);
    }
    let mut taken = [0; INPUT_BYTES];
    let count = loop {
        let count = take(&mut taken[..(len as usize).min(INPUT_BYTES)]);
        if let Some(count) = count {
            fill(); // what found no room before
            break count;
        }
        if scheduler::current_is_killed() {
            return Err(Errno::EINTR);
        }
        if serial::has_hung_up() {
            break 0;
        }
        scheduler::block(Wait::Console);
    };
    user_access::write(buf, &taken[..count])?;
    Ok(count as u64)
}

/// Takes bytes up to the end of input; `None` when there are none.
fn take(to: &mut [u8]) -> Option<usize> {
    let mut input = INPUT.borrow_mut();
    let mut count = 0;
    while input.count > 0 && count < to.len() {
        let byte = input.bytes[input.first];
        let end = byte == END_OF_TRANSMISSION;
        if end && count > 0 {
            break; // the next read finds it
        }
        input.first = (input.first + 1) % INPUT_BYTES;
        input.count -= 1;
        if end {
            return Some(0);
        }
        to[count] = byte;
        count += 1;
    }
    (count > 0).then_some(count)
}
