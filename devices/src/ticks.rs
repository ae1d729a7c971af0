//! The time stamp counter: a clock that takes a third of the time that others take, in a unit that
//! differs from processor to processor.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// What [`end`] has returned last.
    static ENDED: Cell<u64> = const { Cell::new(0) };
}

/// The time stamp counter.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and reading the counter does nothing else.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The same at the end of what this thread has done for a request, if it has succeeded: [`end_after`]
/// remembers.
#[inline(always)]
pub(crate) fn end() -> u64 {
    let now = now();
    ENDED.set(now);
    now
}

/// When what this thread began at `start` has ended: just now, or at an [`end`] since then.
#[inline(always)]
pub(crate) fn end_after(start: u64) -> u64 {
    match ENDED.get() {
        ended if ended > start => ended,
        _ => now(),
    }
}

/// How many ticks `time` is, roughly: counters run at 1 to 5 GHz. For what is either much shorter or
/// much longer.
pub(crate) const fn roughly(time: Duration) -> u64 {
    const PER_US: u64 = 2500;
    time.as_micros() as u64 * PER_US
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_remembered_until_something_begins_after_it() {
        let start = now();
        assert!(end_after(start) > start);
        let ended = end();
        assert_eq!(end_after(start), ended);
        assert!(end_after(now()) > ended);
    }
}
