//! Asynchronous I/O: what becomes of requests whose process, memory or descriptor goes away.

use crate::async_errors::{submit, wait};
use crate::check::{Check, PAGE, SCRATCH, disk_holds, end_of, equal, holds, prepare, start};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use iolite_user::abi::{FOREVER, IoRequest, io};
use iolite_user::{Ended, Errno, Fault, File, Result, Thread, sleep, yield_now};

pub const TESTS: &[Test] = &[
    Test::disk("async_exit_with_256_in_flight", exit),
    Test::disk("async_killed_with_256_in_flight", killed),
    Test::disk("async_many_exits", many_exits).slow(),
    Test::disk("async_unmap_in_flight", unmap),
    Test::disk("async_close_in_flight", close),
    Test::disk("async_poll_wakes_no_waiter", poller_and_waiter),
    Test::disk("async_exit_while_a_thread_waits", exit_while_waiting),
];

const LEN: u64 = 16 << 10;

fn read(fd: u64, buf: u64, offset: u64, user_data: u64) -> IoRequest {
    IoRequest {
        operation: io::READ,
        fd: fd as u32,
        buf,
        len: LEN,
        offset,
        user_data,
    }
}

/// The role: reads of 16 KiB, `count` of them, and then the end, by exit or by a fault.
pub fn exit_in_flight(count: u64, crash: bool) -> Result<u8> {
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages((count * LEN / PAGE) as usize)?;
    let requests: Vec<_> = (0..count)
        .map(|index| read(disk.fd(), memory.address + index * LEN, index * LEN, index))
        .collect();
    let submitted = submit(&requests)?;
    if crash {
        raw::poke(0, 0);
    }
    Ok(u8::from(submitted != count))
}

/// Everything a process leaves behind is drained, and its memory is not written to any more.
fn ends(role: &str, wanted: Ended) -> Check {
    prepare(180, 0, 4 << 20)?;
    for late_ns in [0, 5_000_000, 50_000_000] {
        let child = start(role, &["256"])?;
        // It is waited for before its end, and when it has ended but for its requests.
        sleep(late_ns);
        equal("ended", child.wait()?, wanted)?;
        let disk = File::open(SCRATCH)?;
        equal("in flight", disk.disk_stats()?.in_flight, 0)?;
        // Frames that the child had, perhaps: they are ours now.
        let memory = raw::pages(512)?;
        for index in 0..512 {
            raw::poke(memory.page(index), 0);
        }
        sleep(2_000_000);
        for index in 0..512 {
            let mut words = [1; 64];
            memory.read(index * PAGE as usize, &mut words);
            ensure!(words == [0; 64], "somebody wrote to page {index}");
        }
        memory.unmap(0, 512)?;
    }
    disk_holds(180, 0, 4 << 20)
}

fn exit() -> Check {
    ends("aio-exit", Ended::Exited(0))
}

fn killed() -> Check {
    ends("aio-crash", Ended::Killed(Fault::BadAddress))
}

fn many_exits() -> Check {
    for count in 0..100u64 {
        let text = alloc::format!("{}", 1 + count * 37 % 256);
        equal("ended", end_of("aio-exit", &[&text])?, Ended::Exited(0))?;
    }
    Ok(())
}

/// The buffers go while the device fills them: what is mapped afterwards stays as it is.
fn unmap() -> Check {
    const COUNT: u64 = 64;
    prepare(181, 0, COUNT * LEN)?;
    let disk = File::open_direct(SCRATCH)?;
    let pages = (COUNT * LEN / PAGE) as usize;
    for _ in 0..3 {
        let memory = raw::pages(pages)?;
        let requests: Vec<_> = (0..COUNT)
            .map(|index| read(disk.fd(), memory.address + index * LEN, index * LEN, index))
            .collect();
        equal("submitted", submit(&requests)?, COUNT)?;
        memory.unmap(0, pages)?;
        let fresh = raw::pages(pages)?;
        for index in 0..pages {
            raw::poke(fresh.page(index), 0x77);
        }
        let mut done = 0;
        while done < COUNT {
            for completion in wait(64, 1, FOREVER)? {
                equal("bytes", completion.result, LEN as i64)?;
                done += 1;
            }
        }
        for index in 0..pages {
            let mut bytes = [1; 32];
            fresh.read(index * PAGE as usize, &mut bytes);
            equal("mark", bytes[0], 0x77)?;
            ensure!(bytes[1..] == [0; 31], "the device wrote to page {index}");
        }
        fresh.unmap(0, pages)?;
    }
    Ok(())
}

fn close() -> Check {
    const COUNT: u64 = 32;
    prepare(182, 0, COUNT * LEN)?;
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages((COUNT * LEN / PAGE) as usize)?;
    let requests: Vec<_> = (0..COUNT)
        .map(|index| read(disk.fd(), memory.address + index * LEN, index * LEN, index))
        .collect();
    equal("submitted", submit(&requests)?, COUNT)?;
    drop(disk);
    let mut done = 0;
    while done < COUNT {
        for completion in wait(32, 1, FOREVER)? {
            equal("bytes", completion.result, LEN as i64)?;
            done += 1;
        }
    }
    let mut bytes = alloc::vec![0; (COUNT * LEN) as usize];
    memory.read(0, &mut bytes);
    holds(&bytes, 182, 0)
}

/// One thread waits for completions, another takes some by polling: the first one hears of the rest.
fn poller_and_waiter() -> Check {
    const COUNT: u64 = 48;
    const TIMEOUT_NS: u64 = 2_000_000_000;
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages((LEN / PAGE) as usize)?;
    let requests: Vec<_> = (0..COUNT)
        .map(|index| read(disk.fd(), memory.address, index * LEN, index))
        .collect();
    for _ in 0..4 {
        let taken = Arc::new(AtomicU64::new(0));
        equal("submitted", submit(&requests)?, COUNT)?;
        let waiter = Thread::spawn({
            let taken = taken.clone();
            move || -> Check {
                while taken.load(Ordering::Acquire) < COUNT {
                    let done = match wait(1, 1, TIMEOUT_NS) {
                        Ok(done) => done.len() as u64,
                        // The other one has taken the last.
                        Err(Errno::EINVAL) => 0,
                        Err(Errno::ETIMEDOUT) if taken.load(Ordering::Acquire) == COUNT => 0,
                        Err(error) => return Err(error.into()),
                    };
                    taken.fetch_add(done, Ordering::AcqRel);
                }
                Ok(())
            }
        })?;
        for _ in 0..COUNT / 2 {
            let polled = wait(1, 0, 0)?.len() as u64;
            taken.fetch_add(polled, Ordering::AcqRel);
            yield_now();
        }
        waiter.join()??;
        equal("completions", taken.load(Ordering::Acquire), COUNT)?;
    }
    Ok(())
}

fn exit_while_waiting() -> Check {
    equal("ended", end_of("aio-waiter", &["256"])?, Ended::Exited(0))
}

/// The role: one thread waits for many reads, and another ends the process.
pub fn exit_while_a_thread_waits(count: u64) -> Result<u8> {
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages((LEN / PAGE) as usize)?;
    let requests: Vec<_> = (0..count)
        .map(|index| read(disk.fd(), memory.address, index * LEN, index))
        .collect();
    let submitted = submit(&requests)?;
    let all = count as usize;
    Thread::spawn(move || wait(all, all, FOREVER).map(drop))?;
    yield_now();
    Ok(u8::from(submitted != count))
}
