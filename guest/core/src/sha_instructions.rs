//! SHA-256 blocks by the SHA extensions of x86-64 (Intel SDM volume 2, SHA256RNDS2, SHA256MSG1,
//! SHA256MSG2): five times as fast as without.
//!
//! The guest's target has no SSE, so the compiler cannot use these registers, but the kernel keeps
//! them for each thread of a program. Hence assembly. Never call it in the kernel itself.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU8, Ordering};

/// Whether the processor has the instructions used here.
pub fn available() -> bool {
    const UNKNOWN: u8 = 2;
    // CPUID may leave the virtual machine: ask once.
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
    match KNOWN.load(Ordering::Relaxed) {
        UNKNOWN => {
            let found = processor_has_them();
            KNOWN.store(found.into(), Ordering::Relaxed);
            found
        }
        known => known == 1,
    }
}

fn processor_has_them() -> bool {
    const SSSE3_AND_SSE41: u32 = 1 << 9 | 1 << 19;
    const SHA: u32 = 1 << 29;
    __cpuid_count(0, 0).eax >= 7
        && __cpuid_count(1, 0).ecx & SSSE3_AND_SSE41 == SSSE3_AND_SSE41
        && __cpuid_count(7, 0).ebx & SHA != 0
}

/// Takes blocks into the state. Call it only where [`available`].
pub fn compress(state: &mut [u32; 8], blocks: &[[u8; 64]]) {
    assert!(available());
    // SAFETY: the processor has the instructions; both pointers are valid for what is read and
    // written, and neither needs an alignment.
    unsafe { iolite_sha256_blocks(state.as_mut_ptr(), blocks.as_ptr().cast(), blocks.len()) }
}

unsafe extern "sysv64" {
    fn iolite_sha256_blocks(state: *mut u32, blocks: *const u8, count: usize);
}

// rdi = state (A to H), rsi = blocks, rdx = how many of them are left, rcx = constants.
// The instructions want the state as xmm1 = ABEF and xmm2 = CDGH (highest word first); xmm3 to xmm6
// hold the last sixteen words of the message schedule.
global_asm!(
    // Four rounds with the words in \w.
    ".macro iolite_rounds group, w",
    "movdqa xmm0, [rcx + 16 * (\\group)]",
    "paddd xmm0, \\w",
    "sha256rnds2 xmm2, xmm1",
    "pshufd xmm0, xmm0, 0x0e",
    "sha256rnds2 xmm1, xmm2",
    ".endm",
    // The four words after \w12, in place of those that are sixteen before them, and their rounds.
    ".macro iolite_next group, w0, w4, w8, w12",
    "sha256msg1 \\w0, \\w4",
    "movdqa xmm7, \\w12",
    "palignr xmm7, \\w8, 4",
    "paddd \\w0, xmm7",
    "sha256msg2 \\w0, \\w12",
    "iolite_rounds \\group, \\w0",
    ".endm",
    // The first four words, of big-endian bytes.
    ".macro iolite_load group, w",
    "movdqu \\w, [rsi + 16 * (\\group)]",
    "pshufb \\w, xmm8",
    "iolite_rounds \\group, \\w",
    ".endm",
    // A section of its own, so that who does not call it does not carry it.
    ".pushsection .text.iolite_sha256_blocks, \"ax\", @progbits",
    ".global iolite_sha256_blocks",
    "iolite_sha256_blocks:",
    "lea rcx, [rip + iolite_sha256_constants]",
    "movdqa xmm8, [rcx + 256]",
    "movdqu xmm1, [rdi]",
    "movdqu xmm2, [rdi + 16]",
    "pshufd xmm1, xmm1, 0xb1",
    "pshufd xmm2, xmm2, 0x1b",
    "movdqa xmm7, xmm1",
    "palignr xmm1, xmm2, 8",
    "pblendw xmm2, xmm7, 0xf0",
    "jmp 3f",
    "2:",
    "movdqa xmm9, xmm1",
    "movdqa xmm10, xmm2",
    "iolite_load 0, xmm3",
    "iolite_load 1, xmm4",
    "iolite_load 2, xmm5",
    "iolite_load 3, xmm6",
    ".irp four, 4, 8, 12",
    "iolite_next \\four, xmm3, xmm4, xmm5, xmm6",
    "iolite_next \\four+1, xmm4, xmm5, xmm6, xmm3",
    "iolite_next \\four+2, xmm5, xmm6, xmm3, xmm4",
    "iolite_next \\four+3, xmm6, xmm3, xmm4, xmm5",
    ".endr",
    "paddd xmm1, xmm9",
    "paddd xmm2, xmm10",
    "add rsi, 64",
    "dec rdx",
    "3:",
    "test rdx, rdx",
    "jnz 2b",
    "pshufd xmm1, xmm1, 0x1b",
    "pshufd xmm2, xmm2, 0xb1",
    "movdqa xmm7, xmm1",
    "pblendw xmm1, xmm2, 0xf0",
    "palignr xmm2, xmm7, 8",
    "movdqu [rdi], xmm1",
    "movdqu [rdi + 16], xmm2",
    "ret",
    ".popsection",
    ".pushsection .rodata.iolite_sha256_constants, \"a\", @progbits",
    ".balign 16",
    // FIPS 180-4, section 4.2.2, then the order that turns the bytes of each word around.
    "iolite_sha256_constants:",
    ".long 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5",
    ".long 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5",
    ".long 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3",
    ".long 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174",
    ".long 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc",
    ".long 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da",
    ".long 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7",
    ".long 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967",
    ".long 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13",
    ".long 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85",
    ".long 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3",
    ".long 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070",
    ".long 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5",
    ".long 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3",
    ".long 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208",
    ".long 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2",
    ".quad 0x0405060700010203, 0x0c0d0e0f08090a0b",
    ".popsection",
);
