//! What a loader has to know of an ELF kernel: where its segments go, and where it is entered.
//!
//! An ELF note of owner "Xen" and type 18 (XEN_ELFNOTE_PHYS32_ENTRY) makes a PVH kernel, in files
//! of both classes. A 64-bit file without it is entered at `e_entry` by the Linux 64-bit protocol.
//! Addresses are physical (`p_paddr`). Parsing is pure and bounded: a file can say anything.

use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{Boot, Protocol};
use crate::memory::HIGH_MEMORY;

/// XEN_ELFNOTE_PHYS32_ENTRY: the note's contents are the 32-bit entry point.
const PHYS32_ENTRY: u32 = 18;
/// No kernel has more program headers; it bounds what a hostile one makes us read.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// No kernel has more notes, in bytes.
const MAX_NOTE_BYTES: u64 = 64 * 1024;
/// Where a Linux bzImage has its magic number.
const BZIMAGE_MAGIC: (u64, &[u8]) = (0x202, b"HdrS");

/// Why a file is not a kernel that can be loaded.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// Not ELF at all.
    #[error("is not an ELF file: give an uncompressed kernel such as vmlinux")]
    NotElf,
    /// A bzImage.
    #[error("is a bzImage: give the uncompressed vmlinux of the same build")]
    BzImage,
    /// Built for another processor.
    #[error("is not built for x86: build it for x86-64")]
    WrongMachine,
    /// A 32-bit kernel that does not say where its entry is.
    #[error(
        "is a 32-bit ELF without a PVH note: add XEN_ELFNOTE_PHYS32_ENTRY (CONFIG_PVH) or build \
         it for 64 bits"
    )]
    Class32WithoutPvh,
    /// Something the headers name lies beyond the end of the file.
    #[error("is truncated or damaged: a header names bytes beyond its end; build or copy it again")]
    Truncated,
    /// More headers than a kernel can sensibly have.
    #[error("has more than 256 program headers: this is not a kernel")]
    TooManyHeaders,
    /// Nothing to load.
    #[error("has no loadable segment: link it as an executable")]
    NoSegments,
    /// A segment is longer in the file than in memory, or wraps around.
    #[error("has a segment at {0:#x} of impossible size: build it again")]
    BadSegment(u64),
    /// A segment would overwrite what the VMM leaves for the kernel.
    #[error(
        "has a segment at {0:#x}, in the first MiB, where the boot structures are: link it at \
         0x100000 or above"
    )]
    BelowHighMemory(u64),
    /// A segment lies outside RAM.
    #[error(
        "needs memory up to {0:#x}, which the machine does not have there: give more with -m, or link it lower"
    )]
    OutsideMemory(u64),
    /// The entry point is in no segment.
    #[error(
        "is entered at {0:#x}, which is in none of its segments: the entry point has to be a physical address"
    )]
    EntryOutside(u64),
}

/// A range of the file that goes to a range of guest physical memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How much of it is in the file.
    pub file_bytes: u64,
    /// Its guest physical address.
    pub address: u64,
    /// Its size in memory; what the file does not have is zero.
    pub memory_bytes: u64,
}

impl Segment {
    /// The first guest physical address after the segment.
    pub fn end(&self) -> u64 {
        self.address + self.memory_bytes
    }
}

/// What a loader has to know of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What to load; at least one, none empty.
    pub segments: Vec<Segment>,
    /// `e_entry`.
    entry: u64,
    /// The entry point of the PVH note.
    pvh_entry: Option<u32>,
}

/// Reads the headers of an ELF kernel.
///
/// # Errors
/// [`ElfError`] if it is not one.
pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Kernel, ElfError> {
    let ident = data.read_bytes_at(0, 16).map_err(|()| ElfError::NotElf)?;
    match ident {
        [0x7f, b'E', b'L', b'F', 1, 1, ..] => {
            let kernel = parse_class::<FileHeader32<Endianness>, R>(data)?;
            kernel.pvh_entry.ok_or(ElfError::Class32WithoutPvh)?;
            Ok(kernel)
        }
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => parse_class::<FileHeader64<Endianness>, R>(data),
        [0x7f, b'E', b'L', b'F', ..] => Err(ElfError::WrongMachine),
        _ if data.read_bytes_at(BZIMAGE_MAGIC.0, 4) == Ok(BZIMAGE_MAGIC.1) => {
            Err(ElfError::BzImage)
        }
        _ => Err(ElfError::NotElf),
    }
}

fn parse_class<'data, H, R>(data: R) -> Result<Kernel, ElfError>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = H::parse(data).map_err(|_| ElfError::Truncated)?;
    let endian = Endianness::Little;
    if !matches!(header.e_machine(endian), EM_386 | EM_X86_64) {
        return Err(ElfError::WrongMachine);
    }
    if header.e_phnum(endian) > MAX_PROGRAM_HEADERS {
        return Err(ElfError::TooManyHeaders);
    }
    let headers = header
        .program_headers(endian, data)
        .map_err(|_| ElfError::Truncated)?;
    let file_bytes = data.len().map_err(|()| ElfError::Truncated)?;
    let mut segments = Vec::new();
    let mut pvh_entry = None;
    for header in headers {
        match header.p_type(endian) {
            PT_LOAD => segments.extend(segment(header, endian, file_bytes)?),
            PT_NOTE if pvh_entry.is_none() => pvh_entry = pvh_note(header, endian, data),
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(ElfError::NoSegments);
    }
    Ok(Kernel {
        segments,
        entry: header.e_entry(endian).into(),
        pvh_entry,
    })
}

/// The segment that a PT_LOAD header describes, unless it is empty.
fn segment<P: ProgramHeader<Endian = Endianness>>(
    header: &P,
    endian: Endianness,
    file_size: u64,
) -> Result<Option<Segment>, ElfError> {
    let segment = Segment {
        offset: header.p_offset(endian).into(),
        file_bytes: header.p_filesz(endian).into(),
        address: header.p_paddr(endian).into(),
        memory_bytes: header.p_memsz(endian).into(),
    };
    if segment.memory_bytes == 0 && segment.file_bytes == 0 {
        return Ok(None);
    }
    let fits = segment.address.checked_add(segment.memory_bytes).is_some();
    if segment.file_bytes > segment.memory_bytes || !fits {
        return Err(ElfError::BadSegment(segment.address));
    }
    match segment.offset.checked_add(segment.file_bytes) {
        Some(end) if end <= file_size => Ok(Some(segment)),
        _ => Err(ElfError::Truncated),
    }
}

/// The PVH entry point, if it is among the notes of this header. Notes that cannot be read are
/// notes that are not there.
fn pvh_note<'data, P, R>(header: &P, endian: Endianness, data: R) -> Option<u32>
where
    P: ProgramHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    if header.p_filesz(endian).into() > MAX_NOTE_BYTES {
        return None;
    }
    let mut notes = header.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
            // 4 bytes by the book, 8 in 64-bit kernels that write it as an address.
            return Some(u32::from_le_bytes(*note.desc().first_chunk()?));
        }
    }
    None
}

impl Kernel {
    /// How to enter the kernel in a machine with this memory.
    ///
    /// # Errors
    /// [`ElfError`] if it does not fit, or is entered where it is not.
    pub fn boot(&self, memory: &GuestMemoryMmap) -> Result<Boot, ElfError> {
        for segment in &self.segments {
            if segment.address < HIGH_MEMORY.0 {
                return Err(ElfError::BelowHighMemory(segment.address));
            }
            let bytes = usize::try_from(segment.memory_bytes)
                .map_err(|_| ElfError::OutsideMemory(segment.end()))?;
            if !GuestMemoryBackend::check_range(memory, GuestAddress(segment.address), bytes) {
                return Err(ElfError::OutsideMemory(segment.end()));
            }
        }
        let (entry, protocol) = match self.pvh_entry {
            Some(entry) => (u64::from(entry), Protocol::Pvh),
            None => (self.entry, Protocol::Linux64),
        };
        if !self
            .segments
            .iter()
            .any(|s| (s.address..s.end()).contains(&entry))
        {
            return Err(ElfError::EntryOutside(entry));
        }
        Ok(Boot { entry, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiny::{Entry, Tiny};
    use super::*;
    use object::ReadCache;
    use proptest::prelude::*;
    use std::io::Cursor;

    const MEMORY_BYTES: u64 = 4 << 20;

    fn boot(elf: &[u8]) -> Result<Boot, ElfError> {
        parse(elf)?.boot(&crate::memory::create(MEMORY_BYTES).unwrap())
    }

    #[test]
    fn the_note_decides_on_the_protocol() {
        let entry = 0x10_0100;
        let pvh = Boot {
            entry,
            protocol: Protocol::Pvh,
        };
        assert_eq!(boot(&Tiny::new(Entry::Pvh).halt().elf()), Ok(pvh));
        let linux64 = Boot {
            entry,
            protocol: Protocol::Linux64,
        };
        assert_eq!(boot(&Tiny::new(Entry::Linux64).halt().elf()), Ok(linux64));
    }

    #[test]
    fn a_64_bit_note_counts_and_a_short_one_does_not() {
        let mut elf = Tiny::new(Entry::Pvh).halt().elf();
        // The note is at 0xb0; its descriptor's size is at +4.
        elf[0xb4] = 2;
        assert_eq!(boot(&elf).map(|boot| boot.protocol), Ok(Protocol::Linux64));
        elf[0xb4] = 8;
        // The header of the notes is the second one: its file size is at +32.
        elf[64 + 56 + 32] = 24;
        assert_eq!(boot(&elf).map(|boot| boot.protocol), Ok(Protocol::Pvh));
    }

    #[test]
    fn headers_that_would_cost_much_memory_are_refused() {
        let mut elf = Tiny::new(Entry::Pvh).halt().elf();
        elf[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
        assert_eq!(parse(&*elf), Err(ElfError::TooManyHeaders));
    }

    #[test]
    fn segments_that_wrap_around_are_refused() {
        let mut elf = Tiny::new(Entry::Pvh).halt().elf();
        elf[64 + 40..64 + 48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(parse(&*elf), Err(ElfError::BadSegment(0x10_0000)));
        elf[64 + 40..64 + 48].copy_from_slice(&1u64.to_le_bytes());
        assert_eq!(parse(&*elf), Err(ElfError::BadSegment(0x10_0000)));
    }

    proptest! {
        /// A few bytes changed anywhere, or the end cut off: nothing panics, from memory or from
        /// a file, and what is accepted lies in memory.
        #[test]
        fn damaged_kernels_do_no_harm(
            changes in prop::collection::vec((0usize..0x120, any::<u8>()), 0..6),
            len in 0usize..0x140,
            entry in prop::sample::select(vec![Entry::Pvh, Entry::Linux64]),
        ) {
            let mut elf = Tiny::new(entry).halt().elf();
            for (offset, byte) in changes {
                if let Some(target) = elf.get_mut(offset) {
                    *target = byte;
                }
            }
            elf.truncate(len.max(elf.len().saturating_sub(len)));
            let from_file = parse(&ReadCache::new(Cursor::new(&elf)));
            prop_assert_eq!(parse(&*elf), from_file.clone());
            if let Ok(kernel) = from_file {
                for segment in &kernel.segments {
                    prop_assert!(segment.offset + segment.file_bytes <= elf.len() as u64);
                    prop_assert!(segment.file_bytes <= segment.memory_bytes);
                }
                let memory = crate::memory::create(MEMORY_BYTES).unwrap();
                if kernel.boot(&memory).is_ok() {
                    let lowest = kernel.segments.iter().map(|s| s.address).min();
                    prop_assert!(lowest >= Some(HIGH_MEMORY.0));
                    prop_assert!(kernel.segments.iter().all(|s| s.end() <= MEMORY_BYTES));
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&*bytes);
            let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
            elf.extend(&bytes);
            let _ = parse(&*elf);
            elf[4] = 1;
            let _ = parse(&*elf);
        }
    }
}
