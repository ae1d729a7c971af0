//! Requests by path: the figures that the summary and the report show.

use std::collections::HashMap;

use super::model::{Name, Request, Trace};
use super::parts::{self, PARTS};

/// What the requests of one path have in common.
pub struct PathFigures<'a> {
    /// The path.
    pub name: &'a str,
    /// Its name's number.
    pub path: Name,
    /// Its completed requests, the shortest life first.
    pub requests: Vec<&'a Request>,
    /// Bytes moved.
    pub bytes: u64,
    /// Requests with another status than OK.
    pub errors: u64,
    /// Nanoseconds spent on each part, over all requests.
    pub parts: [u64; PARTS],
    /// Nanoseconds of all lives.
    pub whole: u64,
}

/// The paths of a trace, the one with the most time first.
pub fn figures(trace: &Trace) -> Vec<PathFigures<'_>> {
    let mut by_path: HashMap<Name, PathFigures<'_>> = HashMap::new();
    for request in trace.requests.iter().filter(|r| r.is_complete()) {
        let figures = by_path.entry(request.path).or_insert_with(|| PathFigures {
            name: trace.names.text(request.path),
            path: request.path,
            requests: Vec::new(),
            bytes: 0,
            errors: 0,
            parts: [0; PARTS],
            whole: 0,
        });
        figures.requests.push(request);
        figures.bytes += u64::from(request.bytes);
        figures.errors += u64::from(request.status.is_some_and(|status| status != 0));
        for (sum, part) in figures.parts.iter_mut().zip(parts::parts(request)) {
            *sum = sum.saturating_add(part);
        }
        figures.whole = figures.whole.saturating_add(parts::whole(request));
    }
    let mut paths: Vec<_> = by_path.into_values().collect();
    for path in &mut paths {
        path.requests.sort_by_key(|request| parts::whole(request));
    }
    paths.sort_by(|a, b| (b.whole, a.name).cmp(&(a.whole, b.name)));
    paths
}

impl PathFigures<'_> {
    /// The life, in nanoseconds, that this share of the requests does not exceed; 0.5 is the median.
    pub fn percentile(&self, share: f64) -> u64 {
        self.at(share).map_or(0, parts::whole)
    }

    /// The request at this place of the order by length.
    pub fn at(&self, share: f64) -> Option<&Request> {
        let last = self.requests.len().checked_sub(1)?;
        let place = (share * last as f64).floor() as usize;
        self.requests.get(place).copied()
    }

    /// The mean of a sum over all requests.
    pub fn mean(&self, sum: u64) -> f64 {
        sum as f64 / self.requests.len().max(1) as f64
    }

    /// A part's share of the whole, 0 to 1.
    pub fn share(&self, part: usize) -> f64 {
        self.parts[part] as f64 / self.whole.max(1) as f64
    }
}
