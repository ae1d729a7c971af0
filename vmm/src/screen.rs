//! Where demo and bench show what they do: steps and results on stdout, progress and the guest's
//! last words on stderr. Colour only on a terminal, and not with NO_COLOR.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::one_line::one_line;
use crate::power::CANNOT_PRINT;

use crate::output_file::OutputFile;

/// The output.
pub struct Screen {
    silent: bool,
    /// Stdout is for something else.
    aside: bool,
    colour: bool,
    progress_bar: bool,
    /// The first text that could not be shown.
    failed: Mutex<Option<Error>>,
}

impl Screen {
    /// The process's stdout and stderr; stderr alone if one of the outputs is stdout.
    pub fn beside<'a>(outputs: impl IntoIterator<Item = &'a OutputFile>) -> Self {
        let aside = outputs.into_iter().any(OutputFile::is_stdout);
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            silent: false,
            aside,
            colour: io::stdout().is_terminal() && !no_colour && !aside,
            progress_bar: io::stderr().is_terminal(),
            failed: Mutex::default(),
        }
    }

    /// A screen that shows nothing.
    #[cfg(test)]
    pub fn silent() -> Self {
        Screen {
            silent: true,
            aside: false,
            colour: false,
            progress_bar: false,
            failed: Mutex::default(),
        }
    }

    /// Is colour wanted?
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// Is there a terminal for a progress bar?
    pub fn progress_bar(&self) -> bool {
        self.progress_bar
    }

    /// Shows a step: a word, and what it is about.
    pub fn step(&self, word: &str, text: &str) {
        self.print(&format!("{word:<6} {}", one_line(text)));
    }

    /// Shows a text on stdout, or where it is shown instead.
    pub fn print(&self, text: &str) {
        if self.aside {
            self.note(text);
        } else if !self.silent
            && let Err(error) = print(&format!("{text}\n"))
        {
            self.failed().get_or_insert(error);
        }
    }

    /// Could everything be shown?
    ///
    /// # Errors
    /// As [`print()`].
    pub fn finish(&self) -> Result<(), Error> {
        self.failed().take().map_or(Ok(()), Err)
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a text on stderr.
    pub fn note(&self, text: &str) {
        if !self.silent {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Shows what the guest said last.
    pub fn last_lines(&self, lines: &VecDeque<String>) {
        if !lines.is_empty() {
            self.note("the guest's last lines:");
        }
        for line in lines {
            self.note(&format!("  {line}"));
        }
    }
}

/// Writes to stdout. If nobody reads it (`| head`), the exit code still says how it went.
///
/// # Errors
/// If what is written has no place.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::host(CANNOT_PRINT)(error))
        }
        _ => Ok(()),
    }
}

/// A size for people: in MiB or KiB where it is a whole number of them.
pub fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    }
}
