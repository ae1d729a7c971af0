//! How long requests took, from the events of the device's threads.
//!
//! Of a request there are four moments: it was popped from the ring, the backend began, the backend
//! ended, it went into the used ring. Different threads may have recorded them, so all events that
//! are there are put in order first, and the youngest wait for the next collection, when none can be
//! missing before them. A request whose events are not all there (they came too fast) is left out.

use hdrhistogram::Histogram;
use iolite_devices::trace::{Event, EventLog, Point, operation};

use super::by_number::ByNumber;

/// Digits that are kept of a time.
const DIGITS: u8 = 3;
/// The longest time that is told apart from longer ones, in ticks: minutes.
const LONGEST: u64 = 1 << 40;

/// What is known of a request in flight. Times are in ticks of the time stamp counter.
#[derive(Clone, Copy, Default)]
struct Request {
    popped: u64,
    begun: Option<u64>,
    ended: Option<u64>,
    bytes: u64,
}

/// The times of one queue, in ticks.
#[derive(Clone)]
pub struct QueueTimes {
    /// From popping a request to beginning it: waiting for a thread.
    pub queued: Histogram<u64>,
    /// In the backend.
    pub service: Histogram<u64>,
    /// From popping to the used ring.
    pub total: Histogram<u64>,
    /// By head.
    in_flight: ByNumber<Request>,
}

/// What has completed since it was last looked at.
pub struct Recent {
    /// Requests.
    pub requests: u64,
    /// Bytes that they were to move.
    pub bytes: u64,
    /// Times of the vCPU's return to the VMM.
    pub exits: u64,
    /// Their total times.
    pub total: Histogram<u64>,
}

/// The times of all queues, and how busy each thread was.
#[derive(Default)]
pub struct Times {
    /// By the disk's number among those of the events, and the queue's.
    queues: ByNumber<ByNumber<QueueTimes>>,
    /// Ticks in backends, by the thread's number.
    pub busy: ByNumber<u64>,
    /// For who looks now and then.
    pub recent: Recent,
    /// When each thread began what it does in a backend.
    begun: ByNumber<u64>,
    /// Collected and not looked at yet.
    waiting: Vec<(usize, Event)>,
    /// When the last collection began.
    last_began: u64,
}

impl Times {
    /// Takes what was collected beginning at `began`; `u64::MAX` if nobody records any more.
    pub fn take(&mut self, events: &EventLog, began: u64) {
        let events = events.iter();
        self.waiting
            .extend(events.map(|(thread, event)| (usize::from(thread), event)));
        // What happened before the last collection began is here by now, whichever thread's ring was
        // emptied first; only what lasts is told of when it is over, its beginning included.
        let complete = match began {
            u64::MAX => u64::MAX,
            _ => self.last_began,
        };
        self.digest(complete);
        self.last_began = began;
    }

    /// Requests that are in flight now.
    pub fn in_flight(&self) -> usize {
        let queues = self.queues.iter().flat_map(|(_, queues)| queues.iter());
        queues
            .map(|(_, queue)| queue.in_flight.iter().count())
            .sum()
    }

    /// The times of a queue, if it has had a request.
    pub fn of_queue(&self, disk: u8, queue: u8) -> Option<QueueTimes> {
        let queues = self.queues.get(disk.into())?;
        queues.get(queue.into()).cloned()
    }

    /// The times of a whole disk: of all its queues.
    pub fn of_disk(&self, disk: u8) -> Option<QueueTimes> {
        let mut sum: Option<QueueTimes> = None;
        for (_, queue) in self.queues.get(disk.into())?.iter() {
            sum.get_or_insert_default().add(queue);
        }
        sum
    }

    /// Looks at everything before `until`.
    fn digest(&mut self, until: u64) {
        let mut events = std::mem::take(&mut self.waiting);
        events.sort_by_key(|(_, event)| event.tsc);
        let ripe = events.partition_point(|(_, event)| event.tsc < until);
        for (thread, event) in events.drain(..ripe) {
            self.follow(thread, event);
        }
        self.waiting = events;
    }

    fn follow(&mut self, thread: usize, event: Event) {
        let Event { tsc, point, .. } = event;
        match point {
            Point::Exited => self.recent.exits += 1,
            Point::Begun => self.begun.insert(thread, tsc),
            Point::Ended => {
                if let Some(begun) = self.begun.remove(thread) {
                    *self.busy.get_or_default(thread) += tsc.saturating_sub(begun);
                }
            }
            _ => {}
        }
        let [disk, queue] = [event.disk, event.queue].map(usize::from);
        let head = usize::from(event.head);
        if point == Point::Popped {
            let queue = self.queues.get_or_default(disk).get_or_default(queue);
            let request = Request {
                popped: tsc,
                ..Request::default()
            };
            queue.in_flight.insert(head, request);
            return;
        }
        let queues = self.queues.get_mut(disk);
        let Some(queue) = queues.and_then(|queues| queues.get_mut(queue)) else {
            return;
        };
        let Some(request) = queue.in_flight.get_mut(head) else {
            return;
        };
        match point {
            Point::Parsed if (event.b >> 56) as u8 != operation::FLUSH => {
                request.bytes = event.b & ((1 << 56) - 1);
            }
            // A request that was tried without success begins again.
            Point::Begun => request.begun = Some(tsc),
            Point::Ended => request.ended = Some(tsc),
            Point::Used => {
                let request = *request;
                queue.in_flight.remove(head);
                self.recent.requests += 1;
                self.recent.bytes += request.bytes;
                self.recent.total.saturating_record(tsc - request.popped);
                queue.count(&request, tsc);
            }
            _ => {}
        }
    }
}

impl QueueTimes {
    fn add(&mut self, other: &QueueTimes) {
        let pairs = [
            (&mut self.queued, &other.queued),
            (&mut self.service, &other.service),
            (&mut self.total, &other.total),
        ];
        for (sum, part) in pairs {
            // They are all made alike, which is all that could be in the way.
            let _ = sum.add(part);
        }
    }

    fn count(&mut self, request: &Request, used: u64) {
        self.total.saturating_record(used - request.popped);
        // What is answered without the backend, like GET_ID, waits for nobody.
        if let (Some(begun), Some(ended)) = (request.begun, request.ended)
            && request.popped <= begun
            && begun <= ended
        {
            self.queued.saturating_record(begun - request.popped);
            self.service.saturating_record(ended - begun);
        }
    }
}

impl Default for QueueTimes {
    fn default() -> Self {
        QueueTimes {
            queued: histogram(),
            service: histogram(),
            total: histogram(),
            in_flight: ByNumber::default(),
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            requests: 0,
            bytes: 0,
            exits: 0,
            total: histogram(),
        }
    }
}

fn histogram() -> Histogram<u64> {
    // Both are possible. Were they not, one that grows would do.
    Histogram::new_with_max(LONGEST, DIGITS)
        .or_else(|_| Histogram::new(DIGITS))
        .unwrap_or_else(|_| unreachable!("three digits are possible"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(tsc: u64, point: Point, head: u16) -> Event {
        Event {
            tsc,
            point,
            disk: 1,
            queue: 0,
            head,
            a: 0,
            b: 4096,
        }
    }

    #[test]
    fn a_requests_times_add_up_whichever_threads_saw_it() {
        // The queue's thread is collected first, and has used the head again.
        let waiting = vec![
            (0, event(100, Point::Popped, 7)),
            (0, event(101, Point::Parsed, 7)),
            (0, event(190, Point::Popped, 7)),
            (1, event(130, Point::Begun, 7)),
            (1, event(170, Point::Ended, 7)),
            (1, event(180, Point::Used, 7)),
        ];
        let mut times = Times {
            waiting,
            ..Times::default()
        };
        times.digest(150);
        assert_eq!((times.recent.requests, times.in_flight()), (0, 1));
        times.digest(u64::MAX);
        let queue = times.of_queue(1, 0).unwrap();
        let counted = [&queue.queued, &queue.service, &queue.total].map(|h| (h.len(), h.max()));
        assert_eq!(counted, [(1, 30), (1, 40), (1, 80)]);
        assert_eq!((times.recent.requests, times.recent.bytes), (1, 4096));
        assert_eq!(times.in_flight(), 1);
        assert!(times.busy.iter().eq([(1, &40)]));
    }

    #[test]
    fn what_is_not_all_there_is_left_out() {
        let waiting = vec![
            (1, event(10, Point::Begun, 3)),
            (1, event(20, Point::Ended, 3)),
            (1, event(30, Point::Used, 3)),
            (0, event(40, Point::Popped, 4)),
            (0, event(50, Point::Used, 4)),
        ];
        let mut times = Times {
            waiting,
            ..Times::default()
        };
        times.digest(u64::MAX);
        let queue = times.of_queue(1, 0).unwrap();
        assert_eq!((queue.total.len(), queue.service.len()), (1, 0));
    }
}
