//! The main thread's event loop: stdin, signals, the timeout, and the machine's end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{
    Error as EventError, EventManager, EventOps, EventSet, Events, MutEventSubscriber,
    SubscriberOps,
};
use nix::sys::signal::{Signal, raise};
use vmm_sys_util::timerfd::TimerFd;

use crate::console::{CharacterMode, Input, Wait};
use crate::error::Error;
use crate::panics;
use crate::power::{Power, Stop};
use crate::signals::{Attention, News};
use crate::vm::Disk;

/// Which descriptor an event is about.
mod source {
    pub const POWER: u32 = 0;
    pub const SIGNALS: u32 = 1;
    pub const TIMEOUT: u32 = 2;
    pub const STDIN: u32 = 3;
    pub const ROOM: u32 = 4;
}

/// What the main thread looks after while a guest runs.
struct Attendant<'a> {
    power: Arc<Power>,
    disks: &'a [Disk],
    signals: &'a Attention,
    timeout: Option<TimerFd>,
    input: Option<Input>,
    /// Is stdin polled at the moment?
    polls_stdin: bool,
    terminal: Option<CharacterMode>,
}

/// Runs until the machine's power is off.
///
/// # Errors
/// If the system refuses a descriptor, or the terminal cannot be changed.
pub fn attend(
    power: &Arc<Power>,
    disks: &[Disk],
    signals: &Attention,
    timeout: Option<Duration>,
    input: Option<Input>,
) -> Result<(), Error> {
    let terminal = match input {
        Some(_) => CharacterMode::enter().map_err(Error::host("cannot change the terminal"))?,
        None => None,
    };
    // A terminal that is another job's may not even be read.
    let input = input.filter(|input| terminal.is_some() || !input.is_terminal());
    let attendant = Attendant {
        power: power.clone(),
        disks,
        signals,
        timeout: timeout
            .map(timer)
            .transpose()
            .map_err(Error::host("cannot set the timeout"))?,
        input,
        polls_stdin: false,
        terminal,
    };
    let failed = |e: EventError| Error::host("cannot wait for events")(io::Error::other(e));
    let mut manager = EventManager::new().map_err(failed)?;
    manager.add_subscriber(attendant);
    if panics::have_happened() {
        // Before there was anybody to be told.
        power.stop(Stop::Panic);
    }
    while !power.is_off() {
        match manager.run() {
            Ok(_) => {}
            Err(EventError::Epoll(errno)) if errno.errno() == libc::EINTR => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn timer(timeout: Duration) -> io::Result<TimerFd> {
    let mut timer = TimerFd::new()?;
    timer.reset(timeout, None)?;
    Ok(timer)
}

impl MutEventSubscriber for Attendant<'_> {
    fn init(&mut self, ops: &mut EventOps) {
        let mut added = vec![
            ops.add(Events::with_data(
                self.power.event(),
                source::POWER,
                EventSet::IN,
            )),
            ops.add(Events::with_data(
                self.signals,
                source::SIGNALS,
                EventSet::IN,
            )),
        ];
        if let Some(timer) = &self.timeout {
            added.push(ops.add(Events::with_data(timer, source::TIMEOUT, EventSet::IN)));
        }
        if let Some(input) = &self.input {
            added.push(ops.add(Events::with_data(input.room(), source::ROOM, EventSet::IN)));
        }
        for error in added.into_iter().filter_map(Result::err) {
            log::error!("the main thread cannot wait for an event: {error}");
        }
        self.wait_for_input(Wait::Stdin, ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            source::SIGNALS => self.signal(),
            source::TIMEOUT => self.power.stop(Stop::Timeout),
            source::STDIN | source::ROOM => self.pump(ops),
            // POWER: the loop looks at it.
            _ => {}
        }
    }
}

impl Attendant<'_> {
    /// A signal, or a thread that panicked.
    fn signal(&mut self) {
        if panics::have_happened() {
            self.power.stop(Stop::Panic);
        }
        for news in self.signals.news() {
            match news {
                News::End(number) => self.power.stop(Stop::Signal(number)),
                News::Suspend => self.suspend(),
                News::Resize => self.resize(),
            }
        }
    }

    /// SIGUSR1: images may have grown.
    fn resize(&self) {
        for Disk { name, device, .. } in self.disks {
            match device.resize() {
                Ok(bytes) => log::info!("{name}: {bytes} bytes now"),
                Err(error) => log::warn!("{name}: its size stays as it is: {error}"),
            }
        }
    }

    /// Ctrl-Z: the shell gets its terminal back as it was, and we ours when we go on.
    fn suspend(&mut self) {
        let had_terminal = self.terminal.take().is_some();
        let _ = raise(Signal::SIGSTOP);
        if had_terminal {
            self.terminal = CharacterMode::enter().unwrap_or_default();
        }
    }

    fn pump(&mut self, ops: &mut EventOps) {
        if let Some(input) = &mut self.input {
            let wait = input.pump();
            self.wait_for_input(wait, ops);
        }
    }

    /// Polls stdin if, and only if, that is what input waits for: a descriptor that is readable
    /// and not read would keep the loop spinning.
    fn wait_for_input(&mut self, mut wait: Wait, ops: &mut EventOps) {
        let Some(input) = &mut self.input else { return };
        let stdin = Events::with_data_raw(input.stdin(), source::STDIN, EventSet::IN);
        if self.polls_stdin && wait != Wait::Stdin {
            // It only fails for a descriptor that is not polled.
            let _ = ops.remove(stdin);
            self.polls_stdin = false;
        }
        while wait == Wait::Stdin && !self.polls_stdin {
            match ops.add(stdin) {
                Ok(()) => self.polls_stdin = true,
                // A file: always readable.
                Err(EventError::Epoll(errno)) if errno.errno() == libc::EPERM => {
                    wait = input.pump();
                }
                Err(error) => {
                    log::warn!("stdin cannot be polled ({error}): the guest gets no input");
                    return;
                }
            }
        }
    }
}
