//! Descriptors and names: opening, closing, and what stands behind a wrong number.

use crate::check::{Check, SCRATCH, end_of, equal, refused};
use crate::ensure;
use crate::raw::{self, KERNEL, UNMAPPED};
use crate::run::{PROGRAM, Test};
use alloc::vec::Vec;
use iolite_user::abi::{MAX_FDS, Number, open};
use iolite_user::{Ended, Errno, File};

pub const TESTS: &[Test] = &[
    Test::plain("bad_descriptors", bad_descriptors),
    Test::plain("closed_descriptors", closed_descriptors),
    Test::plain("open_too_many", open_too_many),
    Test::plain("lowest_descriptor_first", lowest_descriptor_first),
    Test::plain("open_what_is_not_there", open_what_is_not_there),
    Test::plain("open_with_bad_path", open_with_bad_path),
    Test::disk("open_with_bad_flags", open_with_bad_flags),
    Test::disk("open_disk_twice", open_disk_twice),
    Test::disk("exit_closes_everything", exit_closes_everything),
];

const BAD: [u64; 6] = [3, 31, 32, 1 << 16, 1 << 32, u64::MAX];

fn bad_descriptors() -> Check {
    let page = raw::pages(1)?.address;
    for fd in BAD {
        for (number, args) in [
            (Number::Read, [fd, page, 512, 0, 0]),
            (Number::Write, [fd, page, 512, 0, 0]),
            (Number::Pread, [fd, page, 512, 0, 0]),
            (Number::Pwrite, [fd, page, 512, 0, 0]),
            (Number::Close, [fd, 0, 0, 0, 0]),
            (Number::Fsync, [fd, 0, 0, 0, 0]),
            (Number::Stat, [fd, page, 0, 0, 0]),
            (Number::DiskStats, [fd, page, 0, 0, 0]),
            (Number::Scan, [fd, page, 4096, 0, 0]),
        ] {
            let what = alloc::format!("{number:?} of {fd}");
            refused(&what, raw::call(number, &args), Errno::EBADF)?;
        }
        // Here the largest number means "no file".
        if fd != u64::MAX {
            let mapped = raw::call(Number::Mmap, &[fd, 0, 4096, 1, 1]);
            refused("mmap", mapped, Errno::EBADF)?;
        }
    }
    Ok(())
}

fn closed_descriptors() -> Check {
    let page = raw::pages(1)?.address;
    let fd = raw::call(
        Number::Open,
        &[PROGRAM.as_ptr() as u64, PROGRAM.len() as u64],
    )?;
    raw::call(Number::Close, &[fd])?;
    refused("close", raw::call(Number::Close, &[fd]), Errno::EBADF)?;
    refused(
        "pread",
        raw::call(Number::Pread, &[fd, page, 16, 0]),
        Errno::EBADF,
    )?;
    // The console's descriptors are as good as any.
    raw::call(Number::Close, &[2])?;
    refused(
        "write",
        raw::call(Number::Write, &[2, page, 1]),
        Errno::EBADF,
    )
}

fn open_too_many() -> Check {
    let mut files = Vec::new();
    let error = loop {
        match File::open(PROGRAM) {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
        ensure!(files.len() < MAX_FDS, "{} files are open", files.len());
    };
    equal("error", error, Errno::EMFILE)?;
    equal("files", files.len(), MAX_FDS - 3)?;
    files.pop();
    File::open(PROGRAM).map(drop)?;
    drop(files);
    File::open(PROGRAM).map(drop)?;
    Ok(())
}

fn lowest_descriptor_first() -> Check {
    let (a, b, c) = (
        File::open(PROGRAM)?,
        File::open(PROGRAM)?,
        File::open(PROGRAM)?,
    );
    equal("descriptors", [a.fd(), b.fd(), c.fd()], [3, 4, 5])?;
    drop(b);
    let d = File::open(PROGRAM)?;
    equal("the next one", d.fd(), 4)
}

fn open_what_is_not_there() -> Check {
    let long = [b'x'; 100];
    let long = core::str::from_utf8(&long).unwrap_or_default();
    for path in [
        "",
        "/",
        "bin",
        "bin/",
        "bin/nothing",
        "usertests",
        "/dev/",
        "/dev/vd",
        "/dev/vdz",
        "/dev/vdaa",
        "/dev/vdA",
        "/dev/sda",
        "/dev/vdb ",
        long,
    ] {
        refused(path, File::open(path), Errno::ENOENT)?;
    }
    Ok(())
}

fn open_with_bad_path() -> Check {
    let page = raw::pages(1)?;
    page.write(0, b"bin/\xff\xfe");
    let open = |path: u64, len: u64| raw::call(Number::Open, &[path, len, 0]);
    refused("not UTF-8", open(page.address, 6), Errno::ENOENT)?;
    refused("too long", open(page.address, 101), Errno::ENOENT)?;
    refused("far too long", open(page.address, u64::MAX), Errno::ENOENT)?;
    for path in [0, 1, UNMAPPED, KERNEL, raw::NOWHERE, u64::MAX - 4] {
        refused("bad address", open(path, 8), Errno::EFAULT)?;
    }
    // The last bytes of a mapping are a path as good as any; one byte more is not.
    page.write(4096 - 9, b"bin/hello");
    let fd = open(page.page(1) - 9, 9)?;
    raw::call(Number::Close, &[fd])?;
    refused(
        "past the mapping",
        open(page.page(1) - 9, 10),
        Errno::EFAULT,
    )
}

fn open_with_bad_flags() -> Check {
    for flags in [open::DEVICE | open::WRITE, 1 << 3, 1 << 63, u64::MAX] {
        refused("open", File::open_with(SCRATCH, flags), Errno::EINVAL)?;
    }
    for flags in [open::WRITE, open::WRITE | open::DIRECT] {
        refused("a file", File::open_with(PROGRAM, flags), Errno::EROFS)?;
        refused("vda", File::open_with("/dev/vda", flags), Errno::EROFS)?;
    }
    refused("a file", File::open_direct(PROGRAM), Errno::EINVAL)
}

fn open_disk_twice() -> Check {
    let (a, b) = (File::open(SCRATCH)?, File::open_writable(SCRATCH)?);
    ensure!(a.fd() != b.fd(), "one descriptor");
    // Each has a position, and rights, of its own.
    let mut byte = [0];
    equal("read", a.read(&mut byte)?, 1)?;
    equal("write", b.write(&byte)?, 1)?;
    refused("write", a.write(&byte), Errno::EROFS)?;
    equal("read", a.read(&mut byte)?, 1)
}

fn exit_closes_everything() -> Check {
    for _ in 0..3 {
        equal("ended", end_of("open-all", &[])?, Ended::Exited(0))?;
    }
    Ok(())
}
