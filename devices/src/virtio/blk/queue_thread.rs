//! The queue's thread. It sleeps until somebody rings the doorbell (the driver, through the ioeventfd
//! of QueueNotify), then attends to the queue: it gives its engine one turn after the other, with
//! notifications off, until nothing has come for the time that [`Polling`] allows. Then it asks for
//! notifications, looks once more, and sleeps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::polling::Polling;
use super::queue::RequestQueue;
use crate::block::engine::{Engine, Turn};
use crate::thread;
use crate::trace::Point;

/// A running queue thread.
pub(super) struct QueueThread {
    queue: Arc<RequestQueue>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl QueueThread {
    /// Starts the thread, which owns `engine`, and polls for at most `poll`.
    pub(super) fn spawn(
        queue: Arc<RequestQueue>,
        engine: Box<dyn Engine>,
        poll: Duration,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let attendant = Attendant {
            queue: Arc::clone(&queue),
            engine,
            polling: Polling::new(poll),
            stop: Arc::clone(&stop),
        };
        let thread = thread::spawn(format!("{}-queue", queue.label), move || attendant.run())?;
        Ok(QueueThread {
            queue,
            stop,
            thread,
        })
    }

    /// Ends the thread, and its engine with it. Waits for what is in flight.
    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queue.doorbell.ring();
        if self.thread.join().is_err() {
            log::error!("{}: the queue's thread panicked", self.queue.label);
        }
    }
}

/// What the thread works with.
struct Attendant {
    queue: Arc<RequestQueue>,
    engine: Box<dyn Engine>,
    polling: Polling,
    stop: Arc<AtomicBool>,
}

impl Attendant {
    fn run(mut self) {
        let mut sleeps_since = Instant::now();
        loop {
            self.engine.wait(&self.queue.doorbell);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            self.polling.slept(sleeps_since.elapsed());
            self.queue.trace.event(Point::Notified, 0, 0, 0);
            self.queue.counters.notifications.add(1);
            self.attend();
            sleeps_since = Instant::now();
        }
    }

    /// Serves the queue until there is nothing to do on this thread.
    fn attend(&mut self) {
        loop {
            self.queue.attend();
            self.poll();
            if !self.queue.rest() {
                return;
            }
            // Something came at the last moment; or it is there, and not for this thread.
            match self.turn() {
                Turn::Busy => {}
                // A worker may have taken that turn for one at whose end somebody decides.
                Turn::Idle | Turn::Elsewhere => return self.queue.decide_now(),
            }
        }
    }

    fn poll(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.turn() {
                Turn::Busy => self.polling.busy(),
                Turn::Idle if self.polling.goes_on() => std::hint::spin_loop(),
                Turn::Idle | Turn::Elsewhere => return,
            }
        }
    }

    fn turn(&mut self) -> Turn {
        self.queue.begin_turn();
        let turn = self.engine.turn();
        self.queue.end_turn();
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::request::Request;
    use crate::block::source::RequestSource;
    use crate::virtio::blk::queue::tests::Bench;

    /// An engine whose worker has one request, and ends it in the last turn before the sleep.
    struct LateWorker {
        queue: Arc<RequestQueue>,
        request: Request,
        turns: u32,
    }

    impl Engine for LateWorker {
        fn turn(&mut self) -> Turn {
            self.turns += 1;
            if self.turns == 2 {
                self.queue.end_unseen(&self.request);
            }
            Turn::Elsewhere
        }
    }

    #[test]
    fn what_the_last_turn_does_not_see_is_decided_on_before_the_sleep() {
        let mut bench = Bench::live();
        bench.send(0);
        let request = bench.queue.next().map(|pulled| pulled.request).unwrap();
        // This one is for workers, and they have enough to do.
        bench.send(3);
        let engine = LateWorker {
            queue: Arc::clone(&bench.queue),
            request,
            turns: 0,
        };
        let mut attendant = Attendant {
            queue: Arc::clone(&bench.queue),
            engine: Box::new(engine),
            polling: Polling::new(Duration::ZERO),
            stop: Arc::default(),
        };
        attendant.attend();
        assert_eq!(bench.edges(), 1, "an interrupt is lost");
    }
}
