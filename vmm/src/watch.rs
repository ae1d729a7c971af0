//! Who watches while a machine runs: the trace, the statistics, or both.
//!
//! The device's events (`iolite_devices::trace`) lie in rings that can be emptied once. One thread
//! does that every few milliseconds, and hands what it finds to everybody who watches:
//!
//! ```text
//! device's rings -> watch, every 2 ms -+-> trace::Session
//!                                      '-> stats::Session
//! ```

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use iolite_devices::trace::{self as events, EventLog};

use crate::error::Error;
use crate::vm::Disk;
use crate::{panics, stats, trace};

/// How often the rings are emptied: they hold what a busy thread does in some five times that.
const INTERVAL: Duration = Duration::from_millis(2);

/// Those who watch.
#[derive(Default)]
pub struct Watchers {
    /// Records each request's life.
    pub trace: Option<trace::Session>,
    /// Counts, and takes times.
    pub stats: Option<stats::Session>,
}

/// The watching itself.
pub struct Watch(Option<Running>);

struct Running {
    /// Dropped to end the thread.
    going: Sender<()>,
    thread: JoinHandle<Watchers>,
}

impl Watch {
    /// Begins, if there is anybody who watches: from here on events are recorded.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(mut watchers: Watchers) -> Result<Watch, Error> {
        if watchers.trace.is_none() && watchers.stats.is_none() {
            return Ok(Watch(None));
        }
        events::start();
        let (going, gone) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("watch".into())
            .spawn(panics::telling(move || {
                let mut found = EventLog::default();
                while gone.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    let began = events::now();
                    watchers.take(&mut found, began);
                }
                // Nobody records any more.
                watchers.take(&mut found, u64::MAX);
                watchers
            }))
            .map_err(Error::host("cannot start a thread"))?;
        Ok(Watch(Some(Running { going, thread })))
    }

    /// Ends, after the machine's end, and has everybody tell what they saw.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(self, disks: &[Disk]) -> Result<(), Error> {
        let Some(Running { going, thread }) = self.0 else {
            return Ok(());
        };
        events::stop();
        drop(going);
        // It does not panic; if it did, what it had is gone, and the panic has been reported.
        let Watchers { trace, stats } = thread.join().unwrap_or_default();
        let traced = trace.map_or(Ok(()), trace::Session::finish);
        let told = stats.map_or(Ok(()), |stats| stats.finish(disks));
        traced.and(told)
    }
}

impl Watchers {
    /// Empties the rings; that began at `began`, in ticks.
    fn take(&mut self, found: &mut EventLog, began: u64) {
        events::drain(found);
        if let Some(trace) = &mut self.trace {
            trace.take(found);
        }
        if let Some(stats) = &mut self.stats {
            stats.take(found, began);
        }
        found.clear();
    }
}
