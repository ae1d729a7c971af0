//! QEMU's process: started with what the machine needs, watched until it ends, and ended with the
//! machine. How it ended is why the machine stops.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use iolite_devices::virtio::vhost_user::{Server, Stopper};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::PROGRAM;
use super::keyboard::Typed;
use crate::crash::Crash;
use crate::error::Error;
use crate::panics;
use crate::power::{Power, Stop};

/// How many of its last lines are kept.
const LAST_LINES: usize = 4;
/// What QEMU's log says of a triple fault.
const TRIPLE_FAULT: &str = "Triple fault";

/// A QEMU that does not run yet.
pub struct Lent {
    /// Its command line.
    pub command: Command,
    /// Descriptors that it is given.
    pub inherits: Vec<File>,
    /// Where its files are.
    pub directory: TempDir,
    /// Our end of its monitor.
    pub monitor: UnixStream,
    /// The disks' servers and our ends of their sockets.
    pub servers: Vec<(String, Server, UnixStream)>,
    /// Where the guest's console goes.
    pub console: Box<dyn Write + Send>,
    /// What is typed.
    pub typed: Typed,
}

/// One that runs.
pub struct Running {
    child: Arc<Mutex<Child>>,
    typed: Typed,
    stoppers: Vec<Stopper>,
    servers: Vec<JoinHandle<()>>,
    waits: JoinHandle<()>,
}

impl Lent {
    /// Starts it. When it ends, `power` knows why.
    ///
    /// # Errors
    /// If it cannot be started, or the system refuses a thread.
    pub fn start(mut self, power: Arc<Power>) -> Result<Running, Error> {
        let inherited: Vec<RawFd> = self.inherits.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec the child makes system calls that take numbers alone. It goes
        // when we go, whatever ends us, and gets the descriptors that it is meant to have.
        unsafe {
            self.command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                for fd in &inherited {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        log::debug!("{:?}", self.command);
        let mut child = self
            .command
            .spawn()
            .map_err(Error::host(format!("cannot start {PROGRAM}")))?;
        // What is QEMU's is QEMU's alone.
        drop(self.inherits);
        if let Some(stdin) = child.stdin.take() {
            self.typed.write_to(stdin)?;
        }
        let typed = self.typed.share();
        let out = child
            .stdout
            .take()
            .map(|out| copy(out, self.console, typed));
        let err = child.stderr.take().map(hear);
        let (mut stoppers, mut servers) = (Vec::new(), Vec::new());
        for (name, mut server, socket) in self.servers {
            stoppers.push(server.stopper());
            let serve = move || {
                if let Err(error) = server.serve(socket) {
                    log::warn!("{name}: QEMU was sent away: {error}");
                }
            };
            servers.push(spawn("vhost-user", serve)?);
        }
        let pid = Pid::from_raw(child.id().cast_signed());
        let child = Arc::new(Mutex::new(child));
        let (watched, monitor, directory) = (Arc::clone(&child), self.monitor, self.directory);
        let waits = spawn("qemu-end", move || {
            // It is still there to be killed while we wait.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(nix::Error::EINTR) {}
            let status = watched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wait();
            let _ = out.map(JoinHandle::join);
            drop(directory);
            let heard = err.and_then(|err| err.join().ok()).unwrap_or_default();
            let end = End {
                started: has_spoken(&monitor),
                heard,
            };
            match status {
                Ok(status) => power.stop(end.stop(status)),
                Err(error) => power.stop(Stop::Crash(Crash::Host(error.to_string()))),
            }
        })?;
        Ok(Running {
            child,
            typed: self.typed,
            stoppers,
            servers,
            waits,
        })
    }
}

impl Running {
    /// Ends it, if it has not ended, and waits until nobody touches the guest's memory any more.
    pub fn end(self) {
        self.typed.end();
        // All that it has is ours: it has nothing to finish. If it has ended, nobody is hit.
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        drop(child);
        for stopper in &self.stoppers {
            stopper.stop();
        }
        // They have told of their own panics.
        for thread in self.servers {
            let _ = thread.join();
        }
        let _ = self.waits.join();
    }
}

/// What is known of its end besides the status.
struct End {
    /// It got as far as to run a machine.
    started: bool,
    heard: Heard,
}

/// What QEMU has said on stderr.
#[derive(Default)]
struct Heard {
    /// Its log tells of a triple fault.
    faulted: bool,
    /// The last of its own lines.
    last: VecDeque<String>,
}

impl End {
    fn stop(self, status: ExitStatus) -> Stop {
        let host = |what: String| Stop::Crash(Crash::Host(what));
        match (status.code(), self.started) {
            (Some(0), true) if self.heard.faulted => Stop::Crash(Crash::TripleFault(None)),
            (Some(0), true) => Stop::Reset,
            // The exit port: twice the value, and one. microvm has no line to end a machine by, so a
            // kernel that ends well says 0 there.
            (Some(1), true) => Stop::Reset,
            (Some(code), true) if code % 2 == 1 => Stop::ExitPort(code.cast_unsigned() / 2),
            (Some(_), _) => host(format!(
                "QEMU does not run the machine: {}; iolite needs QEMU 7.2 or later",
                Vec::from(self.heard.last).join("; ")
            )),
            (None, _) => host(format!(
                "QEMU was ended by signal {}",
                status.signal().unwrap_or_default()
            )),
        }
    }
}

/// Whether the monitor has greeted us: QEMU does when it has put the machine together.
fn has_spoken(monitor: &UnixStream) -> bool {
    let mut byte = [0];
    // Whatever it says has arrived: QEMU has ended.
    monitor
        .set_read_timeout(Some(Duration::from_millis(1)))
        .is_ok()
        && matches!((&mut &*monitor).read(&mut byte), Ok(1))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name.into());
    thread
        .spawn(panics::telling(body))
        .map_err(Error::host("cannot start a thread"))
}

/// Copies the guest's console. It ends with QEMU, or with whoever reads.
fn copy(
    mut from: impl Read + Send + 'static,
    mut to: Box<dyn Write + Send>,
    typed: Typed,
) -> JoinHandle<()> {
    thread::spawn(panics::telling(move || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            typed.guest_has_spoken();
            if to.write_all(&bytes[..len]).is_err() {
                return;
            }
        }
    }))
}

/// Listens until it ends. Its name begins its own lines; the others are its log, of which a guest can
/// make as much as it likes.
fn hear(from: impl Read + Send + 'static) -> JoinHandle<Heard> {
    let own = format!("{PROGRAM}: ");
    thread::spawn(panics::telling(move || {
        let mut heard = Heard::default();
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            heard.faulted |= line == TRIPLE_FAULT;
            if let Some(line) = line.strip_prefix(&own) {
                log::debug!("qemu: {line}");
                heard.last.push_back(line.to_owned());
                if heard.last.len() > LAST_LINES {
                    heard.last.pop_front();
                }
            }
        }
        heard
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(raw: i32, started: bool, faulted: bool) -> Stop {
        let last = VecDeque::from(["no such machine".to_owned()]);
        let heard = Heard { faulted, last };
        End { started, heard }.stop(ExitStatus::from_raw(raw))
    }

    #[test]
    fn its_own_lines_and_a_triple_fault_are_heard_and_little_is_kept() {
        let mut said = "EAX=0\n".repeat(1000) + "Triple fault\n";
        for number in 0..9 {
            said += &format!("{PROGRAM}: {number}\nEIP=1\n");
        }
        let heard = hear(std::io::Cursor::new(said)).join().unwrap();
        assert!(heard.faulted);
        assert_eq!(heard.last, ["5", "6", "7", "8"]);
    }

    #[test]
    fn each_end_of_qemu_is_one_of_the_machine() {
        assert!(matches!(stop(0, true, false), Stop::Reset));
        assert!(matches!(stop(1 << 8, true, false), Stop::Reset));
        assert!(matches!(stop(7 << 8, true, false), Stop::ExitPort(3)));
        assert!(matches!(stop(255 << 8, true, true), Stop::ExitPort(127)));
        assert!(matches!(
            stop(0, true, true),
            Stop::Crash(Crash::TripleFault(None))
        ));
        for (raw, what) in [
            (1 << 8, "no such machine"),
            (0, "no such machine"),
            (9, "signal 9"),
        ] {
            let Stop::Crash(Crash::Host(said)) = stop(raw, false, false) else {
                panic!("{raw}");
            };
            assert!(said.contains(what), "{said}");
        }
        assert!(matches!(stop(9, true, false), Stop::Crash(Crash::Host(_))));
    }
}
