//! SIGBUS: somebody touches a page of a mapped file that the file has lost, or that cannot be read from
//! the disk. It is not the end of the process in two cases:
//!
//! A [copy](Copier) out of a mapped image reports that bytes cannot be had. Just two instructions do
//! that; the handler knows them, and lets the copy go on where it reports its failure.
//!
//! [Guarded](Guard) memory is shared with another process, which may cut its file short at any time.
//! The handler puts memory of zeros in its place, of ours alone: what the other process has shared is
//! lost to it, and whoever reads it finds nothing that makes sense.
//!
//! Any other SIGBUS gets the handler that was there before.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vm_memory::VolatileSlice;

// bool iolite_copy(to: rdi, from: rsi, words: rdx, bytes: rcx): words of 8 bytes, and bytes after them.
// If `rep` faults, what it has not copied is still in rcx; nobody needs it.
global_asm!(
    ".pushsection .text.iolite_copy, \"ax\", @progbits",
    ".globl iolite_copy, iolite_copy_words, iolite_copy_bytes, iolite_copy_failed",
    ".hidden iolite_copy, iolite_copy_words, iolite_copy_bytes, iolite_copy_failed",
    ".type iolite_copy, @function",
    "iolite_copy:",
    ".cfi_startproc",
    "xchg rcx, rdx",
    "iolite_copy_words:",
    "rep movsq",
    "mov rcx, rdx",
    "iolite_copy_bytes:",
    "rep movsb",
    "mov eax, 1",
    "ret",
    "iolite_copy_failed:",
    "xor eax, eax",
    "ret",
    ".cfi_endproc",
    ".size iolite_copy, . - iolite_copy",
    ".popsection",
);

unsafe extern "sysv64" {
    fn iolite_copy(to: *mut u8, from: *const u8, words: usize, bytes: usize) -> bool;
    static iolite_copy_words: u8;
    static iolite_copy_bytes: u8;
    static iolite_copy_failed: u8;
}

const WORD: usize = size_of::<u64>();

/// Who may copy: there is one once the handler is in place.
#[derive(Clone, Copy)]
pub(crate) struct Copier(());

impl Copier {
    /// Puts the handler in place, if it is not. None if the system refuses it.
    pub(crate) fn new() -> Option<Copier> {
        is_handled().then_some(Copier(()))
    }

    /// Fills `to` from `from` on. False if not every byte could be read.
    ///
    /// # Safety
    /// As many bytes from `from` on as `to` has are mapped, readable, and stay so; whether there is
    /// anything behind the mapping does not matter.
    pub(crate) unsafe fn copy(self, to: &VolatileSlice<'_>, from: *const u8) -> bool {
        let len = to.len();
        let to = to.ptr_guard_mut();
        // SAFETY: the destination is a slice, to which no reference exists; the source is the
        // caller's word; a SIGBUS of either is handled.
        unsafe { iolite_copy(to.as_ptr(), from, len / WORD, len % WORD) }
    }
}

/// Memory that may vanish, as long as this lives.
pub(crate) struct Guard(&'static Guarded);

/// Where such memory is; of no bytes where there is none.
struct Guarded {
    taken: AtomicBool,
    start: AtomicUsize,
    bytes: AtomicUsize,
}

/// A disk has at most 32 regions of memory, and a process at most 19 disks.
const MOST: usize = 1024;
static GUARDED: [Guarded; MOST] = [const {
    Guarded {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
    }
}; MOST];

impl Guard {
    /// Guards a mapping of `bytes` bytes at `start`. None if the system refuses the handler, or there
    /// are too many.
    ///
    /// # Safety
    /// The mapping is all there, and nobody holds a reference into it: it may be replaced at any time.
    /// It stays until the guard is dropped.
    pub(crate) unsafe fn new(start: *const u8, bytes: usize) -> Option<Guard> {
        let free = |slot: &&Guarded| !slot.taken.swap(true, Ordering::AcqRel);
        let slot = is_handled().then(|| GUARDED.iter().find(free))??;
        slot.start.store(start as usize, Ordering::Release);
        slot.bytes.store(bytes, Ordering::Release);
        Some(Guard(slot))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.bytes.store(0, Ordering::Release);
        self.0.taken.store(false, Ordering::Release);
    }
}

/// Puts zeros where there was guarded memory around `address`. False if there was none.
fn replace(address: usize) -> bool {
    GUARDED.iter().any(|guarded| {
        let bytes = guarded.bytes.load(Ordering::Acquire);
        let start = guarded.start.load(Ordering::Acquire);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        address.wrapping_sub(start) < bytes
            // SAFETY: whoever guards the mapping has said that it may be replaced.
            && unsafe { libc::mmap(start as *mut _, bytes, protection, flags, -1, 0) }
                != libc::MAP_FAILED
    })
}

/// Puts the handler in place, if it is not. False if the system refuses it.
fn is_handled() -> bool {
    PREVIOUS.get_or_init(install).is_some()
}

/// What was done about SIGBUS before; none if it could not be changed.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

fn install() -> Option<libc::sigaction> {
    // SAFETY: both are plain data, for which zero is valid; the call reads one and writes the other.
    // The handler is a function of the kind that SA_SIGINFO asks for, and lives for ever.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let done = libc::sigaction(libc::SIGBUS, &action, &mut previous);
        (done == 0).then_some(previous)
    }
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted context, whose registers are ours
    // until we return.
    let rip = unsafe {
        let context = context.cast::<libc::ucontext_t>();
        &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize]
    };
    let [words, bytes, failed] = [
        &raw const iolite_copy_words,
        &raw const iolite_copy_bytes,
        &raw const iolite_copy_failed,
    ]
    .map(|place| place as i64);
    if *rip == words || *rip == bytes {
        *rip = failed;
        return;
    }
    // SAFETY: with SA_SIGINFO the second argument says what the signal is; where it is about an address,
    // it has one.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code > 0 && code != libc::BUS_MCEERR_AO && replace(address) {
        return;
    }
    // SAFETY: with SA_SIGINFO the second argument says what the signal is; the other calls are ones for
    // handlers, with an action that the system gave us.
    unsafe {
        match (*info).si_code {
            // Memory somewhere is broken, and nobody has touched it yet.
            libc::BUS_MCEERR_AO => {}
            // The instruction runs once more, and this time the fault is the other handler's; what somebody
            // has sent is sent once more.
            code => {
                if let Some(Some(previous)) = PREVIOUS.get() {
                    libc::sigaction(signal, previous, std::ptr::null_mut());
                }
                if code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

    #[test]
    fn guarded_memory_that_vanishes_is_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x4000).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let region: MmapRegion = MmapRegion::from_file(offset, 0x4000).unwrap();
        let start = region.as_ptr();
        // SAFETY: the region outlives the guard, and is touched through volatile slices alone.
        let guard = unsafe { Guard::new(start, 0x4000) }.unwrap();
        let memory = region.as_volatile_slice();
        memory.write_obj(7u64, 0x3000).unwrap();
        file.set_len(0x1000).unwrap();
        assert_eq!(memory.read_obj::<u64>(0x3000).unwrap(), 0);
        memory.write_obj(9u64, 0x2000).unwrap();
        assert_eq!(memory.read_obj::<u64>(0x2000).unwrap(), 9);
        drop(guard);
    }
}
