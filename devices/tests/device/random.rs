//! Random drivers. Whatever they do, a chain comes back exactly once with a status that means
//! something, or the device asks for a reset; no byte changes that the chain does not name; and
//! afterwards a reset brings the device back.

use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::ring::{DESC_F_WRITE, Descriptor};
use iolite_devices_abi::status::*;
use proptest::prelude::*;

use super::driver::*;

/// Memory that is watched: all tables and small buffers, but neither ring.
const WATCHED: [(u64, usize); 2] = [(HEADERS, 0x4_0000), (SEAM - 0x1000, 0x2000)];

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => HEADERS..HEADERS + 64,
        4 => DATA..DATA + 0x2000,
        2 => Just(HEADERS),
        2 => Just(STATUS),
        2 => Just(TABLE),
        1 => SEAM - 600..SEAM + 600,
        1 => HOLE - 600..HOLE + 600,
        1 => Just(u64::MAX - 511),
        1 => any::<u64>().prop_map(|addr| addr | HOLE << 1 | 1 << 40),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => Just(16),
        3 => Just(512),
        3 => Just(1),
        1 => Just(0),
        1 => Just(20),
        1 => 0u32..4096,
        1 => Just(48),
        1 => Just(u32::MAX),
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    // Mostly forwards, so that chains often end as they should.
    let next = prop_oneof![8 => 1u16..6, 1 => any::<u16>()];
    let flags = prop_oneof![6 => 0u16..4, 1 => 4u16..8, 1 => any::<u16>()];
    (address(), length(), flags, next).prop_map(|(addr, len, flags, next)| Descriptor {
        addr,
        len,
        flags,
        next,
    })
}

#[derive(Clone, Debug)]
struct Case {
    direct: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    head: u16,
    request_type: u32,
    sector: u64,
    features: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let table = || prop::collection::vec(descriptor(), 6);
    let head = prop_oneof![9 => 0u16..4, 1 => any::<u16>()];
    let request_type =
        prop_oneof![4 => Just(0), 3 => Just(1), 1 => Just(4), 1 => Just(8), 1 => 0u32..20];
    let sector = prop_oneof![4 => 0..SECTORS + 4, 1 => any::<u64>()];
    let features = prop_oneof![Just(FEATURES), Just(FEATURES & !F_INDIRECT_DESC)];
    (table(), table(), head, request_type, sector, features).prop_map(
        |(direct, indirect, head, request_type, sector, features)| Case {
            direct,
            indirect,
            head,
            request_type,
            sector,
            features,
        },
    )
}

fn check_chain(driver: &mut Driver, case: &Case) {
    driver.start(case.features);
    for (addr, len) in WATCHED {
        driver.memory_fill(addr, len, UNTOUCHED);
    }
    driver.header_at(0, case.request_type, case.sector);
    for (table, descriptors) in [(DESC, &case.direct), (TABLE, &case.indirect)] {
        for (index, &descriptor) in (0..).zip(descriptors) {
            driver.descriptor(table, index, descriptor);
        }
    }
    let before = WATCHED.map(|(addr, len)| driver.bytes(addr, len));
    driver.make_available(case.head);
    driver.notify();

    let needs_reset = |driver: &Driver| driver.status() & DEVICE_NEEDS_RESET != 0;
    assert!(
        eventually(|| driver.used_idx() != 0 || needs_reset(driver)),
        "no answer"
    );
    let used = driver.used_idx();
    assert_ne!(
        used != 0,
        needs_reset(driver),
        "both or neither of answer and reset"
    );
    let writable: Vec<_> = case
        .direct
        .iter()
        .chain(&case.indirect)
        .filter(|d| d.flags & DESC_F_WRITE != 0)
        .collect();
    let mut changed = 0u64;
    for ((addr, _), before) in WATCHED.iter().zip(&before) {
        for (at, (old, new)) in (*addr..).zip(before.iter().zip(driver.bytes(*addr, before.len())))
        {
            if *old != new {
                let named = |d: &&Descriptor| at.wrapping_sub(d.addr) < d.len.into();
                assert!(
                    writable.iter().any(named),
                    "byte {at:#x} is not the chain's"
                );
                changed += 1;
            }
        }
    }
    if used == 0 {
        assert_eq!(changed, 0, "a broken chain was written to");
    } else {
        assert_eq!(used, 1);
        let (head, len) = driver.next_used().unwrap();
        assert_eq!(head, case.head);
        let room: u64 = writable.iter().map(|d| u64::from(d.len)).sum();
        assert!(u64::from(len) <= room, "used length {len} of {room} bytes");
        assert!(
            changed <= len.into(),
            "{changed} bytes changed, used length {len}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chain_is_answered_once_or_breaks_the_queue(cases in prop::collection::vec(case(), 1..4)) {
        let mut driver = Driver::cold(memory_disk(), config());
        for case in &cases {
            check_chain(&mut driver, case);
        }
        driver.assert_recovers();
    }

    #[test]
    fn any_register_writes_leave_a_device_that_a_reset_brings_back(
        writes in prop::collection::vec((0u64..0x110, prop_oneof![0u32..16, any::<u32>()]), 0..60),
        live in any::<bool>(),
    ) {
        let mut driver = Driver::cold(memory_disk(), config());
        if live {
            driver.start(FEATURES);
        }
        for (offset, value) in writes {
            // Whole registers mostly, and now and then something between two of them.
            let offset = if value % 5 == 0 { offset } else { offset & !3 };
            driver.write(offset, value);
            driver.read(offset);
        }
        driver.assert_recovers();
    }

    #[test]
    fn any_available_index_is_bounded(idx in any::<u16>(), heads in prop::collection::vec(0u16..20, 16)) {
        let mut driver = Driver::live();
        driver.header_at(0, 8, 0);
        for head in 0..QUEUE_SIZE {
            driver.chain_in(DESC, head, &[r(HEADERS, 16), status()]);
        }
        for (slot, &head) in (0..).zip(&heads) {
            driver.put(AVAIL + 4 + 2 * slot, head);
        }
        driver.set_avail_idx(idx);
        driver.write(reg::QUEUE_NOTIFY, 0);
        let broken = |driver: &Driver| driver.status() & DEVICE_NEEDS_RESET != 0;
        prop_assert!(eventually(|| driver.used_idx() == idx || broken(&driver)));
        prop_assert!(driver.used_idx() <= QUEUE_SIZE);
        driver.assert_recovers();
    }
}
