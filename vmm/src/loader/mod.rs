//! Putting a kernel into guest memory, with all that it expects to find there.
//!
//! Protocol: [`load`] reads the ELF file's headers ([`elf`], `notes`), sees whether they fit the
//! machine (`fit`), copies the segments (`file`), places initrd, command line and MP table, and
//! lets `pvh` or `linux64` write the structure that the kernel's boot protocol asks for. What comes
//! out, a [`Boot`], is all that a vCPU has to be set to.
//!
//! A kernel file is as untrusted as a guest: none can make this code panic or allocate much.

pub mod elf;
mod file;
mod fit;
mod linux64;
#[cfg(test)]
mod made;
mod mptable;
mod notes;
mod pvh;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "../../../tests/support/tiny.rs"]
mod tiny;

use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::cmdline::Cmdline;
use object::ReadCache;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::memory::{CMDLINE, CMDLINE_BYTES};
use elf::{ElfError, Kernel};

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

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Pvh => "by the PVH protocol, as its note says,",
            Protocol::Linux64 => "by the Linux 64-bit protocol, for want of a PVH note,",
        })
    }
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
    let (kernel, boot) = load_kernel(memory, memory_bytes, kernel)?;
    log::debug!(
        "the kernel is entered {} at {:#x}",
        boot.protocol,
        boot.entry
    );
    let initrd = initrd
        .map(|path| load_initrd(memory, memory_bytes, path, &kernel))
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

fn load_kernel(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    image: &Image,
) -> Result<(Kernel, Boot), LoaderError> {
    match image {
        Image::BuiltIn(bytes) => {
            let bad = |source| LoaderError::Elf {
                path: "(built-in)".into(),
                source,
            };
            let kernel = elf::parse(*bytes).map_err(bad)?;
            let boot = kernel.boot(memory_bytes).map_err(bad)?;
            for segment in &kernel.segments {
                // `parse` has checked the range against the file's size.
                let range = segment.offset as usize..(segment.offset + segment.file_bytes) as usize;
                let contents = bytes.get(range).ok_or_else(|| bad(ElfError::Truncated))?;
                memory.write_slice(contents, GuestAddress(segment.address))?;
            }
            Ok((kernel, boot))
        }
        Image::File(path) => {
            let failed = |reason| failed("kernel", path, reason);
            let bad = |source| LoaderError::Elf {
                path: path.display().to_string(),
                source,
            };
            let mut file = file::open(path).map_err(failed)?;
            let kernel = elf::parse(&ReadCache::new(&file)).map_err(bad)?;
            let boot = kernel.boot(memory_bytes).map_err(bad)?;
            for segment in kernel.segments.iter().filter(|s| s.file_bytes > 0) {
                let start = SeekFrom::Start(segment.offset);
                file.seek(start).map_err(|e| failed(e.to_string()))?;
                file::read_into(memory, segment.address, &mut file, segment.file_bytes)
                    .map_err(failed)?;
            }
            Ok((kernel, boot))
        }
    }
}

/// Places the initrd at the end of low memory, beside the kernel.
fn load_initrd(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    path: &Path,
    kernel: &Kernel,
) -> Result<Initrd, LoaderError> {
    let failed = |reason| failed("initrd", path, reason);
    let mut file = file::open(path).map_err(failed)?;
    let size = file.metadata().map_err(|e| failed(e.to_string()))?.len();
    if size == 0 {
        return Err(failed("is empty".into()));
    }
    let start = kernel.initrd_start(memory_bytes, size);
    let start = start.ok_or_else(|| LoaderError::InitrdTooBig {
        path: path.display().to_string(),
        bytes: size,
    })?;
    file::read_into(memory, start, &mut file, size).map_err(failed)?;
    Ok(Initrd { start, size })
}

fn failed(role: &'static str, path: &Path, reason: String) -> LoaderError {
    LoaderError::File {
        role,
        path: path.display().to_string(),
        reason,
    }
}
