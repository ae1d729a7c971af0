//! From events to lives: puts the events of both sides into one order and follows them.
//!
//! The guest's events say who runs, who asked and who is told; the host's what the device did. They
//! meet in a request's disk and head index, which are its own from the moment the driver adds it
//! until it takes the used entry. Where the guest says nothing, a request begins with its pop.
//!
//! Both halves are untrusted, and events may be missing: whatever comes, this ends with a trace.

mod guest;
mod host;
mod lanes;
mod path;
mod programs;
mod requests;
mod thread;

use super::clock::Scale;
use super::model::{About, Lane, Names, Trace};
use super::raw::{GuestEvent, Recording};
use guest::Guest;
use host::Host;
use iolite_devices::trace::Place;
use lanes::Lanes;
use requests::Requests;

pub use host::op_name;

/// One event of either side.
#[derive(Clone, Copy)]
enum Either<'a> {
    Guest(&'a GuestEvent),
    /// Its place in the host's log.
    Host(Place),
}

/// The disk and queue that an event of the guest names.
fn queue(event: &GuestEvent) -> (u8, u8) {
    (event.b as u8, (event.b >> 16) as u8)
}

/// What a request is for that the guest has added.
fn purpose(event: &GuestEvent) -> u8 {
    (event.b >> 8) as u8
}

/// Makes a trace of a recording. The guest's clock is `offset` ahead of the host's. What the trace
/// is about is for the caller to fill in.
pub fn assemble(recording: &Recording, scale: &Scale, offset: i64) -> Trace {
    let mut order: Vec<(u64, Either<'_>)> = Vec::new();
    order.reserve_exact(recording.guest.len() + recording.host.places().count());
    let guest = recording.guest.iter().map(|event| {
        let tsc = event.tsc.wrapping_sub(offset as u64);
        (tsc, Either::Guest(event))
    });
    order.extend(guest);
    let log = &recording.host;
    order.extend(log.places().map(|(tsc, at)| (tsc, Either::Host(at))));
    // Stable: what one side has written in order stays in order.
    order.sort_by_key(|(tsc, _)| *tsc);

    let mut lanes = Lanes::default();
    let mut names = Names::default();
    let mut requests = Requests::new(!recording.guest.is_empty(), &mut names);
    let mut guest = Guest::default();
    let mut host = Host::new(&recording.threads);
    let end = scale.duration_ns();
    for (tsc, event) in order {
        let at = scale.ns(tsc).min(end);
        match event {
            Either::Guest(event) => {
                guest.event(at, event, &mut lanes, &mut names, &mut requests);
            }
            Either::Host(place) => {
                let event = log.at(tsc, place);
                host.event(
                    at,
                    place.thread,
                    &event,
                    &mut lanes,
                    &mut names,
                    &mut requests,
                );
            }
        }
    }
    guest.end(end, &mut lanes, &mut names);
    host.end(end, &mut lanes);
    let Lanes { mut slices, lanes } = lanes;
    // What encloses comes before what it encloses.
    slices.sort_by_key(|slice| (slice.start, u64::MAX - slice.end));
    let lanes: Vec<Lane> = lanes;
    let about = About {
        disordered: requests.disordered,
        ..About::default()
    };
    let requests = requests.finish(&mut names);
    Trace {
        about,
        lanes,
        names,
        slices,
        requests,
    }
}
