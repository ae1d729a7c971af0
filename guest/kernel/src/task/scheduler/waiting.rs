//! Blocking and waking.

use super::{
    Choice, FAILED, MAX_THREADS, NEVER, SCHEDULER, State, ThreadId, Wait, idle, switch, switch_away,
};
use crate::arch::{cpu, time};
use crate::ipc::events::Watch;
use crate::sync::WaitQueue;
use crate::trace::{self, event};
use core::sync::atomic::Ordering;
use iolite_guest_abi::FOREVER;

/// Puts the running thread at the end of `queue`.
#[inline(always)]
pub(crate) fn enqueue_current(queue: &mut WaitQueue) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = ThreadId::at(scheduler.current);
    scheduler.enqueue(queue, current);
}

/// Blocks the running thread, which has joined a queue, until the queue is woken.
#[inline(always)]
pub fn block_queued() {
    SCHEDULER.borrow_mut().running().state = State::Blocked(Wait::Queue);
    switch_away();
}

/// Blocks the running thread until it is woken by what it waits for, or killed. The caller checks
/// again.
pub fn block(wait: Wait) {
    block_until(wait, NEVER);
}

/// When `nanoseconds` from now are over; [`iolite_guest_abi::FOREVER`] never are.
pub fn deadline(nanoseconds: u64) -> u64 {
    match nanoseconds {
        FOREVER => NEVER,
        _ => cpu::tsc().saturating_add(time::ticks(nanoseconds)),
    }
}

/// Is a [`deadline`] over?
pub fn is_past(deadline: u64) -> bool {
    deadline != NEVER && cpu::tsc() >= deadline
}

/// As [`block`], but not after the time stamp counter has reached `tsc`.
pub fn block_until(wait: Wait, tsc: u64) {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        scheduler.running().state = State::Blocked(wait);
        if wait.is_matched() {
            scheduler.watch();
        }
        if tsc != NEVER {
            let slot = scheduler.current as u16;
            scheduler.timers.set(slot, tsc);
        }
    }
    switch_away();
}

/// Blocks the running thread for `nanoseconds`, or until it is killed.
pub fn pause(nanoseconds: u64) {
    block_until(Wait::Sleep, deadline(nanoseconds));
}

/// Wakes every thread that waits for one of the things that `watch` stands for.
pub fn wake_watchers(watch: Watch) {
    let meets = |wait| matches!(wait, Wait::Events(watched) if watched.meets(watch));
    SCHEDULER.borrow_mut().wake_if(meets);
}

/// Wakes every thread that waits for `wait`.
pub fn wake_matching(wait: Wait) {
    SCHEDULER.borrow_mut().wake_if(|other| other == wait);
}

pub(crate) fn wake_queue(queue: &mut WaitQueue) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let mut waiting = queue.first.take();
    while let Some(thread) = waiting {
        waiting = scheduler.threads[thread.slot()].link;
        scheduler.make_ready(thread);
    }
}

/// Lets every other ready thread run first.
pub fn yield_now() {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        if scheduler.ready.is_empty() {
            return;
        }
        let current = ThreadId::at(scheduler.current);
        scheduler.add_ready(current);
    }
    switch_away();
}

/// The request of `thread` has completed.
#[inline(always)]
pub fn request_ended(thread: ThreadId, ok: bool) {
    if !ok {
        FAILED[thread.slot()].store(true, Ordering::Relaxed);
    }
    let mut scheduler = SCHEDULER.borrow_mut();
    if scheduler.threads[thread.slot()].state != State::Blocked(Wait::Request) {
        return;
    }
    if thread.slot() == scheduler.current && scheduler.ready.is_empty() {
        // The processor sleeps on the stack of this very thread, and nobody is before it.
        scheduler.running().state = State::Running;
        trace::record(event::WAKE, thread.number(), 0);
    } else {
        scheduler.add_ready(thread);
    }
}

/// Blocks the running thread until its request, which has just been submitted, has completed. (It
/// cannot have completed yet: interrupts are off.) Did it succeed?
#[inline(always)]
pub fn wait_for_request() -> bool {
    let (current, mut choice) = {
        let mut scheduler = SCHEDULER.borrow_mut();
        scheduler.running().state = State::Blocked(Wait::Request);
        (scheduler.current, scheduler.choose())
    };
    loop {
        match choice {
            Choice::Idle => idle(),
            Choice::Same => break,
            Choice::Switch { save, next } => {
                switch(save, next);
                break;
            }
        }
        let mut scheduler = SCHEDULER.borrow_mut();
        if scheduler.running().state == State::Running {
            trace::record(event::RUN, ThreadId::at(current).number(), 0);
            break; // see `request_ended`
        }
        choice = scheduler.choose();
    }
    !take_failure_of(current)
}

/// Has a request of the running thread failed that it has not waited for by [`wait_for_request`]?
pub fn take_failed() -> bool {
    let current = SCHEDULER.borrow().current;
    take_failure_of(current)
}

#[inline(always)]
fn take_failure_of(slot: usize) -> bool {
    let failed = &FAILED[slot % MAX_THREADS];
    let any = failed.load(Ordering::Relaxed);
    if any {
        failed.store(false, Ordering::Relaxed);
    }
    any
}
