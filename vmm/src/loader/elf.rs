//! What a loader has to know of an ELF kernel: where its segments go, and where it is entered.
//!
//! The note of the `notes` module makes a PVH kernel, in files of both classes. A 64-bit file
//! without it is entered at `e_entry` by the Linux 64-bit protocol. Addresses are physical
//! (`p_paddr`). Parsing is pure and bounded: a file can say anything.

use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD, PT_NOTE, SHT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, ReadRef};

use super::notes;

/// No kernel has more program headers; it bounds what a hostile one makes us read.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// No kernel has more sections.
const MAX_SECTIONS: usize = 4096;
/// No kernel has more notes, in bytes: what is beyond is not looked at.
const MAX_NOTE_BYTES: u64 = 1 << 20;
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
    /// A program header has another size than its class says.
    #[error("is damaged: its program headers are of an impossible size; build or copy it again")]
    BadHeaderSize,
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
    /// Two segments go to the same place.
    #[error("has two segments that overlap at {0:#x}: link it again")]
    Overlap(u64),
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
    /// The entry point is where neither protocol can enter.
    #[error("is entered at {0:#x}, but only what lies below 4 GiB can be entered: link it lower")]
    EntryTooHigh(u64),
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
    /// What to load, in ascending order of addresses; at least one, none empty.
    pub segments: Vec<Segment>,
    /// `e_entry`.
    pub entry: u64,
    /// The entry point of the PVH note.
    pub pvh_entry: Option<u64>,
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
    let count = header.e_phnum(endian);
    if count > MAX_PROGRAM_HEADERS {
        return Err(ElfError::TooManyHeaders);
    }
    let header_bytes = usize::from(header.e_phentsize(endian));
    if count > 0 && header_bytes != size_of::<H::ProgramHeader>() {
        return Err(ElfError::BadHeaderSize);
    }
    let headers = header
        .program_headers(endian, data)
        .map_err(|_| ElfError::Truncated)?;
    let file_bytes = data.len().map_err(|()| ElfError::Truncated)?;
    let mut segments = Vec::new();
    for header in headers.iter().filter(|h| h.p_type(endian) == PT_LOAD) {
        segments.extend(segment(header, endian, file_bytes)?);
    }
    if segments.is_empty() {
        return Err(ElfError::NoSegments);
    }
    segments.sort_by_key(|segment| segment.address);
    let mut notes = Notes::new(data);
    let pvh_entry = match notes.in_segments(headers, endian)? {
        None => notes.in_sections(header, endian),
        found => found,
    };
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
    // Where the file has nothing of it, it does not matter where that begins.
    if segment.file_bytes == 0 {
        return Ok(Some(Segment {
            offset: 0,
            ..segment
        }));
    }
    is_inside(segment.offset, segment.file_bytes, file_size)
        .then_some(Some(segment))
        .ok_or(ElfError::Truncated)
}

/// Do these bytes lie in a file of this size?
fn is_inside(offset: u64, bytes: u64, file_size: u64) -> bool {
    let end = offset.checked_add(bytes);
    end.is_some_and(|end| end <= file_size)
}

/// The notes of a file, as long as not too much of it has been looked at.
struct Notes<R> {
    data: R,
    /// How many more bytes to look at.
    left: u64,
}

impl<'data, R: ReadRef<'data>> Notes<R> {
    fn new(data: R) -> Self {
        Notes {
            data,
            left: MAX_NOTE_BYTES,
        }
    }

    /// The PVH entry point in the segments of notes.
    fn in_segments<P>(&mut self, headers: &[P], endian: Endianness) -> Result<Option<u64>, ElfError>
    where
        P: ProgramHeader<Endian = Endianness>,
    {
        for header in headers.iter().filter(|h| h.p_type(endian) == PT_NOTE) {
            let (offset, bytes) = (header.p_offset(endian), header.p_filesz(endian));
            let align = header.p_align(endian).into();
            let found = self.at(offset.into(), bytes.into(), align);
            if let Some(entry) = found.ok_or(ElfError::Truncated)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The PVH entry point in sections of notes, of a file whose segments do not tell. A kernel
    /// does not need sections: damaged ones are none.
    fn in_sections<H>(&mut self, header: &H, endian: Endianness) -> Option<u64>
    where
        H: FileHeader<Endian = Endianness>,
    {
        if header.shnum(endian, self.data).ok()? > MAX_SECTIONS {
            return None;
        }
        let sections = header.section_headers(endian, self.data).ok()?;
        let mut notes = sections.iter().filter(|s| s.sh_type(endian) == SHT_NOTE);
        notes.find_map(|section| {
            let (offset, bytes) = (section.sh_offset(endian), section.sh_size(endian));
            let align = section.sh_addralign(endian).into();
            self.at(offset.into(), bytes.into(), align).flatten()
        })
    }

    /// The PVH entry point in these bytes of the file; none at all if the file does not have them.
    fn at(&mut self, offset: u64, bytes: u64, align: u64) -> Option<Option<u64>> {
        let file_size = self.data.len().ok()?;
        if bytes > 0 && !is_inside(offset, bytes, file_size) {
            return None;
        }
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let notes = self.data.read_bytes_at(offset, bytes).ok()?;
        Some(notes::pvh_entry(notes, align))
    }
}
