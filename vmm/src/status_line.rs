//! The line of `--stats-interval` on a terminal: it is written over and over in one place, and makes room
//! for everything else that comes to the same terminal.
//!
//! What the guest writes and what is logged takes the place of the line, which comes again below. While
//! the guest is in the middle of a line of its own (a prompt), there is no place, and nothing is shown.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

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
    if std::mem::take(&mut lock().shown) {
        write(EMPTY);
    }
}

/// What to write to the same terminal before these bytes of the guest's. A terminal that takes nothing
/// is not waited for here: who writes the guest's bytes does that, and a stop ends it.
pub fn room_for(bytes: &[u8]) -> &'static str {
    let (Some(last), Some(mut terminal)) = (bytes.last(), lock_soon()) else {
        return "";
    };
    terminal.taken = *last != b'\n';
    match std::mem::take(&mut terminal.shown) {
        true => EMPTY,
        false => "",
    }
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

/// If nobody reads it, nothing is lost.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn lock() -> MutexGuard<'static, Terminal> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// None if somebody else keeps writing to it.
fn lock_soon() -> Option<MutexGuard<'static, Terminal>> {
    for _ in 0..20 {
        match TERMINAL.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Ok(terminal) => return Some(terminal),
        }
    }
    None
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
