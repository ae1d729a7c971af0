//! How many requests a disk had in flight, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

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

/// Disk by disk, the changes of the number of requests in flight, in order; at the same time, ends
/// first.
pub fn changes(trace: &Trace) -> Vec<Vec<(u64, i64)>> {
    let mut disks = vec![Vec::new(); trace.about.disks.len()];
    for request in &trace.requests {
        let disk = disks.get_mut(usize::from(request.disk));
        if let (Some(changes), Some((start, end))) = (disk, flight(request)) {
            changes.extend([(start, 1), (end, -1)]);
        }
    }
    disks.iter_mut().for_each(|changes| changes.sort_unstable());
    disks
}

/// Puts flights, in the order of their beginnings, into rows in which no two overlap: each into the
/// first that is free. Gives the row of each, and how many rows there are.
pub fn rows(flights: impl Iterator<Item = (u64, u64)>) -> (Vec<usize>, usize) {
    // When the busy rows end, and the free ones; the least first.
    let mut busy: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut free: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    let mut count = 0;
    let place = |(start, end)| {
        while let Some(Reverse((_, row))) = busy.peek().filter(|Reverse((end, _))| *end <= start) {
            free.push(Reverse(*row));
            busy.pop();
        }
        let row = free.pop().map_or(count, |Reverse(row)| row);
        count = count.max(row + 1);
        busy.push(Reverse((end, row)));
        row
    };
    let rows = flights.map(place).collect();
    (rows, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_flight_has_the_first_row_that_is_free(
            mut flights in prop::collection::vec((0u64..50, 0u64..20), 0..60),
        ) {
            flights.iter_mut().for_each(|flight| flight.1 += flight.0);
            flights.sort_unstable();
            let mut ends: Vec<u64> = Vec::new();
            let simple: Vec<usize> = flights.iter().map(|(start, end)| {
                let row = ends.iter().position(|free| free <= start).unwrap_or(ends.len());
                ends.resize(ends.len().max(row + 1), 0);
                ends[row] = *end;
                row
            }).collect();
            prop_assert_eq!(rows(flights.into_iter()), (simple, ends.len()));
        }
    }
}
