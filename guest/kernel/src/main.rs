//! first byte
#![no_std]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]
#![no_main]
use core::arch::{asm, global_asm};
global_asm!(include_str!("arch/boot.s"), options(att_syntax));
#[unsafe(no_mangle)]
extern "C" fn kernel_main(_si: u64) -> ! {
    let s = b"hello from ring 0\n";
    unsafe {
        asm!("rep outsb", in("dx") 0x3f8u16, inout("rsi") s.as_ptr() => _, inout("rcx") s.len() => _);
        asm!("out dx, al", in("dx") 0x64u16, in("al") 0xfeu8);
        asm!("out dx, al", in("dx") 0xf4u16, in("al") 0u8);
    }
    loop { unsafe { asm!("hlt") } }
}
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
