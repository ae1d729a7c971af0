//! Log lines that are written when nobody waits for who writes them.
//!
//! Whoever reads the log may be slow, or gone, and a line that is written waits for him. So nobody
//! writes under a lock that a vCPU, a queue's thread or a drain may want: lines are composed there
//! and come with the lock's `Guard`, which writes them when it has let go.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;

/// Lines that are written when this is dropped, in their order. Mostly there are none, and then this
/// is one word that is null.
#[derive(Debug, Default)]
pub struct Lines(Option<Box<Line>>);

#[derive(Debug)]
struct Line {
    level: Level,
    module: &'static str,
    text: String,
    before: Lines,
}

impl Lines {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A line of `module`, the caller's `module_path!()`.
    #[cold]
    pub(crate) fn add(&mut self, level: Level, module: &'static str, text: fmt::Arguments<'_>) {
        self.0 = Some(Box::new(Line {
            level,
            module,
            text: text.to_string(),
            before: std::mem::take(self),
        }));
    }

    #[cold]
    fn write(line: Line) {
        let (mut lines, mut next) = (Vec::new(), Some(line));
        while let Some(mut line) = next {
            next = line.before.0.take().map(|line| *line);
            lines.push(line);
        }
        for line in lines.iter().rev() {
            log::log!(target: line.module, line.level, "{}", line.text);
        }
    }
}

impl Drop for Lines {
    #[inline]
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            Self::write(*line);
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

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        Guard {
            value: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            lines: Lines::default(),
        }
    }
}

impl<T> Guard<'_, T> {
    /// What is locked, and the lines.
    #[inline]
    pub(crate) fn split(&mut self) -> (&mut T, &mut Lines) {
        (&mut self.value, &mut self.lines)
    }

    /// Releases the lock; the caller says when the lines are written.
    #[inline]
    pub(crate) fn release(self) -> Lines {
        self.lines
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_their_order_and_only_when_the_lock_is_free() {
        struct Logger(Lock<()>, Mutex<Vec<String>>);
        static LOGGER: Logger = Logger(Lock(Mutex::new(())), Mutex::new(Vec::new()));
        impl log::Log for Logger {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, record: &log::Record<'_>) {
                if record.target() == "lines" {
                    assert!(self.0.0.try_lock().is_ok(), "the lock is held");
                    self.1.lock().unwrap().push(record.args().to_string());
                }
            }
            fn flush(&self) {}
        }
        log::set_logger(&LOGGER).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let mut guard = LOGGER.0.lock();
        for line in 0..3 {
            let line = format_args!("{line}");
            guard.lines.add(Level::Warn, "lines", line);
        }
        drop(guard);
        let mut guard = LOGGER.0.lock();
        guard.lines.add(Level::Warn, "lines", format_args!("3"));
        let lines = guard.release();
        assert!(!lines.is_empty());
        assert_eq!(*LOGGER.1.lock().unwrap(), ["0", "1", "2"]);
        drop(lines);
        assert_eq!(*LOGGER.1.lock().unwrap(), ["0", "1", "2", "3"]);
    }
}
