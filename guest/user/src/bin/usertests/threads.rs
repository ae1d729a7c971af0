//! Threads of one process: starting, joining, blocking at once, and the registers of each.

use crate::check::{Check, PAGE, SCRATCH, buffer, equal, holds, prepare, refused};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use iolite_user::abi::Number;
use iolite_user::{Errno, File, Instant, Mapping, Thread, sleep, yield_now};

pub const TESTS: &[Test] = &[
    Test::plain("join_gives_the_result", join_gives_the_result),
    Test::plain("join_wrong_threads", join_wrong_threads),
    Test::plain("threads_at_wrong_addresses", threads_at_wrong_addresses),
    Test::plain("threads_share_memory", threads_share_memory),
    Test::plain("too_many_threads", too_many_threads).slow(),
    Test::disk("threads_block_at_once", threads_block_at_once),
    Test::disk("threads_fault_on_the_same_pages", threads_fault),
    Test::plain("sse_registers_are_each_threads_own", sse_registers),
    Test::plain("a_thread_goes_on_while_others_block", goes_on),
];

fn join_gives_the_result() -> Check {
    let threads: Vec<_> = (0..20u64)
        .map(|index| {
            Thread::spawn(move || {
                sleep((20 - index) * 500_000);
                index * index
            })
        })
        .collect::<Result<_, Errno>>()?;
    for (index, thread) in threads.into_iter().enumerate() {
        equal("result", thread.join()?, (index * index) as u64)?;
    }
    // What the call itself gives.
    let stack = raw::pages(1)?;
    let id = raw::call(
        Number::ThreadSpawn,
        &[raw::sleeper_entry(), stack.page(1), 1_000_000],
    )?;
    equal("status", raw::call(Number::ThreadJoin, &[id])?, 7)
}

fn join_wrong_threads() -> Check {
    let own = raw::call(Number::ThreadId, &[])?;
    refused(
        "itself",
        raw::call(Number::ThreadJoin, &[own]),
        Errno::EINVAL,
    )?;
    // Those of the kernel and of other processes among them.
    for id in [0, 1, 2, 3, 511, 512, 1 << 16, 1 << 32, u64::MAX] {
        if id != own {
            refused("join", raw::call(Number::ThreadJoin, &[id]), Errno::ESRCH)?;
        }
    }
    let stack = raw::pages(1)?;
    let id = raw::call(
        Number::ThreadSpawn,
        &[raw::sleeper_entry(), stack.page(1), 0],
    )?;
    raw::call(Number::ThreadJoin, &[id])?;
    refused("again", raw::call(Number::ThreadJoin, &[id]), Errno::ESRCH)
}

fn threads_at_wrong_addresses() -> Check {
    let stack = raw::pages(1)?.page(1);
    let entry = raw::sleeper_entry();
    for (entry, stack) in [
        (0, stack),
        (raw::KERNEL, stack),
        (raw::NOWHERE, stack),
        (u64::MAX, stack),
        (entry, 0),
        (entry, stack - 8),
        (entry, raw::KERNEL),
        (entry, !15),
    ] {
        let result = raw::call(Number::ThreadSpawn, &[entry, stack, 0]);
        refused("thread_spawn", result, Errno::EINVAL)?;
    }
    Ok(())
}

fn threads_share_memory() -> Check {
    const EACH: u64 = 10_000;
    let sum = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let sum = sum.clone();
            Thread::spawn(move || {
                for round in 0..EACH {
                    sum.fetch_add(1, Ordering::Relaxed);
                    if round % 1000 == 0 {
                        yield_now();
                    }
                }
            })
        })
        .collect::<Result<_, Errno>>()?;
    for thread in threads {
        thread.join()?;
    }
    equal("sum", sum.load(Ordering::Relaxed), 8 * EACH)
}

/// Until the kernel says no; then all end and there is room again.
fn too_many_threads() -> Check {
    const NS: u64 = 300_000_000;
    let stack = raw::pages(1)?.page(1);
    let mut threads = Vec::new();
    let error = loop {
        // They only sleep, and so can share a stack that none of them uses.
        match raw::call(Number::ThreadSpawn, &[raw::sleeper_entry(), stack, NS]) {
            Ok(id) => threads.push(id),
            Err(error) => break error,
        }
        ensure!(threads.len() < 4096, "no end of threads");
    };
    ensure!(
        matches!(error, Errno::EAGAIN | Errno::ENOMEM),
        "{error:?} after {} threads",
        threads.len()
    );
    ensure!(threads.len() >= 64, "{} threads", threads.len());
    for id in threads {
        equal("status", raw::call(Number::ThreadJoin, &[id])?, 7)?;
    }
    let id = raw::call(Number::ThreadSpawn, &[raw::sleeper_entry(), stack, 0])?;
    equal("status", raw::call(Number::ThreadJoin, &[id])?, 7)
}

fn threads_block_at_once() -> Check {
    const THREADS: u64 = 16;
    const EACH: u64 = 256 << 10;
    prepare(60, 0, THREADS * EACH)?;
    let disk = File::open_direct(SCRATCH)?;
    disk.reset_stats()?;
    let waiting = Arc::new(AtomicUsize::new(THREADS as usize));
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let waiting = waiting.clone();
            Thread::spawn(move || -> Check {
                let disk = File::open_direct(SCRATCH)?;
                let mut block = buffer(16 << 10)?;
                waiting.fetch_sub(1, Ordering::AcqRel);
                while waiting.load(Ordering::Acquire) > 0 {
                    yield_now();
                }
                for at in (index * EACH..(index + 1) * EACH).step_by(block.len()) {
                    disk.pread_exact(&mut block, at)?;
                    holds(&block, 60, at)?;
                }
                Ok(())
            })
        })
        .collect::<Result<_, Errno>>()?;
    for thread in threads {
        thread.join()??;
    }
    let most = disk.disk_stats()?.max_in_flight;
    // A fast disk has few at a time, a slow one all of them.
    ensure!(most >= 2, "at most {most} requests were in flight");
    Ok(())
}

fn threads_fault() -> Check {
    const LEN: u64 = 256 << 10;
    prepare(61, 0, LEN)?;
    let disk = File::open(SCRATCH)?;
    disk.reset_stats()?;
    let mapping = Arc::new(Mapping::of(&disk, 0, LEN as usize)?);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mapping = mapping.clone();
            Thread::spawn(move || holds(&mapping, 61, 0))
        })
        .collect::<Result<_, Errno>>()?;
    for thread in threads {
        thread.join()??;
    }
    // Each page was read once for all of them.
    equal("bytes read", disk.disk_stats()?.read_bytes, LEN)
}

fn sse_registers() -> Check {
    /// Some 30 ms: several turns of the scheduler.
    const ROUNDS: u64 = 100_000_000;
    let threads: Vec<_> = (1..6u64)
        .map(|number| Thread::spawn(move || raw::hold_sse(number * 0x1_0000_0001, ROUNDS)))
        .collect::<Result<_, Errno>>()?;
    let own = raw::hold_sse(u64::MAX / 3, ROUNDS);
    equal("registers lost here", own, 0)?;
    for thread in threads {
        equal("registers lost in a thread", thread.join()?, 0)?;
    }
    Ok(())
}

/// While many threads sleep and read, one that computes gets on.
fn goes_on() -> Check {
    let sleepers: Vec<_> = (0..16)
        .map(|_| {
            Thread::spawn(|| {
                for _ in 0..5 {
                    sleep(2_000_000);
                }
            })
        })
        .collect::<Result<_, Errno>>()?;
    let start = Instant::now();
    let mut sum = 0u64;
    for index in 0..10_000_000u64 {
        sum = core::hint::black_box(sum.wrapping_add(index));
    }
    equal("sum", sum, 10_000_000 * 9_999_999 / 2)?;
    ensure!(start.elapsed_ns() < 20_000_000_000, "it took 20 s");
    for sleeper in sleepers {
        sleeper.join()?;
    }
    let whole = Mapping::of(&File::open(crate::run::PROGRAM)?, 0, PAGE as usize)?;
    equal("magic", &whole[..4], b"\x7fELF")
}
