//! The life of a session: set up, used, stopped, changed and torn down as often as a front-end likes.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::{F_CONFIG_WCE, F_FLUSH, F_MQ, S_IOERR, S_OK, T_GET_ID, T_IN, T_OUT};
use iolite_devices_abi::status::{F_EVENT_IDX, F_RING_RESET, F_VERSION_1};

use super::front_end::*;
use super::{BYTES, Disk, QUEUE_SIZE, config, pattern};

#[test]
fn bytes_go_both_ways() {
    let backend = Arc::new(MemoryBackend::writable(&pattern()).unwrap());
    let disk = Disk::new(backend.clone(), config());
    let mut front_end = disk.cold();
    front_end.features |= F_FLUSH;
    front_end.start();
    let mut expected = pattern();
    assert_eq!(front_end.read(16), expected[16 * 512..24 * 512]);
    assert_eq!(front_end.write(40, &[0x5a; 4096]), S_OK);
    assert_eq!(front_end.flush(), S_OK);
    expected[40 * 512..48 * 512].fill(0x5a);
    assert_eq!(front_end.read(40), [0x5a; 4096]);
    assert!(backend.contents() == expected);
    assert_eq!(front_end.request(0, T_IN, (BYTES / 512) as u64), S_IOERR);
    let counters = disk.device.counters();
    assert_eq!(
        (counters.reads, counters.writes, counters.flushes),
        (2, 1, 1)
    );
}

#[test]
fn every_used_buffer_is_told_of_unless_the_driver_wants_none() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    for _ in 0..50 {
        front_end.read(0);
        assert!(eventually(|| front_end.queues[0].call.read().is_ok()));
    }
}

#[test]
fn a_driver_that_notifies_by_event_index_is_never_left_alone() {
    let disk = Disk::new(
        Arc::new(MemoryBackend::writable(&pattern()).unwrap()),
        BlockConfig {
            poll: Duration::ZERO,
            ..config()
        },
    );
    let mut front_end = disk.cold();
    front_end.features |= F_EVENT_IDX;
    front_end.start();
    for round in 0..2000u64 {
        assert_eq!(front_end.request(0, T_IN, round % 100 * 8), S_OK);
    }
}

#[test]
fn what_it_offers_and_what_it_does_not() {
    let disk = Disk::new(
        Arc::new(MemoryBackend::writable(&pattern()).unwrap()),
        BlockConfig {
            queues: 3,
            ..config()
        },
    );
    let front_end = disk.cold();
    let offered = front_end.ask_u64(GET_FEATURES);
    for present in [F_VERSION_1, F_PROTOCOL, F_EVENT_IDX, F_FLUSH, F_MQ] {
        assert_ne!(offered & present, 0, "{present:#x}");
    }
    for absent in [F_CONFIG_WCE, F_RING_RESET] {
        assert_eq!(offered & absent, 0, "{absent:#x}");
    }
    front_end.negotiate();
    assert_eq!(front_end.ask_u64(GET_QUEUE_NUM), 3);
    let ask = [0u32, 60, 0].map(u32::to_le_bytes).concat();
    let config = front_end
        .ask(GET_CONFIG, &[ask.clone(), vec![0; 60]].concat(), &[])
        .unwrap();
    assert_eq!(config[..12], ask);
    let sectors = u64::from_le_bytes(config[12..20].try_into().unwrap());
    assert_eq!(sectors, (BYTES / 512) as u64);
}

#[test]
fn queues_work_side_by_side_each_with_its_own_line() {
    let disk = Disk::new(
        Arc::new(MemoryBackend::writable(&pattern()).unwrap()),
        BlockConfig {
            queues: 4,
            ..config()
        },
    );
    let mut front_end = FrontEnd::new(disk.socket(), 4, QUEUE_SIZE);
    front_end.start();
    for queue in [2, 0, 3, 1] {
        assert_eq!(front_end.request(queue, T_IN, 8 * queue as u64), S_OK);
        assert_eq!(front_end.data(0), pattern()[4096 * queue..][..4096]);
        for other in 0..4 {
            let told = || front_end.queues[other].call.read().is_ok();
            assert_eq!(
                if other == queue {
                    eventually(told)
                } else {
                    told()
                },
                other == queue
            );
        }
    }
}

#[test]
fn a_queue_goes_on_where_it_stopped() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    for round in 1..=200u16 {
        front_end.submit(0, 0, T_IN, 0);
        front_end.submit(0, 1, T_IN, 8);
        front_end.kick(0);
        // Popped is answered; what is not popped stays.
        let base = front_end.stop_queue(0);
        let used: u16 = front_end.get(front_end.used_idx_at(0));
        assert_eq!(base, used, "round {round}: something is in flight");
        front_end.start_queue(0, base);
        // Nobody kicks: what was left is found all the same.
        let mut slots = [front_end.wait(0).unwrap(), front_end.wait(0).unwrap()];
        slots.sort_unstable();
        assert_eq!(slots, [(0, S_OK), (1, S_OK)], "round {round}");
    }
}

#[test]
fn a_disabled_queue_does_nothing() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    let enable = |front_end: &FrontEnd, on: u32| {
        let payload = [0u32, on].map(u32::to_le_bytes).concat();
        assert_eq!(front_end.tell(SET_VRING_ENABLE, &payload, &[]), Some(true));
    };
    enable(&front_end, 0);
    front_end.submit(0, 0, T_IN, 0);
    front_end.kick(0);
    thread::sleep(Duration::from_millis(5));
    assert_eq!(front_end.used(0), None);
    enable(&front_end, 1);
    assert_eq!(front_end.wait(0), Some((0, S_OK)));
}

#[test]
fn memory_changes_under_a_queue_that_works() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    for round in 0..50 {
        assert_eq!(
            front_end.read(8 * round),
            pattern()[4096 * round as usize..][..4096]
        );
        front_end.share_memory();
    }
    let more = memfd(0x10_0000);
    let region = [0, MEMORY, 0x10_0000, USER + (1 << 30), 0]
        .map(u64::to_le_bytes)
        .concat();
    for _ in 0..20 {
        assert_eq!(
            front_end.tell(ADD_MEM_REG, &region, &[more.as_raw_fd()]),
            Some(true)
        );
        front_end.submit(0, 0, T_IN, 24);
        front_end.kick(0);
        assert_eq!(front_end.wait(0), Some((0, S_OK)));
        // The data goes into the new region.
        let header = front_end.queues[0].size;
        assert_eq!(header, QUEUE_SIZE);
        assert_eq!(front_end.tell(REM_MEM_REG, &region, &[]), Some(true));
        assert_eq!(front_end.request(0, T_IN, 0), S_OK);
    }
    assert_eq!(front_end.tell(REM_MEM_REG, &region, &[]), Some(false));
}

#[test]
fn front_ends_come_and_go() {
    let disk = Disk::patterned();
    for round in 0..100 {
        let mut front_end = disk.front_end();
        front_end.read(8 * (round % 100));
        if round % 2 == 0 {
            // It goes with requests on their way.
            for slot in 0..QUEUE_SIZE / 3 {
                front_end.submit(0, slot, T_IN, 0);
            }
            front_end.kick(0);
        }
        drop(front_end);
        assert!(disk.how_it_ended().is_ok());
    }
    disk.assert_serves();
}

#[test]
fn a_disk_that_grows_is_told_of() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pattern()).unwrap();
    let disk = Disk::new(
        Arc::new(FileBackend::open(file.path(), false).unwrap()),
        config(),
    );
    let mut front_end = disk.cold();
    let (back, theirs) = UnixStream::pair().unwrap();
    front_end.negotiate();
    assert_eq!(
        front_end.tell(SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]),
        Some(true)
    );
    drop(theirs);
    front_end.share_memory();
    front_end.start_queue(0, 0);
    file.as_file().set_len(2 * BYTES as u64).unwrap();
    assert_eq!(disk.device.resize().unwrap(), 2 * BYTES as u64);
    let mut message = [0; 12];
    std::io::Read::read_exact(&mut &back, &mut message).unwrap();
    assert_eq!(
        message[..4],
        2u32.to_le_bytes(),
        "BACKEND_CONFIG_CHANGE_MSG"
    );
    assert_eq!(message[8..], [0; 4]);
    let ask = [0u32, 8, 0].map(u32::to_le_bytes).concat();
    let config = front_end
        .ask(GET_CONFIG, &[ask, vec![0; 8]].concat(), &[])
        .unwrap();
    assert_eq!(config[12..], (2 * BYTES as u64 / 512).to_le_bytes());
    assert_eq!(front_end.request(0, T_IN, (BYTES / 512) as u64), S_OK);
}

#[test]
fn its_end_does_not_wait_for_a_front_end_that_says_nothing() {
    let disk = Disk::patterned();
    let silent = disk.cold();
    let half = disk.stopper.clone();
    // In the middle of a message.
    std::io::Write::write_all(&mut &silent.socket, &[1, 0, 0]).unwrap();
    thread::sleep(Duration::from_millis(5));
    half.stop();
    assert!(disk.how_it_ended().is_ok());
    // And nobody is served any more.
    let late = disk.cold();
    assert!(late.ask(GET_FEATURES, &[], &[]).is_none());
}

#[test]
fn an_id_and_a_write_without_flush_are_as_on_any_transport() {
    let disk = Disk::patterned();
    let mut front_end = disk.front_end();
    // GET_ID into nothing but a status is an error, and no end.
    assert_eq!(front_end.request(0, T_GET_ID, 0), S_IOERR);
    assert_eq!(front_end.request(0, T_OUT, 0), S_OK);
}
