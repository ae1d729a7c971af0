//! Programs: static ELF64 executables (System V ABI, chapters 4 and 5). Headers come from a disk,
//! so every number in them is checked before it is believed.

use iolite_guest_abi::{PAGE_BYTES, USER_END, USER_START};

/// Most loadable segments of a program.
pub const MAX_SEGMENTS: usize = 8;

const PAGE: u64 = PAGE_BYTES as u64;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;

/// What a segment's pages allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// They can be written.
    pub write: bool,
    /// They can be executed.
    pub execute: bool,
}

/// A part of the program in memory. Its file offset and address agree modulo the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address of its first byte.
    pub address: u64,
    /// Its size in memory in bytes.
    pub memory_bytes: u64,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many there are; the rest of it is zeroes.
    pub file_bytes: u64,
    /// What its pages allow.
    pub protection: Protection,
}

/// A program, as its headers describe it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Where it starts.
    pub entry: u64,
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
}

impl Program {
    /// Its segments, by rising address, on pages of their own.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }
}

/// Reads a program's headers from the beginning of its file. `None`: not one that can be run.
pub fn parse(head: &[u8], file_bytes: u64) -> Option<Program> {
    let identification = head.get(..HEADER)?;
    let static_elf64 = identification.starts_with(b"\x7fELF\x02\x01\x01")
        && u16_at(head, 16)? == 2 // ET_EXEC
        && u16_at(head, 18)? == 62; // EM_X86_64
    if !static_elf64 || usize::from(u16_at(head, 54)?) != PROGRAM_HEADER {
        return None;
    }
    let mut program = Program {
        entry: u64_at(head, 24)?,
        segments: [NOTHING; MAX_SEGMENTS],
        count: 0,
    };
    let table = usize::try_from(u64_at(head, 32)?).ok()?;
    let mut free_from = USER_START;
    for i in 0..usize::from(u16_at(head, 56)?) {
        let at = table.checked_add(i * PROGRAM_HEADER)?;
        let header = head.get(at..at.checked_add(PROGRAM_HEADER)?)?;
        if u32_at(header, 0)? != PT_LOAD {
            continue;
        }
        let segment = segment(header, file_bytes, free_from)?;
        free_from = (segment.address + segment.memory_bytes).next_multiple_of(PAGE);
        *program.segments.get_mut(program.count)? = segment;
        program.count += 1;
    }
    let starts_in_code = program.segments().iter().any(|segment| {
        segment.protection.execute
            && (segment.address..segment.address + segment.memory_bytes).contains(&program.entry)
    });
    starts_in_code.then_some(program)
}

const NOTHING: Segment = Segment {
    address: 0,
    memory_bytes: 0,
    offset: 0,
    file_bytes: 0,
    protection: Protection {
        write: false,
        execute: false,
    },
};

fn segment(header: &[u8], file_size: u64, free_from: u64) -> Option<Segment> {
    let flags = u32_at(header, 4)?;
    let segment = Segment {
        address: u64_at(header, 16)?,
        memory_bytes: u64_at(header, 40)?,
        offset: u64_at(header, 8)?,
        file_bytes: u64_at(header, 32)?,
        protection: Protection {
            write: flags & 2 != 0,
            execute: flags & 1 != 0,
        },
    };
    let page = segment.address - segment.address % PAGE;
    let valid = segment.memory_bytes > 0
        && page >= free_from
        && segment.address.checked_add(segment.memory_bytes)? <= USER_END
        && segment.file_bytes <= segment.memory_bytes
        && segment.offset.checked_add(segment.file_bytes)? <= file_size
        && segment.offset % PAGE == segment.address % PAGE
        && !(segment.protection.write && segment.protection.execute);
    valid.then_some(segment)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{HEADER, PROGRAM_HEADER, parse};
    extern crate std;
    use std::vec::Vec;

    struct Load {
        flags: u32,
        offset: u64,
        address: u64,
        file: u64,
        memory: u64,
    }

    const CODE: Load = Load {
        flags: 5,
        offset: 0x1000,
        address: 0x40_1000,
        file: 0x100,
        memory: 0x100,
    };
    const DATA: Load = Load {
        flags: 6,
        offset: 0x1100,
        address: 0x40_2100,
        file: 0x10,
        memory: 0x5000,
    };

    fn image(loads: &[Load]) -> Vec<u8> {
        let mut head = std::vec![0u8; HEADER + loads.len() * PROGRAM_HEADER];
        head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        head[16] = 2;
        head[18] = 62;
        head[24..32].copy_from_slice(&0x40_1010u64.to_le_bytes());
        head[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        head[54] = PROGRAM_HEADER as u8;
        head[56] = loads.len() as u8;
        for (i, load) in loads.iter().enumerate() {
            let at = HEADER + i * PROGRAM_HEADER;
            head[at] = 1;
            head[at + 4..at + 8].copy_from_slice(&load.flags.to_le_bytes());
            for (offset, value) in [
                (8, load.offset),
                (16, load.address),
                (32, load.file),
                (40, load.memory),
            ] {
                head[at + offset..at + offset + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        head
    }

    #[test]
    fn a_program_has_its_segments() {
        let program = parse(&image(&[CODE, DATA]), 0x2000).unwrap();
        assert_eq!(program.entry, 0x40_1010);
        let [code, data] = program.segments() else {
            panic!("two segments")
        };
        assert!(code.protection.execute && !code.protection.write);
        assert!(data.protection.write && !data.protection.execute);
        assert_eq!(data.memory_bytes, 0x5000);
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let bad = [
            ("writable code", Load { flags: 7, ..CODE }),
            (
                "kernel address",
                Load {
                    address: 0xffff_ffff_8000_1000,
                    ..CODE
                },
            ),
            (
                "address overflow",
                Load {
                    memory: u64::MAX,
                    ..CODE
                },
            ),
            (
                "page zero",
                Load {
                    address: 0,
                    offset: 0,
                    ..CODE
                },
            ),
            (
                "beyond the file",
                Load {
                    offset: 0x2000,
                    ..CODE
                },
            ),
            (
                "more in the file than in memory",
                Load {
                    file: 0x101,
                    ..CODE
                },
            ),
            (
                "offset and address disagree",
                Load {
                    offset: 0x1010,
                    ..CODE
                },
            ),
            (
                "empty",
                Load {
                    memory: 0,
                    file: 0,
                    ..CODE
                },
            ),
            ("no code at the entry", Load { flags: 4, ..CODE }),
        ];
        for (what, load) in bad {
            assert!(parse(&image(&[load]), 0x2000).is_none(), "{what}");
        }
    }

    #[test]
    fn segments_that_share_a_page_are_refused() {
        let overlapping = Load {
            address: 0x40_1100,
            offset: 0x1100,
            flags: 6,
            ..DATA
        };
        assert!(parse(&image(&[CODE, overlapping]), 0x2000).is_none());
    }

    #[test]
    fn truncated_headers_are_refused() {
        let image = image(&[CODE, DATA]);
        for length in 0..image.len() {
            assert!(parse(&image[..length], 0x2000).is_none(), "{length} bytes");
        }
    }
}
