//! Running tests: each in a child, with a look at what it left behind.

use crate::check::{Check, FAULTY, SCRATCH, UNFLUSHED};
use crate::leak::Held;
use crate::tests;
use alloc::format;
use alloc::string::String;
use iolite_user::abi::rights;
use iolite_user::{Ended, Errno, File, Passing, Process, println};

/// This program.
pub const PROGRAM: &str = "bin/usertests";
/// The status of a child that has printed why its test failed.
const FAILED: u8 = 1;
/// The smallest scratch disk in bytes.
const SCRATCH_BYTES: u64 = 8 << 20;

/// A test.
pub struct Test {
    /// What it is called.
    pub name: &'static str,
    /// It takes long.
    pub slow: bool,
    /// Without which it is skipped.
    pub needs: Needs,
    run: fn() -> Check,
}

/// A disk that a test needs.
#[derive(Clone, Copy)]
pub enum Needs {
    /// None but the system disk.
    Nothing,
    /// The scratch disk.
    Scratch,
    /// The disk with sectors that fail.
    Faulty,
    /// The disk whose flushes fail.
    Unflushed,
}

impl Test {
    const fn new(name: &'static str, needs: Needs, run: fn() -> Check) -> Test {
        Test {
            name,
            slow: false,
            needs,
            run,
        }
    }

    /// A test that needs no disk.
    pub const fn plain(name: &'static str, run: fn() -> Check) -> Test {
        Test::new(name, Needs::Nothing, run)
    }

    /// A test on the scratch disk.
    pub const fn disk(name: &'static str, run: fn() -> Check) -> Test {
        Test::new(name, Needs::Scratch, run)
    }

    /// A test on the disk with sectors that fail.
    pub const fn faulty(name: &'static str, run: fn() -> Check) -> Test {
        Test::new(name, Needs::Faulty, run)
    }

    /// A test on the disk whose flushes fail.
    pub const fn unflushed(name: &'static str, run: fn() -> Check) -> Test {
        Test::new(name, Needs::Unflushed, run)
    }

    /// The same, only run when asked for.
    pub const fn slow(mut self) -> Test {
        self.slow = true;
        self
    }

    /// Why it cannot run.
    fn lacks(&self) -> Option<String> {
        match self.needs {
            Needs::Nothing => None,
            Needs::Faulty => lacks_writable(FAULTY),
            Needs::Unflushed => lacks_writable(UNFLUSHED),
            Needs::Scratch => match File::open_writable(SCRATCH).and_then(|disk| disk.stat()) {
                Ok(stat) if stat.size >= SCRATCH_BYTES => None,
                Ok(_) => Some(format!("{SCRATCH} is smaller than 8 MiB")),
                Err(_) => lacks_writable(SCRATCH),
            },
        }
    }
}

fn lacks_writable(path: &str) -> Option<String> {
    match File::open_writable(path) {
        Ok(_) => None,
        Err(Errno::ENOENT) => Some(format!("no {path}")),
        Err(error) => Some(format!("{path}: {error}")),
    }
}

/// Runs tests one after another. Did all pass?
pub fn all(tests: impl Iterator<Item = &'static Test>) -> bool {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    // The first child finds a cold kernel: what that costs is no leak.
    let _ = in_child("--warm-up");
    for test in tests {
        let name = test.name;
        if let Some(lack) = test.lacks() {
            println!("test {name}: SKIPPED ({lack})");
            skipped += 1;
            continue;
        }
        match one(name) {
            Ok(()) => {
                println!("test {name}: OK");
                passed += 1;
            }
            Err(why) => {
                if let Some(why) = why {
                    println!("test {name}: FAILED: {why}");
                }
                failed += 1;
            }
        }
    }
    match skipped {
        0 => println!("usertests: {passed} passed, {failed} failed"),
        _ => println!("usertests: {passed} passed, {failed} failed, {skipped} skipped"),
    }
    failed == 0
}

/// Runs a test in a child; the reason if it failed, unless the child has given it.
fn one(name: &str) -> Result<(), Option<String>> {
    let before = Held::settled();
    in_child(name)?;
    let Err(leak) = before.again() else {
        return Ok(());
    };
    // The kernel may have grown, once, to a size it never had before: a leak is what leaks always.
    let before = Held::settled();
    in_child(name)?;
    before
        .again()
        .map_err(|again| Some(format!("left behind {leak}, and the second time {again}")))
}

fn in_child(name: &str) -> Result<(), Option<String>> {
    let passing = Passing::default().rights(rights::DEVICES);
    let child = Process::spawn_with(PROGRAM, ["usertests", "--run", name], &passing);
    match child.and_then(Process::wait) {
        Ok(Ended::Exited(0)) => Ok(()),
        Ok(Ended::Exited(FAILED)) => Err(None),
        Ok(Ended::Exited(status)) => Err(Some(format!("exit status {status}"))),
        Ok(Ended::Killed(fault)) => Err(Some(format!("killed: {fault:?}"))),
        Err(error) => Err(Some(format!("cannot run it: {error}"))),
    }
}

/// Runs a test in this process, which is for it alone.
pub fn here(name: &str) -> u8 {
    let Some(test) = tests().find(|test| test.name == name) else {
        return 0; // the warm-up
    };
    match (test.run)() {
        Ok(()) => 0,
        Err(why) => {
            println!("test {name}: FAILED: {why}");
            FAILED
        }
    }
}
