//! Running the `iolite` binary: a command line, a deadline, and what came of it.
//!
//! IOLITE_GUEST_DIR names a directory with another `kernel` and `system.tar` than the built-in ones
//! (`guest/build --out DIR` makes one): then every virtual machine of [`Iolite::run`] boots these.
//! IOLITE_TEST_DEADLINE is the time in seconds that one process may take, 120 without it.

use std::env;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ensure;

/// A command line being put together.
pub struct Iolite {
    command: Command,
    /// Stdin, stdout and stderr where they are not ours to write and read.
    streams: [Option<Stdio>; 3],
}

impl Iolite {
    /// `iolite` without arguments.
    pub fn new() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iolite"));
        command.env_remove("RUST_LOG").env_remove("NO_COLOR");
        Iolite::other(command)
    }

    /// Another program altogether.
    pub fn other(command: Command) -> Self {
        Iolite {
            command,
            streams: [const { None }; 3],
        }
    }

    /// `iolite run` with our guest.
    pub fn run() -> Self {
        Iolite::run_kernel("kernel")
    }

    fn run_kernel(kernel: &str) -> Self {
        let iolite = Iolite::new().arg("run");
        match env::var_os("IOLITE_GUEST_DIR") {
            Some(directory) => {
                let directory = Path::new(&directory);
                iolite
                    .arg(directory.join(kernel))
                    .option("--system", directory.join("system.tar"))
            }
            None => iolite,
        }
    }

    /// `iolite run` with our guest and `init`, a program of the system disk with its arguments.
    pub fn program(init: &str) -> Self {
        Iolite::run().option("--cmdline", format!("init={init}"))
    }

    /// The same on the kernel that writes events; only together with `--trace`.
    pub fn traced_program(init: &str) -> Self {
        Iolite::run_kernel("kernel-traced").option("--cmdline", format!("init={init}"))
    }

    /// `iolite demo`.
    pub fn demo() -> Self {
        Iolite::new().arg("demo")
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Adds an option and its value.
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    /// Gives it this stdin.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.streams[0] = Some(from.into());
        self
    }

    /// Gives it this stdout.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.streams[1] = Some(to.into());
        self
    }

    /// Gives it this stderr.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.streams[2] = Some(to.into());
        self
    }

    /// Adds to its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The same command line in a shell that does this first.
    pub fn after(self, preparation: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{preparation}; exec \"$0\" \"$@\"")]);
        self.behind(shell)
    }

    /// Adds a disk: a path, and keys behind it.
    pub fn disk(self, specification: impl AsRef<OsStr>) -> Self {
        self.option("--disk", specification)
    }

    /// The same command line under strace, which tampers with the reads of `image` as `fault` says
    /// (the part of its option `--inject` after the system calls).
    pub fn injecting(self, image: &Path, fault: &str) -> Self {
        let image = image.to_string_lossy();
        let fault = format!("--inject=pread64,preadv:{fault}");
        let options = [
            "--trace-path",
            &image,
            "--trace=pread64,preadv,preadv2",
            "--inject=preadv2:error=EAGAIN",
            &fault,
        ];
        self.under_strace("/dev/null".as_ref(), &options)
    }

    /// Has the host refuse an io_uring, as a sysctl or a container may.
    pub fn without_io_uring(self) -> Self {
        let options = [
            "--trace=io_uring_setup",
            "--inject=io_uring_setup:error=EPERM",
        ];
        self.under_strace("/dev/null".as_ref(), &options)
    }

    /// The same command line under strace, which writes down in `log` the `calls`, in their order and
    /// with the paths of their files.
    pub fn recording(self, calls: &str, log: &Path) -> Self {
        let calls = format!("--trace={calls}");
        self.under_strace(log, &["--decode-fds=path", "--string-limit=200", &calls])
    }

    fn under_strace(self, log: &Path, options: &[&str]) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["--follow-forks", "--quiet=all", "--seccomp-bpf"]);
        strace.arg("--output").arg(log).args(options);
        self.behind(strace)
    }

    /// The same command line as arguments of another program.
    fn behind(self, mut other: Command) -> Self {
        other
            .arg(self.command.get_program())
            .args(self.command.get_args());
        other.env_remove("RUST_LOG").env_remove("NO_COLOR");
        Iolite {
            command: other,
            streams: self.streams,
        }
    }

    /// Runs it to its end, without input.
    pub fn finish(self) -> Result<Ended, Failed> {
        self.start()?.finish()
    }

    /// Runs it to its end and fails unless it exits with `code`.
    pub fn expect(self, code: i32) -> Result<Ended, Failed> {
        self.finish()?.expect(code)
    }

    /// Starts it; the caller looks at its output, types into it, sends it signals.
    pub fn start(mut self) -> Result<Running, Failed> {
        let [stdin, stdout, stderr] = self.streams.map(|own| own.unwrap_or_else(Stdio::piped));
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        let started = Instant::now();
        let mut child = self.command.spawn()?;
        let command = format!("{:?}", self.command);
        // It has our ends of the streams: those would keep a pipe open.
        drop(self.command);
        Ok(Running {
            command,
            started,
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(Collector::start),
            stderr: child.stderr.take().map(Collector::start),
            child,
        })
    }
}

/// A process on its way.
pub struct Running {
    command: String,
    started: Instant,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Collector>,
    stderr: Option<Collector>,
}

impl Running {
    /// Types `text` into the guest's serial console.
    pub fn send(&mut self, text: &str) -> Result<(), Failed> {
        match &mut self.stdin {
            Some(stdin) => Ok(stdin.write_all(text.as_bytes())?),
            None => Err("its input is closed".into()),
        }
    }

    /// Ends the input of the guest's serial console.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Closes our end of its stdout at the next output, as `head` does.
    pub fn close_stdout(&self) {
        if let Some(stdout) = &self.stdout {
            stdout.close.store(true, Ordering::Relaxed);
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until `text` has appeared on stdout `times` times.
    pub fn wait_for(&self, text: &str, times: usize) -> Result<(), Failed> {
        self.wait_for_in(&self.stdout, text, times)
    }

    /// Waits until `text` has appeared on stderr.
    pub fn wait_for_error(&self, text: &str) -> Result<(), Failed> {
        self.wait_for_in(&self.stderr, text, 1)
    }

    fn wait_for_in(
        &self,
        stream: &Option<Collector>,
        text: &str,
        times: usize,
    ) -> Result<(), Failed> {
        let deadline = self.started + deadline();
        let seen = stream
            .as_ref()
            .is_some_and(|out| out.wait_for(text, times, deadline));
        ensure!(
            seen,
            "{}: {text:?} did not appear {times} times in the output, which was:\n{}",
            self.command,
            stream.as_ref().map(Collector::text).unwrap_or_default()
        );
        Ok(())
    }

    /// Leaves the input open and waits for the end, killing the process at the deadline.
    pub fn finish_with_input_open(mut self) -> Result<Ended, Failed> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                self.started.elapsed() < deadline(),
                "{}: still running after {:?}; stdout was:\n{}\nstderr was:\n{}",
                self.command,
                self.started.elapsed(),
                self.stdout
                    .as_ref()
                    .map(Collector::text)
                    .unwrap_or_default(),
                self.stderr
                    .as_ref()
                    .map(Collector::text)
                    .unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(2));
        };
        Ok(Ended {
            took: self.started.elapsed(),
            command: self.command.clone(),
            status,
            stdout: self
                .stdout
                .take()
                .map(Collector::finish)
                .unwrap_or_default(),
            stderr: self
                .stderr
                .take()
                .map(Collector::finish)
                .unwrap_or_default(),
        })
    }

    /// Ends the input and waits for the end.
    pub fn finish(mut self) -> Result<Ended, Failed> {
        self.close_input();
        self.finish_with_input_open()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for: then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a process.
pub struct Ended {
    command: String,
    status: ExitStatus,
    /// What it and its guest wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Ended {
    /// Its exit code; a signal's number plus 1000 if it died of one, which no exit code is.
    pub fn code(&self) -> i32 {
        let signal = self.status.signal().map(|signal| 1000 + signal);
        self.status.code().or(signal).unwrap_or(-1)
    }

    /// Fails unless it exited with `code`.
    pub fn expect(self, code: i32) -> Result<Ended, Failed> {
        ensure!(
            self.code() == code,
            "exit code {}, not {code}\n{}",
            self.code(),
            self.report()
        );
        Ok(self)
    }

    /// Fails unless stdout contains `text`.
    pub fn says(self, text: &str) -> Result<Ended, Failed> {
        ensure!(
            self.stdout.contains(text),
            "{text:?} is not on stdout\n{}",
            self.report()
        );
        Ok(self)
    }

    /// Everything there is to know, for a message.
    pub fn report(&self) -> String {
        format!(
            "command: {}\ntook: {:?}\nstdout:\n{}\nstderr:\n{}",
            self.command, self.took, self.stdout, self.stderr
        )
    }
}

/// Reads a stream to its end on a thread of its own.
struct Collector {
    text: Arc<(Mutex<Vec<u8>>, Condvar)>,
    close: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn start(mut stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let close = Arc::new(AtomicBool::new(false));
        let (shared, closed) = (Arc::clone(&text), Arc::clone(&close));
        let thread = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut chunk) {
                let (bytes, grown) = &*shared;
                bytes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&chunk[..len]);
                grown.notify_all();
                if closed.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        Collector {
            text,
            close,
            thread,
        }
    }

    fn wait_for(&self, text: &str, times: usize, deadline: Instant) -> bool {
        let (bytes, grown) = &*self.text;
        let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if String::from_utf8_lossy(&bytes).matches(text).count() >= times {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.thread.is_finished() {
                return false;
            }
            let step = left.min(Duration::from_millis(100));
            bytes = grown
                .wait_timeout(bytes, step)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn text(&self) -> String {
        let bytes = self.text.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn finish(self) -> String {
        let Collector { text, thread, .. } = self;
        // The reader does not panic; if it did, the text it had read is what there is.
        let _ = thread.join();
        let bytes = text.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// How long one process may take.
pub fn deadline() -> Duration {
    let seconds = env::var("IOLITE_TEST_DEADLINE")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(120))
}
