//! Rings for events (docs/tracing.md): there is none where nothing is traced.

use crate::check::{Check, SECTOR, end_of, equal, refused, start};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use alloc::vec::Vec;
use iolite_devices_abi::trace::{PROGRAM_EVENTS, PROGRAM_RINGS, header, kind};
use iolite_user::abi::Number;
use iolite_user::{Ended, Errno, File, Instant, Result, println, sleep, trace};

pub const TESTS: &[Test] = &[
    Test::plain("a_ring_for_events", a_ring),
    Test::plain("rings_are_lent_to_a_few", lent_to_a_few),
    Test::plain("events_are_cheap", cheap),
];

fn lend() -> Result<u64> {
    raw::call(Number::TraceRing, &[])
}

/// The ring's address, unless nothing is traced.
fn ring() -> Result<Option<u64>> {
    match lend() {
        Err(Errno::ENOSYS) => Ok(None),
        address => address.map(Some),
    }
}

fn a_ring() -> Check {
    let Some(address) = ring()? else {
        trace::begin();
        ensure!(!trace::is_on(), "without a ring there are events");
        return Ok(());
    };
    let number = |at: u64| {
        let bytes = [0, 1, 2, 3].map(|i| raw::peek(address + at + i));
        u32::from_le_bytes(bytes)
    };
    equal("magic", number(header::MAGIC), header::MAGIC_VALUE)?;
    equal("version", number(header::VERSION), header::VERSION_VALUE)?;
    equal("capacity", number(header::CAPACITY), PROGRAM_EVENTS)?;
    refused("a second one", lend(), Errno::EBUSY)?;
    // It is no memory that a disk could reach.
    let disk = File::open_direct("/dev/vda")?;
    let read = raw::call(Number::Pread, &[disk.fd(), address, SECTOR, 0]);
    refused("a direct read", read, Errno::EFAULT)
}

/// Has a ring for a while.
pub fn keep(nanoseconds: u64) -> Result<u8> {
    lend()?;
    sleep(nanoseconds);
    Ok(0)
}

fn lent_to_a_few() -> Check {
    if ring()?.is_none() {
        return Ok(());
    }
    // All of them come to their sleep before the first is through with it.
    let others: Vec<_> = (1..PROGRAM_RINGS)
        .map(|_| start("keep-ring", &["1000000000"]))
        .collect::<Result<_>>()?;
    sleep(200_000_000);
    let one_more = end_of("keep-ring", &["0"])?;
    for other in others {
        equal("one that has a ring", other.wait()?, Ended::Exited(0))?;
    }
    ensure!(one_more != Ended::Exited(0), "there is always another ring");
    equal("afterwards", end_of("keep-ring", &["0"])?, Ended::Exited(0))
}

fn cheap() -> Check {
    const EVENTS: u64 = 100_000;
    // Room for a loaded host; the line says what it was.
    const MOST_NS: u64 = 2_000;
    trace::begin();
    let mut best = u64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        for number in 0..EVENTS / 10 {
            trace::event(kind::SEND, 0, u32::MAX, number, 0);
        }
        best = best.min(start.elapsed_ns());
    }
    let (each, tenths) = (best * 10 / EVENTS, best * 100 / EVENTS % 10);
    let traced = if trace::is_on() { "" } else { "not " };
    println!("an event takes {each}.{tenths} ns, {traced}recorded");
    ensure!(each < MOST_NS, "an event takes {each} ns");
    Ok(())
}
