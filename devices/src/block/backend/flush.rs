//! Making writes durable, in the only way in which this can be promised.
//!
//! When the kernel cannot write back what is in the page cache, it drops it, and says so once for each
//! open file: to the first fdatasync that asks, or to the first write with RWF_DSYNC, or to any write on
//! a synchronous mount. Whoever asks next hears that all is well. So two that ask at the same moment
//! must not, for one of them would promise what the other one knows to be lost. Therefore
//!
//! - all that is promised is promised here, by an fdatasync; no engine uses RWF_DSYNC,
//! - the fdatasync is that of an open file of its own, where no write hears what is meant for it,
//! - there is one at a time, and after one that failed there is none: each later promise is refused.
//!
//! Those who come while one runs share the next one, which covers what all of them have written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::block::retries::patiently;

/// The durability of one image, for all queues of its disk.
pub(super) struct Flush {
    /// The image once more.
    file: File,
    state: Mutex<State>,
    ended: Condvar,
}

/// Syncs are counted from 1.
#[derive(Default)]
struct State {
    /// How many have begun.
    begun: u64,
    /// The last one that succeeded.
    succeeded: u64,
    running: bool,
    failed: bool,
}

/// The first sync that covers everything written before the ticket was taken.
#[derive(Clone, Copy)]
struct Ticket(u64);

impl Flush {
    /// For the image `file`, which is open for writing.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let again = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Flush {
            // Without /proc, or the right to open it once more: only synchronous mounts differ.
            file: again.or_else(|_| file.try_clone())?,
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Makes durable everything that was written before.
    ///
    /// # Errors
    /// If that, or something earlier, may be lost.
    pub(super) fn run(&self) -> io::Result<()> {
        self.cover(self.ticket(), || patiently(|| self.file.sync_data()))
    }

    fn ticket(&self) -> Ticket {
        // The one that runs, if there is one, has begun: it may have passed what was written since.
        Ticket(self.lock().begun + 1)
    }

    /// Returns when a sync that `ticket` asks for has succeeded: somebody else's, or this one.
    fn cover(&self, ticket: Ticket, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        while state.running && !state.failed && state.succeeded < ticket.0 {
            let woken = self.ended.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed {
            let why = "an earlier flush failed: writes may be lost";
            return Err(io::Error::other(why));
        }
        if state.succeeded >= ticket.0 {
            return Ok(());
        }
        state.begun += 1;
        state.running = true;
        drop(state);
        let result = sync();
        let mut state = self.lock();
        state.running = false;
        match result {
            Ok(()) => state.succeeded = state.begun,
            Err(_) => state.failed = true,
        }
        self.ended.notify_all();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    fn flush() -> Flush {
        Flush::of(&tempfile::tempfile().unwrap()).unwrap()
    }

    fn fails() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn must_not_run() -> io::Result<()> {
        panic!("one sync too many")
    }

    #[test]
    fn a_flush_after_a_failed_one_fails() {
        let flush = flush();
        assert!(flush.cover(flush.ticket(), || Ok(())).is_ok());
        let error = flush.cover(flush.ticket(), fails).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        for _ in 0..2 {
            assert!(flush.cover(flush.ticket(), must_not_run).is_err());
        }
        assert!(flush.run().is_err());
    }

    #[test]
    fn those_who_come_while_one_runs_share_the_next() {
        let flush = flush();
        let mut tickets = Vec::new();
        let first = flush.ticket();
        let sync = || {
            tickets.extend([flush.ticket(), flush.ticket()]);
            Ok(())
        };
        flush.cover(first, sync).unwrap();
        let mut syncs = 0;
        for &ticket in &tickets {
            let sync = || {
                syncs += 1;
                Ok(())
            };
            flush.cover(ticket, sync).unwrap();
        }
        assert_eq!(
            syncs, 1,
            "the running one covers neither, and the next both"
        );
        flush.cover(first, must_not_run).unwrap();
    }

    #[test]
    fn those_who_wait_for_one_that_fails_fail() {
        let flush = &flush();
        thread::scope(|scope| {
            let mut others = Vec::new();
            let sync = || {
                let other = || scope.spawn(|| flush.cover(flush.ticket(), || Ok(())).is_err());
                others.extend((0..8).map(|_| other()));
                // Long enough for them to come; if they do not, they fail all the same.
                thread::sleep(std::time::Duration::from_millis(20));
                fails()
            };
            assert!(flush.cover(flush.ticket(), sync).is_err());
            assert!(others.into_iter().all(|other| other.join().unwrap()));
        });
    }

    /// What was written before a flush is on the disk after it; syncs are fewer than flushes.
    #[test]
    fn many_threads_keep_their_promises() {
        let flush = &flush();
        let [written, durable, syncs] = [(); 3].map(|()| AtomicU64::new(0));
        let sync = || {
            let seen = written.load(Ordering::SeqCst);
            thread::yield_now();
            durable.store(seen, Ordering::SeqCst);
            syncs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        flush.cover(flush.ticket(), sync).unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(syncs.load(Ordering::SeqCst) <= 2000);
    }

    #[test]
    fn an_image_is_flushed_by_another_open_file() {
        use std::os::fd::AsFd;
        let file = tempfile::tempfile().unwrap();
        let flush = Flush::of(&file).unwrap();
        // Their positions tell open files apart.
        std::io::Seek::seek(&mut &file, io::SeekFrom::Start(7)).unwrap();
        assert_eq!(std::io::Seek::stream_position(&mut &flush.file).unwrap(), 0);
        assert!(flush.file.as_fd().try_clone_to_owned().is_ok() && flush.run().is_ok());
    }
}
