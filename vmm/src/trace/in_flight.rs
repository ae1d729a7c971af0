//! How many requests a disk had in flight, and when.

use super::model::{Moment, Request, Trace};

/// When a request is in flight: from the driver's adding it, or the device's popping it, until it
/// is used. None for one whose end was not seen.
pub fn flight(request: &Request) -> Option<(u64, u64)> {
    let start = request
        .when(Moment::Added)
        .or(request.when(Moment::Popped))?;
    let end = request.when(Moment::Used)?;
    (end >= start).then_some((start, end))
}

/// The changes of the number of requests in flight on a disk, in order; at the same time, ends
/// first.
pub fn changes(trace: &Trace, disk: u8) -> Vec<(u64, i64)> {
    let requests = trace.requests.iter().filter(|r| r.disk == disk);
    let mut changes: Vec<(u64, i64)> = requests
        .filter_map(flight)
        .flat_map(|(start, end)| [(start, 1), (end, -1)])
        .collect();
    changes.sort_unstable();
    changes
}
