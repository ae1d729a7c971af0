#![no_std]
#![no_main]
//! `demo DISK [--write] [--paths A,B] [--in-flight N] [--read-ahead on|off]`: reads a whole disk once
//! along each path, hashes it, times each operation, and reports in lines that the VMM reads
//! (`iolite_guest_core::report`).
//!
//! - `blocking-read`: the process asks by `pread` past the page cache and sleeps until it is done.
//!   With `--write` it writes back each block it has read, and flushes at the end.
//! - `async-read`: the process has N reads in flight (32 if left out), and hashes one block while
//!   the others are on their way.
//! - `pager`: the process maps the disk and touches its pages in order; the kernel fetches each
//!   that is missing.
//! - `kernel-mount`: the kernel reads as it does when it mounts, and waits for each block.
//! - `block-server`: a process of its own drives the disk, and this one asks it for N blocks at a
//!   time; they share memory.
//!
//! Each path has a process of its own (`--only PATH`): a page that cannot be read kills the process
//! that touches it, and somebody has to live to report it.

extern crate alloc;

mod options;
mod pass;
mod paths;
mod served;

use alloc::vec::Vec;
use iolite_user::abi::rights;
use iolite_user::core_logic::report::{Failed, PathKind};
use iolite_user::{Args, Ended, Fault, Passing, Process, entry, println};
use options::Options;

const BLOCKING: PathKind = PathKind {
    name: "blocking-read",
    initiator: "process",
    mode: "sync",
    trigger: "pread",
};
const ASYNC: PathKind = PathKind {
    name: "async-read",
    initiator: "process",
    mode: "async",
    trigger: "io_submit",
};
const PAGER: PathKind = PathKind {
    name: "pager",
    initiator: "kernel",
    mode: "async",
    trigger: "page-fault",
};
const MOUNT: PathKind = PathKind {
    name: "kernel-mount",
    initiator: "kernel",
    mode: "sync",
    trigger: "scan",
};
const SERVER: PathKind = PathKind {
    name: "block-server",
    initiator: "server",
    mode: "async",
    trigger: "ipc",
};
/// In the order in which they run.
const PATHS: [PathKind; 5] = [BLOCKING, ASYNC, PAGER, MOUNT, SERVER];

const PROGRAM: &str = "bin/demo";

entry!(main);

fn main(args: Args) -> u8 {
    let options = match Options::parse(args.clone()) {
        Ok(options) => options,
        Err(error) => {
            println!("{}", Failed { path: "-", error });
            return 2;
        }
    };
    let ran = match options.only {
        Some(path) => run_here(path, &options),
        None => PATHS
            .iter()
            .filter(|path| options.selects(path.name))
            .all(|path| run_in_child(path, &args)),
    };
    u8::from(!ran)
}

/// Did it come to its end? If not, that has been reported.
fn run_here(path: &'static PathKind, options: &Options) -> bool {
    match paths::run(path, options) {
        Ok(report) => {
            println!("{report}");
            true
        }
        Err(error) => {
            let path = path.name;
            println!("{}", Failed { path, error });
            false
        }
    }
}

/// As [`run_here`], in a process that may be killed.
fn run_in_child(path: &PathKind, args: &Args) -> bool {
    let path = path.name;
    let mut child_args: Vec<&str> = Vec::from([args.program()]);
    child_args.extend(args.clone());
    child_args.extend(["--only", path]);
    let passing = Passing::default().rights(rights::DEVICES);
    let child = Process::spawn_with(PROGRAM, child_args, &passing);
    let ended = child.and_then(Process::wait);
    let error = match ended {
        Ok(Ended::Exited(0)) => return true,
        // It has said why itself.
        Ok(Ended::Exited(1)) => return false,
        Ok(Ended::Exited(_)) => "the process ended early",
        Ok(Ended::Killed(Fault::Io)) => "a page could not be read from the disk",
        Ok(Ended::Killed(Fault::OutOfMemory)) => "no memory was left for a page",
        Ok(Ended::Killed(_)) => "the process was killed",
        Err(error) => error.message(),
    };
    println!("{}", Failed { path, error });
    false
}
