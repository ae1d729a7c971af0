//! What a front-end can do wrong: an error that it is told, or the end of its connection, and a disk
//! that serves the next one.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::{S_OK, T_IN};
use proptest::prelude::*;

use super::front_end::*;
use super::{Disk, QUEUE_SIZE, config, pattern};

/// What becomes of a message that asks to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Refused,
    SentAway,
}

fn fate(front_end: &FrontEnd, request: u32, payload: &[u8], fds: &[RawFd]) -> Fate {
    match front_end.tell(request, payload, fds) {
        Some(true) => Fate::Done,
        Some(false) => Fate::Refused,
        None => Fate::SentAway,
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn pair(index: u32, value: u32) -> Vec<u8> {
    [index, value].map(u32::to_le_bytes).concat()
}

#[test]
fn messages_that_make_no_sense() {
    let disk = Disk::patterned();
    let eventfd = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    let (pipe, file) = (pipe(), tempfile::tempfile().unwrap());
    let (event, pipe, file) = (eventfd.as_raw_fd(), pipe.as_raw_fd(), file.as_raw_fd());
    let shared = memfd(MEMORY);
    let memory = shared.as_raw_fd();
    use Fate::{Refused, SentAway};
    type Case<'a> = (&'a str, Fate, u32, Vec<u8>, &'a [RawFd]);
    let cases: &[Case<'_>] = &[
        ("an unknown request", SentAway, 99, vec![], &[]),
        (
            "features cut short",
            SentAway,
            SET_FEATURES,
            vec![0; 7],
            &[],
        ),
        (
            "features that were not offered",
            Refused,
            SET_FEATURES,
            words(&[1 << 62]),
            &[],
        ),
        (
            "protocol features likewise",
            Refused,
            SET_PROTOCOL_FEATURES,
            words(&[1 << 62]),
            &[],
        ),
        (
            "a queue that is not there",
            Refused,
            SET_VRING_NUM,
            pair(1, 64),
            &[],
        ),
        (
            "and far from there",
            Refused,
            SET_VRING_NUM,
            pair(u32::MAX, 64),
            &[],
        ),
        (
            "a queue of no entries",
            Refused,
            SET_VRING_NUM,
            pair(0, 0),
            &[],
        ),
        ("of 3", Refused, SET_VRING_NUM, pair(0, 3), &[]),
        ("of too many", Refused, SET_VRING_NUM, pair(0, 128), &[]),
        (
            "with high bits",
            Refused,
            SET_VRING_NUM,
            pair(0, 0x1_0040),
            &[],
        ),
        (
            "a base beyond 16 bits",
            Refused,
            SET_VRING_BASE,
            pair(0, 0x1_0000),
            &[],
        ),
        (
            "the base of no queue",
            SentAway,
            GET_VRING_BASE,
            pair(7, 0),
            &[],
        ),
        (
            "a ring that is logged",
            Refused,
            SET_VRING_ADDR,
            words(&[1 << 32, 0, 0, 0, 0]),
            &[],
        ),
        (
            "enabling no queue",
            Refused,
            SET_VRING_ENABLE,
            pair(9, 1),
            &[],
        ),
        (
            "a kick that is a file",
            Refused,
            SET_VRING_KICK,
            words(&[0]),
            &[file],
        ),
        (
            "a kick that is a pipe",
            Refused,
            SET_VRING_KICK,
            words(&[0]),
            &[pipe],
        ),
        (
            "no kick, for ever",
            Refused,
            SET_VRING_KICK,
            words(&[0x100]),
            &[],
        ),
        (
            "a kick that did not come",
            SentAway,
            SET_VRING_KICK,
            words(&[0]),
            &[],
        ),
        (
            "a call that is a file",
            Refused,
            SET_VRING_CALL,
            words(&[0]),
            &[file],
        ),
        (
            "the call of no queue",
            Refused,
            SET_VRING_CALL,
            words(&[255]),
            &[event],
        ),
        (
            "two calls",
            SentAway,
            SET_VRING_CALL,
            words(&[0]),
            &[event, event],
        ),
        (
            "an err that is a pipe",
            Refused,
            SET_VRING_ERR,
            words(&[0]),
            &[pipe],
        ),
        (
            "a channel that is no socket",
            Refused,
            SET_BACKEND_REQ_FD,
            vec![],
            &[file],
        ),
        (
            "no memory file",
            SentAway,
            SET_MEM_TABLE,
            words(&[1, 0, MEMORY, 0, 0]),
            &[],
        ),
        (
            "too few of them",
            SentAway,
            SET_MEM_TABLE,
            words(&[2, 0, 1, 0, 0, 9, 9, 9, 9]),
            &[memory],
        ),
        (
            "a table of no regions",
            Refused,
            SET_MEM_TABLE,
            words(&[0]),
            &[],
        ),
        (
            "a million regions",
            SentAway,
            SET_MEM_TABLE,
            words(&[1_000_000]),
            &[],
        ),
        (
            "memory beyond its file",
            Refused,
            SET_MEM_TABLE,
            words(&[1, 0, MEMORY + 4096, 0, 0]),
            &[memory],
        ),
        (
            "memory that wraps",
            Refused,
            SET_MEM_TABLE,
            words(&[1, u64::MAX - 4095, 8192, 0, 0]),
            &[memory],
        ),
        (
            "memory of 2^63",
            Refused,
            SET_MEM_TABLE,
            words(&[1, 0, 1 << 63, 0, 0]),
            &[memory],
        ),
        (
            "memory of nothing",
            Refused,
            SET_MEM_TABLE,
            words(&[1, 0, 0, 0, 0]),
            &[memory],
        ),
        (
            "memory that is a pipe",
            Refused,
            SET_MEM_TABLE,
            words(&[1, 0, 4096, 0, 0]),
            &[pipe],
        ),
        (
            "an offset between pages",
            Refused,
            SET_MEM_TABLE,
            words(&[1, 0, 4096, 0, 1]),
            &[memory],
        ),
        (
            "a region that is not there",
            Refused,
            REM_MEM_REG,
            words(&[0, 1, 2, 3, 4]),
            &[],
        ),
        (
            "memory for queues that are not there",
            Refused,
            SET_INFLIGHT_FD,
            words(&[64, 0, 9 | 64 << 16]),
            &[memory],
        ),
        (
            "memory for no queues",
            Refused,
            SET_INFLIGHT_FD,
            words(&[64, 0, 64 << 16]),
            &[memory],
        ),
        (
            "memory for all that is in flight in the world",
            Refused,
            SET_INFLIGHT_FD,
            words(&[u64::MAX, 0, 1 | 64 << 16]),
            &[memory],
        ),
        (
            "none of it",
            Refused,
            SET_INFLIGHT_FD,
            words(&[0, 0, 1 | 64 << 16]),
            &[memory],
        ),
        (
            "beyond its file",
            Refused,
            SET_INFLIGHT_FD,
            words(&[4096, MEMORY, 1 | 64 << 16]),
            &[memory],
        ),
    ];
    for (what, expected, request, payload, fds) in cases {
        let front_end = disk.cold();
        front_end.negotiate();
        let found = fate(&front_end, *request, payload, fds);
        // A table of no regions leaves no memory: that shows when a queue starts.
        let expected = if *what == "a table of no regions" {
            Fate::Done
        } else {
            *expected
        };
        assert_eq!(found, expected, "{what}");
    }
    disk.assert_serves();
}

#[test]
fn a_queue_that_cannot_start() {
    let disk = Disk::patterned();
    let start = |addresses: &[u8]| {
        let front_end = disk.cold();
        front_end.negotiate();
        front_end.share_memory();
        front_end.tell(SET_VRING_NUM, &pair(0, u32::from(QUEUE_SIZE)), &[]);
        if !addresses.is_empty() {
            front_end.tell(SET_VRING_ADDR, addresses, &[]);
        }
        let kick = front_end.queues[0].kick.as_raw_fd();
        assert_eq!(
            fate(&front_end, SET_VRING_KICK, &words(&[0]), &[kick]),
            Fate::Done
        );
        fate(&front_end, SET_VRING_ENABLE, &pair(0, 1), &[])
    };
    let (desc, used, avail) = (USER + 0x1000, USER + 0x8000, USER + 0x6000);
    assert_eq!(start(&words(&[0, desc, used, avail, 0])), Fate::Done);
    assert_eq!(start(&[]), Fate::Refused, "no addresses");
    for (what, parts) in [
        (
            "addresses of the guest, not of the front-end",
            [0x1000, 0x8000, 0x6000],
        ),
        ("nowhere", [u64::MAX, u64::MAX, u64::MAX]),
        ("a table over the end", [USER + MEMORY - 16, used, avail]),
        ("a used ring over the end", [desc, USER + MEMORY - 8, avail]),
        ("crooked", [desc + 1, used, avail]),
        ("crooked as well", [desc, used + 2, avail]),
        ("an odd available ring", [desc, used, avail + 1]),
    ] {
        let [desc, used, avail] = parts;
        assert_eq!(
            start(&words(&[0, desc, used, avail, 0])),
            Fate::Refused,
            "{what}"
        );
    }
    disk.assert_serves();
}

#[test]
fn what_a_live_queue_does_not_take() {
    let disk = Disk::patterned();
    let front_end = disk.front_end();
    assert_eq!(
        fate(&front_end, SET_VRING_NUM, &pair(0, 8), &[]),
        Fate::Refused
    );
    assert_eq!(
        fate(&front_end, SET_VRING_BASE, &pair(0, 8), &[]),
        Fate::Refused
    );
    let moved = words(&[0, USER, USER + 0x8000, USER + 0x6000, 0]);
    assert_eq!(fate(&front_end, SET_VRING_ADDR, &moved, &[]), Fate::Refused);
    let same = front_end.vring_addr(0);
    assert_eq!(fate(&front_end, SET_VRING_ADDR, &same, &[]), Fate::Done);
    assert_eq!(
        fate(&front_end, SET_FEATURES, &words(&[F_PROTOCOL]), &[]),
        Fate::Refused
    );
    let mut front_end = front_end;
    assert_eq!(front_end.request(0, T_IN, 0), S_OK);
}

/// Memory that goes away from under a live queue is refused, and the queue ends with the session.
#[test]
fn a_live_queue_whose_memory_is_taken() {
    let disk = Disk::patterned();
    let front_end = disk.front_end();
    let region = words(&[0, 0, MEMORY, USER, 0]);
    assert_eq!(fate(&front_end, REM_MEM_REG, &region, &[]), Fate::Refused);
    drop(front_end);
    disk.assert_serves();
}

#[test]
fn a_ring_that_breaks_the_rules_is_told_of_by_its_err() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    let at = front_end.avail_idx_at(0);
    front_end.put(at, &(QUEUE_SIZE + 1).to_le_bytes());
    front_end.kick(0);
    assert!(eventually(|| front_end.queues[0].err.read().is_ok()));
    assert!(front_end.queues[0].call.read().is_err());
    // The queue alone is broken: set up anew it works.
    front_end.stop_queue(0);
    front_end.put(at, &[0; 2]);
    front_end.start_queue(0, 0);
    assert_eq!(front_end.request(0, T_IN, 0), S_OK);
}

/// The guest's memory is cut short under a live queue: whatever its rings say then, the disk goes on.
#[test]
fn memory_that_vanishes() {
    let disk = Disk::patterned();
    for bytes in [0, 0x1000, 0x8000, DATA] {
        let mut front_end = disk.front_end();
        front_end.read(0);
        for slot in 0..8 {
            front_end.submit(0, slot, T_IN, 0);
        }
        front_end.kick(0);
        front_end.shared.set_len(bytes).unwrap();
        // Nobody may touch what is gone but the device.
        for _ in 0..20 {
            front_end.kick(0);
            thread::sleep(Duration::from_micros(200));
        }
        drop(front_end);
        assert!(disk.how_it_ended().is_ok());
    }
    disk.assert_serves();
}

#[test]
fn chains_that_make_no_sense() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    // Data outside memory, and a header outside: an error for that request alone.
    front_end.chain(0, 0, &[(MEMORY, 16, 0), (DATA, 512, 2), (0x1_8000, 1, 2)]);
    front_end.make_available(0, 0);
    front_end.kick(0);
    assert_eq!(front_end.wait(0).unwrap().0, 0);
    assert_eq!(front_end.request(0, T_IN, 0), S_OK);
}

#[test]
fn a_full_call_does_not_hold_a_queue_up() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    front_end.queues[0].call.write(u64::MAX - 1).unwrap();
    for _ in 0..20 {
        assert_eq!(front_end.request(0, T_IN, 0), S_OK);
    }
}

/// A session that is cut off at every byte of its beginning.
#[test]
fn a_front_end_that_dies_at_any_byte() {
    let disk = Disk::patterned();
    let message = |request: u32, payload: &[u8]| {
        let head = [request, 1, payload.len() as u32].map(u32::to_le_bytes);
        [head.as_flattened(), payload].concat()
    };
    let all = [
        message(GET_FEATURES, &[]),
        message(SET_FEATURES, &words(&[F_PROTOCOL | 1 << 32])),
        message(SET_VRING_NUM, &pair(0, 64)),
        message(SET_VRING_ADDR, &words(&[0, USER, USER, USER, 0])),
    ]
    .concat();
    for end in 0..all.len() {
        let front_end = disk.cold();
        (&front_end.socket).write_all(&all[..end]).unwrap();
    }
    disk.assert_serves();
}

#[test]
fn a_front_end_that_reads_no_answers() {
    let disk = Disk::patterned();
    let deaf = disk.cold();
    deaf.socket
        .set_write_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    while deaf.send(GET_FEATURES, 0, &[], &[]).is_ok() {}
    // The session waits for it, and for nobody else; a stop ends that.
    thread::sleep(Duration::from_millis(5));
    disk.stopper.stop();
    assert!(disk.how_it_ended().is_ok());
}

#[derive(Clone, Debug)]
struct Anything {
    request: u32,
    needs_reply: bool,
    payload: Vec<u8>,
    files: Vec<u8>,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(1),
        Just(2),
        Just(64),
        Just(0x100),
        Just(u64::MAX),
        Just(1 << 32),
        Just(64 << 32),
        Just(4096),
        Just(MEMORY),
        Just(USER),
        Just(USER + 0x1000),
        Just(USER + 0x6000),
        Just(USER + 0x8000),
        Just(F_PROTOCOL | 1 << 32),
        any::<u64>(),
    ]
}

fn anything() -> impl Strategy<Value = Anything> {
    let request = prop_oneof![
        1u32..40,
        Just(SET_MEM_TABLE),
        Just(SET_VRING_KICK),
        Just(SET_VRING_ENABLE)
    ];
    let payload = proptest::collection::vec(number(), 0..10);
    let files = proptest::collection::vec(0u8..5, 0..4);
    (request, any::<bool>(), payload, any::<bool>(), files).prop_map(
        |(request, needs_reply, payload, cut, files)| {
            let mut payload = words(&payload);
            // As long as the request wants it, as often as not.
            let right = match request {
                SET_FEATURES
                | SET_PROTOCOL_FEATURES
                | SET_VRING_KICK
                | SET_VRING_CALL
                | SET_VRING_ERR => 8,
                SET_VRING_NUM | SET_VRING_BASE | GET_VRING_BASE | SET_VRING_ENABLE => 8,
                SET_VRING_ADDR | ADD_MEM_REG | REM_MEM_REG | SET_MEM_TABLE => 40,
                GET_INFLIGHT_FD | SET_INFLIGHT_FD => 24,
                _ => 0,
            };
            if cut {
                payload.resize(right, 0);
            }
            Anything {
                request,
                needs_reply,
                payload,
                files,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any messages in any order, before and after a proper start, with a ring that lives meanwhile.
    #[test]
    fn whatever_it_says_the_next_one_is_served(
        messages in proptest::collection::vec(anything(), 1..40),
        starts in any::<bool>(),
    ) {
        let backend = Arc::new(MemoryBackend::writable(&pattern()).unwrap());
        let disk = Disk::new(backend, BlockConfig { workers: 1, ..config() });
        let mut front_end = disk.cold();
        if starts {
            front_end.start();
        }
        let eventfd = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
        let (pipe, file) = (pipe(), tempfile::tempfile().unwrap());
        for Anything { request, needs_reply, payload, files } in messages {
            let fds: Vec<RawFd> = files.iter().map(|kind| match kind {
                0 => eventfd.as_raw_fd(),
                1 => pipe.as_raw_fd(),
                2 => file.as_raw_fd(),
                3 => front_end.queues[0].kick.as_raw_fd(),
                _ => front_end.shared.as_raw_fd(),
            }).collect();
            let flags = if needs_reply { NEED_REPLY } else { 0 };
            if front_end.send(request, flags, &payload, &fds).is_err() {
                break;
            }
            front_end.submit(0, 0, T_IN, 0);
            front_end.kick(0);
        }
        drop(front_end);
        disk.assert_serves();
    }
}
