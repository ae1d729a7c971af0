//! The serial console: what is typed reaches the guest's shell, all of it and in order.

use std::fs::File;

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::trial;
use crate::support::vm::Iolite;

const PROMPT: &str = "iolite$ ";

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("console::the_shell_answers", the_shell_answers),
        trial::test("console::a_burst_of_input_loses_nothing", a_burst_of_input),
        trial::test("console::the_end_of_input_ends_the_shell", the_end_of_input),
        trial::test(
            "console::the_end_of_input_ends_every_shell",
            the_end_of_input_stays,
        ),
        trial::test(
            "console::an_input_that_cannot_be_read_has_ended",
            unreadable_input,
        ),
        trial::test(
            "console::a_crashed_program_leaves_the_shell_alone",
            a_crashed_program,
        ),
    ]
}

/// Typed as a person would: after each prompt.
fn the_shell_answers() -> Outcome {
    let mut running = Iolite::run().start()?;
    running.wait_for(PROMPT, 1)?;
    running.send("echo one two\n")?;
    running.wait_for(PROMPT, 2)?;
    running.send("hello\n")?;
    running.wait_for(PROMPT, 3)?;
    running.send("nosuchprogram\n")?;
    running.wait_for(PROMPT, 4)?;
    running.send("exit 3\n")?;
    let ended = running.finish_with_input_open()?.expect(7)?;
    ensure!(
        ended.stdout.contains("\none two"),
        "echo said nothing\n{}",
        ended.report()
    );
    ensure!(
        ended.stdout.contains("no program"),
        "no complaint\n{}",
        ended.report()
    );
    Ok(())
}

/// Far more at once than the UART's FIFO of 64 bytes, or than the VMM keeps, can hold.
fn a_burst_of_input() -> Outcome {
    let mut running = Iolite::run().start()?;
    let lines: Vec<String> = (0..150)
        .map(|n| format!("echo line-{n:04}-{:040}", n * n))
        .collect();
    running.send(&(lines.join("\n") + "\nexit\n"))?;
    let ended = running.finish()?.expect(0)?;
    for line in &lines {
        let answer = line.trim_start_matches("echo ");
        let found = ended.stdout.matches(answer).count();
        ensure!(
            found == 2,
            "{answer}: {found} times, not typed and answered\n{}",
            ended.report()
        );
    }
    Ok(())
}

fn the_end_of_input() -> Outcome {
    Iolite::run().expect(0)?.says(PROMPT)?;
    Ok(())
}

/// A shell in a shell takes the end, and the outer one gets it all the same.
fn the_end_of_input_stays() -> Outcome {
    for shells in 1..4 {
        let mut running = Iolite::run().start()?;
        running.send(&"sh\n".repeat(shells))?;
        let ended = running.finish()?.expect(0)?;
        let prompts = ended.stdout.matches(PROMPT).count();
        ensure!(prompts == 2 * shells + 1, "{}", ended.report());
    }
    Ok(())
}

/// A directory, and what nohup gives for a terminal: a file that is open for writing only.
fn unreadable_input() -> Outcome {
    let write_only = File::options().write(true).open("/dev/null")?;
    for stdin in [File::open("/")?, write_only] {
        Iolite::run().stdin(stdin).expect(0)?.says(PROMPT)?;
    }
    Ok(())
}

fn a_crashed_program() -> Outcome {
    let mut running = Iolite::run().start()?;
    let kinds = [
        "null",
        "kernel-address",
        "undefined",
        "divide",
        "write-text",
        "exec-data",
        "hlt",
    ];
    for kind in kinds {
        running.send(&format!("crash {kind}\n"))?;
    }
    running.send("echo still here\nexit\n")?;
    let ended = running.finish()?.expect(0)?;
    ensure!(
        ended.stdout.contains("\nstill here"),
        "the shell is gone\n{}",
        ended.report()
    );
    let killed = ended.stdout.matches("ended by the kernel").count();
    ensure!(
        killed == kinds.len(),
        "{killed} of {} were ended\n{}",
        kinds.len(),
        ended.report()
    );
    Ok(())
}
