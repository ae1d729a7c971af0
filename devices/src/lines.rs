//! Log lines that are written when nobody waits for who writes them.
//!
//! Whoever reads the log may be slow, or gone, and a line that is written waits for him. So nobody
//! writes under a lock that a vCPU, a queue's thread or a drain may want: lines are composed there
//! and come with the lock's [`Guard`], which writes them when it has let go.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;

/// Lines that are written when this is dropped, in their order. Mostly there are none.
#[derive(Debug, Default)]
pub struct Lines(Vec<Line>);

#[derive(Debug)]
struct Line {
    level: Level,
    module: &'static str,
    text: String,
}

impl Lines {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A line of `module`, the caller's `module_path!()`.
    #[cold]
    pub(crate) fn add(&mut self, level: Level, module: &'static str, text: fmt::Arguments<'_>) {
        let text = text.to_string();
        self.0.push(Line {
            level,
            module,
            text,
        });
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        for Line {
            level,
            module,
            text,
        } in &self.0
        {
            log::log!(target: module, *level, "{text}");
        }
    }
}

/// `log::debug!` that adds to [`Lines`], its first argument.
macro_rules! debug_later {
    ($lines:expr, $($line:tt)+) => {
        if log::log_enabled!(log::Level::Debug) {
            $lines.add(log::Level::Debug, module_path!(), format_args!($($line)+));
        }
    };
}
pub(crate) use debug_later;

/// A mutex whose holder has something to say, and says it afterwards.
pub(crate) struct Lock<T>(Mutex<T>);

/// What is locked. The fields are dropped in this order: first the lock is released, then the lines
/// are written.
pub(crate) struct Guard<'a, T> {
    value: MutexGuard<'a, T>,
    pub(crate) lines: Lines,
}

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Lock(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        Guard {
            value: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            lines: Lines::default(),
        }
    }
}

impl<T> Guard<'_, T> {
    /// What is locked, and the lines.
    pub(crate) fn split(&mut self) -> (&mut T, &mut Lines) {
        (&mut self.value, &mut self.lines)
    }

    /// Releases the lock; the caller says when the lines are written.
    pub(crate) fn release(self) -> Lines {
        self.lines
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
