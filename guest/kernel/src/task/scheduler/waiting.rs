//! Blocking and waking.

use super::{NEVER, SCHEDULER, State, ThreadId, Wait, switch_away};
use crate::arch::{cpu, time};
use crate::ipc::events::Watch;
use crate::sync::WaitQueue;
use iolite_guest_abi::FOREVER;

/// Puts the running thread at the end of `queue`.
pub(crate) fn enqueue_current(queue: &mut WaitQueue) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.enqueue(queue, current);
}

/// Blocks the running thread, which has joined a queue, until the queue is woken.
pub fn block_queued() {
    block(Wait::Queue);
}

/// Blocks the running thread until [`wake_matching`] or a kill. The caller checks again what it
/// waits for.
pub fn block(wait: Wait) {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        let current = scheduler.current;
        scheduler.threads[current.slot()].state = State::Blocked(wait);
    }
    switch_away();
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
        let current = scheduler.current;
        let thread = &mut scheduler.threads[current.slot()];
        thread.state = State::Blocked(wait);
        thread.wake_at = tsc;
        if tsc != NEVER {
            scheduler.sleepers += 1;
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
    SCHEDULER.borrow_mut().wake_watchers(watch);
}

/// Wakes every thread that waits for `wait`.
pub fn wake_matching(wait: Wait) {
    SCHEDULER.borrow_mut().wake_matching(wait);
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
        let current = scheduler.current;
        scheduler.make_ready(current);
    }
    switch_away();
}

/// Marks the running thread as one that waits for its request, which it is about to submit. The
/// request cannot end before [`wait_for_request`] lets interrupts in.
#[inline(always)]
pub fn request_starts() -> ThreadId {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.threads[current.slot()].state = State::Blocked(Wait::Request);
    current
}

/// Takes back [`request_starts`]: the request was not taken.
pub fn request_not_started() {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.threads[current.slot()].state = State::Running;
}

/// The request of `thread` has completed.
#[inline(always)]
pub fn request_ended(thread: ThreadId, ok: bool) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let Some(waiting) = scheduler.threads.get_mut(thread.slot()) else {
        return;
    };
    waiting.request_failed = !ok;
    if waiting.state == State::Blocked(Wait::Request) {
        scheduler.make_ready(thread);
    }
}

/// Blocks the running thread until its request has completed. Did it succeed?
#[inline(always)]
pub fn wait_for_request() -> bool {
    switch_away();
    let scheduler = SCHEDULER.borrow_mut();
    !scheduler.threads[scheduler.current.slot()].request_failed
}
