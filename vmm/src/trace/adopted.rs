//! A kernel's half of a trace, to be copied: docs/tracing.md shows this code, and the test below writes
//! a request's life with it.

#![allow(unsafe_code)]

// adopt: begin
/// The kernel's ring; `window` is where the window of `iolite.trace=SIZE@ADDRESS` is mapped.
pub struct Ring {
    window: *mut u8,
    capacity: u64,
    written: u64,
}

pub const RUN: u8 = 1;
pub const IDLE: u8 = 2;
pub const ENTER: u8 = 3;
pub const LEAVE: u8 = 4;
pub const ADD: u8 = 5;
pub const NOTIFY: u8 = 6;
pub const INTERRUPT: u8 = 7;
pub const HARVEST: u8 = 8;
pub const WAKE: u8 = 9;
pub const NAME: u8 = 10;

impl Ring {
    /// None if there is no ring that this code knows.
    ///
    /// # Safety
    /// `window` is mapped, writable, for as long as the ring is used, and nobody else writes to it.
    pub unsafe fn new(window: *mut u8) -> Option<Ring> {
        // SAFETY: the header is at the beginning of the window.
        let [magic, version, capacity] =
            [0, 1, 2].map(|i| unsafe { window.cast::<u32>().add(i).read_volatile() });
        (magic == u32::from_le_bytes(*b"iotr") && version == 2).then_some(Ring {
            window,
            capacity: capacity.into(),
            written: 0,
        })
    }

    /// Reports an event. Interrupts are off, or it could be torn by another one.
    pub fn event(&mut self, tsc: u64, kind: u8, a: u16, b: u32, [c, d]: [u64; 2]) {
        let word = u64::from(kind) | u64::from(a) << 16 | u64::from(b) << 32;
        let place = self.written % self.capacity * 32;
        self.written += 1;
        // SAFETY: `capacity` events of 32 bytes follow the page of header. Volatile stores keep their
        // order, and so does an x86 processor: the count comes after the event.
        unsafe {
            let event = self.window.add(0x1000 + place as usize).cast::<u64>();
            for (i, value) in [tsc, word, c, d].into_iter().enumerate() {
                event.add(i).write_volatile(value);
            }
            self.window
                .add(0x40)
                .cast::<u64>()
                .write_volatile(self.written);
        }
    }
}
// adopt: end

use iolite_devices::trace::{Event, Point, operation};
use iolite_devices_abi::trace::TRACE_BASE;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::assemble::assemble;
use super::clock::Scale;
use super::model::{Moment, NEVER};
use super::raw::Recording;
use super::ring::{Reader, prepare};
use crate::memory;

#[test]
fn the_documentation_shows_this_code() {
    let this = include_str!("adopted.rs");
    let (_, code) = this.split_once("// adopt: begin\n").unwrap();
    let (code, _) = code.split_once("// adopt: end\n").unwrap();
    let text = include_str!("../../../docs/tracing.md");
    assert!(
        text.contains(code),
        "docs/tracing.md differs from adopted.rs"
    );
}

/// What a small kernel says of one blocking read, and what comes of it.
#[test]
fn a_kernel_that_adopts_it_has_its_half() {
    let memory = memory::create(memory::MIN_BYTES).unwrap();
    let memory = memory::with_trace_window(memory).unwrap();
    let window = memory.get_host_address(GuestAddress(TRACE_BASE)).unwrap();
    // SAFETY: the window lives as long as the memory, and the reader only reads.
    assert!(unsafe { Ring::new(window) }.is_none());
    prepare(&memory).unwrap();
    // SAFETY: as above.
    let mut ring = unsafe { Ring::new(window) }.unwrap();
    let name = [u64::from_le_bytes(*b"reader\0\0"), 0];
    for (tsc, kind, a, b) in [
        (1, NAME, 7, 1),
        (2, RUN, 7, 0),
        (10, ENTER, 0, 17),
        (20, ADD, 3, 0),
        (30, NOTIFY, 0, 0),
        (40, IDLE, 0, 0),
        (100, INTERRUPT, 0, 5),
        (110, HARVEST, 3, 0),
        (120, WAKE, 7, 0),
        (130, RUN, 7, 0),
        (140, LEAVE, 0, 0),
    ] {
        let more = if kind == NAME { name } else { [0; 2] };
        ring.event(tsc, kind, a, b, more);
    }
    let mut recording = Recording {
        threads: vec!["vda-queue".into()],
        disks: vec!["vda".into()],
        ..Recording::default()
    };
    Reader::default().drain(&memory, |event| recording.guest.push(event));
    let points = [
        (50, Point::Popped),
        (55, Point::Parsed),
        (60, Point::Begun),
        (80, Point::Ended),
        (90, Point::Used),
    ];
    let device = points.map(|(tsc, point)| Event {
        tsc,
        point,
        disk: 0,
        queue: 0,
        head: 3,
        a: 0,
        b: u64::from(operation::READ) << 56 | 4096,
    });
    recording.host.extend(device.map(|event| (0, event)));
    let trace = assemble(&recording, &Scale::nanoseconds(1000), 0);
    let [request] = trace.requests.as_slice() else {
        panic!("{:?}", trace.requests);
    };
    assert_eq!(trace.names.text(request.path), "blocking-read");
    assert_eq!(request.when(Moment::Returned), Some(140));
    let seen: Vec<u64> = request.at.into_iter().filter(|at| *at != NEVER).collect();
    let moments = [10, 20, 30, 50, 55, 60, 80, 90, 100, 110, 120, 130, 140];
    assert_eq!(seen, moments);
    let asker = &trace.lanes[usize::from(request.asker.unwrap())];
    assert_eq!(asker.name, "reader [1], thread 7");
}
