//! Signals: from the first instruction of the process to its last, one that asks for the end is heard,
//! whatever the process waits for.

use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::ensure;
use crate::preload::Host;
use crate::support::image::Image;
use crate::support::vm::{Ended, Iolite, Running};
use crate::support::{Outcome, trial};
use crate::trace::but_for_the_clock;

const PROMPT: &str = "iolite$ ";
const SIZE: usize = 1 << 20;
/// Long enough that a process comes to where it waits. If it does not, the test asks for less.
const A_WHILE: Duration = Duration::from_millis(500);
/// What "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(15);

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test_with("cc", "signals::one_ends_the_wait_for_a_disk", hanging_disk),
        trial::test("signals::one_ends_the_wait_for_a_file", without_a_reader),
        trial::test("signals::one_ends_the_writing_of_a_trace", writing_a_trace),
        trial::test("signals::one_is_heard_with_a_full_stderr", full_stderr),
        trial::test(
            "signals::a_timeout_is_kept_with_a_full_stderr",
            timeout_with_full_stderr,
        ),
        trial::test(
            "signals::one_is_heard_by_a_demo_with_a_full_stdout",
            full_stdout_of_demo,
        ),
        trial::test("signals::two_at_once_are_one", two_at_once),
        trial::test("signals::what_is_ignored_stays_ignored", ignored),
        trial::test("signals::every_other_one_is_an_orderly_end", others),
        trial::test(
            "signals::files_that_are_too_large_are_errors",
            file_size_limit,
        ),
    ]
}

/// Ends it by this signal, at once.
fn ended_by(running: Running, signal: Signal) -> Result<Ended, libtest_mimic::Failed> {
    let asked = Instant::now();
    running.signal(signal)?;
    let ended = running.finish_with_input_open()?;
    let ended = ended.expect(128 + signal as i32)?;
    ensure!(asked.elapsed() < AT_ONCE, "late\n{}", ended.report());
    Ok(ended)
}

/// One disk hangs in its last flush: the other is flushed all the same, and a signal ends the waiting,
/// whatever has stopped the machine.
fn hanging_disk() -> Outcome {
    let host = Host::new()?;
    let start = |ends: &str, args: &[&str]| {
        let (hung, other) = (Image::zeroed(SIZE as u64)?, Image::zeroed(SIZE as u64)?);
        let iolite = Iolite::run()
            .disk(hung.path())
            .disk(other.path())
            .args(args);
        let mut running = host.hangs(iolite, &hung.path()).start()?;
        running.wait_for(PROMPT, 1)?;
        running.send("fill /dev/vdc 5\n")?;
        running.wait_for(PROMPT, 2)?;
        running.send(ends)?;
        Ok::<_, libtest_mimic::Failed>((running, other, hung))
    };
    let stopped_by_signal = start("", &[])?;
    stopped_by_signal.0.signal(Signal::SIGTERM)?;
    let all = [
        start("exit 0\n", &[])?,
        start("exit 7\n", &[])?,
        start("", &["--timeout", "3s"])?,
        stopped_by_signal,
    ];
    for (running, other, _hung) in all {
        running.wait_for_error("vdb: not flushed yet")?;
        let ended = ended_by(running, Signal::SIGINT)?;
        let said = ended.stderr.contains("disk vdb: not flushed");
        ensure!(said && !ended.stderr.contains("vdc"), "{}", ended.report());
        other.holds(5, SIZE)?;
    }
    Ok(())
}

/// Nobody reads what is to be written: the process waits when its machine is gone. SIGUSR1, which is for
/// a machine, is harmless there.
fn without_a_reader() -> Outcome {
    let image = Image::zeroed(SIZE as u64)?;
    let fifo = fifo(&image)?;
    let commands: [&[&str]; 4] = [
        &["run", "--stats-json"],
        &["run", "--trace"],
        &["demo", "--json"],
        &["bench", "cost", "--json"],
    ];
    for command in commands {
        let running = Iolite::new().args(command).arg(&fifo).start()?;
        sleep(A_WHILE);
        if command[0] == "run" {
            // Until somebody stops the machine there is nothing to be read.
            running.signal(Signal::SIGTERM)?;
            sleep(A_WHILE);
        }
        running.signal(Signal::SIGUSR1)?;
        sleep(A_WHILE);
        let ended = ended_by(running, Signal::SIGTERM)?;
        ensure!(
            but_for_the_clock(&ended.stderr).is_empty(),
            "{}",
            ended.report()
        );
    }
    Ok(())
}

fn fifo(image: &Image) -> Result<std::path::PathBuf, libtest_mimic::Failed> {
    let fifo = image.beside("fifo");
    mkfifo(&fifo, Mode::S_IRWXU)?;
    Ok(fifo)
}

/// Somebody has opened the trace, and does not read it.
fn writing_a_trace() -> Outcome {
    let image = Image::patterned(SIZE, 5)?;
    let fifo = fifo(&image)?;
    let running = Iolite::traced_program("verify /dev/vdb 5")
        .disk(image.path())
        .option("--trace", &fifo)
        .start()?;
    let _reader = File::open(&fifo)?;
    running.wait_for("ok", 1)?;
    sleep(4 * A_WHILE);
    ended_by(running, Signal::SIGTERM)?;
    Ok(())
}

/// With a line for each exit to a log that nobody reads.
fn full_stderr() -> Outcome {
    let (_unread, mut stderr) = std::io::pipe()?;
    fill(&mut stderr)?;
    let image = Image::zeroed(SIZE as u64)?;
    let mut running = Iolite::run()
        .arg("-vv")
        .disk(image.path())
        .stderr(stderr)
        .start()?;
    running.wait_for(PROMPT, 1)?;
    running.send("fill /dev/vdb 5\n")?;
    running.wait_for(PROMPT, 2)?;
    ended_by(running, Signal::SIGTERM)?;
    image.holds(5, SIZE)
}

fn timeout_with_full_stderr() -> Outcome {
    let (_unread, mut stderr) = std::io::pipe()?;
    fill(&mut stderr)?;
    let ended = Iolite::program("spin")
        .arg("-vv")
        .option("--timeout", "2s")
        .stderr(stderr)
        .expect(14)?;
    ensure!(ended.took < 2 * AT_ONCE, "{}", ended.report());
    Ok(())
}

fn full_stdout_of_demo() -> Outcome {
    let (_unread, mut stdout) = std::io::pipe()?;
    fill(&mut stdout)?;
    let running = Iolite::demo()
        .option("--paths", "async-read")
        .stdout(stdout)
        .start()?;
    sleep(4 * A_WHILE);
    ended_by(running, Signal::SIGTERM)?;
    Ok(())
}

/// Leaves no room in a pipe.
fn fill(pipe: &mut std::io::PipeWriter) -> Outcome {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Write;
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    while pipe.write(b".").is_ok() {}
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

/// timeout(1) sends its signal to its child, and then once more to the child's group: that is no reason to
/// skip the last flush.
fn two_at_once() -> Outcome {
    let image = Image::zeroed(SIZE as u64)?;
    let mut running = Iolite::run().disk(image.path()).start()?;
    running.wait_for(PROMPT, 1)?;
    running.send("fill /dev/vdb 5\n")?;
    running.wait_for(PROMPT, 2)?;
    running.signal(Signal::SIGTERM)?;
    let ended = ended_by(running, Signal::SIGTERM)?;
    ensure!(ended.stderr.is_empty(), "{}", ended.report());
    image.holds(5, SIZE)
}

/// A job in the background of a script has SIGINT ignored, nohup ignores SIGHUP.
fn ignored() -> Outcome {
    let mut running = Iolite::run().after("trap '' INT TERM HUP").start()?;
    running.wait_for(PROMPT, 1)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        running.signal(signal)?;
    }
    sleep(A_WHILE);
    running.send("exit 3\n")?;
    running.finish_with_input_open()?.expect(7)?;
    Ok(())
}

fn others() -> Outcome {
    let image = Image::zeroed(SIZE as u64)?;
    for signal in [
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGXCPU,
        Signal::SIGQUIT,
    ] {
        let running = Iolite::run().disk(image.path()).start()?;
        running.wait_for(PROMPT, 1)?;
        let ended = ended_by(running, signal)?;
        ensure!(ended.stderr.is_empty(), "{}", ended.report());
    }
    Ok(())
}

/// The host's limit of a file's size: an error where something is written, and not a signal.
fn file_size_limit() -> Outcome {
    let image = Image::patterned(SIZE, 5)?;
    let limited = |iolite: Iolite, output: &Path| {
        let ended = iolite.after("ulimit -f 1").finish()?.expect(4)?;
        let said = ended.stderr.contains("File too large");
        ensure!(
            said && but_for_the_clock(&ended.stderr).lines().count() == 1,
            "{}",
            ended.report()
        );
        ensure!(fs::metadata(output)?.len() <= 1024, "it is not limited");
        Ok::<_, libtest_mimic::Failed>(())
    };
    let out = image.beside("out");
    let verify = || Iolite::traced_program("verify /dev/vdb 5").disk(image.with("ro"));
    limited(verify().option("--trace", &out), &out)?;
    limited(verify().option("--stats-json", &out), &out)?;
    let mut shell = Iolite::run().stdout(File::create(&out)?);
    shell = shell.stdin(File::open(typed(&image)?)?);
    limited(shell, &out)
}

/// A file with what makes the guest print much.
fn typed(image: &Image) -> Result<std::path::PathBuf, libtest_mimic::Failed> {
    let file = image.beside("typed");
    fs::write(&file, "help\n".repeat(20))?;
    Ok(file)
}
