//! Which disks hold writes that no flush has made durable: for the last words of a process that a signal
//! ends in the middle.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::vm::Disk;

/// A bit for each disk, by its number.
static DISKS: AtomicU32 = AtomicU32::new(0);

const BEFORE: &[u8] = b"iolite: disk vd";
const AFTER: &[u8] = b": not flushed: a signal ended iolite before; its last writes may be lost\n";
const LINE: usize = BEFORE.len() + 1 + AFTER.len();
/// What a pipe that can be written to takes at once.
const PIPE_BUF: usize = 4096;

/// From now on those of these disks that can be written may hold such writes.
pub fn add_writable(disks: &[Disk]) {
    for (number, _) in disks.iter().enumerate().filter(|(_, disk)| disk.writable) {
        DISKS.fetch_or(bit(number), SeqCst);
    }
}

/// The disk has had its last flush, or what became of it has been said.
pub fn remove(disk: usize) {
    DISKS.fetch_and(!bit(disk), SeqCst);
}

fn bit(disk: usize) -> u32 {
    1u32.checked_shl(disk as u32).unwrap_or(0)
}

/// Says on stderr which disks are not flushed, if stderr takes it at once. For signal handlers.
pub fn last_words() {
    let mut text = [0; PIPE_BUF];
    let len = compose(DISKS.load(SeqCst), &mut text);
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: poll(2) and write(2) may be called in a handler; both get valid pointers and their lengths.
    unsafe {
        if len > 0 && libc::poll(&mut stderr, 1, 0) == 1 && stderr.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), len);
        }
    }
}

/// A line for each of `disks`, and how many bytes they have.
fn compose(disks: u32, text: &mut [u8]) -> usize {
    let disks = (0..u32::BITS as u8).filter(|disk| disks >> disk & 1 != 0);
    let mut len = 0;
    for (disk, line) in disks.zip(text.chunks_exact_mut(LINE)) {
        line[..BEFORE.len()].copy_from_slice(BEFORE);
        line[BEFORE.len()] = b'a' + disk;
        line[BEFORE.len() + 1..].copy_from_slice(AFTER);
        len += LINE;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_has_its_line() {
        let mut text = [0; PIPE_BUF];
        assert_eq!(compose(0, &mut text), 0);
        let len = compose(0b1010, &mut text);
        let text = std::str::from_utf8(&text[..len]).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("iolite: disk vdb: not flushed: "));
        assert!(lines[1].starts_with("iolite: disk vdd: not flushed: "));
        // As many disks as there can be.
        assert_eq!(compose(u32::MAX >> 13, &mut [0; PIPE_BUF]), 19 * LINE);
    }
}
