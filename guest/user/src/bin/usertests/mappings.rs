//! Mapping and unmapping: what is allowed, what it shows, what is left.

use crate::check::{Check, PAGE, SCRATCH, disk_holds, end_of, equal, holds, prepare, refused};
use crate::ensure;
use crate::raw::{self, map_pages};
use crate::run::{PROGRAM, Test};
use alloc::vec::Vec;
use iolite_user::abi::{NO_FD, Number, map, prot};
use iolite_user::core_logic::pattern;
use iolite_user::{Ended, Errno, Fault, File, Mapping, MappingMut};

pub const TESTS: &[Test] = &[
    Test::disk("mmap_wrong_arguments", mmap_wrong_arguments),
    Test::plain("mmap_refuses_write_and_execute", refuses_write_and_execute),
    Test::plain("munmap_wrong_arguments", munmap_wrong_arguments),
    Test::disk("msync_wrong_arguments", msync_wrong_arguments),
    Test::plain("anonymous_pages_are_zero", anonymous_pages_are_zero),
    Test::plain("too_many_mappings", too_many_mappings),
    Test::plain("a_cut_without_room_changes_nothing", cut_without_room),
    Test::disk("munmap_in_the_middle", munmap_in_the_middle),
    Test::disk("mapping_past_the_end", mapping_past_the_end),
    Test::plain("a_files_last_page_ends_in_zeroes", last_page_of_a_file),
    Test::disk("private_writes_stay_private", private_writes),
    Test::plain("mapping_outlives_its_descriptor", outlives_its_descriptor),
    Test::plain("all_memory_can_be_used_again", used_again).slow(),
];

const RW: u64 = prot::READ | prot::WRITE;

fn mmap_wrong_arguments() -> Check {
    let disk = File::open(SCRATCH)?;
    let writable = File::open_writable(SCRATCH)?;
    let program = File::open(PROGRAM)?;
    let size = disk.stat()?.size;
    let (shared, private) = (map::SHARED, map::PRIVATE);
    for (what, args, wanted) in [
        (
            "length 0",
            [disk.fd(), 0, 0, prot::READ, shared],
            Errno::EINVAL,
        ),
        (
            "offset 512",
            [disk.fd(), 512, PAGE, prot::READ, shared],
            Errno::EINVAL,
        ),
        (
            "rights",
            [disk.fd(), 0, PAGE, 1 << 3, shared],
            Errno::EINVAL,
        ),
        (
            "no flags",
            [disk.fd(), 0, PAGE, prot::READ, 0],
            Errno::EINVAL,
        ),
        (
            "both",
            [disk.fd(), 0, PAGE, prot::READ, shared | private],
            Errno::EINVAL,
        ),
        (
            "flag 8",
            [disk.fd(), 0, PAGE, prot::READ, shared | 8],
            Errno::EINVAL,
        ),
        (
            "the end",
            [disk.fd(), size, PAGE, prot::READ, shared],
            Errno::EINVAL,
        ),
        (
            "past it",
            [disk.fd(), 0, size + PAGE, prot::READ, shared],
            Errno::EINVAL,
        ),
        (
            "overflow",
            [disk.fd(), PAGE, u64::MAX, prot::READ, shared],
            Errno::EINVAL,
        ),
        (
            "offset",
            [disk.fd(), !4095, PAGE, prot::READ, shared],
            Errno::EINVAL,
        ),
        (
            "a disk to read",
            [disk.fd(), 0, PAGE, RW, shared],
            Errno::EROFS,
        ),
        ("a file", [program.fd(), 0, PAGE, RW, shared], Errno::EROFS),
        ("zeroes", [NO_FD, 0, u64::MAX, RW, private], Errno::ENOMEM),
        ("zeroes", [NO_FD, 0, 1 << 47, RW, private], Errno::ENOMEM),
    ] {
        refused(what, raw::call(Number::Mmap, &args), wanted)?;
    }
    map_pages(writable.fd(), 0, 1, RW, shared)?;
    map_pages(disk.fd(), 0, 1, RW, private)?;
    Ok(())
}

fn refuses_write_and_execute() -> Check {
    let file = File::open(PROGRAM)?;
    for fd in [NO_FD, file.fd()] {
        for rights in [prot::WRITE | prot::EXEC, RW | prot::EXEC] {
            let result = map_pages(fd, 0, 1, rights, map::PRIVATE);
            refused("W and X", result, Errno::EINVAL)?;
        }
    }
    Ok(())
}

fn munmap_wrong_arguments() -> Check {
    let pages = raw::pages(1)?;
    for (address, len) in [
        (pages.address, 0),
        (pages.address + 1, PAGE),
        (pages.address, u64::MAX),
        (0, PAGE),
        (PAGE, PAGE),
        (raw::KERNEL & !4095, PAGE),
        (raw::NOWHERE, PAGE),
        (!4095, PAGE),
    ] {
        let result = raw::call(Number::Munmap, &[address, len]);
        refused("munmap", result, Errno::EINVAL)?;
    }
    // Where nothing is, there is nothing to do.
    raw::call(Number::Munmap, &[raw::UNMAPPED, 64 * PAGE])?;
    raw::poke(pages.address, 1);
    equal("byte", raw::peek(pages.address), 1)
}

fn msync_wrong_arguments() -> Check {
    let pages = raw::pages(1)?;
    for (address, len, wanted) in [
        (pages.address, 0, Errno::EINVAL),
        (pages.address + 512, PAGE, Errno::EINVAL),
        (0, PAGE, Errno::EINVAL),
        (raw::KERNEL & !4095, PAGE, Errno::EINVAL),
        (raw::UNMAPPED, PAGE, Errno::ENOMEM),
        (pages.address, 2 * PAGE, Errno::ENOMEM),
    ] {
        let result = raw::call(Number::Msync, &[address, len]);
        refused("msync", result, wanted)?;
    }
    raw::call(Number::Msync, &[pages.address, PAGE])?;
    Ok(())
}

fn anonymous_pages_are_zero() -> Check {
    // Pages that others have used before.
    for _ in 0..4 {
        let mut memory = MappingMut::zeroed(1 << 20)?;
        ensure!(memory.iter().all(|byte| *byte == 0), "a byte is not zero");
        memory.fill(0xa5);
    }
    Ok(())
}

fn too_many_mappings() -> Check {
    let mut mappings = Vec::new();
    let error = loop {
        match raw::pages(1) {
            Ok(pages) => mappings.push(pages),
            Err(error) => break error,
        }
        ensure!(mappings.len() < 100_000, "no end of mappings");
    };
    equal("error", error, Errno::ENOMEM)?;
    ensure!(mappings.len() >= 64, "{} mappings", mappings.len());
    for pages in &mappings {
        raw::poke(pages.address, 1);
        pages.unmap(0, 1)?;
    }
    raw::pages(1).map(drop)?;
    Ok(())
}

/// A mapping that is cut in its middle becomes two.
fn cut_without_room() -> Check {
    let pages = raw::pages(3)?;
    let mut others = Vec::new();
    while let Ok(other) = raw::pages(1) {
        others.push(other);
    }
    (0..3).for_each(|index| raw::poke(pages.page(index), index as u8 + 1));
    refused("the cut", pages.unmap(1, 1), Errno::ENOMEM)?;
    for index in 0..3 {
        equal("byte", raw::peek(pages.page(index)), index as u8 + 1)?;
    }
    // The ends need no room, and what is freed is enough for a cut.
    pages.unmap(0, 1)?;
    equal("byte", raw::peek(pages.page(1)), 2)?;
    for other in others.drain(..2) {
        other.unmap(0, 1)?;
    }
    raw::pages(3)?.unmap(1, 1)?;
    Ok(())
}

fn munmap_in_the_middle() -> Check {
    const PAGES: usize = 9;
    prepare(70, 0, PAGES as u64 * PAGE)?;
    let disk = File::open(SCRATCH)?;
    for touched in [false, true] {
        let pages = map_pages(disk.fd(), 0, PAGES, prot::READ, map::SHARED)?;
        let mut bytes = [0; PAGE as usize];
        if touched {
            for index in 0..PAGES {
                raw::peek(pages.page(index));
            }
        }
        for (index, count) in [(4, 1), (1, 2), (8, 1)] {
            pages.unmap(index, count)?;
        }
        for index in 0..PAGES {
            let gone = [1, 2, 4, 8].contains(&index);
            let address = pages.page(index);
            // The kernel's own access says what is there without killing anyone.
            let writable = File::open_writable(SCRATCH)?;
            let write = raw::call(Number::Pwrite, &[writable.fd(), address, PAGE, 1 << 20]);
            if gone {
                refused("a page that is gone", write, Errno::EFAULT)?;
            } else {
                equal("bytes", write?, PAGE)?;
                pages.read(index * PAGE as usize, &mut bytes);
                holds(&bytes, 70, index as u64 * PAGE)?;
            }
        }
    }
    Ok(())
}

fn mapping_past_the_end() -> Check {
    for pages in ["1", "2", "40"] {
        let ended = end_of("poke-past", &[pages])?;
        equal("ended", ended, Ended::Killed(Fault::BadAddress))?;
    }
    Ok(())
}

fn last_page_of_a_file() -> Check {
    let file = File::open("etc/motd")?;
    let size = file.stat()?.size as usize;
    let pages = size.div_ceil(PAGE as usize);
    ensure!(!size.is_multiple_of(PAGE as usize), "motd has {size} bytes");
    let mapping = Mapping::of(&file, 0, pages * PAGE as usize)?;
    let mut bytes = alloc::vec![0; size];
    file.pread_exact(&mut bytes, 0)?;
    ensure!(mapping[..size] == bytes[..], "the mapping differs");
    ensure!(
        mapping[size..].iter().all(|byte| *byte == 0),
        "there is something after the end"
    );
    Ok(())
}

fn private_writes() -> Check {
    prepare(71, 0, 8 * PAGE)?;
    let disk = File::open_writable(SCRATCH)?;
    let mut mine = MappingMut::private(&disk, 0, 8 * PAGE as usize)?;
    let other = MappingMut::private(&disk, 0, 8 * PAGE as usize)?;
    let shared = Mapping::of(&disk, 0, 8 * PAGE as usize)?;
    // Written without, and after, being read.
    holds(&mine[..2 * PAGE as usize], 71, 0)?;
    pattern::fill(&mut mine[..4 * PAGE as usize], 72, 0);
    holds(&mine[..4 * PAGE as usize], 72, 0)?;
    holds(&mine[4 * PAGE as usize..], 71, 4 * PAGE)?;
    holds(&other, 71, 0)?;
    holds(&shared, 71, 0)?;
    equal("child", end_of("touch", &["0", "71"])?, Ended::Exited(0))?;
    drop(mine);
    disk.fsync()?;
    disk_holds(71, 0, 8 * PAGE)
}

fn outlives_its_descriptor() -> Check {
    let file = File::open(PROGRAM)?;
    let mapping = Mapping::of(&file, 0, PAGE as usize)?;
    drop(file);
    equal("magic", &mapping[..4], b"\x7fELF")
}

/// As much memory as there is, three times over.
fn used_again() -> Check {
    let free = iolite_user::cpu_stats()?.free_frames;
    let len = (free / 2 * PAGE) as usize;
    for round in 0..6u8 {
        let mut memory = MappingMut::zeroed(len)?;
        for at in (0..len).step_by(PAGE as usize) {
            ensure!(memory[at] == 0, "byte {at} is not zero");
            memory[at] = round + 1;
        }
    }
    Ok(())
}
