//! System calls with any number and any arguments, wrong ones above all, and code that must find its
//! registers as it left them.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use iolite_user::Errno;
use iolite_user::abi::{NO_FD, Number, PAGE_BYTES, map, prot};

/// An address in the kernel's half.
pub const KERNEL: u64 = 0xffff_ffff_8010_0000;
/// The first address that is in no half (not canonical).
pub const NOWHERE: u64 = 0x0000_8000_0000_0000;
/// An address in the user's half where nothing is ever mapped.
pub const UNMAPPED: u64 = 0x0000_6000_0000_0000;

/// Makes a system call. Arguments that are left out are 0.
///
/// What it does to this process's memory is the test's business: tests pass what the kernel has to
/// refuse, or addresses of memory they made with [`pages`] and look at with [`Pages::read`].
#[inline(never)]
pub fn call(number: Number, args: &[u64]) -> Result<u64, Errno> {
    call_number(number as u64, args)
}

/// As [`call`], with a number there may be no call of.
#[inline(never)]
pub fn call_number(number: u64, args: &[u64]) -> Result<u64, Errno> {
    let arg = |index: usize| args.get(index).copied().unwrap_or(0);
    let result: i64;
    // SAFETY: the gate keeps what a call keeps; for memory see `call`.
    unsafe {
        asm!(
            "int 0x80",
            inlateout("rax") number => result,
            inlateout("rdi") arg(0) => _,
            inlateout("rsi") arg(1) => _,
            inlateout("rdx") arg(2) => _,
            inlateout("r10") arg(3) => _,
            inlateout("r8") arg(4) => _,
            lateout("rcx") _,
            lateout("r9") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match result {
        -4095..0 => Err(Errno::from_raw(-result as i32).unwrap_or(Errno::ENOSYS)),
        value => Ok(value as u64),
    }
}

/// Pages that a test maps and may lose: there are no references to them but for moments.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Where they are.
    pub address: u64,
    /// How many bytes.
    pub len: usize,
}

/// Maps `count` pages of zeroes for good.
#[inline(never)]
pub fn pages(count: usize) -> Result<Pages, Errno> {
    map_pages(NO_FD, 0, count, prot::READ | prot::WRITE, map::PRIVATE)
}

/// Maps `count` pages of a file, for good.
#[inline(never)]
pub fn map_pages(
    fd: u64,
    offset: u64,
    count: usize,
    rights: u64,
    flags: u64,
) -> Result<Pages, Errno> {
    let len = count * PAGE_BYTES;
    let address = call(Number::Mmap, &[fd, offset, len as u64, rights, flags])?;
    Ok(Pages { address, len })
}

impl Pages {
    /// Address of page `index`.
    pub fn page(&self, index: usize) -> u64 {
        self.address + (index * PAGE_BYTES) as u64
    }

    /// Its bytes from `at` on, copied out: kills the process where nothing is mapped.
    #[inline(never)]
    pub fn read(&self, at: usize, to: &mut [u8]) {
        for (index, byte) in to.iter_mut().enumerate() {
            *byte = peek(self.address + (at + index) as u64);
        }
    }

    /// Copies bytes in, from `at` on.
    #[inline(never)]
    pub fn write(&self, at: usize, from: &[u8]) {
        for (index, byte) in from.iter().enumerate() {
            poke(self.address + (at + index) as u64, *byte);
        }
    }

    /// Unmaps `count` pages from page `index` on.
    pub fn unmap(&self, index: usize, count: usize) -> Result<(), Errno> {
        call(
            Number::Munmap,
            &[self.page(index), (count * PAGE_BYTES) as u64],
        )
        .map(drop)
    }
}

/// Reads a byte, wherever it is.
pub fn peek(address: u64) -> u8 {
    // SAFETY: either the test mapped the page, or the process ends here, which is the test.
    unsafe { (address as *const u8).read_volatile() }
}

/// Writes a byte, wherever it is.
pub fn poke(address: u64, byte: u8) {
    // SAFETY: as in `peek`; what a test mapped by `pages` holds no Rust value.
    unsafe { (address as *mut u8).write_volatile(byte) }
}

/// Calls the code at `address`, and gives what it leaves in `eax`.
pub fn jump(address: u64) -> u32 {
    let result: u32;
    // SAFETY: either the test wrote a function there that touches eax alone, or the process ends.
    unsafe { asm!("call {0}", in(reg) address, lateout("eax") result, clobber_abi("sysv64")) }
    result
}

// rdi: a number, rsi: rounds of spinning. Fills xmm0 to xmm15 with numbers that follow from the
// first, spins, and counts in rax the registers that differ. The rest of the program knows nothing
// of these registers.
global_asm!(
    r"
usertests_hold_sse:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    lea rax, [rdi + \n]
    movq xmm\n, rax
    punpcklqdq xmm\n, xmm\n
    .endr
2:
    sub rsi, 1
    jnz 2b
    xor eax, eax
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    lea rcx, [rdi + \n]
    movq rdx, xmm\n
    cmp rcx, rdx
    setne sil
    movzx esi, sil
    add eax, esi
    psrldq xmm\n, 8
    movq rdx, xmm\n
    cmp rcx, rdx
    setne sil
    movzx esi, sil
    add eax, esi
    .endr
    ret

# rdi: a system call without arguments that matter. Puts marks into every register that the gate
# promises to keep, traps, and counts in rax those that differ.
usertests_hold_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rax, rdi
    .irp r, rbx,rcx,rdx,rsi,rdi,rbp,r8,r9,r10,r11,r12,r13,r14,r15
    mov \r, 0x5a5a0123
    .endr
    int 0x80
    xor eax, eax
    .irp r, rbx,rbp,r12,r13,r14,r15
    cmp \r, 0x5a5a0123
    je 3f
    inc eax
3:
    .endr
    .irp r, rcx,rdx,rsi,rdi,r8,r9,r10,r11
    test \r, \r
    jz 3f
    inc eax
3:
    .endr
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
"
);

unsafe extern "sysv64" {
    safe fn usertests_hold_sse(number: u64, rounds: u64) -> u64;
    safe fn usertests_hold_registers(number: u64) -> u64;
}

/// Keeps numbers in the SSE registers for this many rounds of a loop; how many halves got lost?
pub fn hold_sse(number: u64, rounds: u64) -> u64 {
    usertests_hold_sse(number, rounds)
}

/// Makes a system call, which takes no arguments that matter; how many registers were changed?
pub fn hold_registers(number: Number) -> u64 {
    usertests_hold_registers(number as u64)
}

/// A place in the program's code, for who wants to write there.
pub fn code_address() -> u64 {
    call_number as *const () as u64
}

/// Starts a thread at `entry` of the code, with nothing behind it that Rust knows of.
pub fn sleeper_entry() -> u64 {
    usertests_sleeper as *const () as u64
}

// A thread that sleeps for rdi nanoseconds and ends with status 7; it needs no stack.
global_asm!(
    "usertests_sleeper:",
    "mov rax, {sleep}",
    "int 0x80",
    "mov rdi, 7",
    "mov rax, {exit}",
    "int 0x80",
    "ud2",
    sleep = const Number::Sleep as u64,
    exit = const Number::ThreadExit as u64,
);

unsafe extern "C" {
    fn usertests_sleeper();
}

/// Executes an instruction that does not exist, every register holding a number of its own; how many
/// were changed when the fault handler has stepped over it ([`UD2_BYTES`])?
pub fn hold_registers_over_a_fault() -> u64 {
    usertests_ud2()
}

/// Length of that instruction in bytes.
pub const UD2_BYTES: u64 = 2;

/// Touches `address` with the stack pointer at `stack`: what becomes of that is for the kernel.
pub fn touch_with_stack(address: u64, stack: u64) {
    // SAFETY: the process ends here, or its fault handler ends it.
    unsafe {
        asm!("mov rsp, {1}", "mov al, [{0}]", "ud2", in(reg) address, in(reg) stack, options(noreturn))
    }
}

global_asm!(
    r"
usertests_ud2:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rax, 1
    mov rbx, 2
    mov rcx, 3
    mov rdx, 4
    mov rsi, 5
    mov rdi, 6
    mov rbp, 7
    mov r8, 8
    mov r9, 9
    mov r10, 10
    mov r11, 11
    mov r12, 12
    mov r13, 13
    mov r14, 14
    mov r15, 15
    mov qword ptr [rsp - 16], 16  // in the red zone
    stc
    ud2
    push rax
    sbb rax, rax                  // -1 if the carry flag is still set
    add rax, 1
    push qword ptr [rsp - 8]                // what was in the red zone
    push rax                      // how many, so far
    .macro check reg, value
    xor eax, eax
    cmp \reg, \value
    setne al
    add [rsp], rax
    .endm
    xor eax, eax
    cmp qword ptr [rsp + 8], 16
    setne al
    add [rsp], rax
    xor eax, eax
    cmp qword ptr [rsp + 16], 1
    setne al
    add [rsp], rax
    check rbx, 2
    check rcx, 3
    check rdx, 4
    check rsi, 5
    check rdi, 6
    check rbp, 7
    check r8, 8
    check r9, 9
    check r10, 10
    check r11, 11
    check r12, 12
    check r13, 13
    check r14, 14
    check r15, 15
    pop rax
    add rsp, 16
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
"
);

unsafe extern "sysv64" {
    safe fn usertests_ud2() -> u64;
}
