//! Kernels that are loaded, kernels that are refused, and files that only look like kernels.

use std::collections::VecDeque;
use std::io::{Cursor, Write};
use std::path::Path;

use object::ReadCache;
use proptest::prelude::*;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use super::elf::parse;
use super::made::{self, BODY, Header, Made, PT_NOTE, SHT_NOTE, load as segment, note};
use super::tiny::{Entry, Tiny};
use super::*;
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::memory::HIGH_MEMORY;

const MEMORY_BYTES: u64 = 4 << 20;
const XEN: &[u8] = b"Xen\0";
const ENTRY: u32 = 0x10_0800;

fn cmdline() -> Cmdline {
    Cmdline::new(CMDLINE_BYTES).unwrap()
}

fn boot(elf: &[u8]) -> Result<Boot, ElfError> {
    parse(elf)?.boot(MEMORY_BYTES)
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn load_file(path: &Path, initrd: Option<&Path>) -> Result<(GuestMemoryMmap, Boot), LoaderError> {
    let memory = crate::memory::create(MEMORY_BYTES).unwrap();
    let (image, initrd) = (Image::File(path.into()), initrd.map(PathBuf::from));
    let boot = load(&memory, MEMORY_BYTES, &image, initrd.as_ref(), &cmdline())?;
    Ok((memory, boot))
}

#[test]
fn a_kernel_from_a_file_is_the_same_in_memory() {
    let tiny = Tiny::new(Entry::Pvh).print("hello").halt();
    let (memory, _) = load_file(tiny.file().path(), None).unwrap();
    let mut loaded = vec![0; tiny.elf().len()];
    memory.read_slice(&mut loaded, HIGH_MEMORY).unwrap();
    assert_eq!(loaded, tiny.elf());
}

#[test]
fn an_initrd_lies_at_the_end_of_memory_and_never_in_the_kernel() {
    let kernel = Tiny::new(Entry::Pvh).halt().file();
    let initrd = file_of(b"contents");
    let (memory, _) = load_file(kernel.path(), Some(initrd.path())).unwrap();
    let mut contents = [0; 8];
    let start = GuestAddress(MEMORY_BYTES - 4096);
    memory.read_slice(&mut contents, start).unwrap();
    assert_eq!(&contents, b"contents");

    let too_long = MEMORY_BYTES - HIGH_MEMORY.0;
    initrd.as_file().set_len(too_long).unwrap();
    let refused = load_file(kernel.path(), Some(initrd.path()));
    assert!(matches!(refused, Err(LoaderError::InitrdTooBig { .. })));
}

#[test]
fn an_initrd_finds_room_below_a_kernel_at_the_end_of_memory() {
    let mut made = Made::kernel();
    made.headers
        .push(segment(BODY, MEMORY_BYTES - 0x1000, 0x1000, 0x1000));
    let start = |made: &Made, bytes| parse(&*made.bytes()).unwrap().initrd_start(3 << 30, bytes);
    assert_eq!(start(&made, 1), Some((3 << 30) - 0x1000));
    made.headers[1].address = (3 << 30) - 0x1800;
    assert_eq!(start(&made, 1), Some((3 << 30) - 0x2000));
    // What lies above the hole is not in the way.
    made.headers[1].address = 5 << 30;
    assert_eq!(start(&made, 1), Some((3 << 30) - 0x1000));
}

#[test]
fn the_note_decides_on_the_protocol() {
    let entry = 0x10_0100;
    for (kernel, protocol) in [
        (Entry::Pvh, Protocol::Pvh),
        (Entry::Linux64, Protocol::Linux64),
    ] {
        let kernel = Tiny::new(kernel).halt().elf();
        assert_eq!(boot(&kernel), Ok(Boot { entry, protocol }));
    }
}

/// A kernel with these notes, one after the other, at an alignment, behind a header that says
/// another.
fn noted(notes: &[(&[u8], u32, &[u8])], align: usize, says: u64) -> Made {
    let mut made = Made::kernel();
    let notes = notes.iter();
    let notes: Vec<u8> = notes
        .flat_map(|(name, kind, contents)| note(name, *kind, contents, align))
        .collect();
    let header = Header {
        kind: PT_NOTE,
        offset: made.append(&notes),
        file_bytes: notes.len() as u64,
        align: says,
        ..Header::default()
    };
    made.headers.push(header);
    made
}

#[test]
fn the_note_is_found_wherever_it_is() {
    let found = |made: &Made| {
        let pvh = Boot {
            entry: ENTRY.into(),
            protocol: Protocol::Pvh,
        };
        assert_eq!(boot(&made.bytes()), Ok(pvh), "{:?}", made.headers);
    };
    let (short, long) = (ENTRY.to_le_bytes(), u64::from(ENTRY).to_le_bytes());
    let entries: [&[u8]; 2] = [&short, &long];
    // Whatever the header says, whether it keeps to that or not.
    for says in [0, 1, 2, 3, 4, 8, 16, 4096] {
        for (align, entry) in [4, 8].into_iter().flat_map(|a| entries.map(|e| (a, e))) {
            found(&noted(&[(XEN, 18, entry)], align, says));
            // After others, also its own with other types, and names of every length.
            for length in 0..9 {
                let other = &b"Linuxish"[..length];
                let others = [
                    (other, 18, &b"abcdefg"[..length.min(7)]),
                    (XEN, 5, b"xen-3"),
                ];
                let notes = [&others[..], &[(XEN, 18, entry)]].concat();
                found(&noted(&notes, align, says));
            }
        }
    }
    // In the second of two segments.
    let mut made = noted(&[(b"GNU\0", 3, b"0123456789abcdef0123")], 4, 4);
    let at = made.append(&note(XEN, 18, &short, 4));
    let header = |kind| Header {
        kind,
        offset: at,
        file_bytes: 20,
        align: 4,
        ..Header::default()
    };
    made.headers.push(header(PT_NOTE));
    found(&made);
    // In a section alone.
    made.headers.truncate(1);
    made.sections = vec![Header::default(), header(SHT_NOTE)];
    found(&made);
    // A name without its NUL, a last note without what fills it up.
    let mut made = noted(&[(b"Xen", 18, &short)], 4, 4);
    found(&made);
    made.headers[1].file_bytes = 12 + 4 + 4;
    found(&made);
}

#[test]
fn a_note_without_an_address_is_none() {
    for contents in [&b""[..], b"\x00\x08\x10"] {
        let made = noted(&[(XEN, 18, contents)], 4, 4);
        let boot = boot(&made.bytes()).unwrap();
        assert_eq!(boot.protocol, Protocol::Linux64);
    }
    let mut cut = noted(&[(XEN, 18, &ENTRY.to_le_bytes())], 4, 4);
    cut.headers[1].file_bytes = 1 << 40;
    assert_eq!(boot(&cut.bytes()), Err(ElfError::Truncated));
    // All eight bytes count.
    let far = 1 << 32 | u64::from(ENTRY);
    let made = noted(&[(XEN, 18, &far.to_le_bytes())], 8, 8);
    assert_eq!(boot(&made.bytes()), Err(ElfError::EntryOutside(far)));
}

#[test]
fn headers_that_would_cost_much_memory_are_refused() {
    let mut elf = Tiny::new(Entry::Pvh).halt().elf();
    elf[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
    assert_eq!(boot(&elf), Err(ElfError::TooManyHeaders));
    let mut made = Made::kernel();
    made.wrong[0] = Some(0);
    assert_eq!(boot(&made.bytes()), Err(ElfError::BadHeaderSize));
    made.wrong = [None, Some(0), None, None];
    assert_eq!(boot(&made.bytes()), Err(ElfError::NoSegments));
}

#[test]
fn segments_that_wrap_around_are_refused() {
    let mut made = Made::kernel();
    for memory_bytes in [u64::MAX, 1] {
        made.headers[0].memory_bytes = memory_bytes;
        assert_eq!(boot(&made.bytes()), Err(ElfError::BadSegment(0x10_0000)));
    }
}

/// A small file can ask for the same gigabytes again and again.
#[test]
fn segments_that_overlap_are_refused() {
    let mut made = Made::kernel();
    made.headers = vec![segment(BODY, 0x10_0000, 0x1000, 0x1000); 255];
    assert_eq!(boot(&made.bytes()), Err(ElfError::Overlap(0x10_0000)));
    let at = |address| {
        vec![
            segment(BODY, address, 0, 0x1000),
            segment(BODY, 0x10_0000, 1, 0x1000),
        ]
    };
    made.headers = at(0x10_0fff);
    assert_eq!(boot(&made.bytes()), Err(ElfError::Overlap(0x10_0fff)));
    made.headers = at(0x10_1000);
    assert!(boot(&made.bytes()).is_ok());
}

#[test]
fn what_has_no_bytes_in_the_file_lies_anywhere_in_it() {
    let mut made = Made::kernel();
    made.headers.push(segment(u64::MAX, 0x20_0000, 0, 0x1000));
    assert!(boot(&made.bytes()).is_ok());
    let file = file_of(&made.bytes());
    assert!(load_file(file.path(), None).is_ok());
    made.headers[1].file_bytes = 1;
    assert_eq!(boot(&made.bytes()), Err(ElfError::Truncated));
}

#[test]
fn a_kernel_is_loaded_to_memory_that_its_map_shows_and_entered_below_4_gib() {
    let boot = |address: u64, memory_bytes| {
        let mut made = Made::kernel();
        made.headers[0].address = address;
        made.entry = address + 0x800;
        parse(&*made.bytes())?
            .boot(memory_bytes)
            .map(|boot| boot.entry)
    };
    let outside = |address| Err(ElfError::OutsideMemory(address + 0x1000));
    let fits = |address| Ok(address + 0x800);
    for structure in [
        0, 0x500, 0x6000, 0x7000, 0x9000, 0xe000, 0x2_0000, 0x9_f000, 0xf_f000,
    ] {
        let refused = Err(ElfError::BelowHighMemory(structure));
        assert_eq!(boot(structure, 6 << 30), refused);
    }
    for mib in [2, 4, 513, 3328] {
        let end = mib << 20;
        assert_eq!(boot(end - 0x1000, end), fits(end - 0x1000));
        assert_eq!(boot(end - 0xfff, end), outside(end - 0xfff));
        assert_eq!(boot(end, end), outside(end));
    }
    // The hole, and in it the window of events.
    for address in [0xcfff_f001, 0xd000_0000, 0xe000_0000, 0xffff_f000] {
        assert_eq!(boot(address, 6 << 30), outside(address));
    }
    let high = 1 << 32;
    assert_eq!(boot(high, 3328 << 20), outside(high));
    for mib in [3329, 6 << 10] {
        assert_eq!(
            boot(high, mib << 20),
            Err(ElfError::EntryTooHigh(high + 0x800))
        );
    }
    assert_eq!(
        boot(high + (1 << 20), 3329 << 20),
        outside(high + (1 << 20))
    );
}

/// A file that gives what it has as `gives` says: so many bytes at most, or an interruption.
struct Slow<'a> {
    bytes: &'a [u8],
    gives: VecDeque<Option<usize>>,
}

impl ReadVolatile for Slow<'_> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let interrupted = || VolatileMemoryError::IOError(std::io::ErrorKind::Interrupted.into());
        let most = self.gives.pop_front().ok_or_else(interrupted)?;
        let most = most.ok_or_else(interrupted)?.min(buf.len());
        let mut part = buf.subslice(0, most)?;
        self.bytes.read_volatile(&mut part)
    }
}

#[test]
fn short_and_interrupted_reads_go_on() {
    let memory = crate::memory::create(crate::memory::MIN_BYTES).unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    let gives = [Some(3), None, None, Some(1), Some(200), None, Some(1000)];
    let slow = |gives: &[_]| Slow {
        bytes: &bytes,
        gives: gives.iter().copied().collect(),
    };
    file::read_into(&memory, 0x10_0000, &mut slow(&gives), 256).unwrap();
    let mut read = vec![0; 256];
    memory.read_slice(&mut read, HIGH_MEMORY).unwrap();
    assert_eq!(read, bytes);
    let gives = [Some(200), Some(200), Some(200)];
    let error = file::read_into(&memory, 0x10_0000, &mut slow(&gives), 257).unwrap_err();
    assert!(error.contains("shorter"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let kernel = Tiny::new(Entry::Pvh).halt().file();
    for path in [
        &pipe,
        directory.path(),
        Path::new("/dev/zero"),
        Path::new("/nowhere"),
    ] {
        for result in [load_file(path, None), load_file(kernel.path(), Some(path))] {
            refused(result.map(drop).unwrap_err());
        }
    }
}

/// A refusal is one line, with exit code 8.
fn refused(error: LoaderError) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 400, "{text}");
    assert_eq!(ExitCode::from(&Error::Loader(error)), ExitCode::Kernel);
}

/// What is loaded lies in memory as it does in the file, beside what the VMM writes.
fn check_loaded(file: &[u8], memory: &GuestMemoryMmap) -> Result<(), TestCaseError> {
    for segment in parse(file).unwrap().segments {
        let range = segment.offset as usize..(segment.offset + segment.file_bytes) as usize;
        let mut loaded = vec![0; segment.memory_bytes as usize];
        memory
            .read_slice(&mut loaded, GuestAddress(segment.address))
            .unwrap();
        let (there, zero) = loaded.split_at(range.len());
        prop_assert!(there == &file[range] && zero.iter().all(|byte| *byte == 0));
    }
    let pointer: [u8; 4] = memory.read_obj(crate::memory::EBDA).unwrap();
    prop_assert_eq!(&pointer, b"_MP_");
    Ok(())
}

/// What is accepted for a machine of this size lies in its memory, once.
fn check_fit(kernel: &Kernel, memory_bytes: u64) -> Result<(), TestCaseError> {
    let Ok(boot) = kernel.boot(memory_bytes) else {
        return Ok(());
    };
    let places = || kernel.segments.iter().map(|s| (s.address, s.end()));
    let (low, high) = (memory_bytes.min(0xd000_0000), memory_bytes.max(0xd000_0000));
    let high = (1 << 32)..=(1 << 32) + high - 0xd000_0000;
    let mut last = 0;
    for (start, end) in places() {
        let in_low = start >= 1 << 20 && end <= low;
        prop_assert!(in_low || high.contains(&start) && high.contains(&end));
        prop_assert!(start >= last);
        last = end;
    }
    prop_assert!(places().any(|(start, end)| (start..end).contains(&boot.entry)));
    prop_assert!(boot.entry < 1 << 32);
    for bytes in [1, 4096, 0x20_0000, memory_bytes / 2, memory_bytes, u64::MAX] {
        let free = |start: u64| {
            let end = start + bytes;
            start >= 1 << 20 && places().all(|(s, e)| e <= start || s >= end)
        };
        let ends = places().map(|(start, _)| start).chain([low]);
        let starts = ends.filter_map(|end| Some(end.min(low).checked_sub(bytes)? & !0xfff));
        let highest = starts.filter(|start| free(*start)).max();
        prop_assert_eq!(kernel.initrd_start(memory_bytes, bytes), highest);
    }
    Ok(())
}

proptest! {
    /// Whatever its headers and notes say, a file is refused in one line, or loaded to where
    /// nothing else is.
    #[test]
    fn any_elf_file_is_loaded_or_refused(made in made::any_file()) {
        let bytes = made.bytes();
        let parsed = parse(&ReadCache::new(Cursor::new(&bytes)));
        prop_assert_eq!(parse(&*bytes), parsed.clone());
        if let Ok(kernel) = parsed {
            for mib in [2, 4, 513, 3328, 3329, 6 << 10] {
                check_fit(&kernel, mib << 20)?;
            }
        }
        match load_file(file_of(&bytes).path(), None) {
            Ok((memory, _)) => check_loaded(&bytes, &memory)?,
            Err(error) => refused(error),
        }
    }

    /// A few bytes of a kernel changed anywhere, or its end cut off.
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
        prop_assert_eq!(parse(&*elf), parse(&ReadCache::new(Cursor::new(&elf))));
        match load_file(file_of(&elf).path(), None) {
            Ok((memory, _)) => check_loaded(&elf, &memory)?,
            Err(error) => refused(error),
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
