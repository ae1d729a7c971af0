//! Memory of every size: our guest boots with it, has all of it to give, and does I/O there. Only
//! what is touched costs the host anything.

use std::path::{Path, PathBuf};
use std::{env, fs};

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

/// Memory, how much of it a program takes, and how many disks there are. Below 4 GiB 3328 MiB have
/// room: the last of 3329M, and most of 6G, lies above, and is the first to be used.
const SIZES: [(&str, &str, &[usize]); 9] = [
    ("4M", "512K", &[1]),
    ("8M", "1M", &[1, 18]),
    ("16M", "8M", &[1, 18]),
    ("513M", "4M", &[1]),
    ("514M", "4M", &[18]),
    ("2G", "32M", &[1]),
    ("3328M", "4M", &[1]),
    ("3329M", "4M", &[1, 18]),
    ("6G", "32M", &[1, 18]),
];
const IMAGE_BYTES: usize = 3 << 20;
const SEED: u64 = 5;

pub fn tests() -> Vec<Trial> {
    let mut tests: Vec<Trial> = SIZES
        .iter()
        .map(|&(memory, part, disks)| {
            let name = format!("memory::{memory}");
            if mebibytes(memory) > host_mebibytes() {
                let less = || Ok(trial::skipped("the host has less memory"));
                return Trial::ignorable_test(name, less);
            }
            trial::test_of(&name, move || {
                disks
                    .iter()
                    .try_for_each(|&disks| boots(memory, part, disks))
            })
        })
        .collect();
    tests.push(trial::test("memory::too_little_is_said", too_little));
    tests.push(trial::test(
        "memory::a_cache_larger_than_memory",
        large_cache,
    ));
    tests.push(trial::test(
        "memory::more_than_there_is",
        more_than_there_is,
    ));
    tests.push(trial::test(
        "memory::an_archive_of_very_many_files",
        many_files,
    ));
    tests
}

fn mebibytes(size: &str) -> u64 {
    let number = |suffix| {
        size.strip_suffix(suffix)
            .and_then(|n| n.parse::<u64>().ok())
    };
    number('M').or(number('G').map(|n| n << 10)).unwrap_or(0)
}

/// What `run` allows a machine to have at most.
fn host_mebibytes() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .strip_prefix("MemTotal:")
        .and_then(|rest| rest.split_whitespace().next());
    total
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib >> 10)
}

fn boots(memory: &str, part: &str, disks: usize) -> Outcome {
    let image = Image::patterned(IMAGE_BYTES, SEED)?;
    let mut iolite = Iolite::run().option("--memory", memory);
    for number in 1..disks {
        // The last disk is the one with the bytes.
        iolite = iolite.disk(format!("null:{number}M"));
    }
    let last = char::from(b'a' + disks as u8);
    let mut running = iolite.disk(image.path()).start()?;
    running.send(&format!(
        "memory {part}\nverify /dev/vd{last} {SEED}\nfill --no-sync /dev/vd{last} 6\nexit 0\n"
    ))?;
    let ended = running.finish_with_input_open()?.expect(0)?;
    for said in [" bytes: ok", &format!("seed {SEED}: ok"), "seed 6: written"] {
        ensure!(
            ended.stdout.contains(said),
            "no {said:?}: {}",
            ended.report()
        );
    }
    image.holds(6, IMAGE_BYTES)
}

/// From 2 MiB on a machine is made; our guest says that it needs more.
fn too_little() -> Outcome {
    for memory in ["2M", "3M"] {
        let ended = Iolite::program("hello").option("--memory", memory);
        ended.expect(PANIC)?.says("4 MiB of memory are the least")?;
    }
    Ok(())
}

/// The exit code of a kernel that gives up: status 255 of eight bits.
const PANIC: i32 = 255;

fn large_cache() -> Outcome {
    let image = Image::patterned(IMAGE_BYTES, SEED)?;
    for cache in ["128M", "100G", "16000000000G"] {
        let verify = format!("verify /dev/vdb {SEED} cache={cache}");
        Iolite::program(&verify)
            .disk(image.path())
            .expect(0)?
            .says("iolite: cache=: not more than half of memory")?;
    }
    Iolite::program(&format!("verify /dev/vdb {SEED} cache=1"))
        .disk(image.path())
        .expect(0)?;
    Ok(())
}

/// A program that wants more memory than there is ends, and nobody else.
fn more_than_there_is() -> Outcome {
    let mut running = Iolite::run().option("--memory", "8M").start()?;
    running.send("memory 8M\nmemory 1M\nexit 0\n")?;
    let ended = running.finish_with_input_open()?.expect(0)?;
    ensure!(
        ended.stdout.contains("killed: out of memory"),
        "{}",
        ended.report()
    );
    ensure!(
        ended.stdout.contains("1048576 bytes: ok"),
        "{}",
        ended.report()
    );
    Ok(())
}

/// The names of a system disk's files lie in the kernel's heap, which is small where memory is: those
/// that do not fit are left out.
fn many_files() -> Outcome {
    let resources = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("resources/guest");
    let guest = env::var_os("IOLITE_GUEST_DIR").map_or(resources, PathBuf::from);
    let mut archive = fs::read(guest.join("system.tar"))?;
    while archive.ends_with(&[0; BLOCK]) {
        archive.truncate(archive.len() - BLOCK);
    }
    for number in 0..2100 {
        archive.extend(header_of(&format!("{number:0100}")));
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), archive)?;
    Iolite::new()
        .arg("run")
        .arg(guest.join("kernel"))
        .option("--system", file.path())
        .option("--memory", "4M")
        .option("--cmdline", "init=hello")
        .expect(0)?
        .says("files, rest ignored")?
        .says("hello from ring 3")?;
    Ok(())
}

const BLOCK: usize = 512;

/// The ustar header of an empty file.
fn header_of(name: &str) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    header[..name.len()].copy_from_slice(name.as_bytes());
    for (at, field) in [
        (100, "0000644\0"),
        (124, "00000000000\0"),
        (148, "        "),
    ] {
        header[at..at + field.len()].copy_from_slice(field.as_bytes());
    }
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
