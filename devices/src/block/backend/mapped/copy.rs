//! Copying out of a mapped file: bytes that cannot be had are a `false`, not the end of the process.
//!
//! To touch a page that the file has lost, or that cannot be read from the disk, is a SIGBUS. Just two
//! instructions of this program touch mapped files. The handler knows them, and lets the copy go on
//! where it reports its failure. Any other SIGBUS gets the handler that was there before.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::sync::OnceLock;

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
pub(super) struct Copier(());

impl Copier {
    /// Puts the handler in place, if it is not. None if the system refuses it.
    pub(super) fn new() -> Option<Copier> {
        PREVIOUS
            .get_or_init(install)
            .is_some()
            .then_some(Copier(()))
    }

    /// Fills `to` from `from` on. False if not every byte could be read.
    ///
    /// # Safety
    /// As many bytes from `from` on as `to` has are mapped, readable, and stay so; whether there is
    /// anything behind the mapping does not matter.
    pub(super) unsafe fn copy(self, to: &VolatileSlice<'_>, from: *const u8) -> bool {
        let len = to.len();
        let to = to.ptr_guard_mut();
        // SAFETY: the destination is a slice, to which no reference exists; the source is the
        // caller's word; a SIGBUS of either is handled.
        unsafe { iolite_copy(to.as_ptr(), from, len / WORD, len % WORD) }
    }
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
    // SAFETY: with SA_SIGINFO the second argument says what the signal is; the other calls are ones for
    // handlers, with an action that the system gave us.
    unsafe {
        match (*info).si_code {
            // Memory somewhere is broken, and nobody has touched it yet.
            libc::BUS_MCEERR_AO => {}
            // Somebody has sent it, who wants the end of the process.
            ..=0 => {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            // The instruction runs once more, and this time the fault is its own handler's.
            _ => {
                if let Some(Some(previous)) = PREVIOUS.get() {
                    libc::sigaction(signal, previous, std::ptr::null_mut());
                }
            }
        }
    }
}
