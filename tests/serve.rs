//! `iolite serve` as a process: its sockets, its end, and a power cut of either side. The front-end is
//! our own (`devices/tests/vhost_user/front_end.rs`); with QEMU installed, QEMU is one too.
//!
//! IOLITE_KILLS is how often each side is killed, 10 times without it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]
#![allow(unsafe_code, reason = "memory to share is made by hand")]

#[path = "support/dispositions.rs"]
mod dispositions;
#[path = "../devices/tests/vhost_user/front_end.rs"]
mod front_end;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use front_end::{FrontEnd, eventually};
use iolite_devices_abi::blk::{F_FLUSH, S_OK, T_OUT};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const BYTES: u64 = 4 << 20;
const QUEUE_SIZE: u16 = 128;

/// A directory with an image, and a place for a socket.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Bench {
        dispositions::ignore_nothing();
        // The path of a socket is short, that of TMPDIR need not be.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        fs::File::create(directory.path().join("disk.img"))
            .unwrap()
            .set_len(BYTES)
            .unwrap();
        Bench { directory }
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("disk.img")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("disk.sock")
    }

    /// `iolite serve` with the image and these keys.
    fn command(&self, keys: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iolite"));
        command.env_remove("RUST_LOG").arg("serve");
        command
            .arg("-d")
            .arg(format!("{}{keys}", self.image().display()));
        command.arg("--socket").arg(self.socket());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// The same, when it serves.
    fn serve(&self, keys: &str) -> Served {
        let child = self.command(keys).spawn().unwrap();
        let socket = self.socket();
        assert!(
            eventually(|| UnixStream::connect(&socket).is_ok()),
            "nobody serves"
        );
        Served(child)
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    fn front_end(&self) -> FrontEnd {
        let mut front_end = FrontEnd::new(self.connect(), 1, QUEUE_SIZE);
        front_end.features |= F_FLUSH;
        front_end.negotiate();
        front_end.track_in_flight();
        front_end.share_memory();
        front_end.start_queue(0, 0);
        front_end
    }
}

/// A process that serves; killed if nobody else ends it.
struct Served(Child);

impl Served {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    fn power_cut(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self, signal: Signal) -> Output {
        self.signal(signal);
        let child = std::mem::replace(&mut self.0, Command::new("true").spawn().unwrap());
        child.wait_with_output().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kills() -> u64 {
    let kills = env::var("IOLITE_KILLS").ok();
    kills.and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[test]
fn a_signal_ends_it_with_everything_on_the_disk() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let bench = Bench::new();
        let served = bench.serve(",cache=writeback");
        let mut front_end = bench.front_end();
        assert_eq!(front_end.write(8, &[0x77; 4096]), S_OK);
        let output = served.end(signal);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(!bench.socket().exists(), "the socket is left");
        let mut bytes = [0; 4096];
        let image = fs::File::open(bench.image()).unwrap();
        image.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(bytes, [0x77; 4096]);
    }
}

#[test]
fn sockets_that_cannot_be_ours() {
    let said = |output: Output| {
        let text = String::from_utf8(output.stderr).unwrap();
        let last = text.lines().last().unwrap_or_default().to_owned();
        (output.status.code(), last)
    };
    let bench = Bench::new();
    fs::write(bench.socket(), "a file").unwrap();
    let (code, line) = said(bench.command("").output().unwrap());
    assert_eq!(code, Some(4), "{line}");
    assert!(line.contains("no socket"), "{line}");
    assert_eq!(fs::read(bench.socket()).unwrap(), b"a file");
    fs::remove_file(bench.socket()).unwrap();

    let listener = UnixListener::bind(bench.socket()).unwrap();
    let (code, line) = said(bench.command("").output().unwrap());
    assert_eq!(code, Some(4), "{line}");
    assert!(line.contains("another process"), "{line}");
    drop(listener);
    // A leftover is replaced.
    drop(bench.serve(""));

    let mut no_directory = bench.command("");
    no_directory.args(["-d", "null:1M", "--socket", "/no/such/directory/s"]);
    let (code, line) = said(no_directory.output().unwrap());
    assert_eq!(code, Some(4), "{line}");
    let mut one_short = bench.command("");
    one_short.args(["-d", "null:1M"]);
    let (code, line) = said(one_short.output().unwrap());
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("2 disks and 1 sockets"), "{line}");
}

#[test]
fn who_speaks_no_vhost_user_is_sent_away_and_said_so() {
    let bench = Bench::new();
    let served = bench.serve("");
    let mut stranger = bench.connect();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut nothing = Vec::new();
    // It ends, with a reset or without.
    let _ = std::io::Read::read_to_end(&mut stranger, &mut nothing);
    assert!(nothing.is_empty());
    assert_eq!(bench.front_end().write(0, &[1; 4096]), S_OK);
    let output = served.end(Signal::SIGTERM);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("sent away: it speaks no vhost-user"),
        "{text}"
    );
}

#[test]
fn several_disks_each_at_its_socket() {
    let bench = Bench::new();
    let second = bench.directory.path().join("second.sock");
    let mut command = bench.command("");
    command
        .args(["-d", "mem:1M,queues=2", "--socket"])
        .arg(&second);
    let served = Served(command.spawn().unwrap());
    assert!(eventually(|| UnixStream::connect(&second).is_ok()));
    let mut first = bench.front_end();
    let mut other = FrontEnd::new(UnixStream::connect(&second).unwrap(), 2, QUEUE_SIZE);
    other.start();
    for round in 0..20 {
        assert_eq!(first.write(8 * round, &[round as u8; 4096]), S_OK);
        assert_eq!(other.write(8 * round, &[0xee; 4096]), S_OK);
    }
    assert_eq!(first.read(8), [1; 4096]);
    assert_eq!(other.read(8), [0xee; 4096]);
    drop(served);
}

/// A storm of writes, the back-end killed in the middle of it again and again. Each write is answered
/// once, with OK, and the image holds the last one of each place.
fn killed_back_ends(keys: &str) {
    const SLOTS: u16 = QUEUE_SIZE / 3;
    let bench = Bench::new();
    let mut served = bench.serve(keys);
    let mut front_end = bench.front_end();
    let mut model: HashMap<u64, u8> = HashMap::new();
    // Block and byte of what each slot writes.
    let mut in_flight: HashMap<u16, (u64, u8)> = HashMap::new();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let blocks = BYTES / 4096;
    for round in 0..kills() {
        let writes = draw(400);
        for _ in 0..writes {
            while in_flight.len() == usize::from(SLOTS) {
                let (slot, status) = front_end.wait(0).expect("nothing comes back");
                assert_eq!(status, S_OK);
                let (block, byte) = in_flight.remove(&slot).expect("answered twice");
                model.insert(block, byte);
            }
            let block = draw(blocks);
            if in_flight.values().any(|(other, _)| *other == block) {
                continue;
            }
            let slot = (0..SLOTS)
                .find(|slot| !in_flight.contains_key(slot))
                .unwrap();
            let byte = draw(255) as u8 + 1;
            front_end.put(FrontEnd::data_at(slot), &[byte; 4096]);
            in_flight.insert(slot, (block, byte));
            front_end.submit(0, slot, T_OUT, 8 * block);
            front_end.kick(0);
        }
        thread::sleep(Duration::from_micros(draw(2000)));
        served.power_cut();
        served = bench.serve(keys);
        front_end.reconnect(bench.connect());
        assert_eq!(front_end.queues.len(), 1, "round {round}");
    }
    while !in_flight.is_empty() {
        let (slot, status) = front_end.wait(0).expect("something was lost");
        assert_eq!(status, S_OK);
        let (block, byte) = in_flight.remove(&slot).expect("answered twice");
        model.insert(block, byte);
    }
    assert_eq!(front_end.flush(), S_OK);
    assert_eq!(front_end.used(0), None);
    drop(served);
    let image = fs::read(bench.image()).unwrap();
    for (block, content) in (0..blocks).zip(image.chunks(4096)) {
        let byte = model.get(&block).copied().unwrap_or(0);
        assert!(content.iter().all(|found| *found == byte), "block {block}");
    }
}

#[test]
fn a_killed_back_end_loses_nothing_with_workers() {
    killed_back_ends(",engine=pool");
}

#[test]
fn a_killed_back_end_loses_nothing_with_io_uring() {
    killed_back_ends(",engine=uring");
}

#[test]
fn a_killed_back_end_loses_nothing_when_it_is_slow() {
    killed_back_ends(",latency=1ms");
}

/// A front-end that is killed takes its memory along; what it had in flight is drained.
#[test]
fn a_killed_front_end_leaves_a_disk_for_the_next() {
    let bench = Bench::new();
    let served = bench.serve("");
    for round in 0..kills() {
        let mut front_end = bench.front_end();
        for slot in 0..20 {
            front_end.submit(0, slot, T_OUT, 8 * u64::from(slot));
        }
        front_end.kick(0);
        drop(front_end);
        let mut next = bench.front_end();
        assert_eq!(next.write(8 * (round % 100), &[9; 4096]), S_OK);
    }
    let output = served.end(Signal::SIGTERM);
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(output.status.signal(), None);
}

// ---- QEMU as the front-end ---------------------------------------------------------------------

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[test]
fn our_guest_in_qemu_reads_and_writes_the_disk() {
    if !installed("qemu-system-x86_64") || fs::File::open("/dev/kvm").is_err() {
        eprintln!("skipped: our_guest_in_qemu_reads_and_writes_the_disk: no QEMU with KVM here");
        return;
    }
    let bench = Bench::new();
    let served = bench.serve("");
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/guest");
    let guest = env::var_os("IOLITE_GUEST_DIR").map_or(guest, PathBuf::from);
    let run = |init: &str| {
        let mut system = fs::read(guest.join("system.tar")).unwrap();
        system.resize(system.len().next_multiple_of(512), 0);
        let copy = bench.directory.path().join("system.img");
        fs::write(&copy, system).unwrap();
        let mut qemu = Command::new("timeout");
        qemu.args([
            "120",
            "qemu-system-x86_64",
            "-accel",
            "kvm",
            "-cpu",
            "qemu64",
            "-no-reboot",
        ]);
        qemu.args([
            "-M",
            "microvm,acpi=off,pit=off,rtc=off,auto-kernel-cmdline=on,memory-backend=m",
        ]);
        qemu.args([
            "-object",
            "memory-backend-memfd,id=m,size=128M,share=on",
            "-nodefaults",
        ]);
        qemu.args(["-no-user-config", "-display", "none", "-serial", "stdio"]);
        qemu.args(["-global", "virtio-mmio.force-legacy=false"]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
        qemu.arg("-drive").arg(format!(
            "id=s,if=none,format=raw,readonly=on,file={}",
            copy.display()
        ));
        qemu.args(["-device", "virtio-blk-device,drive=s"]);
        qemu.arg("-chardev")
            .arg(format!("socket,id=c,path={}", bench.socket().display()));
        qemu.args(["-device", "vhost-user-blk,chardev=c", "-kernel"])
            .arg(guest.join("kernel"));
        qemu.arg("-append").arg(format!("init={init}"));
        qemu.stdin(Stdio::null()).output().unwrap()
    };
    for (init, code) in [
        ("fill /dev/vdb 7", 1),
        ("verify /dev/vdb 7", 1),
        ("verify /dev/vdb 8", 3),
    ] {
        let output = run(init);
        assert_eq!(output.status.code(), Some(code), "{init}: {output:?}");
    }
    drop(served);
}
