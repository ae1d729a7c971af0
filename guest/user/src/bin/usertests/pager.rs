//! Page faults: which requests they make, and who waits for them.

use crate::check::{Check, PAGE, Random, SCRATCH, end_of, equal, holds, prepare, start};
use crate::ensure;
use crate::run::{PROGRAM, Test};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use iolite_user::{DiskStats, Ended, Errno, File, Instant, Mapping, SharedMapping, sleep};

pub const TESTS: &[Test] = &[
    Test::disk("sequential_faults_read_ahead", sequential),
    Test::disk(
        "without_read_ahead_each_page_is_read_alone",
        without_read_ahead,
    ),
    Test::disk("random_faults_read_little_ahead", random),
    Test::disk("backward_faults_find_every_byte", backward),
    Test::disk("faults_on_cached_pages_read_nothing", cached_pages),
    Test::disk("mappings_at_every_offset", every_offset),
    Test::plain("programs_are_paged_in", programs_are_paged_in),
    Test::disk("twenty_processes_one_page", twenty_processes),
    Test::disk("hundred_processes_one_page", hundred_processes),
    Test::disk("processes_read_the_disk_at_once", processes_at_once).slow(),
];

/// Little enough for the smallest cache: what has been read is still there.
const LEN: u64 = 256 << 10;
const PAGES: u64 = LEN / PAGE;
/// How often those who wait at a gate look at it.
pub const LOOK_NS: u64 = 400_000_000;

/// What the pager counts while `touch` goes through a mapping of pages that are not in memory.
fn counted(
    seed: u64,
    read_ahead: bool,
    touch: impl FnOnce(&Mapping) -> Check,
) -> Result<DiskStats, crate::check::Failure> {
    prepare(seed, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    disk.reset_stats()?;
    let mapping = match read_ahead {
        true => Mapping::of(&disk, 0, LEN as usize)?,
        false => Mapping::without_read_ahead(&disk, 0, LEN as usize)?,
    };
    touch(&mapping)?;
    holds(&mapping, seed, 0)?;
    Ok(disk.disk_stats()?)
}

fn touch_in_order(mapping: &Mapping) -> Check {
    for page in 0..PAGES {
        mapping.touch((page * PAGE) as usize);
    }
    Ok(())
}

fn sequential() -> Check {
    let stats = counted(110, true, touch_in_order)?;
    equal("bytes read", stats.read_bytes, LEN)?;
    ensure!(
        stats.pages_read_ahead >= PAGES * 3 / 4,
        "{} of {PAGES} pages were read ahead",
        stats.pages_read_ahead
    );
    ensure!(stats.reads <= PAGES / 4, "{} reads", stats.reads);
    ensure!(stats.major_faults >= 1, "no fault waited");
    Ok(())
}

fn without_read_ahead() -> Check {
    let stats = counted(111, false, touch_in_order)?;
    equal("reads", stats.reads, PAGES)?;
    equal("bytes read", stats.read_bytes, LEN)?;
    equal("pages read ahead", stats.pages_read_ahead, 0)?;
    equal("in flight", stats.max_in_flight, 1)
}

fn random() -> Check {
    let mut order: Vec<u64> = (0..PAGES).collect();
    let mut numbers = Random::new(112);
    for last in (1..PAGES).rev() {
        order.swap(last as usize, numbers.below(last + 1) as usize);
    }
    let stats = counted(112, true, |mapping| {
        for page in &order[..order.len() / 4] {
            mapping.touch((page * PAGE) as usize);
        }
        let disk = File::open(SCRATCH)?;
        let ahead = disk.disk_stats()?.pages_read_ahead;
        ensure!(ahead <= PAGES / 8, "{ahead} pages were read ahead");
        Ok(())
    })?;
    equal("bytes read", stats.read_bytes, LEN)
}

fn backward() -> Check {
    let stats = counted(113, true, |mapping| {
        for page in (0..PAGES).rev() {
            mapping.touch((page * PAGE) as usize);
        }
        Ok(())
    })?;
    equal("bytes read", stats.read_bytes, LEN)
}

fn cached_pages() -> Check {
    prepare(114, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    holds(&Mapping::of(&disk, 0, LEN as usize)?, 114, 0)?;
    disk.reset_stats()?;
    holds(&Mapping::of(&disk, 0, LEN as usize)?, 114, 0)?;
    let stats = disk.disk_stats()?;
    equal("reads", stats.reads, 0)?;
    equal("major faults", stats.major_faults, 0)?;
    ensure!(stats.minor_faults >= 1, "no minor fault");
    Ok(())
}

fn every_offset() -> Check {
    prepare(115, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    let mut numbers = Random::new(115);
    for _ in 0..30 {
        let first = numbers.below(PAGES);
        let len = 1 + numbers.below(LEN - first * PAGE) as usize;
        let mapping = Mapping::of(&disk, first * PAGE, len)?;
        for _ in 0..4 {
            let at = numbers.below(len as u64) as usize;
            let part = &mapping[at..(at + 5000).min(len)];
            holds(part, 115, first * PAGE + at as u64)?;
        }
    }
    Ok(())
}

fn programs_are_paged_in() -> Check {
    let file = File::open(PROGRAM)?;
    let size = file.stat()?.size as usize;
    let mapping = Mapping::of(&file, 0, size)?;
    let mut bytes = alloc::vec![0; size];
    file.pread_exact(&mut bytes, 0)?;
    ensure!(mapping[..] == bytes[..], "mapping and read differ");
    Ok(())
}

/// Processes wait at a gate, and when it opens they all fault on the same page: one read serves them.
fn one_page(processes: u64) -> Check {
    const GATE: u64 = 0;
    const WANTED: u64 = 1 << 20;
    let disk = File::open_writable(SCRATCH)?;
    disk.pwrite_all(&[0; PAGE as usize], GATE)?;
    let gate = SharedMapping::of(&disk, GATE, PAGE as usize)?;
    prepare(WANTED, WANTED, PAGE)?;
    let page = alloc::format!("{WANTED}");
    let children: Vec<_> = (0..processes)
        .map(|_| start("gate", &["0", &page]))
        .collect::<Result<_, Errno>>()?;
    while gate.word(0).load(Ordering::Acquire) < processes {
        sleep(20_000_000);
    }
    disk.fsync()?;
    disk.reset_stats()?;
    let opens = Instant::now().after_ns(3 * LOOK_NS / 2);
    gate.word(8).store(opens.ticks(), Ordering::Release);
    for child in children {
        equal("child", child.wait()?, Ended::Exited(0))?;
    }
    let stats = disk.disk_stats()?;
    equal("reads", (stats.reads, stats.read_bytes), (1, PAGE))?;
    ensure!(stats.major_faults >= 1, "no fault waited");
    let faults = stats.major_faults + stats.minor_faults;
    ensure!(faults >= processes, "{faults} faults");
    Ok(())
}

fn twenty_processes() -> Check {
    one_page(20)
}

fn hundred_processes() -> Check {
    one_page(100)
}

fn processes_at_once() -> Check {
    const COUNT: u64 = 64;
    for round in 0..3 {
        prepare(116 + round, 0, COUNT * PAGE)?;
        let children: Vec<_> = (0..COUNT)
            .map(|index| {
                let offset = alloc::format!("{}", index * PAGE);
                let seed = alloc::format!("{}", 116 + round);
                start("touch", &[&offset, &seed])
            })
            .collect::<Result<_, Errno>>()?;
        for child in children {
            equal("child", child.wait()?, Ended::Exited(0))?;
        }
    }
    equal("ended", end_of("touch", &["0", "118"])?, Ended::Exited(0))
}
