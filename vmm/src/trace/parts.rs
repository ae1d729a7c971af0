//! Where a request's time went: the stretches between its moments, which add up to its life.
//!
//! A stretch belongs to the part that its end names. If a moment that every such request has was not
//! seen in between, the stretch is unaccounted for, and says so.

use super::model::{MOMENTS, Moment, NEVER, Request};

/// A part of a request's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Part {
    /// From a client until its server has taken it.
    ToServer,
    /// From the asking to the descriptors: system call or fault, file, cache, driver.
    Submit,
    /// In the table, while others are added that go with the same notification.
    Batch,
    /// From the notification until the device's thread has it.
    Doorbell,
    /// In the ring, until the device pops it.
    Ring,
    /// Parsing the chain.
    Parse,
    /// Until a worker begins.
    Worker,
    /// In the backend, and in its delay.
    Backend,
    /// From the backend to the used ring.
    Complete,
    /// From the used ring until the guest handles the interrupt, or finds it without one.
    Interrupt,
    /// In the interrupt handler, until the one who waits is woken; in a server, until it has taken the
    /// used entry.
    Wake,
    /// From a server until its client has it, but for the next.
    ToClient,
    /// From the wake-up until the thread runs.
    Run,
    /// Until it is back in its program.
    Return,
    /// Something was not seen.
    Unaccounted,
}

/// How many parts there are.
pub const PARTS: usize = Part::Unaccounted as usize + 1;

/// What the parts are called, and on which side they lie.
pub const PART_NAMES: [(&str, &str); PARTS] = [
    ("guest", "client to server"),
    ("guest", "submit"),
    ("guest", "batch"),
    ("border", "doorbell"),
    ("host", "in the ring"),
    ("host", "parse"),
    ("host", "wait for a worker"),
    ("host", "backend"),
    ("host", "complete"),
    ("border", "interrupt"),
    ("guest", "harvest, wake"),
    ("guest", "server to client"),
    ("guest", "woken to running"),
    ("guest", "return"),
    ("", "unaccounted"),
];

/// The part of each moment: the one that ends with it.
const PART_OF: [Part; MOMENTS] = [
    Part::Submit,
    Part::ToServer,
    Part::Submit,
    Part::Batch,
    Part::Doorbell,
    Part::Ring,
    Part::Parse,
    Part::Worker,
    Part::Backend,
    Part::Complete,
    Part::Interrupt,
    Part::Interrupt,
    Part::Wake,
    Part::ToClient,
    Part::Wake,
    Part::Run,
    Part::ToClient,
    Part::Return,
];

/// One stretch of a request's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// What it is spent on.
    pub part: Part,
    /// Beginning.
    pub start: u64,
    /// End.
    pub end: u64,
}

/// The stretches of a request, in order and without gaps.
pub fn stretches(request: &Request) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::with_capacity(MOMENTS);
    let mut last: Option<u64> = None;
    let mut missed = false;
    for (index, at) in request.at.into_iter().enumerate() {
        if at == NEVER {
            missed |= last.is_some() && always_there(request, index);
            continue;
        }
        if let Some(start) = last {
            // An effect before its cause has taken no time.
            let end = at.max(start);
            let part = match PART_OF[index] {
                _ if missed => Part::Unaccounted,
                // It is its server that wakes a client.
                Part::Wake
                    if request
                        .when(Moment::Answered)
                        .is_some_and(|answered| at > answered) =>
                {
                    Part::ToClient
                }
                part => part,
            };
            match stretches.last_mut() {
                Some(before) if before.part == part => before.end = end,
                _ => stretches.push(Stretch { part, start, end }),
            }
            last = Some(end);
        } else {
            last = Some(at);
        }
        missed = false;
    }
    stretches
}

/// The time spent on each part, in nanoseconds.
pub fn parts(request: &Request) -> [u64; PARTS] {
    let mut parts = [0; PARTS];
    for Stretch { part, start, end } in stretches(request) {
        parts[part as usize] += end - start;
    }
    parts
}

/// The whole life, in nanoseconds.
pub fn whole(request: &Request) -> u64 {
    request.span().map_or(0, |(start, end)| end - start)
}

/// Do its moments come in their order, causes before effects?
pub fn is_in_order(request: &Request) -> bool {
    let seen = request.at.iter().filter(|at| **at != NEVER);
    seen.is_sorted()
}

/// Does every request of this kind pass this moment?
fn always_there(request: &Request, moment: usize) -> bool {
    const OPTIONAL: [Moment; 4] = [
        Moment::Received,
        Moment::Signalled,
        Moment::Interrupted,
        Moment::Returned,
    ];
    // Not every driver in ring 3 says what it takes from the ring.
    let harvested = moment == Moment::Harvested as usize;
    if harvested && request.when(Moment::Added).is_none() {
        return false;
    }
    // Only a server has clients.
    const OF_CLIENTS: [Moment; 3] = [Moment::Taken, Moment::Answered, Moment::Collected];
    const OF_WAITERS: [Moment; 2] = [Moment::Woken, Moment::Running];
    let is = |of: &Moment| *of as usize == moment;
    let begin_and_end = moment == Moment::Begun as usize || moment == Moment::Ended as usize;
    // What needs no backend, and what is refused, is answered on the spot.
    let on_the_spot = request.when(Moment::Parsed).is_none();
    !(OPTIONAL.iter().any(is)
        || OF_CLIENTS.iter().any(is) && request.when(Moment::Taken).is_none()
        || OF_WAITERS.iter().any(is) && !request.waited_for
        || (begin_and_end || moment == Moment::Parsed as usize) && on_the_spot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::{Moment, Name};
    use proptest::prelude::*;

    fn request(moments: &[(Moment, u64)]) -> Request {
        let mut request = Request::new((0, 0, 0), Name::default());
        request.waited_for = true;
        for (moment, at) in moments {
            request.set(*moment, *at);
        }
        request
    }

    #[test]
    fn each_stretch_has_its_part_and_what_was_missed_is_unaccounted() {
        use Moment::*;
        let whole_life = request(&[
            (Asked, 10),
            (Added, 30),
            (Notified, 40),
            (Received, 45),
            (Popped, 50),
            (Parsed, 51),
            (Begun, 55),
            (Ended, 155),
            (Used, 160),
            (Interrupted, 175),
            (Harvested, 180),
            (Woken, 185),
            (Running, 200),
            (Returned, 230),
        ]);
        assert_eq!(
            parts(&whole_life),
            [0, 20, 10, 5, 5, 1, 4, 100, 5, 15, 10, 0, 15, 30, 0]
        );
        let torn = request(&[(Asked, 10), (Added, 30), (Used, 160), (Harvested, 180)]);
        let torn = parts(&torn);
        assert_eq!(torn[Part::Submit as usize], 20);
        assert_eq!(torn[Part::Unaccounted as usize], 130);
        assert_eq!(torn[Part::Wake as usize], 20);
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_the_whole(steps in prop::collection::vec(
            prop::option::of(0u64..1000), MOMENTS)) {
            let mut request = request(&[]);
            let mut now = 5;
            for (at, step) in request.at.iter_mut().zip(steps) {
                if let Some(step) = step {
                    now += step;
                    *at = now;
                }
            }
            prop_assert_eq!(parts(&request).iter().sum::<u64>(), whole(&request));
            prop_assert!(is_in_order(&request));
        }
    }
}
