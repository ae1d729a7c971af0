//! Asynchronous I/O: every field of a request that can be wrong, and every argument.

use crate::check::{Check, PAGE, SCRATCH, equal, holds, prepare, refused};
use crate::ensure;
use crate::raw::{self, KERNEL, UNMAPPED};
use crate::run::{PROGRAM, Test};
use alloc::vec::Vec;
use iolite_user::abi::{FOREVER, IoCompletion, IoRequest, MAX_IO, MAX_IO_BYTES, Number, io};
use iolite_user::abi::{map, prot};
use iolite_user::{AsyncIo, Buffer, Errno, File};

pub const TESTS: &[Test] = &[
    Test::disk("async_wrong_requests", wrong_requests),
    Test::disk("async_wrong_buffers", wrong_buffers),
    Test::disk("async_wrong_descriptors", wrong_descriptors),
    Test::disk("async_stops_at_the_first_wrong_one", stops_at_the_first),
    Test::disk("async_requests_at_bad_addresses", bad_addresses),
    Test::disk("async_wait_wrong_arguments", wait_wrong_arguments),
    Test::disk("async_completions_are_not_lost", not_lost),
    Test::disk("async_too_many", too_many),
    Test::disk("async_refused_buffers_come_back", buffers_come_back),
    Test::disk("async_cancel", cancel),
];

/// Submits requests by the call itself.
pub fn submit(requests: &[IoRequest]) -> Result<u64, Errno> {
    let (at, count) = (requests.as_ptr() as u64, requests.len() as u64);
    raw::call(Number::IoSubmit, &[at, count])
}

/// Collects completions by the call itself.
pub fn wait(max: usize, min: usize, timeout_ns: u64) -> Result<Vec<IoCompletion>, Errno> {
    let mut done = alloc::vec![IoCompletion::default(); max];
    let at = done.as_mut_ptr() as u64;
    let count = raw::call(Number::IoWait, &[at, max as u64, min as u64, timeout_ns])?;
    done.truncate(count as usize);
    Ok(done)
}

/// A read of one page at 0 of `disk`, which is good.
fn good(disk: &File, buf: u64) -> IoRequest {
    IoRequest {
        operation: io::READ,
        fd: disk.fd() as u32,
        buf,
        len: PAGE,
        offset: 0,
        user_data: 1,
    }
}

/// Nothing was submitted, and nothing is in flight.
fn nothing_came() -> Check {
    equal("completions", wait(8, 0, 0)?.len(), 0)
}

fn wrong_requests() -> Check {
    let disk = File::open_direct_writable(SCRATCH)?;
    let size = disk.stat()?.size;
    let memory = raw::pages(64)?;
    let good = good(&disk, memory.address);
    let flush = IoRequest {
        operation: io::FLUSH,
        buf: 0,
        len: 0,
        ..good
    };
    for (what, request, wanted) in [
        (
            "operation 3",
            IoRequest {
                operation: 3,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            "operation -1",
            IoRequest {
                operation: u32::MAX,
                ..good
            },
            Errno::EINVAL,
        ),
        ("length 0", IoRequest { len: 0, ..good }, Errno::EINVAL),
        ("length 100", IoRequest { len: 100, ..good }, Errno::EINVAL),
        (
            "too long",
            IoRequest {
                len: MAX_IO_BYTES + 512,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            "far too long",
            IoRequest { len: !511, ..good },
            Errno::EINVAL,
        ),
        ("offset 1", IoRequest { offset: 1, ..good }, Errno::EINVAL),
        (
            "the end",
            IoRequest {
                offset: size,
                ..good
            },
            Errno::ENOSPC,
        ),
        (
            "over it",
            IoRequest {
                offset: size - 512,
                ..good
            },
            Errno::ENOSPC,
        ),
        (
            "far past it",
            IoRequest {
                offset: 1 << 62,
                ..good
            },
            Errno::ENOSPC,
        ),
        (
            "overflow",
            IoRequest {
                offset: !511,
                ..good
            },
            Errno::EFBIG,
        ),
        (
            "flush with a buffer",
            IoRequest {
                buf: memory.address,
                ..flush
            },
            Errno::EINVAL,
        ),
        (
            "flush of bytes",
            IoRequest { len: 512, ..flush },
            Errno::EINVAL,
        ),
        (
            "flush of a place",
            IoRequest {
                offset: 512,
                ..flush
            },
            Errno::EINVAL,
        ),
    ] {
        refused(what, submit(&[request]), wanted)?;
        if request.operation == io::READ {
            let operation = io::WRITE;
            refused(
                what,
                submit(&[IoRequest {
                    operation,
                    ..request
                }]),
                wanted,
            )?;
        }
    }
    nothing_came()
}

fn wrong_buffers() -> Check {
    prepare(170, 0, 2 * PAGE)?;
    let disk = File::open_direct_writable(SCRATCH)?;
    let program = File::open(PROGRAM)?;
    let memory = raw::pages(2)?;
    memory.unmap(1, 1)?;
    let read_only = raw::map_pages(u64::MAX, 0, 1, prot::READ, map::PRIVATE)?;
    let of_a_file = raw::map_pages(program.fd(), 0, 1, prot::READ, map::SHARED)?;
    let good = good(&disk, memory.address);
    for (buf, wanted) in [
        (memory.address + 1, Errno::EINVAL),
        (memory.address + 256, Errno::EINVAL),
        (memory.address + 512, Errno::EFAULT),
        (0, Errno::EFAULT),
        (UNMAPPED, Errno::EFAULT),
        (KERNEL, Errno::EFAULT),
        (raw::NOWHERE, Errno::EFAULT),
        (raw::NOWHERE - 512, Errno::EFAULT),
        (!511, Errno::EFAULT),
    ] {
        for operation in [io::READ, io::WRITE] {
            let result = submit(&[IoRequest {
                operation,
                buf,
                ..good
            }]);
            refused(&alloc::format!("{buf:#x}"), result, wanted)?;
        }
    }
    for buf in [
        read_only.address,
        of_a_file.address,
        raw::code_address() & !4095,
    ] {
        let result = submit(&[IoRequest { buf, ..good }]);
        refused("read into what is read-only", result, Errno::EFAULT)?;
    }
    nothing_came()?;
    // Nothing was written anywhere, and the memory that was held in vain is free.
    equal("magic", raw::peek(of_a_file.address), 0x7f)?;
    crate::check::disk_holds(170, 0, 2 * PAGE)
}

fn wrong_descriptors() -> Check {
    let direct = File::open_direct(SCRATCH)?;
    let cached = File::open(SCRATCH)?;
    let program = File::open(PROGRAM)?;
    let memory = raw::pages(1)?;
    let good = good(&direct, memory.address);
    for (fd, wanted) in [
        (0, Errno::ENODEV),
        (1, Errno::ENODEV),
        (31, Errno::EBADF),
        (32, Errno::EBADF),
        (u32::MAX, Errno::EBADF),
        (cached.fd() as u32, Errno::EINVAL),
        (program.fd() as u32, Errno::EINVAL),
    ] {
        refused("read", submit(&[IoRequest { fd, ..good }]), wanted)?;
        let flush = IoRequest {
            operation: io::FLUSH,
            fd,
            ..IoRequest::default()
        };
        refused("flush", submit(&[flush]), wanted)?;
    }
    let operation = io::WRITE;
    let write = submit(&[IoRequest { operation, ..good }]);
    refused("write to a disk open to read", write, Errno::EROFS)?;
    nothing_came()
}

fn stops_at_the_first() -> Check {
    prepare(171, 0, PAGE)?;
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(4)?;
    let good = |user_data: u64| IoRequest {
        user_data,
        ..good(&disk, memory.page(user_data as usize))
    };
    let wrong = IoRequest { len: 1, ..good(3) };
    let requests = [good(0), good(1), wrong, good(2)];
    equal("submitted", submit(&requests)?, 2)?;
    refused("the wrong one", submit(&requests[2..]), Errno::EINVAL)?;
    equal("submitted", submit(&requests[3..])?, 1)?;
    equal("nothing", submit(&[])?, 0)?;
    let mut seen: Vec<u64> = wait(4, 3, FOREVER)?
        .into_iter()
        .map(|done| done.user_data)
        .collect();
    seen.sort_unstable();
    equal("completed", &seen[..], &[0, 1, 2])?;
    let mut bytes = [0; PAGE as usize];
    for index in 0..3 {
        memory.read(index * PAGE as usize, &mut bytes);
        holds(&bytes, 171, 0)?;
    }
    nothing_came()
}

fn bad_addresses() -> Check {
    for address in [0, UNMAPPED, KERNEL, raw::NOWHERE, u64::MAX - 7] {
        let result = raw::call(Number::IoSubmit, &[address, 1]);
        refused("submit", result, Errno::EFAULT)?;
    }
    // The first request is there, the second is not.
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(2)?;
    memory.unmap(1, 1)?;
    let bytes = size_of::<IoRequest>();
    let request = good(&disk, memory.address);
    let mut image = Vec::new();
    image.extend(request.operation.to_le_bytes());
    image.extend(request.fd.to_le_bytes());
    for word in [request.buf, 512, 0, 7] {
        image.extend(word.to_le_bytes());
    }
    equal("size", image.len(), bytes)?;
    let at = PAGE as usize - bytes;
    memory.write(at, &image);
    let at = memory.address + at as u64;
    for count in [2, u64::MAX / 2, u64::MAX] {
        equal("submitted", raw::call(Number::IoSubmit, &[at, count])?, 1)?;
        let done = wait(1, 1, FOREVER)?;
        equal("result", (done[0].user_data, done[0].result), (7, 512))?;
        // The read has gone over the page that the request lay at the end of; not over it itself.
        memory.write(at as usize - memory.address as usize, &image);
    }
    Ok(())
}

fn wait_wrong_arguments() -> Check {
    let memory = raw::pages(1)?;
    let wait = |at: u64, max: u64, min: u64| raw::call(Number::IoWait, &[at, max, min, 0]);
    refused("max 0", wait(memory.address, 0, 0), Errno::EINVAL)?;
    refused("min > max", wait(memory.address, 4, 5), Errno::EINVAL)?;
    refused(
        "nothing submitted",
        wait(memory.address, 4, 1),
        Errno::EINVAL,
    )?;
    equal("poll", wait(memory.address, 4, 0)?, 0)?;
    let disk = File::open_direct(SCRATCH)?;
    submit(&[good(&disk, memory.address)])?;
    refused("two of one", wait(memory.address, 4, 2), Errno::EINVAL)?;
    let unknown = raw::call(Number::IoCancel, &[99]);
    refused("cancel of an unknown one", unknown, Errno::ENOENT)?;
    self::wait(1, 1, FOREVER).map(drop)?;
    refused("nothing left", wait(memory.address, 4, 1), Errno::EINVAL)
}

/// Who gives no place for completions gets them later.
fn not_lost() -> Check {
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(1)?;
    let read_only = raw::map_pages(u64::MAX, 0, 1, prot::READ, map::PRIVATE)?;
    let requests: Vec<_> = (0..4)
        .map(|user_data| IoRequest {
            user_data,
            ..good(&disk, memory.address)
        })
        .collect();
    equal("submitted", submit(&requests)?, 4)?;
    for address in [0, UNMAPPED, KERNEL, raw::NOWHERE, read_only.address] {
        let result = raw::call(Number::IoWait, &[address, 4, 1, FOREVER]);
        refused("wait", result, Errno::EFAULT)?;
    }
    equal("completions", wait(8, 4, FOREVER)?.len(), 4)
}

fn too_many() -> Check {
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(1)?;
    let requests: Vec<_> = (0..MAX_IO as u64 + 1)
        .map(|user_data| IoRequest {
            user_data,
            len: 512,
            ..good(&disk, memory.address)
        })
        .collect();
    for _ in 0..2 {
        equal("submitted", submit(&requests)?, MAX_IO as u64)?;
        refused("one more", submit(&requests[MAX_IO..]), Errno::EAGAIN)?;
        // One is collected, one more goes.
        let mut done = wait(1, 1, FOREVER)?;
        equal("submitted", submit(&requests[MAX_IO..])?, 1)?;
        while done.len() <= MAX_IO {
            let left = MAX_IO + 1 - done.len();
            done.extend(wait(left, left.min(100), FOREVER)?);
        }
        let mut seen: Vec<u64> = done.iter().map(|done| done.user_data).collect();
        seen.sort_unstable();
        ensure!(
            seen.iter().copied().eq(0..MAX_IO as u64 + 1),
            "not every request completed once"
        );
        ensure!(done.iter().all(|done| done.result == 512), "a read failed");
    }
    nothing_came()
}

/// What the kernel refuses comes back as a completion that says why, with its buffer.
fn buffers_come_back() -> Check {
    let disk = File::open_direct(SCRATCH)?;
    let size = disk.stat()?.size;
    let mut io = AsyncIo::new()?;
    let mut buffers = Buffer::many(3, 4096)?.into_iter();
    let mut next = || buffers.next().ok_or(Errno::ENOMEM);
    let ids = [
        io.read(&disk, 0, next()?, 4096),
        io.read(&disk, size, next()?, 4096),
        io.write(&disk, 0, next()?, 4096),
    ];
    let done = io.wait(3, FOREVER)?;
    equal("completions", done.len(), 3)?;
    for (id, wanted) in ids
        .into_iter()
        .zip([Ok(4096), Err(Errno::ENOSPC), Err(Errno::EROFS)])
    {
        let completed = done.iter().find(|done| done.id == id);
        let completed = completed.ok_or(Errno::ENOENT)?;
        equal("result", completed.result, wanted)?;
        ensure!(completed.buffer.is_some(), "the buffer is gone");
    }
    Ok(())
}

/// More than the disk takes at once: what it has not got can be taken back.
fn cancel() -> Check {
    let disk = File::open_direct(SCRATCH)?;
    let memory = raw::pages(32)?;
    let requests: Vec<_> = (0..MAX_IO as u64)
        .map(|user_data| IoRequest {
            user_data,
            len: MAX_IO_BYTES,
            ..good(&disk, memory.address)
        })
        .collect();
    equal("submitted", submit(&requests)?, MAX_IO as u64)?;
    let mut cancelled = Vec::new();
    for user_data in (0..MAX_IO as u64).rev().step_by(3) {
        match raw::call(Number::IoCancel, &[user_data]) {
            Ok(_) => cancelled.push(user_data),
            Err(Errno::EBUSY | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut done = Vec::new();
    while done.len() < MAX_IO {
        done.extend(wait(64, (MAX_IO - done.len()).min(64), FOREVER)?);
    }
    for completion in &done {
        let wanted = match cancelled.contains(&completion.user_data) {
            true => -(Errno::ECANCELED as i64),
            false => MAX_IO_BYTES as i64,
        };
        equal("result", completion.result, wanted)?;
    }
    let mut seen: Vec<u64> = done.iter().map(|done| done.user_data).collect();
    seen.sort_unstable();
    ensure!(
        seen.iter().copied().eq(0..MAX_IO as u64),
        "not every request completed once"
    );
    refused(
        "one that has completed",
        raw::call(Number::IoCancel, &[3]),
        Errno::ENOENT,
    )
}
