//! A program's arguments.

use crate::start;
use alloc::format;
use alloc::string::String;
use iolite_guest_core::words;

/// The arguments after the program's name, in order.
#[derive(Clone)]
pub struct Args {
    program: &'static str,
    rest: &'static [u8],
}

impl Args {
    /// The arguments that this process was started with.
    pub fn of_this_process() -> Args {
        let mut args = Args {
            program: "?",
            rest: start::args_bytes(),
        };
        if let Some(name) = args.next() {
            args.program = name;
        }
        args
    }

    /// The program's name, as it was called.
    pub fn program(&self) -> &'static str {
        self.program
    }
}

impl Iterator for Args {
    type Item = &'static str;

    /// The next one; `?` stands for one that is not UTF-8.
    fn next(&mut self) -> Option<&'static str> {
        let end = self.rest.iter().position(|&byte| byte == 0)?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Some(core::str::from_utf8(word).unwrap_or("?"))
    }
}

/// Reads an argument that is a number ([`words::number`]), or says which one is none.
pub fn number_argument(what: &str, text: &str) -> core::result::Result<u64, String> {
    words::number(text)
        .ok_or_else(|| format!("{what} is '{text}', not a number such as 4096, 0x1000 or 64K"))
}
