#![no_std]
#![no_main]
//! `sh`: runs the programs of the system disk by their names.
//!
//! The terminal is raw: the shell shows what is typed itself. A line is a program of `bin/` with its
//! arguments, or `help`, or `exit [STATUS]`. Ctrl-D or the end of input ends the shell, with the
//! status of the last program. It greets with `etc/motd`, if there is one.

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use iolite_user::abi::rights;
use iolite_user::core_logic::line::Line;
use iolite_user::core_logic::words;
use iolite_user::{
    Args, Ended, Errno, Fault, File, Passing, Process, console, entry, print, println,
};
use iolite_user::{Result, name_of, system_files};

const PROMPT: &str = "iolite$ ";
/// Exit statuses as in other shells.
const NOT_FOUND: u8 = 127;
const USAGE: u8 = 2;
const KILLED: u8 = 128;

entry!(main);

fn main(_args: Args) -> Result<u8> {
    greet();
    let mut status = 0;
    let mut input = Input::new();
    while let Some(line) = input.read_line()? {
        let mut words = Vec::new();
        if let Err(error) = words::split(&line, |word| words.push(word)) {
            println!("sh: {error}");
            status = USAGE;
            continue;
        }
        match words[..] {
            [] => {}
            ["help"] => help(),
            ["exit"] => return Ok(status),
            ["exit", code] => match code.parse() {
                Ok(code) => return Ok(code),
                Err(_) => println!("sh: exit takes a status from 0 to 255, not '{code}'"),
            },
            _ => status = run(&words),
        }
    }
    Ok(status)
}

fn greet() {
    let mut text = [0; 512];
    if let Ok(len) = File::open("etc/motd").and_then(|file| file.read(&mut text)) {
        console::write(&text[..len]);
    }
}

/// Runs a program, waits, and says how it ended if it did not end well.
fn run(words: &[&str]) -> u8 {
    let name = words[0];
    let mut path = String::from("bin/");
    path.push_str(name.strip_prefix("bin/").unwrap_or(name));
    // What a shell runs may do what the shell may.
    let passing = Passing::default().rights(rights::ALL);
    let process = Process::spawn_with(&path, words.iter().copied(), &passing);
    let ended = process.and_then(Process::wait);
    match ended {
        Ok(Ended::Exited(status)) => {
            if status != 0 {
                println!("{name}: exit status {status}");
            }
            status
        }
        Ok(Ended::Killed(fault)) => {
            println!("{name}: ended by the kernel: {}", reason(fault));
            KILLED
        }
        Err(Errno::ENOENT) => {
            println!("sh: no program '{name}'; 'help' lists them");
            NOT_FOUND
        }
        Err(error) => {
            println!("sh: {name}: {error}");
            NOT_FOUND
        }
    }
}

fn reason(fault: Fault) -> &'static str {
    match fault {
        Fault::BadAddress => "it touched memory that is not its own",
        Fault::Io => "a page could not be read from its disk",
        Fault::OutOfMemory => "no memory was left for a page",
        Fault::BadInstruction => "it executed an instruction that is not allowed",
        Fault::Arithmetic => "it met an arithmetic exception",
    }
}

fn help() {
    println!("programs, each with its arguments:");
    for entry in system_files().flatten() {
        if let Some(program) = name_of(&entry).strip_prefix("bin/") {
            print!(" {program}");
        }
    }
    println!();
    println!("and: help, exit [STATUS]. Ctrl-D leaves.");
}

/// Typed input, a line at a time.
struct Input {
    line: Line,
    bytes: [u8; 64],
    /// What of `bytes` was read and not yet looked at.
    unread: core::ops::Range<usize>,
    ended: bool,
}

impl Input {
    fn new() -> Input {
        Input {
            line: Line::new(),
            bytes: [0; 64],
            unread: 0..0,
            ended: false,
        }
    }

    /// Shows the prompt and waits for a line. `None` at the end of input.
    fn read_line(&mut self) -> Result<Option<String>> {
        print!("{PROMPT}");
        loop {
            for at in self.unread.by_ref() {
                if self.line.take(self.bytes[at], console::write) {
                    return Ok(Some(self.take_line()));
                }
            }
            if self.ended {
                println!();
                return Ok((!self.line.is_empty()).then(|| self.take_line()));
            }
            let len = console::read(&mut self.bytes)?;
            self.unread = 0..len;
            self.ended = len == 0;
        }
    }

    fn take_line(&mut self) -> String {
        let text = String::from(self.line.text());
        self.line.clear();
        text
    }
}
