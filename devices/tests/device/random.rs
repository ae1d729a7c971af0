//! Random drivers. What comes of a chain is what the [model](super::model) says, in every byte of
//! memory and disk; and whatever was done, a reset brings the device back.

use std::sync::Arc;

use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use iolite_devices_abi::status::*;
use proptest::prelude::*;
use proptest::sample::Index;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;
use super::model::{Answer, Model, Verdict};

/// Memory that is watched: all tables and small buffers, but neither ring.
const WATCHED: [(u64, usize); 2] = [(HEADERS, 0x4_0000), (SEAM - 0x1000, 0x2000)];
/// How many descriptors are made in each table.
const DESCRIPTORS: usize = 6;

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
    header: RequestHeader,
    /// What the first bytes of the data say, should they be taken for ranges.
    ranges: [DiscardWriteZeroes; 3],
    features: u64,
}

/// Descriptors without rhyme or reason.
fn nonsense() -> impl Strategy<Value = Case> {
    let table = || prop::collection::vec(descriptor(), DESCRIPTORS);
    let head = prop_oneof![9 => 0u16..4, 1 => any::<u16>()];
    case(table(), table(), head)
}

/// A good request in one to four pieces of data, of which one descriptor may be spoilt.
fn nearly_good() -> impl Strategy<Value = Case> {
    let tables = prop::collection::vec(descriptor(), DESCRIPTORS);
    let pieces = prop::collection::vec((0u64..16, 1u32..4), 1..5);
    let spoilt = prop::option::weighted(0.3, (any::<Index>(), descriptor(), 0..4));
    let case = case(Just(Vec::new()), tables, Just(0));
    (case, pieces, spoilt).prop_map(|(mut case, pieces, spoilt)| {
        case.direct = good_chain(case.header.request_type, &pieces);
        if let Some((which, other, field)) = spoilt {
            let victim = &mut case.direct[which.index(3)];
            match field {
                0 => victim.addr = other.addr,
                1 => victim.len = other.len,
                2 => victim.flags = other.flags,
                _ => victim.next = other.next,
            }
        }
        case
    })
}

/// Header, data and status byte of a request. `pieces` are slots and sectors of data.
fn good_chain(request_type: u32, pieces: &[(u64, u32)]) -> Vec<Descriptor> {
    let piece = |addr, len, flags| Descriptor {
        addr,
        len,
        flags,
        next: 0,
    };
    let mut chain = vec![piece(HEADERS, 16, 0)];
    let sectors = |&(slot, sectors): &(u64, u32)| (DATA + 512 * slot, 512 * sectors);
    match request_type {
        T_GET_ID => chain.push(piece(DATA, ID_BYTES as u32, DESC_F_WRITE)),
        T_DISCARD | T_WRITE_ZEROES => chain.push(piece(DATA, 16 * pieces[0].1, 0)),
        T_IN => chain.extend(
            pieces
                .iter()
                .map(sectors)
                .map(|(a, n)| piece(a, n, DESC_F_WRITE)),
        ),
        _ => chain.extend(pieces.iter().map(sectors).map(|(a, n)| piece(a, n, 0))),
    }
    chain.push(piece(STATUS, 1, DESC_F_WRITE));
    let last = chain.len() - 1;
    for (next, descriptor) in (1..).zip(&mut chain[..last]) {
        descriptor.flags |= DESC_F_NEXT;
        descriptor.next = next;
    }
    chain
}

fn case(
    direct: impl Strategy<Value = Vec<Descriptor>>,
    indirect: impl Strategy<Value = Vec<Descriptor>>,
    head: impl Strategy<Value = u16>,
) -> impl Strategy<Value = Case> {
    let request_type = prop_oneof![
        4 => Just(T_IN),
        3 => Just(T_OUT),
        1 => Just(T_FLUSH),
        1 => Just(T_GET_ID),
        2 => Just(T_DISCARD),
        2 => Just(T_WRITE_ZEROES),
        1 => 0u32..20
    ];
    let sector = || prop_oneof![4 => 0..SECTORS + 4, 1 => any::<u64>()];
    let header =
        (request_type, any::<u32>(), sector()).prop_map(|(request_type, reserved, sector)| {
            RequestHeader {
                request_type,
                reserved,
                sector,
            }
        });
    let flags = prop_oneof![6 => 0u32..2, 1 => 0u32..4, 1 => any::<u32>()];
    let count = prop_oneof![6 => 0u32..20, 1 => any::<u32>()];
    let range =
        (sector(), count, flags).prop_map(|(sector, num_sectors, flags)| DiscardWriteZeroes {
            sector,
            num_sectors,
            flags,
        });
    let ranges = prop::array::uniform3(range);
    let all = FEATURES | F_DISCARD | F_WRITE_ZEROES;
    let features = prop_oneof![
        4 => Just(all),
        1 => Just(all & !F_INDIRECT_DESC),
        1 => Just(FEATURES),
    ];
    (direct, indirect, head, header, ranges, features).prop_map(
        |(direct, indirect, head, header, ranges, features)| Case {
            direct,
            indirect,
            head,
            header,
            ranges,
            features,
        },
    )
}

fn check_chain(driver: &mut Driver, disk: &MemoryBackend, model: &mut Model, case: &Case) {
    driver.start(case.features);
    model.features = case.features;
    for (addr, len) in WATCHED {
        driver.memory_fill(addr, len, UNTOUCHED);
    }
    driver.put(HEADERS, case.header.to_le_bytes());
    for (addr, range) in (DATA..).step_by(16).zip(case.ranges) {
        driver.put(addr, range.to_le_bytes());
    }
    driver.memory_fill(DESC, 16 * usize::from(QUEUE_SIZE), 0);
    for (table, descriptors) in [(DESC, &case.direct), (TABLE, &case.indirect)] {
        for (index, &descriptor) in (0..).zip(descriptors) {
            driver.descriptor(table, index, descriptor);
        }
    }
    let mut wanted = watched(driver);
    let verdict = model.judge(driver, case.head);
    driver.make_available(case.head);
    driver.notify();

    let needs_reset = |driver: &Driver| driver.status() & DEVICE_NEEDS_RESET != 0;
    assert!(
        eventually(|| driver.used_idx() != 0 || needs_reset(driver)),
        "no answer"
    );
    match verdict {
        Verdict::Broken => {
            assert!(needs_reset(driver), "answered, which is to break the queue");
            assert_eq!(driver.used_idx(), 0);
        }
        Verdict::Used(Answer { len, writes }) => {
            assert!(!needs_reset(driver), "the answer is {len} and {writes:x?}");
            assert_eq!(driver.next_used(), Some((case.head, len)), "{writes:x?}");
            for (addr, bytes) in writes {
                apply(&mut wanted, addr, &bytes);
            }
        }
    }
    assert!(watched(driver) == wanted, "memory is not as it should be");
    assert!(
        disk.contents() == model.disk,
        "the disk is not as it should be"
    );
}

/// What is in the memory that is watched.
fn watched(driver: &Driver) -> [Vec<u8>; 2] {
    WATCHED.map(|(addr, len)| {
        let mut bytes = vec![0; len];
        let memory = &driver.memory;
        memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    })
}

/// Writes to such a picture of memory.
fn apply(picture: &mut [Vec<u8>; 2], addr: u64, bytes: &[u8]) {
    for ((start, _), part) in WATCHED.iter().zip(picture) {
        for (at, byte) in (addr..).zip(bytes) {
            if let Some(place) = part.get_mut(at.wrapping_sub(*start) as usize) {
                *place = *byte;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chain_gets_the_answer_that_the_model_gives(
        cases in prop::collection::vec(prop_oneof![nonsense(), nearly_good()], 1..5)
    ) {
        let contents = pattern(SECTORS as usize * 512);
        let disk = Arc::new(MemoryBackend::writable(&contents).unwrap());
        let mut driver = Driver::cold(disk.clone(), config());
        let mut model = Model {
            disk: contents,
            id: *b"iolite-test-disk-012",
            queue_size: QUEUE_SIZE,
            features: 0,
        };
        for case in &cases {
            check_chain(&mut driver, &disk, &mut model, case);
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
