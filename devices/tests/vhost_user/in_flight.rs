//! A back-end that dies with requests in flight: the next one finishes them, in their order, and
//! repeats none that was answered.

use std::sync::Arc;

use iolite_devices::block::backend::fault::{FaultBackend, Faults};
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices_abi::blk::{S_OK, T_IN, T_OUT};

use super::front_end::*;
use super::{Disk, QUEUE_SIZE, config, pattern};

/// As many requests as the queue holds at once.
const SLOTS: u16 = QUEUE_SIZE / 3;

#[test]
fn what_was_popped_and_never_answered_is_done_by_the_next() {
    let faults = Arc::new(Faults::default());
    let stuck = Arc::new(MemoryBackend::writable(&pattern()).unwrap());
    let first = Disk::new(Arc::new(FaultBackend::new(stuck, faults.clone())), config());
    let mut front_end = first.cold();
    front_end.negotiate();
    front_end.track_in_flight();
    front_end.share_memory();
    front_end.start_queue(0, 0);
    assert_eq!(front_end.read(8), pattern()[4096..8192]);
    // Four workers hold a request each; the others wait for one, or were never popped.
    faults.hold();
    for slot in 0..SLOTS {
        front_end.put(FrontEnd::data_at(slot), &[slot as u8 + 1; 4096]);
        front_end.submit(0, slot, T_OUT, 8 * u64::from(slot));
    }
    front_end.kick(0);
    assert!(eventually(|| faults.held() > 0));
    // The first back-end is as good as dead: it holds what it has. Its memory lives on with us.
    let after = Arc::new(MemoryBackend::writable(&pattern()).unwrap());
    let second = Disk::new(after.clone(), config());
    front_end.reconnect(second.socket());
    let mut answered: Vec<_> = (0..SLOTS).map(|_| front_end.wait(0).unwrap()).collect();
    answered.sort_unstable();
    let all: Vec<_> = (0..SLOTS).map(|slot| (slot, S_OK)).collect();
    assert_eq!(answered, all);
    let mut expected = pattern();
    for slot in 0..usize::from(SLOTS) {
        expected[4096 * slot..4096 * (slot + 1)].fill(slot as u8 + 1);
    }
    assert!(after.contents() == expected);
    assert_eq!(front_end.request(0, T_IN, 0), S_OK);
    assert_eq!(front_end.used(0), None, "something was answered twice");
    faults.release();
}
