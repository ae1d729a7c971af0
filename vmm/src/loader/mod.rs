//! Putting a kernel into guest memory, with all that it expects to find there.
//!
//! Protocol: [`load`] reads the ELF file's headers ([`elf`]), copies its segments, places initrd,
//! command line and MP table, and lets `pvh` or `linux64` write the structure that the kernel's
//! boot protocol asks for. What comes out, a [`Boot`], is all that a vCPU has to be set to.
//!
//! A kernel file is as untrusted as a guest: none can make this code panic or allocate much.

pub mod elf;
mod linux64;
mod mptable;
mod pvh;
#[cfg(test)]
#[path = "../../../tests/support/tiny.rs"]
mod tiny;

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;

use linux_loader::cmdline::Cmdline;
use object::ReadCache;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::memory::{CMDLINE, CMDLINE_BYTES, HIGH_MEMORY};
use elf::{ElfError, Kernel, Segment};

/// A page: what an initrd is aligned to.
const PAGE_BYTES: u64 = 4096;

/// Where a file for the guest comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Part of this program.
    BuiltIn(&'static [u8]),
    /// A file of the user's.
    File(PathBuf),
}

/// Why a kernel cannot be loaded: one line, with the file's name.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A file cannot be read.
    #[error("{role} {path}: {reason}")]
    File {
        /// `kernel` or `initrd`.
        role: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The kernel is not one we can load.
    #[error("kernel {path}: {source}")]
    Elf {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: ElfError,
    },
    /// The initrd does not fit beside the kernel.
    #[error(
        "initrd {path}: {bytes} bytes do not fit into memory beside the kernel: give more with -m"
    )]
    InitrdTooBig {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// The command line is not one that a kernel can get.
    #[error(
        "the kernel's command line is not printable ASCII of at most 2047 bytes, \
         with some 35 more for each disk"
    )]
    Cmdline(linux_loader::cmdline::Error),
    /// A boot structure does not fit into memory.
    #[error("the boot structures do not fit into memory ({0}): give more with -m")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// The protocol by which a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// PVH: 32-bit protected mode, paging off, ebx = address of `hvm_start_info`.
    Pvh,
    /// Linux 64-bit boot: long mode, memory mapped one to one, rsi = address of `boot_params`.
    Linux64,
}

/// How to enter a loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Guest physical address of the first instruction.
    pub entry: u64,
    /// The state in which it expects the processor.
    pub protocol: Protocol,
}

/// Guest physical memory that an initrd occupies.
#[derive(Clone, Copy, Debug)]
struct Initrd {
    start: u64,
    size: u64,
}

/// Loads `kernel` and `initrd`, and writes the boot structures. `memory_bytes` is the size of the
/// guest's memory.
///
/// # Errors
/// [`LoaderError`]; the contents of guest memory are unspecified then.
pub fn load(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    kernel: &Image,
    initrd: Option<&PathBuf>,
    cmdline: &Cmdline,
) -> Result<Boot, LoaderError> {
    let (kernel, boot) = load_kernel(memory, kernel)?;
    let initrd = initrd
        .map(|path| load_initrd(memory, path, &kernel))
        .transpose()?;
    let cmdline = cmdline.as_cstring().map_err(LoaderError::Cmdline)?;
    let cmdline = cmdline.as_bytes_with_nul();
    if cmdline.len() > CMDLINE_BYTES {
        return Err(LoaderError::Cmdline(linux_loader::cmdline::Error::TooLarge));
    }
    memory.write_slice(cmdline, CMDLINE)?;
    mptable::write(memory)?;
    match boot.protocol {
        Protocol::Pvh => pvh::write_start_info(memory, memory_bytes, initrd)?,
        Protocol::Linux64 => {
            linux64::write_boot_params(memory, memory_bytes, initrd, cmdline.len())?;
            linux64::write_page_tables(memory)?;
        }
    }
    Ok(boot)
}

fn load_kernel(memory: &GuestMemoryMmap, image: &Image) -> Result<(Kernel, Boot), LoaderError> {
    match image {
        Image::BuiltIn(bytes) => {
            let bad = |source| LoaderError::Elf {
                path: "(built-in)".into(),
                source,
            };
            let kernel = elf::parse(*bytes).map_err(bad)?;
            let boot = kernel.boot(memory).map_err(bad)?;
            for segment in &kernel.segments {
                // `parse` has checked the range against the file's size.
                let range = segment.offset as usize..(segment.offset + segment.file_bytes) as usize;
                let contents = bytes.get(range).ok_or_else(|| bad(ElfError::Truncated))?;
                memory.write_slice(contents, GuestAddress(segment.address))?;
            }
            Ok((kernel, boot))
        }
        Image::File(path) => {
            let name = path.display().to_string();
            let mut file = open("kernel", path)?;
            let bad = |source| LoaderError::Elf {
                path: name.clone(),
                source,
            };
            let kernel = elf::parse(&ReadCache::new(&file)).map_err(bad)?;
            let boot = kernel.boot(memory).map_err(bad)?;
            for segment in &kernel.segments {
                copy_segment(memory, &mut file, segment).map_err(|reason| LoaderError::File {
                    role: "kernel",
                    path: name.clone(),
                    reason,
                })?;
            }
            Ok((kernel, boot))
        }
    }
}

/// Reads a segment straight from the file into guest memory.
fn copy_segment(
    memory: &GuestMemoryMmap,
    file: &mut File,
    segment: &Segment,
) -> Result<(), String> {
    file.seek(SeekFrom::Start(segment.offset))
        .map_err(|e| e.to_string())?;
    let bytes = segment.file_bytes as usize;
    memory
        .read_exact_volatile_from(GuestAddress(segment.address), file, bytes)
        .map_err(|e| format!("cannot be read: {e}"))
}

/// Places the initrd at the end of low memory, above the kernel.
fn load_initrd(
    memory: &GuestMemoryMmap,
    path: &PathBuf,
    kernel: &Kernel,
) -> Result<Initrd, LoaderError> {
    let failed = |reason| LoaderError::File {
        role: "initrd",
        path: path.display().to_string(),
        reason,
    };
    let mut file = open("initrd", path)?;
    let size = file.metadata().map_err(|e| failed(e.to_string()))?.len();
    if size == 0 {
        return Err(failed("is empty".into()));
    }
    let start = initrd_start(memory, size, kernel).ok_or_else(|| LoaderError::InitrdTooBig {
        path: path.display().to_string(),
        bytes: size,
    })?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)
        .map_err(|e| failed(format!("cannot be read: {e}")))?;
    Ok(Initrd { start, size })
}

fn initrd_start(memory: &GuestMemoryMmap, size: u64, kernel: &Kernel) -> Option<u64> {
    let low = memory.find_region(GuestAddress(0))?;
    let start = low.len().checked_sub(size)? & !(PAGE_BYTES - 1);
    let above = kernel
        .segments
        .iter()
        .map(Segment::end)
        .max()?
        .max(HIGH_MEMORY.0);
    (start >= above).then_some(start)
}

/// Opens a regular file for reading.
fn open(role: &'static str, path: &PathBuf) -> Result<File, LoaderError> {
    let failed = |reason| LoaderError::File {
        role,
        path: path.display().to_string(),
        reason,
    };
    // A named pipe would block: look before opening.
    let metadata = std::fs::metadata(path).map_err(|e| failed(cannot_open(&e)))?;
    if metadata.is_dir() {
        return Err(failed("is a directory: give a file".into()));
    }
    if !metadata.is_file() {
        return Err(failed("is not a regular file".into()));
    }
    File::open(path).map_err(|e| failed(cannot_open(&e)))
}

fn cannot_open(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist: check the path".into(),
        std::io::ErrorKind::PermissionDenied => "is not readable: check its permissions".into(),
        _ => format!("cannot be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::tiny::{Entry, Tiny};
    use super::*;
    use std::io::Write;

    const MEMORY_BYTES: u64 = 4 << 20;

    fn cmdline() -> Cmdline {
        Cmdline::new(CMDLINE_BYTES).unwrap()
    }

    #[test]
    fn a_kernel_from_a_file_is_the_same_in_memory() {
        let tiny = Tiny::new(Entry::Pvh).print("hello").halt();
        let file = tiny.file();
        let memory = crate::memory::create(MEMORY_BYTES).unwrap();
        let image = Image::File(file.path().to_owned());
        load(&memory, MEMORY_BYTES, &image, None, &cmdline()).unwrap();
        let mut loaded = vec![0; tiny.elf().len()];
        memory.read_slice(&mut loaded, HIGH_MEMORY).unwrap();
        assert_eq!(loaded, tiny.elf());
    }

    #[test]
    fn an_initrd_lies_at_the_end_of_memory_and_never_in_the_kernel() {
        let file = Tiny::new(Entry::Pvh).halt().file();
        let kernel = Image::File(file.path().to_owned());
        let mut initrd = tempfile::NamedTempFile::new().unwrap();
        initrd.write_all(b"contents").unwrap();
        let memory = crate::memory::create(MEMORY_BYTES).unwrap();
        let initrd_path = initrd.path().to_owned();
        load(
            &memory,
            MEMORY_BYTES,
            &kernel,
            Some(&initrd_path),
            &cmdline(),
        )
        .unwrap();
        let mut contents = [0; 8];
        memory
            .read_slice(&mut contents, GuestAddress(MEMORY_BYTES - 4096))
            .unwrap();
        assert_eq!(&contents, b"contents");

        initrd
            .as_file()
            .set_len(MEMORY_BYTES - HIGH_MEMORY.0)
            .unwrap();
        let refused = load(
            &memory,
            MEMORY_BYTES,
            &kernel,
            Some(&initrd_path),
            &cmdline(),
        );
        assert!(matches!(refused, Err(LoaderError::InitrdTooBig { .. })));
    }
}
