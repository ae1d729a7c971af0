//! Events for the VMM's trace: who runs, who asks, who is told (`iolite_devices_abi::trace`).
//!
//! Only a kernel that is built with the feature `trace` writes any; in the other one every call
//! here is nothing at all. Where ring 0 is emulated even a test would cost two instructions'
//! time, which is why they are left out rather than switched off.

#![allow(unsafe_code)]

mod rings;

use crate::arch::cpu;
use crate::mm::frame;
use crate::mm::layout::{PAGE, TRACE_WINDOW};
use crate::mm::paging::{self, NO_EXECUTE, PRESENT, WRITABLE};
use arrayvec::ArrayString;
use core::sync::atomic::{AtomicBool, Ordering};
use iolite_devices_abi::trace::{
    EVENT_BYTES, TRACE_BYTES, TRACE_EVENTS, event_word, header, kind, purpose, ring_bytes,
};
use iolite_guest_abi::Number;
use iolite_guest_core::cmdline::{self, Word};

pub use iolite_devices_abi::trace::{ask, kind as event};
pub use rings::{lend, lend_ring, take_ring_back};

/// Is this kernel built to write events?
const ON: bool = cfg!(feature = "trace");

/// What is submitted now is read ahead.
static READING_AHEAD: AtomicBool = AtomicBool::new(false);

/// Maps the kernel's ring in the window that the command line names. Without one, events go to a page
/// of our own.
pub fn init(line: &str) {
    if !ON {
        return;
    }
    let named = cmdline::words(line).find_map(|word| match word {
        Word::Trace(window) if window.bytes == TRACE_BYTES => Some(window.address),
        _ => None,
    });
    rings::init(named.unwrap_or(0));
    let sink = frame::alloc_zeroed().map(|frame| frame.physical());
    for page in 0..ring_bytes(TRACE_EVENTS) / PAGE {
        let physical = named.map(|window| window + page * PAGE).or(sink);
        let Some(physical) = physical else {
            panic!("no memory for a page of events");
        };
        let value = physical | PRESENT | WRITABLE | NO_EXECUTE;
        let mapped = paging::map_kernel(TRACE_WINDOW + page * PAGE, value);
        assert!(mapped.is_some(), "no memory to map the trace");
    }
    for number in 0..=u64::from(u16::MAX) {
        match Number::from_raw(number) {
            Some(call) => {
                let word = event_word(kind::CALL_NAME, 0, number as u32);
                record_text(word, &snake_case(call.name()));
            }
            None => break,
        }
    }
}

/// An event with `a` and `b`.
#[inline(always)]
pub fn record(kind: u8, a: u16, b: u32) {
    if ON {
        write(event_word(kind, a, b), [0; 0]);
    }
}

/// The running thread enters the kernel: see [`event::ENTER`].
#[inline(always)]
pub fn enter(why: u16, number: u64, argument: u64) {
    if ON {
        write(event_word(kind::ENTER, why, number as u32), [argument]);
    }
}

/// A request has been added to the first queue of disk `disk`.
#[inline(always)]
pub fn add(head: u16, disk: usize, purpose: u8) {
    if ON {
        let ahead = purpose == purpose::PAGE && READING_AHEAD.load(Ordering::Relaxed);
        let purpose = if ahead { purpose::READ_AHEAD } else { purpose };
        record(kind::ADD, head, disk as u32 | u32::from(purpose) << 8);
    }
}

/// Do pages that are submitted from now on have nobody who waits for them?
#[inline(always)]
pub fn reading_ahead(on: bool) {
    if ON {
        READING_AHEAD.store(on, Ordering::Relaxed);
    }
}

/// Thread `thread` belongs to process `process` (0: the kernel); its program's name, if it is known.
pub fn name(thread: u16, process: u16, text: &str) {
    if ON {
        record_text(event_word(kind::NAME, thread, process.into()), text);
    }
}

/// `IoSubmit` is called `io_submit`.
fn snake_case(name: &str) -> ArrayString<32> {
    let mut text = ArrayString::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            let _ = text.try_push('_');
        }
        let _ = text.try_push(letter.to_ascii_lowercase());
    }
    text
}

fn record_text(word: u64, text: &str) {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    let half = |at: usize| {
        let mut half = [0; 8];
        half.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(half)
    };
    write(word, [half(0), half(8)]);
}

/// Writes an event. There is one processor and interrupts are off: nobody comes in between.
#[inline(always)]
fn write<const N: usize>(word: u64, more: [u64; N]) {
    const { assert!(N <= 2 && TRACE_EVENTS.is_power_of_two()) };
    let written = (TRACE_WINDOW + header::WRITTEN) as *mut u64;
    let events = TRACE_WINDOW + header::BYTES;
    // SAFETY: `init`, the first thing after the kernel has its own page tables, has mapped header
    // and events for good; the VMM reads them, and the order of volatile stores is what it relies
    // on.
    unsafe {
        let number = written.read_volatile();
        let place = number % u64::from(TRACE_EVENTS) * EVENT_BYTES as u64;
        let event = (events + place) as *mut u64;
        event.write_volatile(cpu::tsc());
        event.add(1).write_volatile(word);
        for (i, value) in more.into_iter().enumerate() {
            event.add(2 + i).write_volatile(value);
        }
        written.write_volatile(number + 1);
    }
}
