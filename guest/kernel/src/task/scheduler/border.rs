//! The border between ring 3 and ring 0, as the scheduler sees it: what every trap asks on its way
//! in and out, the timer, and where a new thread begins.

#![allow(unsafe_code)]

use super::{
    ATTENTION, CURRENT_FPU, SCHEDULER, after_switch, attention, current_is_killed, current_process,
    exit_current, yield_now,
};
use crate::arch::{cpu, fpu};
use crate::block;
use crate::task::process;
use crate::trace::{self, event};
use core::sync::atomic::{AtomicU64, Ordering};

/// When the running program was last returned to while a disk had requests in flight.
static USER_SINCE: AtomicU64 = AtomicU64::new(0);

/// The first step of a trap that comes from ring 3: what the program has done since it was returned
/// to counts as work beside the requests that are in flight. They all were, all the while: requests
/// begin and end in ring 0.
#[inline(always)]
pub fn after_user() {
    if block::in_flight() != 0 {
        block::count_work(cpu::tsc() - USER_SINCE.load(Ordering::Relaxed));
    }
}

/// The last step of a trap that returns to ring 3.
#[inline(always)]
pub fn before_user() {
    if ATTENTION.load(Ordering::Relaxed) {
        attend();
    }
    // SAFETY: a user thread's area was initialised when it was made, and lives as long as it.
    unsafe { fpu::load(CURRENT_FPU.load(Ordering::Relaxed)) };
    if block::in_flight() != 0 {
        USER_SINCE.store(cpu::tsc(), Ordering::Relaxed);
    }
    trace::record(event::LEAVE, 0, 0);
}

#[cold]
fn attend() {
    ATTENTION.store(false, Ordering::Relaxed);
    if !current_is_killed() {
        yield_now();
    }
    if current_is_killed() {
        process::exit_thread(0);
    }
}

/// The timer interrupt: a quantum is used up, or a sleeper's time has come.
pub fn timer_expired() {
    let mut scheduler = SCHEDULER.borrow_mut();
    scheduler.timer_at = 0;
    scheduler.wake_sleepers();
    if scheduler.ready.is_empty() {
        scheduler.arm_timer();
    } else {
        attention();
    }
}

/// The first thing a new thread does, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn thread_starts() {
    after_switch();
    let user = current_process().is_some();
    if user {
        before_user();
    }
}

/// The last thing a kernel thread does.
#[unsafe(no_mangle)]
extern "C" fn thread_ends() -> ! {
    exit_current(0)
}
