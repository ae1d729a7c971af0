//! Direct I/O against a model, with any alignment of position, length and memory.

use super::*;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SECTORS: u64 = 64;
const LEN: usize = SECTORS as usize * 512;

/// A file opened for direct I/O, and for everybody to look at; none where that is not possible.
fn file() -> Option<(tempfile::NamedTempFile, File)> {
    let named = tempfile::NamedTempFile::new().unwrap();
    let contents: Vec<u8> = (0..LEN).map(|at| (at / 512 + at % 251) as u8).collect();
    named.as_file().write_all_at(&contents, 0).unwrap();
    let mut options = File::options();
    let direct = options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let direct = direct.open(named.path()).ok()?;
    Direct::of(&direct)?;
    Some((named, direct))
}

#[derive(Clone, Debug)]
enum Step {
    Read(Place),
    Write(Place, u8),
    Zero(Place, bool),
}

/// Sectors, and where in memory, in pieces of which length.
#[derive(Clone, Debug)]
struct Place {
    sector: u64,
    count: u64,
    memory: u64,
    piece: u32,
}

fn place() -> impl Strategy<Value = Place> {
    let memory = prop_oneof![Just(0), Just(512), Just(4096), 0u64..5000];
    let piece = prop_oneof![Just(4096), Just(512), Just(1 << 20), 1u32..5000];
    (0..SECTORS, 0..=SECTORS, memory, piece).prop_map(|(sector, count, memory, piece)| Place {
        sector,
        count: count.min(SECTORS - sector),
        memory,
        piece,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        place().prop_map(Step::Read),
        (place(), any::<u8>()).prop_map(|(place, byte)| Step::Write(place, byte)),
        (place(), any::<bool>()).prop_map(|(place, unmap)| Step::Zero(place, unmap)),
    ]
}

impl Place {
    fn offset(&self) -> u64 {
        512 * self.sector
    }

    fn len(&self) -> usize {
        512 * self.count as usize
    }

    fn range(&self) -> std::ops::Range<usize> {
        self.offset() as usize..self.offset() as usize + self.len()
    }

    fn buffers(&self, memory: &Arc<GuestMemoryMmap>) -> GuestBuffers {
        let mut buffers = GuestBuffers::new(memory.clone());
        for at in (0..self.len() as u32).step_by(self.piece as usize) {
            let len = self.piece.min(self.len() as u32 - at);
            let addr = GuestAddress(self.memory + u64::from(at));
            buffers.push(addr, len).unwrap();
        }
        buffers
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_is_right_whatever_the_alignment(
        block in prop::sample::select(vec![512, 4096]),
        memory_align in prop::sample::select(vec![512, 4096]),
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let Some((named, direct_file)) = file() else { return Ok(()) };
        let file = &direct_file;
        let direct = Direct::aligned(memory_align, block);
        let mut model = std::fs::read(named.path()).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let memory = Arc::new(memory);
        for step in steps {
            match step {
                Step::Read(place) => {
                    direct.read(file, place.offset(), &place.buffers(&memory)).unwrap();
                    let mut bytes = vec![0; place.len()];
                    memory.read_slice(&mut bytes, GuestAddress(place.memory)).unwrap();
                    prop_assert!(bytes == model[place.range()], "{place:?}");
                }
                Step::Write(place, byte) => {
                    let bytes: Vec<u8> =
                        (0..place.len()).map(|at| (at as u8).wrapping_mul(byte)).collect();
                    memory.write_slice(&bytes, GuestAddress(place.memory)).unwrap();
                    direct.write(file, place.offset(), &place.buffers(&memory)).unwrap();
                    model[place.range()].copy_from_slice(&bytes);
                }
                Step::Zero(place, unmap) if place.count > 0 => {
                    let len = place.len() as u64;
                    direct.write_zeroes(file, place.offset(), len, unmap).unwrap();
                    model[place.range()].fill(0);
                }
                Step::Zero(..) => {}
            }
        }
        prop_assert!(std::fs::read(named.path()).unwrap() == model);
    }
}

#[test]
fn parts_of_one_block_are_written_at_the_same_time() {
    let Some((named, direct_file)) = file() else {
        return;
    };
    let direct = Direct::aligned(512, 4096);
    std::thread::scope(|scope| {
        for sector in 0..8 {
            let (direct, file) = (&direct, &direct_file);
            scope.spawn(move || {
                let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
                let byte = [sector as u8; 512];
                memory.write_slice(&byte, GuestAddress(0)).unwrap();
                let mut buffers = GuestBuffers::new(Arc::new(memory));
                buffers.push(GuestAddress(0), 512).unwrap();
                for block in 0..SECTORS / 8 {
                    let offset = 4096 * block + 512 * sector;
                    direct.write(file, offset, &buffers).unwrap();
                }
            });
        }
    });
    for (sector, bytes) in std::fs::read(named.path()).unwrap().chunks(512).enumerate() {
        assert_eq!(bytes, [sector as u8 % 8; 512], "sector {sector}");
    }
}
