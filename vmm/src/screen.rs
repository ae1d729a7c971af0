//! Where demo and bench show what they do: steps and results on stdout, progress and the guest's
//! last words on stderr. Colour only on a terminal, and not with NO_COLOR.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

use crate::output_file::OutputFile;

/// The output.
pub struct Screen {
    silent: bool,
    /// Stdout is for something else.
    aside: bool,
    colour: bool,
    progress_bar: bool,
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
        self.print(&format!("{word:<6} {text}"));
    }

    /// Shows a text on stdout, or where it is shown instead. If nobody reads it, the exit code still says how it went.
    pub fn print(&self, text: &str) {
        if self.aside {
            self.note(text);
        } else if !self.silent {
            let _ = writeln!(io::stdout(), "{text}");
        }
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

/// A size for people: in MiB or KiB where it is a whole number of them.
pub fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    }
}
