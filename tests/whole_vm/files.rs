//! The files of a machine: results reach whoever is to read them, whatever kind of file that is, and
//! images are shared with nobody who must not have them.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;
use crate::trace::but_for_the_clock;

const SIZE: usize = 1 << 20;
const QEMU: &str = "qemu-system-x86_64";

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("files::a_fifo_gets_the_results", fifo),
        trial::test(
            "files::a_fifo_that_nobody_reads_can_be_left",
            fifo_without_reader,
        ),
        trial::test("files::results_come_behind_the_console", behind_the_console),
        trial::test("files::the_demos_results_on_stdout", demo_on_stdout),
        trial::test("files::a_trace_through_pipes", trace_through_pipes),
        trial::test("files::results_replace_what_was_there", replaced),
        trial::test("files::a_full_disk_is_code_4", full),
        trial::test("files::names_that_are_not_utf_8", not_utf_8),
        trial::test(
            "files::no_descriptor_is_left_to_other_programs",
            descriptors,
        ),
        trial::test("files::a_killed_machine_starts_again_at_once", killed),
        trial::test_where(
            "nobody may hide /proc here",
            may_hide_proc,
            "files::the_demo_without_proc",
            without_proc,
        ),
        trial::test_with(QEMU, "files::an_image_that_qemu_has", qemu_first),
        trial::test_with(QEMU, "files::an_image_for_qemu", qemu_second),
        trial::test_where(
            "nobody may set up loop devices here",
            may_loop,
            "files::a_loop_device_is_its_file",
            loop_device,
        ),
    ]
}

/// A shell with our program as `$0`.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, env!("CARGO_BIN_EXE_iolite")]);
    shell
}

fn json(text: &str) -> Result<Value, Failed> {
    serde_json::from_str(text).map_err(|error| format!("{error} in {text:?}").into())
}

fn fifo() -> Outcome {
    let directory = tempfile::tempdir()?;
    for option in ["--stats-json", "--trace"] {
        let path = directory.path().join(option);
        mkfifo(&path, Mode::S_IRWXU)?;
        let mut running = Iolite::run().option(option, &path).start()?;
        // The machine runs before anybody reads.
        running.wait_for("iolite$ ", 1)?;
        running.send("exit 0\n")?;
        let read = fs::read_to_string(&path)?;
        running.finish_with_input_open()?.expect(0)?;
        json(&read)?;
    }
    Ok(())
}

fn fifo_without_reader() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fifo");
    mkfifo(&path, Mode::S_IRWXU)?;
    let mut running = Iolite::run().option("--stats-json", &path).start()?;
    running.wait_for("iolite$ ", 1)?;
    running.send("exit 0\n")?;
    let stat = format!("/proc/{}/stat", running.pid());
    // Sent before the machine has ended, the first stops it.
    for _ in 0..1000 {
        running.signal(Signal::SIGTERM)?;
        thread::sleep(Duration::from_millis(10));
        if fs::read_to_string(&stat)?.contains(") Z ") {
            break;
        }
    }
    let ended = running.finish_with_input_open()?;
    let code = ended.code();
    ensure!(
        [143, 1000 + Signal::SIGTERM as i32].contains(&code),
        "{}",
        ended.report()
    );
    Ok(())
}

fn behind_the_console() -> Outcome {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    for output in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        fs::write(&log, "before\n")?;
        let mut shell = shell("echo exit 0 | \"$0\" run --stats-json \"$1\" >> \"$2\"");
        shell.arg(output).arg(&log);
        Iolite::other(shell).expect(0)?;
        let text = fs::read_to_string(&log)?;
        let (console, results) = text.split_at(text.find("\n{").ok_or("no results")?);
        ensure!(
            console.starts_with("before\n") && console.contains("iolite$ "),
            "{text}"
        );
        json(results)?;
    }
    // Another descriptor, and a file that has something in it.
    fs::write(&log, "before\n")?;
    let mut shell = shell("echo exit 0 | \"$0\" run --stats-json /dev/fd/3 3>> \"$1\"");
    shell.arg(&log);
    Iolite::other(shell).expect(0)?;
    let text = fs::read_to_string(&log)?;
    json(text.strip_prefix("before\n").ok_or("it was overwritten")?).map(|_| ())
}

fn demo_on_stdout() -> Outcome {
    let image = Image::patterned(SIZE, 3)?;
    let demo = Iolite::demo().disk(image.path()).option("--paths", "pager");
    let ended = demo.option("--json", "-").expect(0)?;
    let results = json(&ended.stdout)?;
    ensure!(
        results["disk"]["sha256"] == image.sha256()?.as_str(),
        "{}",
        ended.report()
    );
    ensure!(ended.stderr.contains("path   pager"), "{}", ended.report());
    Ok(())
}

fn trace_through_pipes() -> Outcome {
    let image = Image::patterned(SIZE, 3)?;
    let trace = image.beside("t.json");
    let demo = Iolite::demo().disk(image.path()).option("--paths", "pager");
    demo.option("--trace", &trace).expect(0)?;
    let plain = Iolite::new()
        .arg("trace")
        .arg("summary")
        .arg(&trace)
        .expect(0)?;
    let piped = |script| {
        let mut shell = shell(script);
        shell.arg(&trace);
        Iolite::other(shell).expect(0)
    };
    let summary = piped("cat \"$1\" | \"$0\" trace summary -")?;
    ensure!(summary.stdout == plain.stdout, "{}", summary.report());
    let page = piped("\"$0\" trace html - -o - < \"$1\"")?.stdout;
    ensure!(
        page.starts_with("<!") && page.trim_end().ends_with("</html>"),
        "{page}"
    );
    piped("\"$0\" trace html \"$1\" -o - | head -c 1 > /dev/null")?;
    let before = fs::read(&trace)?;
    let mut shell = shell("\"$0\" trace html - -o \"$1\" < \"$1\"");
    shell.arg(&trace);
    Iolite::other(shell).expect(2)?;
    ensure!(fs::read(&trace)? == before, "the trace was overwritten");
    Ok(())
}

fn replaced() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("results");
    let text = "x".repeat(1 << 20);
    fs::write(&path, &text)?;
    let mut running = Iolite::run().option("--stats-json", &path).start()?;
    running.wait_for("iolite$ ", 1)?;
    ensure!(
        fs::read_to_string(&path)? == text,
        "it was changed before the end"
    );
    running.send("exit 0\n")?;
    running.finish_with_input_open()?.expect(0)?;
    json(&fs::read_to_string(&path)?)?;
    Ok(())
}

fn full() -> Outcome {
    for option in ["--stats-json", "--trace"] {
        let mut running = Iolite::run().option(option, "/dev/full").start()?;
        running.send("exit 0\n")?;
        let ended = running.finish_with_input_open()?.expect(4)?;
        ensure!(
            but_for_the_clock(&ended.stderr).starts_with("iolite: cannot write /dev/full"),
            "{}",
            ended.report()
        );
    }
    Ok(())
}

fn not_utf_8() -> Outcome {
    let directory = tempfile::tempdir()?;
    let at = |name: &[u8]| directory.path().join(OsStr::from_bytes(name));
    let (disk, trace) = (at(b"\xff\xfe, a.img"), at(b"\xfd.json"));
    fs::write(&disk, vec![0; SIZE])?;
    let mut item = b"path=".to_vec();
    item.extend(
        disk.as_os_str()
            .as_bytes()
            .iter()
            .flat_map(|byte| match byte {
                b',' => b",,".to_vec(),
                byte => vec![*byte],
            }),
    );
    let zeros = Iolite::program("zeros /dev/vdb").disk(OsStr::from_bytes(&item));
    let ended = zeros.option("--trace", &trace).expect(0)?;
    ended.says("1048576 of 1048576 bytes are zero")?;
    let text = fs::read_to_string(&trace)?;
    let command = json(&text)?["otherData"]["command"].clone();
    ensure!(
        command
            .as_str()
            .is_some_and(|words| words.contains("\u{fffd}.json")),
        "{command}"
    );
    let demo = Iolite::demo().disk(&disk).option("--paths", "pager");
    let results = json(&demo.option("--json", "-").expect(0)?.stdout)?;
    let path = &results["disk"]["path"];
    ensure!(
        path.as_str()
            .is_some_and(|path| path.ends_with("\u{fffd}\u{fffd}, a.img")),
        "{path}"
    );
    Ok(())
}

/// Whoever is started by a library of ours gets none of our files, nor the virtual machine.
fn descriptors() -> Outcome {
    let image = Image::zeroed(SIZE as u64)?;
    let running = Iolite::run()
        .disk(image.with("engine=uring"))
        .disk("mem:1M,queues=2")
        .option("--trace", image.beside("t.json"))
        .option("--stats-json", image.beside("s.json"))
        .start()?;
    running.wait_for("iolite$ ", 1)?;
    // What we have for others is that process's as well.
    let inherited = left_to_others(Path::new("/proc/self/fdinfo"))?;
    let info = format!("/proc/{}/fdinfo", running.pid());
    let left = left_to_others(Path::new(&info))?;
    let own = left
        .iter()
        .filter(|number| **number > 2 && !inherited.contains(number));
    let names = own.map(|number| {
        let name = fs::read_link(format!("/proc/{}/fd/{number}", running.pid()));
        format!("{number}: {name:?}")
    });
    let names: Vec<_> = names.collect();
    ensure!(names.is_empty(), "{names:?}");
    ensure!(
        fs::read_dir(info)?.count() > 12,
        "where are its descriptors?"
    );
    Ok(())
}

/// The descriptors that stay open in a program that is started.
fn left_to_others(info: &Path) -> Result<Vec<u32>, Failed> {
    let mut left = Vec::new();
    for entry in fs::read_dir(info)? {
        let entry = entry?;
        // The one that this directory is read by has gone again.
        let text = fs::read_to_string(entry.path()).unwrap_or_else(|_| "flags:\t02000000".into());
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.ok_or("no flags")?.trim(), 8)?;
        let number: u32 = entry.file_name().to_string_lossy().parse()?;
        left.extend((flags & libc::O_CLOEXEC == 0).then_some(number));
    }
    Ok(left)
}

/// The kernel takes its time to end an io_uring: whoever starts the machine again need not know that.
fn killed() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let disk = image.with("engine=uring");
    for _ in 0..4 {
        let mut running = Iolite::run().disk(&disk).start()?;
        running.send("verify /dev/vdb 9\n")?;
        running.wait_for("seed 9: ok", 1)?;
        running.signal(Signal::SIGKILL)?;
        let again = Iolite::program("verify /dev/vdb 9").disk(&disk).start()?;
        running
            .finish_with_input_open()?
            .expect(1000 + Signal::SIGKILL as i32)?;
        again.finish()?.expect(0)?;
    }
    Ok(())
}

fn hiding_proc(script: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs none /proc\n{script}");
    command.args(["--map-root-user", "--mount", "sh", "-ec", &script]);
    command.arg(env!("CARGO_BIN_EXE_iolite"));
    command
}

fn may_hide_proc() -> bool {
    let output = hiding_proc("test ! -e /proc/self").output();
    output.is_ok_and(|output| output.status.success())
}

fn without_proc() -> Outcome {
    let directory = tempfile::tempdir()?;
    let trace = directory.path().join("t.json");
    let mut demo = hiding_proc("exec \"$0\" demo --trace \"$1\" --json /dev/stdout");
    demo.arg(&trace);
    let ended = Iolite::other(demo).expect(0)?;
    json(&ended.stdout)?;
    json(&fs::read_to_string(trace)?)?;
    Ok(())
}

/// QEMU with this disk, its processor stopped: it does what its monitor is told.
fn qemu(image: &Image, keys: &str) -> Result<Child, Failed> {
    let mut qemu = Command::new(QEMU);
    qemu.args("-M microvm -accel tcg -nodefaults -display none -S -monitor stdio".split(' '));
    let drive = format!(
        "id=d,if=none,format=raw,file={}{keys}",
        image.path().display()
    );
    qemu.args(["-drive", &drive, "-device", "virtio-blk-device,drive=d"]);
    qemu.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(qemu.spawn()?)
}

/// Has QEMU end.
fn quit(mut qemu: Child) -> Result<Output, Failed> {
    if let Some(mut stdin) = qemu.stdin.take() {
        // One that has ended does not read it.
        let _ = stdin.write_all(b"quit\n");
    }
    Ok(qemu.wait_with_output()?)
}

fn verify(image: &Image, keys: &str) -> Iolite {
    Iolite::program("verify /dev/vdb 9").disk(image.with(keys))
}

fn qemu_first() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    // QEMU's keys, and what becomes of a reader and of a writer.
    for (keys, reads, writes) in [
        (",read-only=on", 0, 10),
        ("", 10, 10),
        (",read-only=on,file.locking=off", 0, 0),
    ] {
        let mut qemu = qemu(&image, keys)?;
        // When it answers it has opened everything; then it ends with its input.
        let mut stdin = qemu.stdin.take().ok_or("no stdin")?;
        stdin.write_all(b"info status\n")?;
        let mut answers = BufReader::new(qemu.stdout.take().ok_or("no stdout")?).lines();
        let answer =
            answers.find(|line| line.as_ref().is_ok_and(|line| line.contains("VM status:")));
        ensure!(answer.is_some(), "QEMU does not answer");
        for (key, code) in [("ro", reads), ("ro=off", writes)] {
            let ended = verify(&image, key).expect(code)?;
            let refused = ended.stderr.contains("in use by another process");
            ensure!(refused == (code == 10), "{}", ended.report());
        }
        stdin.write_all(b"quit\n")?;
        qemu.wait()?;
    }
    Ok(())
}

fn qemu_second() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    for (ours, theirs, possible) in [
        ("ro", ",read-only=on", true),
        ("ro", "", false),
        ("ro=off", ",read-only=on", false),
        ("ro=off", "", false),
    ] {
        let running = Iolite::run().disk(image.with(ours)).start()?;
        running.wait_for("iolite$ ", 1)?;
        let ended = quit(qemu(&image, theirs)?)?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(
            ended.status.success() == possible,
            "{ours} and {theirs:?}: {said}"
        );
        let reason = "Is another process using the image";
        ensure!(
            said.contains(reason) != possible,
            "{ours} and {theirs:?}: {said}"
        );
    }
    Ok(())
}

/// A loop device, for as long as somebody has it.
struct Loop(String);

impl Loop {
    fn over(path: &Path) -> Result<Loop, Failed> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(path)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Loop(
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        ))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn may_loop() -> bool {
    Image::zeroed(4096).is_ok_and(|image| Loop::over(&image.path()).is_ok())
}

fn loop_device() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let device = Loop::over(&image.path())?;
    let refused = |iolite: Iolite, code, word: &str| {
        let ended = iolite.expect(code)?;
        ensure!(ended.stderr.lines().count() == 1, "{}", ended.report());
        ensure!(ended.stderr.contains(word), "{}", ended.report());
        Ok(())
    };
    for option in ["--trace", "--stats-json"] {
        refused(
            Iolite::run().option(option, &device.0),
            4,
            "is a block device",
        )?;
        let beside = Iolite::run().disk(format!("{},ro", device.0));
        refused(beside.option(option, image.path()), 2, "is a disk as well")?;
    }
    let both = Iolite::run().disk(&device.0).disk(image.path());
    refused(both, 10, "another disk")?;
    let set_read_only = Command::new("blockdev")
        .args(["--setro", &device.0])
        .status()?;
    ensure!(set_read_only.success(), "blockdev --setro does not work");
    refused(
        Iolite::run().disk(&device.0),
        10,
        "cannot be written; make it writable",
    )?;
    let verify = Iolite::program("verify /dev/vdb 9");
    verify.disk(format!("{},ro", device.0)).expect(0)?;
    image.holds(9, SIZE)?;
    Ok(())
}
