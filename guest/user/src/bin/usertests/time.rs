//! Sleeping, and sharing the processor.

use crate::check::{Check, Failure, equal, start};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use iolite_user::abi::Number;
use iolite_user::{Ended, Errno, Instant, Thread, sleep, yield_now};

pub const TESTS: &[Test] = &[
    Test::plain("sleep_is_long_enough", sleep_is_long_enough),
    Test::plain("sleepers_sleep_at_once", sleepers_sleep_at_once),
    Test::plain("sleepers_wake_in_order", sleepers_wake_in_order),
    Test::plain("a_spinning_process_stops_nobody", spinning_process),
    Test::plain("spinning_threads_share", spinning_threads_share),
];

/// Room for a loaded host.
const LATE_NS: u64 = 200_000_000;

fn sleep_is_long_enough() -> Check {
    let mut best = u64::MAX;
    for ns in [0, 1, 1_000, 1_000_000, 5_000_000, 20_000_000] {
        let start = Instant::now();
        sleep(ns);
        let slept = start.elapsed_ns();
        ensure!(slept >= ns, "{ns} ns took {slept}");
        best = best.min(slept - ns);
    }
    ensure!(best < LATE_NS, "every sleep was {best} ns late or more");
    Ok(())
}

fn sleepers_sleep_at_once() -> Check {
    const NS: u64 = 50_000_000;
    const THREADS: u64 = 20;
    let mut best = u64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let threads: Vec<_> = (0..THREADS)
            .map(|_| Thread::spawn(|| sleep(NS)))
            .collect::<Result<_, Errno>>()?;
        for thread in threads {
            thread.join()?;
        }
        let took = start.elapsed_ns();
        ensure!(took >= NS, "50 ms took {took} ns");
        best = best.min(took);
        // One after the other they would take this four thirds times.
        if best < THREADS * NS * 3 / 4 {
            return Ok(());
        }
    }
    Err(Failure::new(format_args!("20 times 50 ms took {best} ns")))
}

/// Once in some tries, with more and more time between them: on a loaded host threads begin late.
fn sleepers_wake_in_order() -> Check {
    const MS: u64 = 1_000_000;
    for step in [10 * MS, 40 * MS, 160 * MS, 640 * MS] {
        if order_of_waking(step)? == [1, 2, 3, 4] {
            return Ok(());
        }
    }
    Err(Failure::new(format_args!("never in order")))
}

/// Starts threads that sleep for so many steps; gives the steps in the order of waking.
fn order_of_waking(step_ns: u64) -> Result<Vec<u64>, Errno> {
    let woken = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = [3, 1, 4, 2]
        .into_iter()
        .map(|steps| {
            let woken = woken.clone();
            Thread::spawn(move || {
                sleep(steps * step_ns);
                (woken.fetch_add(1, Ordering::AcqRel), steps)
            })
        })
        .collect::<Result<_, Errno>>()?;
    let mut order = Vec::new();
    for thread in threads {
        order.push(thread.join()?);
    }
    order.sort_unstable();
    Ok(order.into_iter().map(|(_, steps)| steps).collect())
}

fn spinning_process() -> Check {
    const SPIN_NS: u64 = 1_500_000_000;
    let begin = Instant::now();
    let spinners: Vec<_> = (0..2)
        .map(|_| start("spin", &["1500000000"]))
        .collect::<Result<_, Errno>>()?;
    // Beside them: sleeping, system calls, processes.
    for _ in 0..5 {
        sleep(1_000_000);
        raw::call(Number::ProcessId, &[])?;
    }
    let child = start("exit", &["6"])?;
    equal("ended", child.wait()?, Ended::Exited(6))?;
    let took = begin.elapsed_ns();
    ensure!(
        took < SPIN_NS,
        "it took {took} ns, until the spinners ended"
    );
    for spinner in spinners {
        equal("ended", spinner.wait()?, Ended::Exited(0))?;
    }
    Ok(())
}

/// Threads that never block get turns of like length.
fn spinning_threads_share() -> Check {
    const NS: u64 = 300_000_000;
    let threads: Vec<_> = (0..3)
        .map(|_| {
            Thread::spawn(|| {
                let (start, mut rounds) = (Instant::now(), 0u64);
                while start.elapsed_ns() < NS {
                    rounds += 1;
                }
                rounds
            })
        })
        .collect::<Result<_, Errno>>()?;
    let mut rounds = Vec::new();
    for thread in threads {
        rounds.push(thread.join()?);
    }
    yield_now();
    rounds.sort_unstable();
    ensure!(rounds[0] * 5 > rounds[2], "rounds: {rounds:?}");
    Ok(())
}
