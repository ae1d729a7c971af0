//! The console as a file.

use crate::check::{Check, equal, refused};
use crate::raw;
use crate::run::Test;
use iolite_user::Errno;
use iolite_user::abi::{Number, Stat, kind};

pub const TESTS: &[Test] = &[
    Test::plain("console_writes_of_any_size", console_writes),
    Test::plain("console_is_no_disk", console_is_no_disk),
];

fn console_writes() -> Check {
    let pages = raw::pages(3)?;
    let len = pages.len;
    // Blanks, and back to the start of the line: nothing to see.
    pages.write(0, &alloc::vec![b' '; len]);
    pages.write(len - 1, b"\r");
    for (start, len) in [(0, 0), (len - 1, 1), (len - 5000, 5000), (0, len)] {
        let written = raw::call(
            Number::Write,
            &[1, pages.address + start as u64, len as u64],
        )?;
        equal("bytes", written, len as u64)?;
    }
    // All of it or nothing: the kernel takes what it can before it finds the end.
    pages.unmap(2, 1)?;
    let result = raw::call(Number::Write, &[1, pages.page(1), 2 * 4096]);
    refused("over the end", result, Errno::EFAULT)
}

fn console_is_no_disk() -> Check {
    let page = raw::pages(1)?;
    for fd in 0..3 {
        for (number, args) in [
            (Number::Pread, [fd, page.address, 8, 0, 0]),
            (Number::Pwrite, [fd, page.address, 8, 0, 0]),
            (Number::Fsync, [fd, 0, 0, 0, 0]),
            (Number::DiskStats, [fd, page.address, 0, 0, 0]),
            (Number::Scan, [fd, page.address, 4096, 0, 0]),
            (Number::Mmap, [fd, 0, 4096, 1, 1]),
        ] {
            let what = alloc::format!("{number:?} of {fd}");
            refused(&what, raw::call(number, &args), Errno::ENODEV)?;
        }
        raw::call(Number::Stat, &[fd, page.address])?;
        let mut kind = [0; 4];
        page.read(core::mem::offset_of!(Stat, kind), &mut kind);
        equal("kind", u32::from_le_bytes(kind), kind::CONSOLE)?;
    }
    Ok(())
}
