//! The line of `--stats-interval` on a terminal: it is written over and over in one place, and makes room
//! for everything else that comes to the same terminal.
//!
//! What the guest writes and what is logged takes the place of the line, which comes again below. While
//! the guest is in the middle of a line of its own (a prompt), there is no place, and nothing is shown.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Back to the start of the line, and empty to its end.
const EMPTY: &str = "\r\u{1b}[K";

static TERMINAL: Mutex<Terminal> = Mutex::new(Terminal {
    shown: false,
    taken: false,
});

struct Terminal {
    /// The cursor stands behind a status line.
    shown: bool,
    /// The cursor stands in the middle of a line of the guest's.
    taken: bool,
}

/// Is there a terminal for a status line?
pub fn is_possible() -> bool {
    io::stderr().is_terminal()
}

/// Shows this text, in the place of the one before.
pub fn show(text: &str) {
    let mut terminal = lock();
    if !terminal.taken {
        write(&format!("{EMPTY}{}", fitting(text, width())));
        terminal.shown = true;
    }
}

/// Makes room for something else that is about to be written, whole lines.
pub fn make_room() {
    lock().make_room();
}

/// Makes room for these bytes of the guest's, which go to the same terminal.
pub fn make_room_for(bytes: &[u8]) {
    let Some(last) = bytes.last() else { return };
    let mut terminal = lock();
    terminal.make_room();
    terminal.taken = *last != b'\n';
}

/// Leaves the last text where it is.
pub fn end() {
    let mut terminal = lock();
    if std::mem::take(&mut terminal.shown) {
        write("\n");
    }
}

/// How many columns the terminal has, if it knows.
fn width() -> usize {
    terminal_size::terminal_size_of(io::stderr()).map_or(usize::MAX, |(width, _)| width.0.into())
}

/// As much of a text as fits in a line of this width: in two lines it could not be written over. The
/// last column is left free, for there terminals differ.
fn fitting(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}

impl Terminal {
    fn make_room(&mut self) {
        if std::mem::take(&mut self.shown) {
            write(EMPTY);
        }
    }
}

/// If nobody reads it, nothing is lost.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn lock() -> MutexGuard<'static, Terminal> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_two() {
        assert_eq!(fitting("stats: 5 IOPS", 80), "stats: 5 IOPS");
        assert_eq!(fitting("stats: 5 IOPS", 10), "stats: 5 ");
        assert_eq!(fitting("stats: 5 IOPS", 0), "");
    }
}
