//! What a process that a test starts does: `usertests --as ROLE ARGUMENT...`. Its exit status is its
//! answer; 0 is good.

use crate::async_errors::submit;
use crate::async_life;
use crate::check::{self, PAGE, SCRATCH, SECTOR, holds};
use crate::raw;
use alloc::vec::Vec;
use iolite_user::abi::{IoRequest, MAX_FDS, MAX_IO, Number, map, prot};
use iolite_user::core_logic::words;
use iolite_user::{
    Ended, Errno, File, Instant, Mapping, MappingMut, Process, Result, SharedMapping, Thread,
};
use iolite_user::{println, sleep, yield_now};

/// The status of a role that came to a mistake.
pub const MISTAKE: u8 = 77;

/// Plays a role.
pub fn play(role: &str, args: &[&str]) -> u8 {
    let numbers: Vec<u64> = args
        .iter()
        .map(|arg| words::number(arg).unwrap_or(0))
        .collect();
    let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let result = match role {
        "exit" => Ok(number(0) as u8),
        "sleep" => {
            sleep(number(0));
            Ok(0)
        }
        "spin" => spin(number(0)),
        "arguments" => Ok(arguments(args)),
        "touch" => touch(number(0), number(1)),
        "peek" => {
            raw::peek(number(0));
            Ok(0)
        }
        "write-zeroes" => write_zeroes(number(0)),
        "poke-past" => poke_past(number(0)),
        "poke-mapping" => poke_mapping(number(0)),
        "run-mapping" => run_mapping(number(0)),
        "write-shared" => write_shared(number(0), number(1)),
        "add-shared" => add_shared(number(0), number(1)),
        "gate" => gate(number(0), number(1)),
        "spinner-and-exit" => with_a_spinner(number(0)),
        "sleepers-and-exit" => with_sleepers(number(0)),
        "orphans" => orphans(number(0)),
        "open-all" => open_all(),
        "hoard" => hoard(),
        "raw-exit" => raw::call(Number::Exit, &[number(0)]).map(|_| MISTAKE),
        "thread-exit" => raw::call(Number::ThreadExit, &[number(0)]).map(|_| MISTAKE),
        "aio-exit" => async_life::exit_in_flight(number(0), false),
        "aio-crash" => async_life::exit_in_flight(number(0), true),
        "aio-waiter" => async_life::exit_while_a_thread_waits(number(0)),
        "use-buffer" => crate::registered::use_buffer(number(0)),
        "registered-exit" => crate::registered::exit_in_flight(),
        "client" => crate::served::be_client(number(0), number(1), number(2)),
        "hasty-client" => crate::served::be_hasty_client(number(0)),
        "storm" => crate::served::storm(number(0)),
        "add-one" => crate::channels::add_one(),
        "has-three" => crate::channels::has_three(),
        "open-device" => crate::devices::open_device(),
        "drive-and-crash" => crate::devices::drive_and_crash(number(0)),
        "peek-registers" => crate::devices::peek_registers(),
        "keep-ring" => crate::tracing::keep(number(0)),
        "fault-badly" => crate::faults::fault_badly(number(0)),
        "touch-faulty" => crate::faulty::touch(number(0)),
        _ => {
            println!("usertests: no role '{role}'");
            return MISTAKE;
        }
    };
    result.unwrap_or(MISTAKE)
}

/// Runs on for so many nanoseconds without a system call.
fn spin(nanoseconds: u64) -> Result<u8> {
    let start = Instant::now();
    while start.elapsed_ns() < nanoseconds {
        core::hint::spin_loop();
    }
    Ok(0)
}

/// Are these the arguments of the test `arguments_arrive`?
fn arguments(args: &[&str]) -> u8 {
    u8::from(args != crate::processes::ARGUMENTS)
}

/// Maps a page of the scratch disk and finds the pattern of `seed` in it.
fn touch(offset: u64, seed: u64) -> Result<u8> {
    let disk = File::open(SCRATCH)?;
    let page = Mapping::without_read_ahead(&disk, offset, PAGE as usize)?;
    Ok(u8::from(holds(&page, seed, offset).is_err()))
}

/// Maps pages of zeroes, checks that they are, and writes to them.
fn write_zeroes(count: u64) -> Result<u8> {
    let pages = raw::pages(count as usize)?;
    let zero = (0..pages.len).all(|at| raw::peek(pages.address + at as u64) == 0);
    for index in 0..count as usize {
        raw::poke(pages.page(index), 0xa5);
    }
    Ok(u8::from(!zero))
}

/// Maps `count` pages of the scratch disk, and reads the page after them.
fn poke_past(count: u64) -> Result<u8> {
    let disk = File::open(SCRATCH)?;
    let pages = raw::map_pages(disk.fd(), 0, count as usize, prot::READ, map::SHARED)?;
    raw::peek(pages.page(count as usize));
    Ok(0)
}

/// Writes to a mapping that is for reading (0) or for executing (1).
fn poke_mapping(executable: u64) -> Result<u8> {
    let disk = File::open(SCRATCH)?;
    let rights = match executable {
        0 => prot::READ,
        _ => prot::READ | prot::EXEC,
    };
    let pages = raw::map_pages(disk.fd(), 0, 1, rights, map::PRIVATE)?;
    raw::poke(pages.address, 0);
    Ok(0)
}

/// Runs the code at the start of the scratch disk, from a mapping that is for executing (1) or is
/// not (0).
fn run_mapping(executable: u64) -> Result<u8> {
    let disk = File::open(SCRATCH)?;
    let rights = match executable {
        0 => prot::READ,
        _ => prot::READ | prot::EXEC,
    };
    let pages = raw::map_pages(disk.fd(), 0, 1, rights, map::SHARED)?;
    Ok(raw::jump(pages.address) as u8)
}

/// Writes the pattern of `seed` to a page of the scratch disk by a shared mapping.
fn write_shared(offset: u64, seed: u64) -> Result<u8> {
    let disk = File::open_writable(SCRATCH)?;
    let page = SharedMapping::of(&disk, offset, PAGE as usize)?;
    page.write(0, &check::pattern_of(seed, offset, PAGE as usize));
    Ok(0)
}

/// Adds 1 so many times to the first word of a page of the scratch disk.
fn add_shared(offset: u64, times: u64) -> Result<u8> {
    let disk = File::open_writable(SCRATCH)?;
    let page = SharedMapping::of(&disk, offset, PAGE as usize)?;
    for _ in 0..times {
        page.word(0)
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        yield_now();
    }
    Ok(0)
}

/// Says that it is here at the page `gate` of the scratch disk, waits until it is told when the
/// gate opens, and then touches page `page`, which is the pattern of its offset.
fn gate(gate: u64, page: u64) -> Result<u8> {
    use core::sync::atomic::Ordering;
    let disk = File::open_writable(SCRATCH)?;
    let words = SharedMapping::of(&disk, gate, PAGE as usize)?;
    let page_of_disk = Mapping::without_read_ahead(&disk, page, PAGE as usize)?;
    words.word(0).fetch_add(1, Ordering::AcqRel);
    let opens = loop {
        match words.word(8).load(Ordering::Acquire) {
            // A long time, for a hundred that look again are work for the kernel.
            0 => sleep(crate::pager::LOOK_NS),
            ticks => break Instant::from_ticks(ticks),
        }
    };
    sleep(Instant::now().ns_until(opens));
    Ok(u8::from(holds(&page_of_disk, page, page).is_err()))
}

/// Has the kernel keep as much for this process as it will, and for as many more like it.
fn hoard() -> Result<u8> {
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(1)?;
    let requests: Vec<_> = (0..MAX_IO as u64)
        .map(|number| IoRequest {
            fd: disk.fd() as u32,
            buf: memory.address,
            len: SECTOR,
            user_data: number,
            ..IoRequest::default()
        })
        .collect();
    let _ = submit(&requests);
    while raw::pages(1).is_ok() {}
    // Until there are no more of them.
    match check::start("hoard", &[]) {
        Ok(next) => Ok(u8::from(next.wait()? != Ended::Exited(0))),
        Err(Errno::ENOMEM | Errno::EAGAIN) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Exits while another of its threads never stops running.
fn with_a_spinner(status: u64) -> Result<u8> {
    let _spinner = Thread::spawn(|| {
        loop {
            core::hint::spin_loop();
        }
    })?;
    sleep(20_000_000);
    Ok(status as u8)
}

/// Exits while other threads sleep, read and wait for each other.
fn with_sleepers(status: u64) -> Result<u8> {
    for _ in 0..4 {
        Thread::spawn(|| sleep(60_000_000_000))?;
        Thread::spawn(|| {
            let never = Thread::spawn(|| sleep(60_000_000_000));
            never.and_then(Thread::join)
        })?;
        Thread::spawn(|| -> Result<()> {
            let disk = File::open_direct(SCRATCH)?;
            let mut block = MappingMut::zeroed(128 << 10)?;
            loop {
                disk.pread(&mut block, 0)?;
            }
        })?;
    }
    sleep(20_000_000);
    Ok(status as u8)
}

/// Starts children and does not wait for them.
fn orphans(count: u64) -> Result<u8> {
    for index in 0..count {
        let _: Process = check::start("sleep", &[["0", "20000000"][index as usize % 2]])?;
    }
    Ok(0)
}

/// Opens as much as it can and closes nothing.
fn open_all() -> Result<u8> {
    for _ in 3..MAX_FDS {
        core::mem::forget(File::open(SCRATCH)?);
    }
    let pages = raw::pages(64)?;
    for index in 0..64 {
        raw::poke(pages.page(index), 1);
    }
    Ok(u8::from(File::open(SCRATCH).is_ok()))
}
