//! The kernel's own end: a message, and status 255 at the exit port.

use crate::arch::power;
use crate::println;
use core::panic::PanicInfo;

const STATUS: u8 = 255;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("iolite: kernel {info}");
    power::off(STATUS)
}
