//! The block device on file systems that a test mounts, with each engine.
//!
//! They are run by libtest-mimic, so that where nobody may mount they are seen as skipped, and counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

#[allow(
    dead_code,
    reason = "what most tests of the device need, these need little of"
)]
#[path = "../device/driver.rs"]
mod driver;
mod durability;
mod overlay;
mod scenario;
#[allow(dead_code, reason = "the same")]
#[path = "../device/test_disk.rs"]
mod test_disk;

/// What the driver looks for.
mod engines {
    pub const VARIABLE: &str = "IOLITE_TEST_ENGINE";
}

use std::{io, panic, thread};

use iolite_devices::block::engine::Kind as Engine;
use libtest_mimic::{Arguments, Completion, Trial};

/// An error is one of the mounts: nothing is wrong with the device.
type Test = fn(Engine) -> io::Result<()>;

fn main() {
    let trials = tests().into_iter().flat_map(|(name, test)| {
        let engines = [Engine::Pool, Engine::Uring, Engine::Sync];
        engines.map(|engine| trial(name, engine, test))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}

fn tests() -> [(&'static str, Test); 4] {
    use durability::*;
    use overlay::*;
    macro_rules! named {
        ($($test:ident),+ $(,)?) => { [$((stringify!($test), $test as Test)),+] };
    }
    named![
        when_writes_are_lost_every_flush_fails,
        a_write_that_must_be_durable_is_on_the_disk_without_flushes,
        a_write_that_must_be_durable_is_on_the_disk_with_writethrough,
        an_image_that_is_copied_under_a_reader,
    ]
}

fn trial(name: &str, engine: Engine, test: Test) -> Trial {
    Trial::ignorable_test(format!("{name} ({engine})"), move || {
        // On a thread of its own, whose mounts are nobody else's.
        let ended = thread::spawn(move || test(engine)).join();
        Ok(
            match ended.unwrap_or_else(|panic| panic::resume_unwind(panic)) {
                Ok(()) => Completion::Completed,
                Err(error) => Completion::ignored_with(format!("skipped: no mounts here: {error}")),
            },
        )
    })
}
