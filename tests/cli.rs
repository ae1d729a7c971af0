//! The command line: what is refused, with which exit code and which words. None of this needs
//! /dev/kvm.

#![allow(clippy::unwrap_used)]

#[path = "support/tiny.rs"]
mod tiny;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;
use tiny::{Entry, Tiny};

/// Runs iolite with these arguments: it has to fail with this code and one line that has all
/// these words.
#[track_caller]
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = Command::cargo_bin("iolite")
        .unwrap()
        .env_remove("RUST_LOG")
        .args(args)
        .unwrap_err();
    let output = output.as_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
    if code != 2 {
        let line = stderr.strip_suffix('\n');
        assert!(
            line.is_some_and(|line| !line.contains(char::is_control)),
            "{stderr:?}"
        );
    }
}

/// A file with these bytes, as a path.
fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn help_and_version() {
    let help = Command::cargo_bin("iolite").unwrap().arg("--help").unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for word in ["demo", "run", "check", "Exit codes", "128+N"] {
        assert!(help.contains(word), "{word}");
    }
    let version = Command::cargo_bin("iolite")
        .unwrap()
        .arg("--version")
        .unwrap();
    assert!(
        String::from_utf8(version.stdout)
            .unwrap()
            .starts_with("iolite ")
    );
}

#[test]
fn wrong_usage_is_code_2() {
    refused(&["--wrong"], 2, &["--wrong"]);
    refused(&["walk"], 2, &["walk"]);
    refused(&["run", "-m", "12"], 2, &["12", "128M"]);
    refused(&["run", "-m", "lots"], 2, &["lots", "is not a size"]);
    refused(&["run", "--timeout", "soon"], 2, &["soon", "30s"]);
    refused(
        &["run", "-d", "x,color=red"],
        2,
        &["color", "workers", "queue-size", "readonly", "id"],
    );
    refused(&["run", "-d", "x,workers=0"], 2, &["workers", "1 to 64"]);
    refused(
        &["run", "-d", "x,queue-size=100"],
        2,
        &["queue-size", "power of two"],
    );
    refused(&["run", "-d", ""], 2, &["names no file"]);
    refused(
        &["demo", "-d", "x.img,ro"],
        2,
        &["x.img,ro", "without keys"],
    );
    refused(&["run", "-d", "x,"], 2, &["x,", "empty key"]);
    refused(&["bench", "--size", "1M"], 2, &["too small", "32M"]);
    refused(&["bench", "--keys", "ro"], 2, &["readonly", "randread"]);
    refused(&["run", "-d", "x,id=a,id=b"], 2, &["id", "given twice"]);
}

#[test]
fn wrong_usage_of_bench_is_code_2() {
    let bench = |args: &[&str], words: &[&str]| refused(&[&["bench"], args].concat(), 2, words);
    bench(&["--depth", "129"], &["129", "1..=128"]);
    bench(&["--queues", "17"], &["17", "1..=16"]);
    bench(&["--block-size", "1000"], &["1000", "multiple of 512"]);
    bench(&["--engine", "fast"], &["fast", "pool", "uring", "sync"]);
    bench(
        &["--against", "xen"],
        &["xen", "traced", "neighbour", "limit", "qemu"],
    );
    bench(&["--keys", "color=red"], &["color"]);
    bench(
        &["--engine", "sync", "--keys", "workers=4"],
        &["workers", "engine=sync"],
    );
    bench(
        &["--engine", "sync", "--keys", "engine=pool"],
        &["engine", "twice"],
    );
    bench(
        &["--queues", "2", "--keys", "queues=2"],
        &["queues", "twice"],
    );
    bench(&["--disk", "x"], &["--overwrite"]);
}

#[test]
fn disks_that_cannot_be_disks_are_code_10() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let disk = |disk: &str, words: &[&str]| {
        refused(&["run", &kernel, "-d", disk], 10, &[disk]);
        refused(&["run", &kernel, "-d", disk], 10, words);
        refused(&["demo", "--disk", disk], 10, words);
    };
    let system = ["run", &kernel, "--system", "/nowhere/system.tar"];
    refused(&system, 10, &["/nowhere/system.tar", "ustar"]);
    disk("/nowhere/x.img", &["no such file"]);
    disk(dir.path().to_str().unwrap(), &["is a directory"]);
    disk("/dev/null", &["neither a file nor a block device"]);
    disk(&file(&dir, "empty", b""), &["is empty"]);
    disk(
        &file(&dir, "odd", &[0; 513]),
        &["513", "not a multiple of 512"],
    );
}

/// They would make two lines of one, or tell a terminal what to do.
#[test]
fn control_characters_of_a_path_are_escaped() {
    let dir = TempDir::new().unwrap();
    let name = "/two\nlines\r\x1b[2J\u{9b}2J";
    let path = file(&dir, name.trim_start_matches('/'), &[0; 513]);
    let escaped = r"/two\nlines\r\u{1b}[2J\u{9b}2J";
    let (absent, said) = (format!("/nowhere{name}"), format!("/nowhere{escaped}"));
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    refused(&["run", &absent], 8, &[&said]);
    refused(&["run", &kernel, "--system", &absent], 10, &[&said]);
    refused(&["run", &kernel, "--trace", &absent], 4, &[&said]);
    refused(&["run", &kernel, "-d", &path], 10, &[escaped, "513"]);
    refused(&["demo", "--disk", &absent], 10, &[&said]);
    let html = dir.path().join("html");
    let html = ["trace", "html", &absent, "-o", html.to_str().unwrap()];
    refused(&html, 4, &[&said]);
    let socket = ["serve", "-d", "mem:1M", "--socket", &absent];
    refused(&socket, 4, &[&said]);
}

#[test]
fn disks_without_permission_are_code_10() {
    let dir = TempDir::new().unwrap();
    let secret = file(&dir, "secret", &[0; 512]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&secret).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    refused(&["demo", "--disk", &secret], 10, &["cannot be read"]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    refused(
        &["demo", "--write", "--disk", &secret],
        10,
        &["cannot be written", "readonly"],
    );
}

#[test]
fn too_many_disks_are_code_2() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let disk = file(&dir, "disk", &[0; 512]) + ",ro";
    let mut args = vec!["run", &kernel];
    args.extend(["-d", &disk].repeat(20));
    refused(&args, 2, &["20 disks are too many", "19"]);
}

#[test]
fn a_disk_is_not_shared_with_a_writer() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let disk = file(&dir, "disk", &[0; 512]);
    let twice = ["run", &kernel, "-d", &disk, "-d", &disk];
    refused(&twice, 10, &["another disk", "readonly"]);
    let _reader = locked(&disk, libc::F_RDLCK, 0, 0);
    refused(&["run", &kernel, "-d", &disk], 10, &["in use"]);
}

/// True where machines can be made; what fails later than that cannot be tested elsewhere.
fn has_kvm() -> bool {
    fs::File::options()
        .read(true)
        .write(true)
        .open(Path::new("/dev/kvm"))
        .is_ok()
}

#[test]
fn without_kvm_it_is_code_6() {
    if has_kvm() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    refused(&["run", &kernel], 6, &["/dev/kvm"]);
    refused(&["check"], 6, &["/dev/kvm"]);
}

#[test]
fn memory_that_cannot_be_is_code_2() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    refused(&["run", &kernel, "-m", "1M"], 2, &["too small", "2M"]);
    refused(
        &["run", &kernel, "-m", "512T"],
        2,
        &["more than the host's"],
    );
    refused(&["run", &kernel, "-m", "2049K"], 2, &["multiple of 4096"]);
}

#[test]
fn kernels_that_cannot_be_loaded_are_code_8() {
    let dir = TempDir::new().unwrap();
    let good = Tiny::new(Entry::Pvh).reset().elf();
    refused(
        &["run", "/nowhere/vmlinux"],
        8,
        &["/nowhere/vmlinux", "does not exist"],
    );
    refused(
        &["run", dir.path().to_str().unwrap()],
        8,
        &["is a directory"],
    );
    refused(&["run", "/dev/null"], 8, &["not a regular file"]);

    let kernel = |name: &str, bytes: &[u8], words: &[&str]| {
        let path = file(&dir, name, bytes);
        refused(&["run", &path, "-m", "4M"], 8, &[&path]);
        refused(&["run", &path, "-m", "4M"], 8, words);
    };
    kernel("empty", b"", &["not an ELF file"]);
    kernel(
        "text",
        b"#!/bin/sh\necho this is no kernel at all\n",
        &["not an ELF file"],
    );
    kernel("cut", &good[..100], &["truncated"]);
    let mut bzimage = vec![0; 4096];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    kernel("bzimage", &bzimage, &["bzImage", "vmlinux"]);

    /// Overwrites bytes of a copy.
    fn with(elf: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut elf = elf.to_vec();
        elf[offset..offset + bytes.len()].copy_from_slice(bytes);
        elf
    }
    kernel(
        "arm",
        &with(&good, 18, &183u16.to_le_bytes()),
        &["not built for x86"],
    );
    // The first program header is at 64: p_paddr at +24, p_filesz at +32, p_memsz at +40.
    let huge = with(&good, 64 + 40, &(64u64 << 20).to_le_bytes());
    kernel("huge", &huge, &["needs memory", "-m"]);
    let low = with(&good, 64 + 24, &0x8000u64.to_le_bytes());
    kernel("low", &low, &["first MiB", "0x100000"]);
    let hole = with(&good, 64 + 24, &0xd000_0000u64.to_le_bytes());
    kernel("hole", &hole, &["needs memory"]);
    // The note is at 0xb0, its contents at 0xc0.
    kernel(
        "entry",
        &with(&good, 0xc0, &0x500_0000u32.to_le_bytes()),
        &["entered at 0x5000000"],
    );
}

#[test]
fn a_32_bit_kernel_needs_a_pvh_note() {
    let dir = TempDir::new().unwrap();
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2u16, 3].iter().flat_map(|v| v.to_le_bytes()));
    elf.extend(
        [1u32, 0x10_0000, 52, 0, 0]
            .iter()
            .flat_map(|v| v.to_le_bytes()),
    );
    elf.extend(
        [52u16, 32, 1, 40, 0, 0]
            .iter()
            .flat_map(|v| v.to_le_bytes()),
    );
    let load = [1u32, 0, 0x10_0000, 0x10_0000, 84, 84, 7, 4];
    elf.extend(load.iter().flat_map(|v| v.to_le_bytes()));
    let kernel = file(&dir, "kernel32", &elf);
    refused(&["run", &kernel], 8, &["32-bit", "PVH note"]);
}

#[test]
fn initrd_and_command_line_have_their_limits() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    refused(
        &["run", &kernel, "--initrd", "/nowhere/initrd"],
        8,
        &["initrd", "does not exist"],
    );
    let big = file(&dir, "big", &vec![0; 4 << 20]);
    refused(
        &["run", &kernel, "-m", "4M", "--initrd", &big],
        8,
        &["do not fit", "-m"],
    );
    let empty = file(&dir, "empty", b"");
    refused(&["run", &kernel, "--initrd", &empty], 8, &["is empty"]);
    refused(
        &["run", &kernel, "-p", &"x".repeat(2048)],
        2,
        &["command line", "2047"],
    );
}

#[test]
fn results_that_cannot_be_written_are_code_4() {
    refused(
        &["demo", "--json", "/nowhere/results.json"],
        4,
        &["/nowhere/results.json"],
    );
}

/// What each of these files holds is the same afterwards.
struct Untouched(Vec<(String, Vec<u8>)>);

impl Untouched {
    fn of(paths: &[&str]) -> Untouched {
        let read = |path: &&str| ((*path).to_owned(), fs::read(path).unwrap());
        Untouched(paths.iter().map(read).collect())
    }

    #[track_caller]
    fn check(&self) {
        for (path, content) in &self.0 {
            assert!(fs::read(path).unwrap() == *content, "{path} has changed");
        }
    }
}

#[test]
fn what_a_command_reads_is_no_output() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let [disk, initrd, system, hard, soft] =
        ["disk", "initrd", "system", "hard", "soft"].map(|name| {
            let path = dir.path().join(name);
            path.to_str().unwrap().to_owned()
        });
    fs::write(&disk, [7; 512]).unwrap();
    fs::write(&initrd, "initrd").unwrap();
    fs::write(&system, [0; 1024]).unwrap();
    fs::hard_link(&disk, &hard).unwrap();
    std::os::unix::fs::symlink(&disk, &soft).unwrap();
    let untouched = Untouched::of(&[&kernel, &disk, &initrd, &system]);
    let run = [
        "run", &kernel, "--initrd", &initrd, "--system", &system, "-d", &disk,
    ];
    for option in ["--trace", "--stats-json"] {
        for (output, what) in [
            (&disk, "a disk"),
            (&hard, "a disk"),
            (&soft, "a disk"),
            (&kernel, "the kernel"),
            (&initrd, "the initrd"),
            (&system, "the system disk"),
        ] {
            let args = [&run[..], &[option, output]].concat();
            refused(&args, 2, &[option, output, what]);
        }
    }
    refused(
        &[
            "run",
            &kernel,
            "-d",
            &(disk.clone() + ",ro"),
            "--trace",
            &disk,
        ],
        2,
        &["a disk"],
    );
    for option in ["--json", "--trace"] {
        refused(
            &["demo", "--disk", &disk, option, &hard],
            2,
            &[option, &hard, "the disk"],
        );
    }
    refused(
        &["bench", "--disk", &disk, "--overwrite", "--json", &soft],
        2,
        &["the disk"],
    );
    refused(&["trace", "html", &disk, "-o", &hard], 2, &["the trace"]);
    refused(&["trace", "picture", &disk, "-o", &disk], 2, &["the trace"]);
    untouched.check();
}

#[test]
fn a_file_is_one_output() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let old = file(&dir, "old", b"results of before");
    let new = dir.path().join("new");
    let new = new.to_str().unwrap();
    for output in [&old, new] {
        let twice = ["run", &kernel, "--trace", output, "--stats-json", output];
        refused(&twice, 2, &["--stats-json", output, "--trace"]);
        refused(
            &["demo", "--trace", output, "--json", output],
            2,
            &["--trace", output, "--json"],
        );
    }
    assert_eq!(fs::read(&old).unwrap(), b"results of before");
    assert!(!Path::new(new).exists());
    // What stdout and stderr were directed to is one more.
    let log = fs::File::options().append(true).open(&old).unwrap();
    let mut iolite = std::process::Command::new(env!("CARGO_BIN_EXE_iolite"));
    iolite.args(["run", &kernel, "--trace", &old]).stdout(log);
    let ended = iolite.output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("the file of stdout"), "{stderr}");
    assert_eq!(fs::read(&old).unwrap(), b"results of before");
}

#[test]
fn a_guests_console_is_no_output() {
    for option in ["--trace", "--stats-json"] {
        refused(
            &["run", option, "-"],
            2,
            &[option, "console", "/dev/stdout"],
        );
    }
    assert!(!Path::new("-").exists());
}

#[test]
fn a_failed_start_leaves_results_alone() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let old = file(&dir, "old", b"results of before");
    let new = dir.path().join("new");
    let new = new.to_str().unwrap();
    refused(
        &[
            "run",
            "/nowhere/vmlinux",
            "--trace",
            &old,
            "--stats-json",
            new,
        ],
        8,
        &[],
    );
    refused(
        &[
            "run",
            &kernel,
            "-d",
            "/nowhere/disk",
            "--stats-json",
            &old,
            "--trace",
            new,
        ],
        10,
        &[],
    );
    refused(
        &["run", &kernel, "-m", "1M", "--trace", &old],
        2,
        &["too small"],
    );
    // It would be made by opening the output, and was no disk before.
    refused(&["run", &kernel, "-d", new, "--trace", new], 2, &["a disk"]);
    refused(
        &[
            "demo",
            "--disk",
            "/nowhere/disk",
            "--json",
            &old,
            "--trace",
            new,
        ],
        10,
        &[],
    );
    refused(
        &["bench", "--size", "1M", "--json", &old],
        2,
        &["too small"],
    );
    refused(
        &["bench", "cost", "--guest", "/nowhere", "--json", &old],
        10,
        &[],
    );
    refused(&["trace", "html", "/nowhere/t.json", "-o", &old], 4, &[]);
    refused(
        &["trace", "html", &kernel, "-o", &old],
        2,
        &["is not a trace"],
    );
    refused(
        &["trace", "html", &kernel, "-o", new],
        2,
        &["is not a trace"],
    );
    assert_eq!(fs::read(&old).unwrap(), b"results of before");
    assert!(!Path::new(new).exists());
}

#[test]
fn outputs_that_cannot_be_are_told_before_the_machine_runs() {
    let dir = TempDir::new().unwrap();
    // It would run for ever.
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).halt().elf());
    // The path of a socket is short, that of TMPDIR need not be.
    let sockets = TempDir::new_in("/tmp").unwrap();
    let socket = sockets.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let directory = dir.path().to_str().unwrap();
    for output in [
        "/nowhere/results",
        directory,
        &format!("{kernel}/results"),
        socket.to_str().unwrap(),
        "/dev/fd/77",
        "/dev/stdin",
    ] {
        for option in ["--trace", "--stats-json"] {
            refused(
                &["run", &kernel, option, output],
                4,
                &[output, "cannot write"],
            );
        }
        for command in [["demo", "--json"], ["bench", "--json"]] {
            refused(
                &[&command[..], &[output]].concat(),
                4,
                &[output, "cannot write"],
            );
        }
        refused(&["bench", "cost", "--json", output], 4, &[output]);
        refused(&["bench", "idle", "--json", output], 4, &[output]);
        refused(&["trace", "html", &kernel, "-o", output], 4, &[output]);
    }
}

/// Takes a lock of an open file description, as machines do.
fn locked(path: &str, kind: i32, start: i64, len: i64) -> fs::File {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

#[test]
fn what_somebody_has_locked_is_no_output() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let disk = file(&dir, "disk", &[7; 512]);
    // A writer's, a reader's, and one of the bytes that QEMU locks.
    for (kind, start, len) in [
        (libc::F_WRLCK, 0, 0),
        (libc::F_RDLCK, 0, 0),
        (libc::F_RDLCK, 201, 1),
    ] {
        let _machine = locked(&disk, kind, start, len);
        for args in [
            &["run", &kernel, "--trace", &disk][..],
            &["run", &kernel, "--stats-json", &disk],
            &["demo", "--json", &disk],
            &["trace", "html", &kernel, "-o", &disk],
        ] {
            refused(args, 4, &[&disk, "locked"]);
        }
    }
    assert_eq!(fs::read(&disk).unwrap(), [7; 512]);
}

#[test]
fn a_writable_disk_is_no_other_file_of_the_machine() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let system = file(&dir, "system", &[0; 1024]);
    let run = ["run", &kernel, "--system", &system];
    for (disk, what) in [(&kernel, "the kernel"), (&system, "the system disk")] {
        let args = [&run[..], &["-d", disk]].concat();
        refused(&args, 10, &[disk, what, "readonly"]);
    }
}

#[test]
fn advice_does_not_damage_files() {
    let dir = TempDir::new().unwrap();
    let kernel = file(&dir, "kernel", &Tiny::new(Entry::Pvh).reset().elf());
    let text = file(&dir, "README.md", "not an archive\n".repeat(100).as_bytes());
    let sectors = file(&dir, "sectors", &[b'x'; 1024]);
    let mut tar = [0; 1000];
    tar[257..262].copy_from_slice(b"ustar");
    let tar = file(&dir, "cut.tar", &tar);
    for (system, word) in [
        (&text, "no ustar archive"),
        (&sectors, "no ustar archive"),
        (&tar, "cut off"),
    ] {
        refused(
            &["run", &kernel, "--system", system],
            10,
            &[system, word, "programs.md"],
        );
    }
    for args in [
        ["run", &kernel, "-d", &text],
        ["run", &kernel, "--system", &text],
        ["demo", "--write", "--disk", &text],
    ] {
        let ended = Command::cargo_bin("iolite")
            .unwrap()
            .args(args)
            .unwrap_err();
        let stderr = String::from_utf8_lossy(&ended.as_output().unwrap().stderr).into_owned();
        let advice = stderr.split('`').skip(1).step_by(2).collect::<Vec<_>>();
        assert!(
            !advice.iter().any(|command| command.contains("README")),
            "{stderr}"
        );
    }
    let spaces = dir.path().join("no such; file");
    let spaces = spaces.to_str().unwrap();
    refused(
        &["run", &kernel, "-d", spaces],
        10,
        &[&format!("`truncate -s 64M '{spaces}'`")],
    );
}

#[test]
fn a_path_with_a_comma_is_a_disk() {
    refused(
        &["run", "-d", "/nowhere/a,,b.img,ro"],
        10,
        &["/nowhere/a,b.img", "no such file"],
    );
}
