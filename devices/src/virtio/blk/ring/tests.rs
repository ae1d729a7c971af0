//! The ring against a driver on another thread: each round is one chance for the two to miss each
//! other, with another distance between them, and what a missing fence lets through shows within a few
//! thousand of them. What an order of ours can do wrong is shown without chance: the driver acts between
//! the two instructions.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU16, AtomicU32};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileMemory,
};

use super::*;
use crate::first_write::at_first_write;
use crate::virtio::device::QueueLayout;

/// So many that the second half of the used ring's elements lies on another page than its index.
const SIZE: u16 = 1024;
const LAYOUT: QueueLayout = QueueLayout {
    size: SIZE,
    desc_table: GuestAddress(0),
    avail_ring: GuestAddress(0x4000),
    used_ring: GuestAddress(0x5000),
};
/// How long the rounds go on: longer on a machine where there were few of them, but not for ever.
const TIME: Duration = Duration::from_millis(400);
const ROUNDS: u32 = 100_000;
const PATIENCE: Duration = Duration::from_secs(4);

fn memory() -> Arc<GuestMemoryMmap> {
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap())
}

/// The driver's view of the rings.
struct Rings<'a> {
    avail_flags: &'a AtomicU16,
    avail_idx: &'a AtomicU16,
    used_event: &'a AtomicU16,
    used_flags: &'a AtomicU16,
    used_idx: &'a AtomicU16,
    avail_event: &'a AtomicU16,
    /// Head and length of each element.
    used: Vec<[&'a AtomicU32; 2]>,
}

impl<'a> Rings<'a> {
    fn of(memory: &'a GuestMemoryMmap) -> Self {
        let region = memory.iter().next().unwrap();
        assert_eq!(region.len(), 0x8000);
        let region: &vm_memory::MmapRegion = region;
        let word = |at: u64| region.get_atomic_ref::<AtomicU16>(at as usize).unwrap();
        let long = |at: u64| region.get_atomic_ref::<AtomicU32>(at as usize).unwrap();
        let (avail, used) = (LAYOUT.avail_ring.0, LAYOUT.used_ring.0);
        let element = |n| [long(used + 4 + 8 * n), long(used + 8 + 8 * n)];
        Rings {
            avail_flags: word(avail),
            avail_idx: word(avail + 2),
            used_event: word(avail + 4 + 2 * u64::from(SIZE)),
            used_flags: word(used),
            used_idx: word(used + 2),
            avail_event: word(used + 4 + 8 * u64::from(SIZE)),
            used: (0..u64::from(SIZE)).map(element).collect(),
        }
    }
}

/// Two threads that begin each step together, and then wait a little, each for another time.
#[derive(Default)]
struct Together([AtomicU32; 2]);

impl Together {
    const LEFT: u32 = u32::MAX;

    /// Begins a step; false if the other one has left.
    fn begin(&self, who: usize, step: u32) -> bool {
        let (mine, other) = (&self.0[who], &self.0[1 - who]);
        mine.store(step, Ordering::SeqCst);
        let mut looks = 0u32;
        while other.load(Ordering::SeqCst) < step {
            looks += 1;
            match looks % 4096 {
                // On a busy machine the other one may not be running.
                0 => thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
        let distance = step % [127, 113][who];
        for step in 0..distance {
            black_box(step);
        }
        other.load(Ordering::SeqCst) != Self::LEFT
    }

    fn leave(&self, who: usize) {
        self.0[who].store(Self::LEFT, Ordering::SeqCst);
    }
}

/// Runs `driver` and `device` at the same time, again and again; in each round one of them has to see
/// the other, and both say whether they did. Then the device gets ready for the next one. The driver
/// gets the number of the round.
fn one_sees_the_other(
    what: &str,
    ring: &mut Ring,
    driver: impl Fn(u16) -> bool,
    device: impl Fn(&mut Ring) -> bool + Sync,
    get_ready: impl Fn(&mut Ring) + Sync,
) {
    const NEVER: u32 = u32::MAX;
    let (together, seen) = (Together::default(), AtomicU32::new(NEVER));
    let missed = thread::scope(|scope| {
        scope.spawn(|| {
            get_ready(ring);
            for round in 0.. {
                if !together.begin(1, 3 * round + 1) {
                    return;
                }
                if device(ring) {
                    seen.store(round, Ordering::SeqCst);
                }
                together.begin(1, 3 * round + 2);
                get_ready(ring);
                together.begin(1, 3 * round + 3);
            }
        });
        let start = Instant::now();
        let go_on = |&round: &u32| {
            let time = start.elapsed();
            time < TIME || round < ROUNDS && time < PATIENCE
        };
        let missed = (0..).take_while(go_on).find(|&round| {
            together.begin(0, 3 * round + 1);
            let sees = driver(round as u16);
            together.begin(0, 3 * round + 2);
            let seen = seen.load(Ordering::SeqCst) == round;
            together.begin(0, 3 * round + 3);
            !sees && !seen
        });
        together.leave(0);
        missed
    });
    assert!(missed.is_none(), "{what}: lost in round {missed:?}");
}

#[test]
fn a_buffer_that_comes_as_the_device_goes_to_sleep_is_seen_or_notified_of() {
    for event_idx in [false, true] {
        let memory = memory();
        let rings = Rings::of(&memory);
        let mut ring = Ring::new(QueueStart::fresh(LAYOUT, &memory), event_idx).unwrap();
        let buffer_comes = |round: u16| {
            let next = round.wrapping_add(1);
            rings.avail_idx.store(next, Ordering::Release);
            fence(Ordering::SeqCst);
            match event_idx {
                true => rings.avail_event.load(Ordering::Relaxed) == round,
                false => rings.used_flags.load(Ordering::Relaxed) & USED_F_NO_NOTIFY == 0,
            }
        };
        let goes_to_sleep = |ring: &mut Ring| ring.rest().unwrap();
        let get_ready = |ring: &mut Ring| {
            ring.attend();
            // Every head is 0.
            if let Some(Popped { head, .. }) = ring.pop().unwrap() {
                ring.publish(head, 0);
            }
        };
        let what = format!("a wake-up, EVENT_IDX {event_idx}");
        one_sees_the_other(&what, &mut ring, buffer_comes, goes_to_sleep, get_ready);
    }
}

#[test]
fn a_completion_as_the_driver_goes_to_sleep_is_seen_or_interrupts() {
    for event_idx in [false, true] {
        let memory = memory();
        let rings = Rings::of(&memory);
        let mut ring = Ring::new(QueueStart::fresh(LAYOUT, &memory), event_idx).unwrap();
        let goes_to_sleep = |round: u16| {
            match event_idx {
                true => rings.used_event.store(round, Ordering::Relaxed),
                false => rings.avail_flags.store(0, Ordering::Relaxed),
            }
            fence(Ordering::SeqCst);
            rings.used_idx.load(Ordering::Acquire) != round
        };
        let completes = |ring: &mut Ring| {
            ring.publish(0, 0);
            ring.wants_interrupt()
        };
        // It is the driver that wants none while it is awake; but now it waits.
        let flags = rings.avail_flags;
        let get_ready = |_: &mut Ring| flags.store(AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
        let what = format!("an interrupt, EVENT_IDX {event_idx}");
        one_sees_the_other(&what, &mut ring, goes_to_sleep, completes, get_ready);
    }
}

/// Where the host has a page of guest memory.
fn page(memory: &GuestMemoryMmap, at: u64) -> *const u8 {
    memory.get_host_address(GuestAddress(at)).unwrap()
}

#[test]
fn the_device_looks_again_after_it_has_asked_for_notifications() {
    for event_idx in [false, true] {
        let memory = memory();
        let rings = Rings::of(&memory);
        let mut ring = Ring::new(QueueStart::fresh(LAYOUT, &memory), event_idx).unwrap();
        ring.attend();
        // The flags are on the first page of the used ring, avail_event on the third.
        let asks = LAYOUT.used_ring.0 + if event_idx { 0x2000 } else { 0 };
        let buffer_comes = || rings.avail_idx.store(1, Ordering::Release);
        let ready = at_first_write(page(&memory, asks), buffer_comes, || ring.rest().unwrap());
        assert!(ready, "EVENT_IDX {event_idx}");
    }
}

#[test]
fn a_used_element_is_there_before_the_index_that_covers_it() {
    let memory = memory();
    let rings = Rings::of(&memory);
    let mut ring = Ring::new(QueueStart::fresh(LAYOUT, &memory), false).unwrap();
    let second_page = page(&memory, LAYOUT.used_ring.0 + 0x1000);
    for index in 0..SIZE {
        let before = Cell::new(index);
        let look = || before.set(rings.used_idx.load(Ordering::Relaxed));
        let head = SIZE - 1 - index;
        let publish = || ring.publish(head, index.into());
        if index > SIZE / 2 {
            at_first_write(second_page, look, publish);
        } else {
            let mut publish = publish;
            publish();
        }
        assert_eq!(before.get(), index, "the index came first");
        assert_eq!(rings.used_idx.load(Ordering::Acquire), index + 1);
        let element = rings.used[usize::from(index)];
        let found = element.map(|word| word.load(Ordering::Relaxed));
        assert_eq!(found, [head, index].map(u32::from));
    }
}
