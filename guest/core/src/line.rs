//! A line of input as it is typed on a raw terminal: which bytes it holds and what is echoed.
//!
//! The terminal sends each key as it is pressed and shows nothing by itself. Return ends the line,
//! Backspace removes a character, Ctrl-U the whole line; escape sequences (arrow keys) are dropped.

/// Longest line in bytes; what is typed beyond is answered by the bell.
pub const LINE_BYTES: usize = 512;

const BELL: &[u8] = b"\x07";
const ERASE: &[u8] = b"\x08 \x08";
const NEWLINE: &[u8] = b"\r\n";

/// A line being typed.
pub struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
    escape: Escape,
    after_return: bool,
}

/// Where in an escape sequence (`ESC [ parameters final`, or `ESC` and one more byte) the input is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    Outside,
    Started,
    Parameters,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Line {
        Line {
            bytes: [0; LINE_BYTES],
            len: 0,
            escape: Escape::Outside,
            after_return: false,
        }
    }

    /// Takes one byte of input and hands what is to be shown to `echo`. True if it ended the line:
    /// then read it by [`Line::text`] and call [`Line::clear`].
    pub fn take(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) -> bool {
        if self.in_escape_sequence(byte) {
            return false;
        }
        // Return and newline together are one end of a line.
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                echo(NEWLINE);
                return true;
            }
            0x08 | 0x7f => {
                self.erase_last(&mut echo);
            }
            0x15 => while self.erase_last(&mut echo) {},
            b'\t' => self.append(b' ', echo),
            0x20.. => self.append(byte, echo),
            _ => {}
        }
        false
    }

    /// What has been typed; empty if it is not UTF-8.
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    /// Whether nothing has been typed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Starts a new line.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn append(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) {
        match self.bytes.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
                echo(&[byte]);
            }
            None => echo(BELL),
        }
    }

    /// Removes the last character, of one byte or of several in UTF-8. False if there is none.
    fn erase_last(&mut self, mut echo: impl FnMut(&[u8])) -> bool {
        if self.len == 0 {
            return false;
        }
        let continues = |byte: u8| byte & 0xc0 == 0x80;
        self.len -= 1;
        while self.len > 0 && continues(self.bytes[self.len]) {
            self.len -= 1;
        }
        echo(ERASE);
        true
    }

    fn in_escape_sequence(&mut self, byte: u8) -> bool {
        self.escape = match (self.escape, byte) {
            (Escape::Outside, 0x1b) => Escape::Started,
            (Escape::Outside, _) => return false,
            (Escape::Started, b'[' | b'O') => Escape::Parameters,
            (Escape::Started, _) => Escape::Outside,
            (Escape::Parameters, 0x40..=0x7e) => Escape::Outside,
            (Escape::Parameters, _) => Escape::Parameters,
        };
        true
    }
}

impl Default for Line {
    fn default() -> Line {
        Line::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn typed(line: &mut Line, input: &[u8]) -> (Vec<u8>, usize) {
        let mut shown = Vec::new();
        let ends = input
            .iter()
            .filter(|&&b| line.take(b, |e| shown.extend_from_slice(e)))
            .count();
        (shown, ends)
    }

    #[test]
    fn what_is_typed_is_echoed_and_kept() {
        let mut line = Line::new();
        assert_eq!(typed(&mut line, b"ls -l\r"), (b"ls -l\r\n".to_vec(), 1));
        assert_eq!(line.text(), "ls -l");
        line.clear();
        assert!(line.is_empty());
    }

    #[test]
    fn backspace_stops_at_the_start() {
        let mut line = Line::new();
        let (shown, _) = typed(&mut line, b"a\x7f\x7fb");
        assert_eq!(shown, b"a\x08 \x08b");
        assert_eq!(line.text(), "b");
    }

    #[test]
    fn a_character_of_two_bytes_is_removed_whole() {
        let mut line = Line::new();
        let (shown, _) = typed(&mut line, "x\u{e9}\x08".as_bytes());
        assert_eq!(shown, "x\u{e9}\x08 \x08".as_bytes());
        assert_eq!(line.text(), "x");
    }

    #[test]
    fn control_u_empties_the_line() {
        let mut line = Line::new();
        typed(&mut line, b"abc\x15d");
        assert_eq!(line.text(), "d");
    }

    #[test]
    fn arrow_keys_leave_no_trace() {
        let mut line = Line::new();
        let (shown, _) = typed(&mut line, b"a\x1b[Ab\x1bOP\x1b[1;5Cc");
        assert_eq!(shown, b"abc");
        assert_eq!(line.text(), "abc");
    }

    #[test]
    fn return_newline_ends_one_line_and_two_newlines_end_two() {
        let mut line = Line::new();
        assert_eq!(typed(&mut line, b"\r\n").1, 1);
        assert_eq!(typed(&mut line, b"\n\n").1, 2);
        assert_eq!(typed(&mut line, b"\r\r").1, 2);
    }

    #[test]
    fn a_line_that_is_too_long_rings_the_bell() {
        let mut line = Line::new();
        typed(&mut line, &[b'x'; LINE_BYTES]);
        assert_eq!(typed(&mut line, b"y").0, BELL);
        assert_eq!(line.text().len(), LINE_BYTES);
    }
}
