//! Bad input: one line on stderr that names the mistake, and an exit code of its kind.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use libtest_mimic::{Completion, Failed, Trial};
use tempfile::TempDir;

use crate::ensure;
use crate::support::Outcome;
use crate::support::trial;
use crate::support::vm::Iolite;

const USAGE: i32 = 2;
const KERNEL: i32 = 8;
const DISK: i32 = 10;

/// What is given, the exit code, and words that the one line must contain. `DIR` stands for a
/// directory with the files of [`files`].
const TABLE: &[(&str, &[&str], i32, &[&str])] = &[
    (
        "kernel_missing",
        &["run", "DIR/none"],
        KERNEL,
        &["DIR/none", "does not exist"],
    ),
    (
        "kernel_a_directory",
        &["run", "DIR"],
        KERNEL,
        &["directory"],
    ),
    (
        "kernel_empty",
        &["run", "DIR/empty"],
        KERNEL,
        &["DIR/empty", "ELF"],
    ),
    (
        "kernel_not_elf",
        &["run", "DIR/text"],
        KERNEL,
        &["DIR/text", "ELF"],
    ),
    (
        "kernel_32_bit_without_note",
        &["run", "DIR/elf32"],
        KERNEL,
        &["32-bit", "PVH"],
    ),
    (
        "kernel_truncated",
        &["run", "DIR/truncated"],
        KERNEL,
        &["truncated"],
    ),
    (
        "kernel_bigger_than_memory",
        &["run", "DIR/huge"],
        KERNEL,
        &["memory"],
    ),
    (
        "initrd_missing",
        &["run", "--initrd", "DIR/none"],
        KERNEL,
        &["initrd", "DIR/none"],
    ),
    (
        "disk_missing",
        &["run", "-d", "DIR/none"],
        DISK,
        &["DIR/none", "no such file"],
    ),
    (
        "disk_a_directory",
        &["run", "-d", "DIR"],
        DISK,
        &["directory"],
    ),
    (
        "disk_empty",
        &["run", "-d", "DIR/empty"],
        DISK,
        &["DIR/empty", "empty"],
    ),
    (
        "disk_of_1000_bytes",
        &["run", "-d", "DIR/odd"],
        DISK,
        &["DIR/odd", "512"],
    ),
    (
        "disk_a_device_of_characters",
        &["run", "-d", "/dev/null"],
        DISK,
        &["/dev/null"],
    ),
    (
        "disk_given_twice",
        &["run", "-d", "DIR/disk", "-d", "DIR/disk"],
        DISK,
        &["DIR/disk"],
    ),
    (
        "disk_key_unknown",
        &["run", "-d", "DIR/disk,colour=red"],
        USAGE,
        &["colour", "workers"],
    ),
    (
        "disk_of_no_bytes",
        &["run", "-d", "null:0M"],
        USAGE,
        &["no bytes", "64M"],
    ),
    (
        "disk_of_a_third_of_a_block",
        &["run", "-d", "DIR/three_sectors,block-size=4096"],
        DISK,
        &["1536", "4096"],
    ),
    (
        "disk_key_that_does_nothing",
        &["run", "-d", "mem:1M,cache=unsafe"],
        USAGE,
        &["cache", "does nothing"],
    ),
    (
        "disk_workers_zero",
        &["run", "-d", "DIR/disk,workers=0"],
        USAGE,
        &["workers"],
    ),
    (
        "disk_queue_size_100",
        &["run", "-d", "DIR/disk,queue-size=100"],
        USAGE,
        &["queue-size"],
    ),
    (
        "disk_without_a_path",
        &["run", "-d", ""],
        USAGE,
        &["names no file"],
    ),
    (
        "memory_not_a_size",
        &["run", "-m", "lots"],
        USAGE,
        &["lots", "128M"],
    ),
    (
        "memory_too_small",
        &["run", "-m", "64K"],
        USAGE,
        &["too small"],
    ),
    (
        "memory_over_the_hosts",
        &["run", "-m", "900000G"],
        USAGE,
        &["host"],
    ),
    (
        "timeout_not_a_time",
        &["run", "--timeout", "soon"],
        USAGE,
        &["soon", "30s"],
    ),
    (
        "demo_disk_missing",
        &["demo", "--disk", "DIR/none"],
        DISK,
        &["DIR/none", "no such file"],
    ),
    (
        "demo_disk_empty",
        &["demo", "--disk", "DIR/empty"],
        DISK,
        &["DIR/empty", "empty"],
    ),
];

pub fn tests() -> Vec<Trial> {
    let mut tests: Vec<Trial> = TABLE
        .iter()
        .map(|&(name, arguments, code, words)| {
            Trial::test(format!("bad_input::{name}"), move || {
                one_line(arguments, code, words)
            })
        })
        .collect();
    tests.push(Trial::test("bad_input::too_many_disks", too_many_disks));
    tests.push(Trial::ignorable_test(
        "bad_input::unreadable_disk",
        unreadable_disk,
    ));
    tests.push(Trial::ignorable_test(
        "bad_input::disk_not_aligned_for_direct_io",
        not_aligned_for_direct_io,
    ));
    tests.push(Trial::test("bad_input::unknown_option", unknown_option));
    tests
}

fn one_line(arguments: &[&str], code: i32, words: &[&str]) -> Outcome {
    let directory = files()?;
    let path = directory.path().to_string_lossy();
    let mut iolite = Iolite::new();
    for argument in arguments {
        iolite = iolite.arg(argument.replace("DIR", &path));
    }
    complains(
        iolite,
        code,
        &words
            .iter()
            .map(|word| word.replace("DIR", &path))
            .collect::<Vec<_>>(),
    )
}

fn complains(iolite: Iolite, code: i32, words: &[String]) -> Outcome {
    let ended = iolite.expect(code)?;
    ensure!(
        ended.stdout.is_empty(),
        "something on stdout\n{}",
        ended.report()
    );
    let lines: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    // clap adds a line that points to --help.
    let own = lines.iter().filter(|line| !line.contains("--help")).count();
    ensure!(own == 1, "{own} lines, not one\n{}", ended.report());
    let said = ended.stderr.to_lowercase();
    for word in words {
        ensure!(
            said.contains(&word.to_lowercase()),
            "no word of {word:?}\n{}",
            ended.report()
        );
    }
    Ok(())
}

fn too_many_disks() -> Outcome {
    let directory = files()?;
    let mut iolite = Iolite::new().arg("run");
    for _ in 0..30 {
        iolite = iolite.disk(directory.path().join("disk"));
    }
    complains(iolite, USAGE, &["disks".into()])
}

fn unreadable_disk() -> Result<Completion, Failed> {
    let directory = files()?;
    let disk = directory.path().join("disk");
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o000))?;
    if fs::read(&disk).is_ok() {
        return Ok(trial::skipped("root may read everything"));
    }
    complains(
        Iolite::new().arg("run").disk(&disk),
        DISK,
        &["permission".into()],
    )?;
    Ok(Completion::Completed)
}

fn not_aligned_for_direct_io() -> Result<Completion, Failed> {
    let directory = files()?;
    let direct = fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(directory.path().join("disk"));
    if direct.is_err() {
        return Ok(trial::skipped("no direct I/O where temporary files are"));
    }
    one_line(&["run", "-d", "DIR/odd,direct"], DISK, &["DIR/odd", "512"])?;
    Ok(Completion::Completed)
}

fn unknown_option() -> Outcome {
    let ended = Iolite::new()
        .arg("run")
        .arg("--no-such-option")
        .expect(USAGE)?;
    ensure!(
        ended.stderr.contains("--no-such-option"),
        "{}",
        ended.report()
    );
    Ok(())
}

/// A directory with a good disk and with files that are no good as kernels or disks.
fn files() -> Result<TempDir, std::io::Error> {
    let directory = tempfile::tempdir()?;
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes);
    write("disk", &[0; 8192])?;
    write("odd", &[0; 1000])?;
    write("three_sectors", &[0; 1536])?;
    write("empty", b"")?;
    write(
        "text",
        b"I am not a kernel, only a text of some length that fills a header. ".as_slice(),
    )?;
    write("elf32", &elf32())?;
    write("truncated", &elf64_of_size(4096)[..100])?;
    write("huge", &elf64_of_size(4 << 30))?;
    Ok(directory)
}

/// A 32-bit executable with one segment and no note.
fn elf32() -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 3] {
        file.extend(half.to_le_bytes()); // an executable, for the i386
    }
    for word in [1u32, 0x10_0000, 52, 0, 0] {
        file.extend(word.to_le_bytes()); // version, entry, program headers, sections, flags
    }
    for half in [52u16, 32, 1, 40, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes and counts of headers
    }
    for word in [1u32, 0, 0x10_0000, 0x10_0000, 84, 84, 5, 0x1000] {
        file.extend(word.to_le_bytes()); // PT_LOAD of the file itself
    }
    file
}

/// A 64-bit executable with one segment that occupies `memory` bytes.
fn elf64_of_size(memory: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes()); // an executable, for x86-64
    }
    file.extend(1u32.to_le_bytes());
    for word in [0x10_0000u64, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers, sections
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes and counts of headers
    }
    for word in [1u32, 5] {
        file.extend(word.to_le_bytes()); // PT_LOAD, readable and executable
    }
    for word in [0u64, 0x10_0000, 0x10_0000, 120, memory, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file
}
