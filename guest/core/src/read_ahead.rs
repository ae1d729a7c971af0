//! Read-ahead: what to read before anyone asks, from what has been asked so far.
//!
//! One of these watches each mapping. A reader that moves forward is met with a window that
//! doubles; the next window is submitted when the reader has come half-way through the last one, so
//! that a steady reader never waits. A jump halves the window, and a few jumps close it.

use core::ops::Range;

/// First window in pages, and the smallest one that stays open.
pub const MIN_WINDOW: u64 = 4;
/// Largest window in pages: 256 KiB, twice what a fault maps (the pager maps 32 pages around it), so that
/// the second half of a window is there while the next one is read.
pub const MAX_WINDOW: u64 = 64;

/// The stream that a mapping's faults make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAhead {
    /// The page after the last one that was asked for.
    next: u64,
    /// The page after the last one that was read ahead.
    ahead: u64,
    /// Pages in the last window; 0 when the stream is not sequential.
    window: u64,
    /// Nothing is read ahead.
    off: bool,
}

impl ReadAhead {
    /// A stream that reads nothing ahead.
    pub fn off() -> ReadAhead {
        ReadAhead {
            off: true,
            ..ReadAhead::default()
        }
    }

    /// Forgets what has been asked for.
    pub fn restart(&mut self) {
        *self = ReadAhead {
            off: self.off,
            ..ReadAhead::default()
        };
    }

    /// Takes note of a fault on page `index`; `mapped` pages after it are there already and will
    /// not fault. Gives the pages to read now, none of which may be waited for, and none of which is
    /// more than `most` pages after `index`.
    ///
    /// A reader makes no fault on the pages that are mapped along: it has come as far as the last of
    /// them now, or the window after that would be asked for when it is already waited for.
    pub fn fault(&mut self, index: u64, mapped: u64, most: u64) -> Range<u64> {
        if self.off {
            return index..index;
        }
        // The page that faulted last, again: after its read, say, with what came along in it.
        let again = index + 1 == self.next;
        let after_a_jump = again && self.ahead <= self.next;
        let sequential = index >= self.next && index <= self.ahead.max(self.next);
        self.next = index + 1 + mapped;
        if after_a_jump {
            return self.next..self.next;
        }
        if !again && !sequential {
            self.window /= 2;
            if self.window < MIN_WINDOW {
                self.window = 0;
            }
            self.ahead = self.next;
            return self.next..self.next;
        }
        if self.next + self.window / 2 < self.ahead {
            return self.next..self.next; // less than half-way
        }
        self.window = (self.window * 2).clamp(MIN_WINDOW, MAX_WINDOW);
        let start = self.ahead.max(self.next);
        // What is not read now is read with a later window, and not page by page.
        self.ahead = (start + self.window).min(index + 1 + most).max(start);
        start..self.ahead
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_WINDOW, MIN_WINDOW, ReadAhead};

    /// Nothing limits what is read ahead.
    const ANY: u64 = 1 << 20;

    #[test]
    fn a_forward_reader_stays_behind_a_growing_window() {
        let mut stream = ReadAhead::default();
        let mut ready = 0;
        let mut largest = 0;
        for index in 0..1000 {
            let range = stream.fault(index, 0, ANY);
            if index > 0 {
                assert!(index < ready, "page {index} had not been read ahead");
            }
            if !range.is_empty() {
                assert!(range.start >= ready && range.start > index);
                largest = largest.max(range.end - range.start);
                ready = range.end;
            }
            assert!(ready <= index + 2 * MAX_WINDOW + 1, "too far ahead");
        }
        assert_eq!(largest, MAX_WINDOW);
    }

    #[test]
    fn pages_that_do_not_fault_count_as_read() {
        let mut stream = ReadAhead::default();
        let first = stream.fault(0, 0, ANY);
        assert_eq!(first, 1..1 + MIN_WINDOW);
        // The next fault comes after the pages that were mapped along with it.
        assert!(!stream.fault(1, 3, ANY).is_empty());
        assert!(stream.next == 5);
    }

    /// As the pager does it: each window arrives while its first page is waited for.
    #[test]
    fn a_steady_reader_makes_one_request_for_each_window() {
        const PAGES: u64 = 4096;
        let mut stream = ReadAhead::default();
        let (mut index, mut here, mut requests) = (0, 0, 0);
        while index < PAGES {
            if index >= here {
                requests += 1; // its own page
                here = index + 1;
            }
            for mapped in [0, (here - index - 1).min(MAX_WINDOW)] {
                let range = stream.fault(index, mapped, ANY);
                if !range.is_empty() {
                    assert_eq!(range.start, here, "a gap, or twice");
                    requests += 1;
                    here = range.end;
                }
                if mapped > 0 {
                    index += mapped;
                }
            }
            index += 1;
        }
        let windows = PAGES / MAX_WINDOW;
        assert!(requests <= windows + 8, "{requests} requests");
    }

    #[test]
    fn what_a_limit_holds_back_is_read_ahead_later() {
        for most in [MIN_WINDOW, 8, 32, 40] {
            let mut stream = ReadAhead::default();
            let mut here = 0;
            for index in 0..1000 {
                assert!(index == 0 || index < here, "page {index}, {most} at most");
                let range = stream.fault(index, 0, most);
                assert!(range.end <= index + 1 + most);
                if !range.is_empty() {
                    here = range.end;
                }
            }
        }
    }

    #[test]
    fn a_page_that_faults_twice_is_no_stream() {
        let mut stream = ReadAhead::default();
        for index in [700, 700, 90, 90, 3000, 3000] {
            assert!(stream.fault(index, 0, ANY).is_empty());
        }
        assert_eq!(stream.window, 0);
        for index in 4000..4100 {
            stream.fault(index, 0, ANY);
        }
        let before = stream;
        assert!(stream.fault(4099, 0, ANY).is_empty());
        assert_eq!(stream, before);
    }

    #[test]
    fn a_stream_that_is_off_stays_off() {
        let mut stream = ReadAhead::off();
        stream.restart();
        assert!((0..100).all(|index| stream.fault(index, 0, ANY).is_empty()));
    }

    #[test]
    fn jumps_close_the_window() {
        let mut stream = ReadAhead::default();
        for index in 0..200 {
            stream.fault(index, 0, ANY);
        }
        assert_eq!(stream.window, MAX_WINDOW);
        let mut at = 10_000;
        for _ in 0..5 {
            assert!(stream.fault(at, 0, ANY).is_empty());
            assert!(stream.fault(at, 0, ANY).is_empty(), "after its read");
            at += 1000;
        }
        assert_eq!(stream.window, 0);
    }

    #[test]
    fn a_reader_that_jumps_and_goes_on_is_met_again() {
        let mut stream = ReadAhead::default();
        stream.fault(500, 0, ANY);
        assert_eq!(stream.fault(501, 0, ANY), 502..502 + MIN_WINDOW);
    }
}
