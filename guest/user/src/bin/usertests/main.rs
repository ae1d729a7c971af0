#![no_std]
#![no_main]
//! `usertests [-s] [-l] [--part I/N] [NAME...]`: tests of the kernel from where a program stands, in
//! xv6's manner.
//!
//! Runs the named tests, or all quick ones, with `-s` the slow ones too; `-l` lists them; with
//! `--part 1/4` it is every fourth of them, so that four machines share the work. One line
//! for each, `test NAME: OK` or `test NAME: FAILED: why`, and a sum at the end; the status is 1 if
//! any failed. A test that lacks a disk says `SKIPPED`.
//!
//! Each test is a process of its own (`--run NAME`), so that it may leave everything open: after it,
//! threads, processes, memory and requests in flight have to be what they were. What a test starts
//! as a process is this program too, in another role (`--as ROLE`, `roles`).
//!
//! `/dev/vdb` is the scratch disk: writable, 8 MiB or more, its content is lost. Two more are there
//! where failures are tested, writable too: `/dev/vdc` has sectors that cannot be read and others
//! that cannot be written, in different pages of its first 4 MiB, and `/dev/vdd` fails every flush:
//!
//! ```text
//! iolite run -d scratch.img -d bad.img,fail=read:800-803,fail=write:1600 \
//!     -d worse.img,fail=flush --cmdline "init=usertests"
//! ```

extern crate alloc;

mod check;
mod leak;
mod raw;
mod roles;
mod run;

mod async_errors;
mod async_io;
mod async_life;
mod channels;
mod coherence;
mod console;
mod descriptors;
mod devices;
mod eviction;
mod faults;
mod faulty;
mod faulty_writes;
mod files;
mod isolation;
mod mappings;
mod pager;
mod pointers;
mod processes;
mod registered;
mod scan;
mod served;
mod shared;
mod system;
mod threads;
mod time;
mod tracing;

use alloc::vec::Vec;
use iolite_user::{Args, entry, println};
use run::{Needs, Test};

/// Every test, in the order in which they run.
const GROUPS: [&[Test]; 26] = [
    system::TESTS,
    descriptors::TESTS,
    pointers::TESTS,
    files::TESTS,
    coherence::TESTS,
    console::TESTS,
    processes::TESTS,
    threads::TESTS,
    time::TESTS,
    isolation::TESTS,
    mappings::TESTS,
    shared::TESTS,
    pager::TESTS,
    eviction::TESTS,
    scan::TESTS,
    async_io::TESTS,
    async_errors::TESTS,
    async_life::TESTS,
    registered::TESTS,
    faulty::TESTS,
    faulty_writes::TESTS,
    faults::TESTS,
    channels::TESTS,
    devices::TESTS,
    served::TESTS,
    tracing::TESTS,
];

entry!(main);

fn main(args: Args) -> u8 {
    let args: Vec<&'static str> = args.collect();
    match args[..] {
        ["--run", name] => run::here(name),
        ["--as", role, ..] => roles::play(role, &args[2..]),
        ["-l"] => list(),
        _ => run_all(&args),
    }
}

fn tests() -> impl Iterator<Item = &'static Test> {
    GROUPS.into_iter().flatten()
}

fn list() -> u8 {
    for test in tests() {
        let speed = if test.slow { " (slow)" } else { "" };
        let disk = match test.needs {
            Needs::Nothing => "",
            Needs::Scratch => " /dev/vdb",
            Needs::Faulty => " /dev/vdc",
            Needs::Unflushed => " /dev/vdd",
        };
        println!("{}{speed}{disk}", test.name);
    }
    0
}

fn run_all(args: &[&'static str]) -> u8 {
    let (mut slow, mut part, mut names) = (false, Part::ALL, Vec::new());
    let mut args = args.iter().copied();
    while let Some(arg) = args.next() {
        match arg {
            "-s" => slow = true,
            "--part" => match args.next().and_then(Part::parse) {
                Some(chosen) => part = chosen,
                None => {
                    println!("usertests: --part needs I/N, such as 1/4");
                    return 2;
                }
            },
            name if tests().any(|test| test.name == name) => names.push(name),
            name => {
                println!("usertests: no test '{name}'; usertests -l lists them");
                return 2;
            }
        }
    }
    let selected = tests().filter(|test| match names.is_empty() {
        true => slow || !test.slow,
        false => names.contains(&test.name),
    });
    let selected = selected.enumerate().filter(|(index, _)| part.has(*index));
    u8::from(!run::all(selected.map(|(_, test)| test)))
}

/// Every `of`-th test, from the `first` on.
struct Part {
    first: usize,
    of: usize,
}

impl Part {
    const ALL: Part = Part { first: 0, of: 1 };

    fn parse(text: &str) -> Option<Part> {
        let (number, of) = text.split_once('/')?;
        let (number, of): (usize, usize) = (number.parse().ok()?, of.parse().ok()?);
        let first = number.checked_sub(1)?;
        (first < of).then_some(Part { first, of })
    }

    fn has(&self, index: usize) -> bool {
        index % self.of == self.first
    }
}
