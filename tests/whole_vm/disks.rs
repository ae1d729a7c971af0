//! Kinds of disks, and their keys that whoever is inside can tell apart.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::{Image, pattern};
use crate::support::trial;
use crate::support::vm::{Ended, Iolite};

const SIZE: usize = 1 << 20;
/// What `zeros` says of an empty disk of that size.
const ALL_ZEROS: &str = "1048576 of 1048576 bytes are zero";

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("disks::memory_keeps_what_is_written", memory),
        trial::test("disks::null_forgets_what_is_written", null),
        trial::test("disks::every_cache_brings_bytes_to_the_file", caches),
        trial::test("disks::large_blocks", large_blocks),
        trial::test("disks::past_the_page_cache", direct),
        trial::test_with("strace", "disks::a_host_without_io_uring", without_io_uring),
        trial::test("disks::one_that_grows_under_our_guest", growing),
        trial::test("disks::one_that_grows_under_a_server", growing_served),
        trial::test("disks::one_that_shrinks_under_our_guest", shrinking),
        trial::test("disks::one_that_needs_a_reset", needing_reset),
        trial::test("disks::the_hosts_limit_of_a_files_size", file_size_limit),
        trial::test_where(
            "nobody may mount a tmpfs here",
            may_mount,
            "disks::a_host_without_space",
            no_space,
        ),
        trial::test("disks::a_host_without_descriptors", no_descriptors),
        trial::test("disks::readonly_memory_is_read_only", read_only_memory),
    ]
}

fn memory() -> Outcome {
    let ended = shell(
        "mem:1M",
        "zeros /dev/vdb\nfill /dev/vdb 7\nverify /dev/vdb 7\n",
    )?;
    ended.says(ALL_ZEROS)?.says("seed 7: ok").map(|_| ())
}

fn null() -> Outcome {
    let ended = shell("null:1M", "fill /dev/vdb 7\nzeros /dev/vdb\n")?;
    ended
        .says("written and flushed")?
        .says(ALL_ZEROS)
        .map(|_| ())
}

/// What the guest's shell says to these lines.
fn shell(disk: &str, lines: &str) -> Result<Ended, Failed> {
    let mut running = Iolite::run().disk(disk).start()?;
    running.send(&format!("{lines}exit 0\n"))?;
    running.finish_with_input_open()?.expect(0)
}

fn caches() -> Outcome {
    for cache in ["writeback", "writethrough", "unsafe"] {
        let image = Image::zeroed(SIZE as u64)?;
        let keys = format!("cache={cache}");
        let fill = Iolite::program("fill /dev/vdb 7");
        fill.disk(image.with(&keys)).expect(0)?;
        image.holds(7, SIZE)?;
    }
    Ok(())
}

fn large_blocks() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let verify = Iolite::program("verify /dev/vdb 9");
    verify.disk(image.with("block-size=4096")).expect(0)?;
    Ok(())
}

fn direct() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let disk = image.with("direct");
    let verify = Iolite::program("verify /dev/vdb 9").disk(&disk).finish()?;
    if verify.stderr.contains("leave out `direct`") {
        return Ok(()); // The temporary files' file system has no direct I/O.
    }
    verify.expect(0)?;
    let fill = Iolite::program("fill /dev/vdb 7").disk(&disk).arg("-v");
    let ended = fill.expect(0)?;
    ensure!(uses(&ended, "vdb: engine=uring"), "{}", ended.report());
    image.holds(7, SIZE)
}

fn uses(ended: &Ended, engine: &str) -> bool {
    ended.stderr.lines().any(|line| line.ends_with(engine))
}

/// Who asks for io_uring is told; a direct disk has workers then.
fn without_io_uring() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let verify = || Iolite::program("verify /dev/vdb 9");
    let asked = verify().disk(image.with("engine=uring"));
    let ended = asked.without_io_uring().expect(10)?;
    let lines: Vec<_> = ended.stderr.lines().collect();
    ensure!(
        lines.len() == 1 && lines[0].contains("disk vdb: cannot set up io_uring (use engine=pool)"),
        "{}",
        ended.report()
    );
    let direct = verify().disk(image.with("direct")).arg("-v");
    let ended = direct.without_io_uring().finish()?;
    if ended.stderr.contains("leave out `direct`") {
        return Ok(()); // The temporary files' file system has no direct I/O.
    }
    let ended = ended.expect(0)?;
    ensure!(uses(&ended, "vdb: engine=pool"), "{}", ended.report());
    Ok(())
}

/// A program that has the disk open, and one that comes later, see the new size and the new bytes.
fn growing() -> Outcome {
    grow("grown", " bytes, now 2097664: ok")
}

fn growing_served() -> Outcome {
    grow("grown --served", " bytes, now 2097664, then 2097664: ok")
}

/// The old size and the new one are no multiples of the page size: the last page grows too.
fn grow(program: &str, says: &str) -> Outcome {
    let image = Image::patterned(SIZE + 512, 9)?;
    let mut running = Iolite::run().disk(image.path()).arg("-v").start()?;
    running.send(&format!("{program} /dev/vdb 9\n"))?;
    running.wait_for("grown: 1049088 bytes", 1)?;
    let more = pattern(9, SIZE as u64 + 512, SIZE);
    let file = std::fs::File::options().write(true).open(image.path())?;
    file.write_all_at(&more, SIZE as u64 + 512)?;
    running.signal(Signal::SIGUSR1)?;
    running.wait_for(says, 1)?;
    running.send("verify /dev/vdb 9\nfill --no-sync /dev/vdb 8\nexit 0\n")?;
    let ended = running
        .finish_with_input_open()?
        .expect(0)?
        .says("verify: /dev/vdb 0+2097664 seed 9: ok")?;
    let said = "vdb: 2097664 bytes now";
    ensure!(ended.stderr.contains(said), "{}", ended.report());
    image.holds(8, 2 * SIZE + 512)
}

/// The image loses its end: an error for who reads there, and nobody else is disturbed.
fn shrinking() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let mut running = Iolite::run().disk(image.path()).start()?;
    running.send("verify /dev/vdb 9 0 4096\n")?;
    running.wait_for("seed 9: ok", 1)?;
    let file = std::fs::File::options().write(true).open(image.path())?;
    file.set_len(SIZE as u64 / 2)?;
    running.signal(Signal::SIGUSR1)?;
    running.send("verify /dev/vdb 9 524288 4096\nsha256 --map /dev/vdb\n")?;
    running.send("fill --no-sync /dev/vdb 8 524288 4096\n")?;
    running.send("verify /dev/vdb 9 0 524288\nexit 0\n")?;
    let ended = running
        .finish_with_input_open()?
        .expect(0)?
        .says("iolite: /dev/vdb: only 524288 bytes are left")?
        .says("verify: /dev/vdb at byte 524288: input/output error")?
        .says("verify: /dev/vdb 0+524288 seed 9: ok")?;
    ensure!(!ended.stdout.contains("panicked"), "{}", ended.report());
    Ok(())
}

/// A device that gives up in the midst of requests: they end, and the disk can be used again.
fn needing_reset() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let mut running = Iolite::run()
        .disk(image.with("iops=20:1"))
        .disk("mem:1M")
        .start()?;
    running.send("break_ring /dev/vdb /dev/vdc\nverify /dev/vdb 9 0 16384\nexit 0\n")?;
    let ended = running
        .finish_with_input_open()?
        .expect(0)?
        .says("iolite: /dev/vdb: the device needs a reset")?
        .says("break_ring: some failed, and the disk is there again")?
        .says("verify: /dev/vdb 0+16384 seed 9: ok")?;
    let once = ended.stdout.matches("needs a reset").count();
    ensure!(once == 1, "{}", ended.report());
    Ok(())
}

/// The host refuses to write behind the first 64 KiB of any file: an error for the guest, and not a
/// signal for us.
fn file_size_limit() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let mut limited = Command::new("sh");
    // In blocks of 512 bytes or of 1 KiB, as shells will have it.
    limited.args(["-c", "ulimit -f 64; exec \"$0\" \"$@\""]);
    limited.args([env!("CARGO_BIN_EXE_iolite"), "run"]);
    let fill = Iolite::other(limited).disk(image.path());
    let fill = fill.option("-p", "init=fill /dev/vdb 7").finish()?;
    ensure!(fill.code() == 3, "{}", fill.report());
    fill.says("input/output error")?;
    Iolite::program("verify /dev/vdb 9 524288 524288")
        .disk(image.path())
        .expect(0)?;
    Ok(())
}

/// `script` in a shell that may mount, and nobody else sees it.
fn mounting(script: &str) -> Command {
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh", "-ec", script]);
    shell
}

fn may_mount() -> bool {
    let mut mount = mounting("mount -t tmpfs tmpfs /tmp");
    mount.output().is_ok_and(|output| output.status.success())
}

/// A tmpfs that is half as large as the disk on it: what does not fit is an error, and the rest of the
/// disk goes on.
fn no_space() -> Outcome {
    let directory = tempfile::tempdir()?;
    let mut mounting = mounting(
        "mount -t tmpfs -o size=512k tmpfs \"$1\"
        truncate -s 1M \"$1/disk\"
        exec \"$0\" run -d \"$1/disk\"",
    );
    let iolite = env!("CARGO_BIN_EXE_iolite");
    mounting.arg(iolite).arg(directory.path());
    let mut running = Iolite::other(mounting).start()?;
    running
        .send("fill /dev/vdb 7\nfill /dev/vdb 9 0 65536\nverify /dev/vdb 9 0 65536\nexit 0\n")?;
    let ended = running.finish_with_input_open()?.expect(0)?;
    ended.says("input/output error")?.says("seed 9: ok")?;
    Ok(())
}

/// Whatever the host cannot open is one line.
fn no_descriptors() -> Outcome {
    let image = Image::patterned(SIZE, 9)?;
    let mut refused = 0;
    for free in [1, 5, 9, 13, 17, 21, 61] {
        let limit = limit_that_leaves(free)?;
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
        limited.args([env!("CARGO_BIN_EXE_iolite"), "run"]);
        let verify = Iolite::other(limited).disk(image.with("queues=4"));
        let ended = verify.option("-p", "init=verify /dev/vdb 9").finish()?;
        if ended.code() == 0 {
            continue;
        }
        refused += 1;
        let one_line = ended.stderr.lines().count() == 1;
        ensure!(
            one_line
                && [4, 6, 8, 10].contains(&ended.code())
                && ended.stderr.contains("os error 24"),
            "{free} descriptors: {}",
            ended.report()
        );
    }
    ensure!(refused > 1, "none of the limits was a limit");
    Ok(())
}

/// The limit of descriptors under which a child may open `free` more, whatever our parent has left
/// open: without any, the loader of shared libraries fails before there is an iolite.
fn limit_that_leaves(free: usize) -> Result<usize, Failed> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let mut inherited = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let entry = entry?;
        // Other tests open files and close them meanwhile: those are none.
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        if flags.is_some_and(|flags| flags & O_CLOEXEC == 0) {
            inherited.insert(entry.file_name().to_string_lossy().parse::<usize>()?);
        }
    }
    let mut unused = (0..).filter(|descriptor| !inherited.contains(descriptor));
    let last = unused.nth(free - 1).ok_or("so many are inherited")?;
    Ok(last + 1)
}

fn read_only_memory() -> Outcome {
    let fill = Iolite::program("fill /dev/vdb 7").disk("mem:1M,ro");
    let ended = fill.finish()?;
    ensure!(ended.code() % 2 == 1, "{}", ended.report());
    Ok(())
}
