//! Faults that a program handles itself: it sees what happened and where, goes on with every register
//! as it was, or ends as if it had said nothing.

use crate::check::{Check, FAULTY, PAGE, end_of, equal, refused};
use crate::ensure;
use crate::raw;
use crate::run::Test;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use iolite_user::abi::{FaultFrame, Number};
use iolite_user::{Ended, Errno, Fault, File, Mapping, Resolution, Result, Thread, on_fault};

pub const TESTS: &[Test] = &[
    Test::plain("fault_handler_keeps_registers", keeps_registers),
    Test::plain("fault_handler_sees_what_and_where", sees),
    Test::plain("fault_handler_may_let_go", lets_go),
    Test::plain("fault_handler_without_a_stack", no_stack),
    Test::plain("fault_handler_that_faults", faults_itself),
    Test::plain("fault_handler_arguments_are_checked", arguments),
    Test::faulty("faulty_pages_can_be_probed", probed),
    Test::faulty("faulty_page_is_seen_by_all_who_ask", seen_by_all),
];

static SEEN: AtomicU64 = AtomicU64::new(0);

fn step_over(frame: &mut FaultFrame) -> Resolution {
    SEEN.fetch_add(1, Ordering::Relaxed);
    frame.rip += raw::UD2_BYTES;
    Resolution::TryAgain
}

fn keeps_registers() -> Check {
    on_fault(step_over)?;
    for round in 1..=3 {
        equal("registers changed", raw::hold_registers_over_a_fault(), 0)?;
        equal("faults", SEEN.load(Ordering::Relaxed), round)?;
    }
    Ok(())
}

/// Takes note of the fault and has the thread read page `PLACE` instead.
fn note(frame: &mut FaultFrame) -> Resolution {
    SEEN.store(frame.address << 8 | frame.fault, Ordering::Relaxed);
    let place = PLACE.load(Ordering::Relaxed);
    for register in [
        &mut frame.rdi,
        &mut frame.rsi,
        &mut frame.rax,
        &mut frame.rcx,
        &mut frame.rdx,
    ] {
        if *register == frame.address {
            *register = place;
        }
    }
    Resolution::TryAgain
}

static PLACE: AtomicU64 = AtomicU64::new(0);

fn sees() -> Check {
    let page = raw::pages(1)?;
    raw::poke(page.address, 42);
    PLACE.store(page.address, Ordering::Relaxed);
    on_fault(note)?;
    let bad = raw::UNMAPPED + 7;
    equal("what was there instead", raw::peek(bad), 42)?;
    let wanted = bad << 8 | Fault::BadAddress as u64;
    equal("fault", SEEN.load(Ordering::Relaxed), wanted)
}

/// Role: handles faults in one of several ways that do not end well.
pub fn fault_badly(way: u64) -> Result<u8> {
    match way {
        // Says that it cannot.
        0 => {
            on_fault(|_| Resolution::End)?;
            raw::peek(raw::UNMAPPED);
        }
        // Faults in the handler, for ever.
        1 => {
            on_fault(|frame| {
                raw::peek(frame.address);
                Resolution::TryAgain
            })?;
            raw::peek(raw::UNMAPPED);
        }
        // Has no stack that the kernel could use.
        2 => {
            on_fault(step_over)?;
            raw::touch_with_stack(raw::UNMAPPED, raw::UNMAPPED);
        }
        3 => {
            on_fault(step_over)?;
            raw::touch_with_stack(raw::UNMAPPED, 8);
        }
        4 => {
            on_fault(step_over)?;
            raw::touch_with_stack(raw::UNMAPPED, raw::KERNEL);
        }
        // Executes what is no instruction, and lets go.
        5 => {
            on_fault(|_| Resolution::End)?;
            raw::hold_registers_over_a_fault();
        }
        // Took its handler away.
        _ => {
            on_fault(step_over)?;
            raw::call(Number::FaultHandler, &[0])?;
            raw::peek(raw::UNMAPPED);
        }
    }
    Ok(0)
}

fn ends_with(way: &str, fault: Fault) -> Check {
    equal(
        "ended",
        end_of("fault-badly", &[way])?,
        Ended::Killed(fault),
    )
}

fn lets_go() -> Check {
    ends_with("0", Fault::BadAddress)?;
    ends_with("5", Fault::BadInstruction)?;
    ends_with("6", Fault::BadAddress)
}

fn no_stack() -> Check {
    ends_with("2", Fault::BadAddress)?;
    ends_with("3", Fault::BadAddress)?;
    ends_with("4", Fault::BadAddress)
}

fn faults_itself() -> Check {
    ends_with("1", Fault::BadAddress)
}

fn arguments() -> Check {
    for entry in [raw::KERNEL, raw::NOWHERE, 1, u64::MAX] {
        refused(
            "entry",
            raw::call(Number::FaultHandler, &[entry]),
            Errno::EINVAL,
        )?;
    }
    equal(
        "none before",
        raw::call(Number::FaultHandler, &[raw::UNMAPPED])?,
        0,
    )?;
    let before = raw::call(Number::FaultHandler, &[0])?;
    equal("before", before, raw::UNMAPPED)?;
    for frame in [0, raw::UNMAPPED, raw::KERNEL, raw::NOWHERE] {
        refused(
            "frame",
            raw::call(Number::FaultUnhandled, &[frame]),
            Errno::EFAULT,
        )?;
    }
    let nothing = raw::pages(1)?;
    let unhandled = raw::call(Number::FaultUnhandled, &[nothing.address]);
    refused("no fault", unhandled, Errno::EINVAL)
}

/// Which pages of the disk's beginning cannot be read, as a mapping tells.
fn bad_pages(mapping: &Mapping) -> core::result::Result<Vec<usize>, Errno> {
    let mut bad = Vec::new();
    for page in 0..mapping.len() / PAGE as usize {
        match mapping.try_touch(page * PAGE as usize) {
            Ok(_) => {}
            Err(Errno::EIO) => bad.push(page),
            Err(error) => return Err(error),
        }
    }
    Ok(bad)
}

fn probed() -> Check {
    let disk = File::open(FAULTY)?;
    let len = (disk.stat()?.size & !(PAGE - 1)).min(4 << 20) as usize;
    let mapping = Mapping::of(&disk, 0, len)?;
    let bad = bad_pages(&mapping)?;
    ensure!(!bad.is_empty(), "no sector of {FAULTY} fails");
    // Each try reads anew, and fails anew; and `read` agrees.
    let before = disk.disk_stats()?.errors;
    equal("again", &bad_pages(&mapping)?, &bad)?;
    let errors = disk.disk_stats()?.errors - before;
    ensure!(errors >= bad.len() as u64, "{errors} errors");
    let mut wanted = vec![0; PAGE as usize];
    for page in 0..len / PAGE as usize {
        let at = page * PAGE as usize;
        let read = disk.pread_exact(&mut wanted, at as u64);
        equal("fails", read.is_err(), bad.contains(&page))?;
        if read.is_ok() {
            ensure!(
                mapping[at..at + PAGE as usize] == wanted[..],
                "page {page} differs"
            );
        }
    }
    Ok(())
}

/// Threads that wait for the same read all see it fail, and one that wants its neighbour does not.
fn seen_by_all() -> Check {
    let disk = File::open(FAULTY)?;
    let len = (disk.stat()?.size & !(PAGE - 1)).min(4 << 20) as usize;
    let bad = bad_pages(&Mapping::of(&disk, 0, len)?)?;
    let bad = *bad.first().ok_or(Errno::ENOENT)?;
    let threads: Result<Vec<Thread<Result<u8>>>> = (0..16)
        .map(|index| {
            let good = index % 4 == 3;
            let page = if good { bad.saturating_sub(1) } else { bad };
            Thread::spawn(move || {
                let disk = File::open(FAULTY)?;
                let offset = page as u64 * PAGE;
                let mapping = Mapping::without_read_ahead(&disk, offset, PAGE as usize)?;
                mapping.try_touch(0)
            })
        })
        .collect();
    for (index, thread) in threads?.into_iter().enumerate() {
        let touched = thread.join()?;
        if index % 4 == 3 {
            ensure!(touched.is_ok(), "the neighbour gave {touched:?}");
        } else {
            refused("the page", touched, Errno::EIO)?;
        }
    }
    Ok(())
}
