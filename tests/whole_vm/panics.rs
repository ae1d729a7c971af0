//! Mistakes of ours: a panic ends the machine in order, whatever thread it is of.

use libtest_mimic::Trial;

use crate::ensure;
use crate::preload::Host;
use crate::support::image::Image;
use crate::support::vm::Iolite;
use crate::support::{Outcome, trial};

const PANIC: i32 = 18;
const SIZE: usize = 1 << 20;

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test_with("cc", "panics::one_has_its_code_in_any_thread", any_thread),
        trial::test_with(
            "cc",
            "panics::one_before_the_machine_has_its_code",
            main_thread,
        ),
    ]
}

fn any_thread() -> Outcome {
    let host = Host::new()?;
    let image = Image::patterned(SIZE, 5)?;
    // With -vv each of them looks at the clock.
    for thread in ["vcpu", "vdb-queue", "vdb-worker-0", "watch"] {
        let iolite = Iolite::run()
            .arg("-vv")
            .disk(image.with("workers=1,latency=1us"))
            .option("--stats-interval", "1ms");
        let mut running = host.panics(iolite, thread).start()?;
        // Most of them are gone by then, and nobody reads it.
        let _ = running.send("fill /dev/vdb 5\n");
        let ended = running.finish_with_input_open()?.expect(PANIC)?;
        let said = ended.stderr.contains(&format!("thread {thread} panicked"));
        ensure!(said, "{}", ended.report());
        image.holds(5, SIZE)?;
    }
    Ok(())
}

fn main_thread() -> Outcome {
    let host = Host::new()?;
    for command in ["run", "check", "demo"] {
        let iolite = host.panics(Iolite::new().arg(command), "iolite");
        let ended = iolite.expect(PANIC)?;
        let one_line = ended.stderr.lines().count() == 1;
        let said = ended.stderr.contains("thread main panicked");
        ensure!(said && one_line, "{}", ended.report());
    }
    Ok(())
}
