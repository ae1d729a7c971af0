//! What there is: files, disks, numbers, counts; and the gate itself.

use crate::check::{Check, end_of, equal, refused};
use crate::ensure;
use crate::raw;
use crate::run::{PROGRAM, Test};
use alloc::collections::BTreeSet;
use alloc::string::String;
use iolite_user::abi::Number;
use iolite_user::system_files;
use iolite_user::{
    Ended, Errno, File, Thread, cpu_stats, disk_count, disks, id_of, kind, name_of, sleep,
};

pub const TESTS: &[Test] = &[
    Test::plain("unknown_system_call", unknown_system_call),
    Test::plain("gate_keeps_registers", gate_keeps_registers),
    Test::plain("list_names_each_file_once", list_names_each_file_once),
    Test::plain("stat_tells_size_and_kind", stat_tells_size_and_kind),
    Test::disk("stat_of_disks", stat_of_disks),
    Test::plain("cpu_stats_count", cpu_stats_count),
    Test::disk("disk_stats_count_and_reset", disk_stats_count_and_reset),
    Test::disk("empty_transfers_ask_the_device_nothing", empty_transfers),
    Test::disk("the_kernels_own_memory_runs_out", kernel_memory_runs_out).slow(),
];

/// Whoever asks for more gets an error, and the kernel lives.
fn kernel_memory_runs_out() -> Check {
    equal("ended", end_of("hoard", &[])?, Ended::Exited(0))
}

fn unknown_system_call() -> Check {
    for number in [28, 99, 4096, 1 << 32, u64::MAX] {
        // Numbers that a later kernel knows are not looked at.
        if Number::from_raw(number).is_none() {
            refused("the call", raw::call_number(number, &[]), Errno::ENOSYS)?;
        }
    }
    Ok(())
}

fn gate_keeps_registers() -> Check {
    for number in [Number::ProcessId, Number::ThreadId, Number::Yield] {
        equal("changed registers", raw::hold_registers(number), 0)?;
    }
    Ok(())
}

fn list_names_each_file_once() -> Check {
    let mut names = BTreeSet::new();
    for entry in system_files() {
        let entry = entry?;
        let name = String::from(name_of(&entry));
        ensure!(!name.is_empty(), "a file without a name");
        equal("size", File::open(&name)?.stat()?.size, entry.size)?;
        ensure!(names.insert(name.clone()), "{name} is there twice");
    }
    ensure!(names.contains(PROGRAM), "{PROGRAM} is missing");
    let page = raw::pages(1)?;
    for index in [names.len() as u64, 1 << 20, u64::MAX] {
        refused(
            "list past the end",
            raw::call(Number::List, &[index, page.address]),
            Errno::ENOENT,
        )?;
    }
    Ok(())
}

fn stat_tells_size_and_kind() -> Check {
    let file = File::open(PROGRAM)?;
    let stat = file.stat()?;
    equal("kind", stat.kind, kind::FILE)?;
    equal("read_only", stat.read_only, 1)?;
    ensure!(stat.size > 4096, "{PROGRAM} has {} bytes", stat.size);
    equal("id", id_of(&stat), "")?;
    // A leading slash makes no difference.
    let same = File::open("/bin/usertests")?.stat()?;
    equal("stat", same, stat)
}

fn stat_of_disks() -> Check {
    ensure!(disk_count() >= 2, "{} disks", disk_count());
    for path in disks() {
        let stat = File::open(path.as_str())?.stat()?;
        equal("kind", stat.kind, kind::DISK)?;
        ensure!(stat.size > 0 && stat.size % 512 == 0, "{} bytes", stat.size);
    }
    equal("vdb", File::open("/dev/vdb")?.stat()?.read_only, 0)
}

fn cpu_stats_count() -> Check {
    let before = cpu_stats()?;
    Thread::spawn(|| sleep(5_000_000))?.join()?;
    let after = cpu_stats()?;
    ensure!(after.switches > before.switches, "no switch");
    ensure!(after.idle > before.idle, "never idle");
    ensure!(after.threads >= 3, "{} threads", after.threads);
    ensure!(after.processes >= 2, "{} processes", after.processes);
    ensure!(
        after.free_frames > 0 && after.cached_pages > 0,
        "{} free frames, {} pages cached",
        after.free_frames,
        after.cached_pages
    );
    ensure!(after.dirty_pages <= after.cached_pages, "{after:?}");
    Ok(())
}

fn disk_stats_count_and_reset() -> Check {
    let disk = File::open_direct_writable("/dev/vdb")?;
    let mut block = crate::check::buffer(8192)?;
    disk.reset_stats()?;
    disk.pread_exact(&mut block, 0)?;
    disk.pwrite_all(&block[..4096], 0)?;
    disk.fsync()?;
    let stats = disk.disk_stats()?;
    equal("bytes read", stats.read_bytes, 8192)?;
    equal("bytes written", stats.written_bytes, 4096)?;
    equal(
        "requests",
        (stats.reads, stats.writes, stats.flushes),
        (1, 1, 1),
    )?;
    equal("errors", stats.errors, 0)?;
    equal("in flight", (stats.in_flight, stats.max_in_flight), (0, 1))?;
    ensure!(stats.in_flight_ticks > 0, "no time in flight");
    disk.reset_stats()?;
    let stats = disk.disk_stats()?;
    equal("after the reset", (stats.reads, stats.read_bytes), (0, 0))
}

fn empty_transfers() -> Check {
    let disk = File::open_direct_writable("/dev/vdb")?;
    let mut block = crate::check::buffer(4096)?;
    disk.reset_stats()?;
    for offset in [0, 512] {
        equal("read", disk.pread(&mut block[..0], offset)?, 0)?;
        equal("written", disk.pwrite(&block[..0], offset)?, 0)?;
    }
    let stats = disk.disk_stats()?;
    equal("requests", (stats.reads, stats.writes), (0, 0))
}
