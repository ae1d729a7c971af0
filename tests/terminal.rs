//! The terminal: it is the guest's while a machine runs, and is left as it was found whatever ends
//! the machine. They need /dev/kvm (see tiny_guests.rs), and setsid of util-linux.

#![allow(clippy::unwrap_used)]

#[path = "support/plain.rs"]
mod plain;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, LocalFlags, Termios, tcflow, tcgetattr};
use nix::unistd::Pid;
use tempfile::NamedTempFile;
use tiny::{Entry, Tiny};

/// iolite in the foreground of a terminal of its own.
struct Session {
    child: Child,
    /// Our end of the terminal.
    screen: File,
    /// Its other end, kept open so that it can be asked about.
    terminal: File,
    found: Termios,
    _kernel: NamedTempFile,
}

impl Session {
    /// Starts a kernel that prints `ready` and then does what `rest` does; waits until it is ready.
    fn start(rest: fn(Tiny) -> Tiny, args: &[&str]) -> Session {
        let mut session = Session::spawn(rest, args);
        session.read("ready\r\n");
        session
    }

    fn spawn(rest: fn(Tiny) -> Tiny, args: &[&str]) -> Session {
        let kernel = rest(Tiny::new(Entry::Pvh).print("ready\n")).file();
        let pty = openpty(None, None).unwrap();
        let (screen, terminal) = (File::from(pty.master), File::from(pty.slave));
        let found = tcgetattr(&terminal).unwrap();
        let child = Command::new("setsid")
            .args([
                "-c",
                env!("CARGO_BIN_EXE_iolite"),
                "run",
                "--timeout",
                "60s",
            ])
            .arg(kernel.path())
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal.try_clone().unwrap())
            .spawn()
            .unwrap();
        Session {
            child,
            screen,
            terminal,
            found,
            _kernel: kernel,
        }
    }

    /// Reads from the screen until there is this.
    fn read_until(&mut self, text: &str) {
        let mut bytes = Vec::new();
        while !bytes.ends_with(text.as_bytes()) {
            let mut byte = [0];
            self.screen.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
    }

    /// Reads from the screen exactly this.
    #[track_caller]
    fn read(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        self.screen.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn has_thread(&self, name: &str) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names = tasks
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("comm")));
        names.flatten().any(|comm| comm.trim_end() == name)
    }

    fn press(&mut self, keys: &[u8]) {
        self.screen.write_all(keys).unwrap();
    }

    /// Waits until the terminal is in character mode, or is not.
    #[track_caller]
    fn wait_for_character_mode(&self, wanted: bool) {
        let start = Instant::now();
        loop {
            let now = tcgetattr(&self.terminal).unwrap();
            let line_mode = LocalFlags::ICANON | LocalFlags::ECHO;
            if now.local_flags.intersects(line_mode) != wanted {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "character mode: not {wanted}"
            );
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end: the code is this, and the terminal as it was found.
    #[track_caller]
    fn ends(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
        assert_eq!(tcgetattr(&self.terminal).unwrap(), self.found);
    }
}

fn keys_arrive_one_by_one_and_without_echo() {
    let mut session = Session::start(|tiny| tiny.echo_until(b'q').reset(), &[]);
    session.wait_for_character_mode(true);
    for key in ["a", "b", "\x04", "q"] {
        session.press(key.as_bytes());
        session.read(key);
    }
    session.ends(0);
}

fn every_end_restores_the_terminal() {
    Session::start(|tiny| tiny.exit(1), &[]).ends(3);
    Session::start(Tiny::triple_fault, &[]).ends(12);
    Session::start(Tiny::spin, &["--timeout", "300ms"]).ends(14);

    let mut session = Session::start(Tiny::halt, &[]);
    session.wait_for_character_mode(true);
    session.press(b"\x03");
    session.ends(130);

    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGUSR2, 140),
        (Signal::SIGALRM, 142),
        (Signal::SIGXCPU, 152),
    ] {
        let session = Session::start(Tiny::spin, &[]);
        session.wait_for_character_mode(true);
        session.signal(signal);
        session.ends(code);
    }
    // Signals of faults are what the process dies of.
    for signal in [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS] {
        let mut session = Session::start(Tiny::spin, &[]);
        session.wait_for_character_mode(true);
        session.signal(signal);
        assert_eq!(session.child.wait().unwrap().signal(), Some(signal as i32));
        assert_eq!(tcgetattr(&session.terminal).unwrap(), session.found);
    }
}

/// A terminal that takes nothing (Ctrl-S) keeps no disk from its end.
fn a_stopped_terminal_does_not_keep_the_machine() {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let interval = [
        "--stats-interval",
        "1ms",
        "-d",
        image.path().to_str().unwrap(),
    ];
    let mut session = Session::spawn(|tiny| tiny.echo_until(b'q').reset(), &interval);
    // A line of statistics may come first.
    session.read_until("ready\r\n");
    session.wait_for_character_mode(true);
    tcflow(&session.terminal, FlowArg::TCOOFF).unwrap();
    // A line of statistics waits by now, and then an answer of the guest.
    sleep(Duration::from_millis(100));
    session.press(b"a");
    sleep(Duration::from_millis(100));
    session.signal(Signal::SIGTERM);
    let start = Instant::now();
    while session.has_thread("vda-queue") {
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(10), "the disk does not end");
        sleep(Duration::from_millis(5));
    }
    // The line is still not written, and is not waited for any more.
    sleep(Duration::from_millis(200));
    session.signal(Signal::SIGTERM);
    session.ends(143);
}

fn a_suspended_machine_leaves_the_terminal_to_others() {
    let mut session = Session::start(|tiny| tiny.echo_until(b'q').reset(), &[]);
    session.wait_for_character_mode(true);
    session.press(b"\x1a");
    session.wait_for_character_mode(false);
    session.signal(Signal::SIGCONT);
    session.wait_for_character_mode(true);
    session.press(b"q");
    session.read("q");
    session.ends(0);
}

fn a_line_of_statistics_makes_room_for_the_guest() {
    const EMPTY: &str = "\r\x1b[K";
    let interval = ["--stats-interval", "20ms"];
    let mut session = Session::spawn(|tiny| tiny.echo_until(b'q').reset(), &interval);
    session.read_until("ready\r\n");
    for _ in 0..3 {
        session.read_until(&format!("{EMPTY}stats: 0 IOPS, 0.0 MB/s, 0 in flight, "));
    }
    session.press(b"a");
    session.read_until(&format!("{EMPTY}a"));
    // The line is the guest's until it ends it.
    sleep(Duration::from_millis(100));
    session.press(b"b\n");
    session.read(&format!("b\r\n{EMPTY}stats: "));
    session.press(b"q");
    session.read_until(&format!("{EMPTY}q"));
    session.ends(0);
}

plain_tests![
    a_line_of_statistics_makes_room_for_the_guest,
    keys_arrive_one_by_one_and_without_echo,
    every_end_restores_the_terminal,
    a_stopped_terminal_does_not_keep_the_machine,
    a_suspended_machine_leaves_the_terminal_to_others,
];
