//! From events to lives: puts the events of both sides into one order and follows them.
//!
//! The guest's events say who runs, who asked and who is told; the host's what the device did. They
//! meet in a request's disk and head index, which are its own from the moment the driver adds it
//! until it takes the used entry. Where the guest says nothing, a request begins with its pop.
//!
//! Both halves are untrusted, and events may be missing: whatever comes, this ends with a trace.

pub mod bounds;
mod guest;
mod host;
mod lanes;
mod path;
mod programs;
mod requests;
mod thread;

use super::clock::Scale;
use super::model::{About, Names, Trace};
use super::raw::{GuestEvent, Recording};
use guest::Guest;
use host::Host;
use iolite_devices::trace::Place;
use lanes::Lanes;
use requests::Requests;

pub use host::op_name;

/// One event of either side, by its place in the recording: there may be many millions.
#[derive(Clone, Copy)]
enum Either {
    Guest(u32),
    Host(Place),
}

/// When an event was, and where it is.
type Entry = (u64, Either);
const _: () = assert!(size_of::<Entry>() == 16);

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
    let log = &recording.host;
    let order = in_order(recording, offset);
    let mut lanes = Lanes::default();
    let mut names = Names::default();
    let mut requests = Requests::new(!recording.guest.is_empty(), &mut names);
    let mut guest = Guest::default();
    let mut host = Host::new(&recording.threads);
    let mut left_out = 0;
    let end = scale.duration_ns();
    for (tsc, event) in order {
        let at = scale.ns(tsc).min(end);
        match event {
            Either::Guest(number) => {
                let event = &recording.guest[number as usize];
                let before = guest.refused + lanes.refused + requests.refused;
                guest.event(at, event, &mut lanes, &mut names, &mut requests);
                let after = guest.refused + lanes.refused + requests.refused;
                left_out += u64::from(after > before);
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
    let Lanes {
        mut slices, lanes, ..
    } = lanes;
    // What encloses comes before what it encloses.
    slices.sort_unstable_by_key(|slice| (slice.start, u64::MAX - slice.end));
    let about = About {
        left_out,
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

/// All events of both sides in the order of the host's time. What one side has written in order,
/// stays in order, as in a stable sort; but that would need half as much memory again.
fn in_order(recording: &Recording, offset: i64) -> Vec<Entry> {
    let mut order: Vec<Entry> = Vec::new();
    order.reserve_exact(recording.guest.len() + recording.host.places().count());
    let guest = (0..).zip(&recording.guest).map(|(number, event)| {
        let tsc = event.tsc.wrapping_sub(offset as u64);
        (tsc, Either::Guest(number))
    });
    order.extend(guest);
    let host = recording.host.places();
    order.extend(host.map(|(tsc, place)| (tsc, Either::Host(place))));
    order.sort_unstable_by_key(|(tsc, event)| match event {
        Either::Guest(number) => (*tsc, 0, u64::from(*number)),
        Either::Host(place) => (*tsc, 1, place.order()),
    });
    order
}
