//! Log lines on stderr: `[   0.012345 debug queue] text`, in seconds since the start.
//!
//! A stderr that nobody reads holds up nobody who has something to say: a thread of its own writes
//! (`log`). What it has not written yet waits in a buffer; lines that find no room are left out, and
//! counted.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use env_logger::Target;
use log::LevelFilter;

use crate::error::Error;
use crate::one_line::one_line;
use crate::{panics, status_line};

/// How many bytes may wait.
const ROOM: usize = 4 << 20;
/// How many are written at a time.
const PIECE: usize = 4096;
/// How long the end waits for a stderr that takes nothing.
const PATIENCE: Duration = Duration::from_secs(3);

static BUFFER: Buffer = Buffer {
    waiting: Mutex::new(Waiting {
        text: Vec::new(),
        left_out: 0,
        writing: false,
        pieces: 0,
        is_attended: false,
    }),
    changed: Condvar::new(),
};

struct Buffer {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    /// Whole lines.
    text: Vec<u8>,
    /// Lines that found no room since this was last said.
    left_out: u64,
    /// The thread has taken text and not yet written all of it.
    writing: bool,
    /// How many pieces have been written.
    pieces: u64,
    /// There is the thread. Before, what has to be said is written by who says it.
    is_attended: bool,
}

/// Starts logging: warnings, more with each `-v`; RUST_LOG overrides.
///
/// # Errors
/// If the system refuses a thread.
pub fn start(verbose: u8) -> Result<(), Error> {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    thread::Builder::new()
        .name("log".into())
        .spawn(panics::telling(|| BUFFER.write_all_that_comes()))
        .map_err(Error::host("cannot start a thread"))?;
    BUFFER.lock().is_attended = true;
    let start = Instant::now();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env();
    builder.target(Target::Pipe(Box::new(Lines)));
    builder.format(move |out, record| {
        let time = start.elapsed().as_secs_f64();
        let level = record.level().as_str().to_ascii_lowercase();
        let part = record.target().rsplit("::").next().unwrap_or_default();
        let text = record.args().to_string();
        writeln!(out, "[{time:>11.6} {level:<5} {part}] {}", one_line(&text))
    });
    builder.init();
    Ok(())
}

/// Writes a line to stderr, in its turn among the lines of the log, and without waiting.
pub fn line(text: &str) {
    BUFFER.append(format!("{}\n", one_line(text)).as_bytes());
}

/// Waits until everything that waits is written, unless stderr takes nothing for a while.
pub fn flush() {
    let mut waiting = BUFFER.lock();
    let mut pieces = waiting.pieces;
    let mut last = Instant::now();
    while waiting.writing || !waiting.text.is_empty() {
        let Some(left) = PATIENCE.checked_sub(last.elapsed()) else {
            return;
        };
        waiting = match BUFFER.changed.wait_timeout(waiting, left) {
            Ok((waiting, _)) => waiting,
            Err(poisoned) => poisoned.into_inner().0,
        };
        if waiting.pieces != pieces {
            pieces = waiting.pieces;
            last = Instant::now();
        }
    }
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, lines: &[u8]) {
        let mut waiting = self.lock();
        if !waiting.is_attended {
            let _ = io::stderr().write_all(lines);
            return;
        }
        match waiting.text.len() + lines.len() <= ROOM {
            true => waiting.text.extend_from_slice(lines),
            false => waiting.left_out += 1,
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// What the thread does, as long as the process lives.
    fn write_all_that_comes(&self) {
        let mut waiting = self.lock();
        loop {
            while waiting.text.is_empty() {
                waiting.writing = false;
                self.changed.notify_all();
                let woken = self.changed.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
            }
            waiting.writing = true;
            let mut text = std::mem::take(&mut waiting.text);
            let left_out = std::mem::take(&mut waiting.left_out);
            drop(waiting);
            if left_out > 0 {
                let more = format!("({left_out} lines of the log found no room here)\n");
                text.extend_from_slice(more.as_bytes());
            }
            self.write(&text);
            waiting = self.lock();
        }
    }

    fn write(&self, text: &[u8]) {
        status_line::make_room();
        for piece in text.chunks(PIECE) {
            // If nobody reads it, nothing is lost.
            let _ = io::stderr().write_all(piece);
            self.lock().pieces += 1;
            self.changed.notify_all();
        }
    }
}

/// The buffer, for the logger: it is given a line at a time.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        BUFFER.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
