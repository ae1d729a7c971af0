//! What a test says, and what tests check with.

use crate::run::PROGRAM;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::panic::Location;
use iolite_user::core_logic::pattern;
use iolite_user::{Buffer, Ended, Errno, File, PAGE_BYTES, Process};

/// The scratch disk.
pub const SCRATCH: &str = "/dev/vdb";
/// The disk with sectors that fail.
pub const FAULTY: &str = "/dev/vdc";
/// The disk whose flushes fail.
pub const UNFLUSHED: &str = "/dev/vdd";
/// A page as an offset.
pub const PAGE: u64 = PAGE_BYTES as u64;
/// Smallest unit of a direct transfer in bytes.
pub const SECTOR: u64 = 512;

/// Passed, or why not.
pub type Check = Result<(), Failure>;

/// Why a test failed.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure at the caller's line.
    #[track_caller]
    #[cold]
    #[inline(never)]
    pub fn new(why: fmt::Arguments) -> Failure {
        Failure(format!("{why} (line {})", Location::caller().line()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Errno> for Failure {
    /// For `?`, where success is part of the test.
    #[track_caller]
    #[cold]
    #[inline(never)]
    fn from(error: Errno) -> Failure {
        Failure::new(format_args!("{error:?}"))
    }
}

/// Fails the test, with the formatted reason, unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::check::Failure::new(format_args!($($why)+)));
        }
    };
}

/// Fails unless the result is this error.
#[track_caller]
#[inline(never)]
pub fn refused<T: fmt::Debug>(what: &str, result: Result<T, Errno>, wanted: Errno) -> Check {
    match result {
        Err(error) if error == wanted => Ok(()),
        other => Err(Failure::new(format_args!(
            "{what} gave {other:?}, not {wanted:?}"
        ))),
    }
}

/// Fails unless both are equal.
#[track_caller]
#[inline(never)]
pub fn equal<T: fmt::Debug + PartialEq>(what: &str, found: T, wanted: T) -> Check {
    if found == wanted {
        return Ok(());
    }
    Err(Failure::new(format_args!(
        "{what}: {found:?}, not {wanted:?}"
    )))
}

/// Fails unless `bytes`, which were at `offset`, are the pattern of `seed`.
#[track_caller]
#[inline(never)]
pub fn holds(bytes: &[u8], seed: u64, offset: u64) -> Check {
    match pattern::first_difference(bytes, seed, offset) {
        None => Ok(()),
        Some((at, wanted)) => Err(Failure::new(format_args!(
            "byte {at} of {} at {offset:#x} is {:#04x}, not {wanted:#04x}",
            bytes.len(),
            bytes[at]
        ))),
    }
}

/// `len` bytes of the pattern of `seed` from `offset` on.
#[inline(never)]
pub fn pattern_of(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = alloc::vec![0; len];
    pattern::fill(&mut bytes, seed, offset);
    bytes
}

/// One page-aligned buffer.
#[inline(never)]
pub fn buffer(len: usize) -> Result<Buffer, Errno> {
    Buffer::many(1, len)?.pop().ok_or(Errno::ENOMEM)
}

/// Writes the pattern of `seed` to `[offset, offset + len)` of the scratch disk, past the page
/// cache, which holds none of it afterwards.
#[inline(never)]
pub fn prepare(seed: u64, offset: u64, len: u64) -> Result<(), Errno> {
    const BLOCK: u64 = 256 << 10;
    let disk = File::open_direct_writable(SCRATCH)?;
    let mut block = buffer(BLOCK.min(len) as usize)?;
    for at in (offset..offset + len).step_by(BLOCK as usize) {
        let part = (offset + len - at).min(BLOCK) as usize;
        pattern::fill(&mut block[..part], seed, at);
        disk.pwrite_all(&block[..part], at)?;
    }
    Ok(())
}

/// Fails unless `[offset, offset + len)` of the scratch disk, read past the page cache, is the
/// pattern of `seed`.
#[track_caller]
#[inline(never)]
pub fn disk_holds(seed: u64, offset: u64, len: u64) -> Check {
    const BLOCK: u64 = 256 << 10;
    let disk = File::open_direct(SCRATCH)?;
    let mut block = buffer(BLOCK.min(len) as usize)?;
    for at in (offset..offset + len).step_by(BLOCK as usize) {
        let part = (offset + len - at).min(BLOCK) as usize;
        disk.pread_exact(&mut block[..part], at)?;
        holds(&block[..part], seed, at)?;
    }
    Ok(())
}

/// Starts this program in a role.
#[inline(never)]
pub fn start(role: &str, args: &[&str]) -> Result<Process, Errno> {
    let mut all = Vec::from(["usertests", "--as", role]);
    all.extend(args);
    Process::spawn(PROGRAM, all)
}

/// Plays a role in a child to its end.
#[inline(never)]
pub fn end_of(role: &str, args: &[&str]) -> Result<Ended, Errno> {
    start(role, args)?.wait()
}

/// Numbers without order, the same every time (xorshift64).
pub struct Random(u64);

impl Random {
    /// Those of `seed`, which is not 0.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
