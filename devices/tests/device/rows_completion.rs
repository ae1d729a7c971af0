//! Rows 75 and 76: what comes back.

use iolite_devices::block::backend::fault::{Effect, Operation};
use iolite_devices_abi::blk::*;

use super::driver::*;

#[test]
fn row_75_the_used_length_is_never_above_what_was_written() {
    let (mut driver, faults) = faulty(config());
    faults.fail(Operation::Read, 0..512, Effect::Error(libc::EIO));
    let untouched = |driver: &Driver| driver.bytes(DATA, 2048) == [UNTOUCHED; 2048];
    for (request_type, sector, len) in [
        (T_IN, 0, 512),       // fails
        (T_IN, SECTORS, 512), // beyond the disk
        (T_IN, 1, 511),
        (T_GET_ID, 0, 512),
        (77, 0, 512),
    ] {
        driver.memory_fill(DATA, 2048, UNTOUCHED);
        let (status, used) = driver.request(request_type, sector, &[w(DATA, len)]);
        assert_ne!(status, S_OK);
        assert_eq!(used, 1, "type {request_type}");
        // What a read that failed has brought is undefined; others touch nothing.
        assert!(untouched(&driver) || sector == 0 && request_type == T_IN);
    }
    for sectors in [0u32, 1, 3] {
        driver.memory_fill(DATA, 2048, UNTOUCHED);
        let len = 512 * sectors;
        let answer = driver.request(T_IN, 1, &[w(DATA, len)]);
        assert_eq!(answer, (S_OK, len + 1));
        let behind = driver.bytes(DATA + u64::from(len), 512);
        assert_eq!(behind, [UNTOUCHED; 512], "more than the length says");
    }
}

#[test]
fn row_76_overlapping_writes_in_flight() {
    let disk = memory_disk();
    let mut driver = Driver::live_with(disk.clone(), config(), FEATURES);
    for round in 0..200u64 {
        // Sectors 8 and 9, 9 and 10, 10 and 11: each from its own memory, all at once.
        for n in 0..3u16 {
            let (data, place) = (DATA + 1024 * u64::from(n), STATUS + u64::from(n));
            driver.memory_fill(data, 1024, n as u8 + 1);
            driver.put(place, UNTOUCHED);
            let header = r(driver.header_at(n, T_OUT, 8 + u64::from(n)), 16);
            driver.chain_in(DESC, 3 * n, &[header, r(data, 1024), w(place, 1)]);
            driver.make_available(3 * n);
        }
        driver.notify();
        let mut heads = [(); 3].map(|()| driver.next_used().unwrap());
        heads.sort_unstable();
        assert_eq!(heads, [(0, 1), (3, 1), (6, 1)], "round {round}");
        for n in 0..3 {
            assert_eq!(driver.get::<u8>(STATUS + n), S_OK);
        }
        let contents = disk.contents();
        let first = |sector: usize| contents[512 * sector];
        assert_eq!((first(8), first(11)), (1, 3));
        assert!([1, 2].contains(&first(9)) && [2, 3].contains(&first(10)));
    }
    driver.assert_recovers();
}
