//! Whom the picture of the lanes shows, and when: the askers that move the most bytes, each in the
//! middle of what it does, in windows of the same length.

use std::collections::{BTreeMap, HashMap};

use crate::trace::in_flight::flight;
use crate::trace::model::{Request, Trace};
use crate::trace::parts;

/// How many panels.
const MOST_PANELS: usize = 6;
/// Fewer requests than these show no pattern.
const FEWEST_REQUESTS: usize = 3;
/// Askers that move less than this part of what the busiest moves are beside the point.
const LEAST_SHARE: u64 = 20;
/// How many typical lives of the slowest kind of request a window is long.
const TYPICAL_LIVES: f64 = 3.0;

/// Those who asked in the same way.
pub struct Panel<'a> {
    /// Who, and along which paths.
    pub title: String,
    /// What is to be seen.
    pub says: &'static str,
    /// The disk that most of its requests are for.
    pub disk: u8,
    /// Its requests, in order.
    pub requests: Vec<&'a Request>,
}

impl Panel<'_> {
    fn bytes(&self) -> u64 {
        let bytes = self.requests.iter().map(|r| u64::from(r.bytes));
        bytes.sum()
    }
}

/// What the picture says of a path, by the beginning of its name.
const KNOWN: [(&str, &str); 9] = [
    (
        "blocking-",
        "while the disk works the program waits, while it runs the disk waits",
    ),
    (
        "async-",
        "the program submits one after the other, and the disk has many",
    ),
    (
        "pager",
        "the kernel reads ahead: the disk works while program and kernel run",
    ),
    ("cached-", "the page cache reads what a call needs"),
    ("kernel-mount", "the kernel for itself, one after the other"),
    (
        "block-server",
        "one program asks, another drives the disk and keeps it busy",
    ),
    (
        "driver in ring 3",
        "a program drives the disk and says nothing of it",
    ),
    ("write-back", "nobody waits for it"),
    ("guest", "it says nothing of itself: the host's half"),
];

/// The askers with the most requests, in the order in which they came.
pub fn panels(trace: &Trace) -> Vec<Panel<'_>> {
    // A thread asks in its own way; what no thread asked for, belongs to its path.
    let mut groups: BTreeMap<(u16, u16), Vec<&Request>> = BTreeMap::new();
    let mut numbers: HashMap<&str, u16> = HashMap::new();
    for request in trace.requests.iter().filter(|r| flight(r).is_some()) {
        let key = match request.asker {
            Some(lane) => (lane, u16::from(request.server.is_some())),
            None => {
                let next = numbers.len() as u16;
                let path = trace.names.text(request.path);
                (u16::MAX, *numbers.entry(path).or_insert(next))
            }
        };
        groups.entry(key).or_default().push(request);
    }
    let mut panels: Vec<Panel<'_>> = groups
        .into_values()
        .filter(|requests| requests.len() >= FEWEST_REQUESTS)
        .map(|requests| panel(requests, trace))
        .collect();
    panels.sort_by_key(|panel| std::cmp::Reverse(panel.bytes()));
    panels.truncate(MOST_PANELS);
    let most = panels.first().map_or(0, Panel::bytes);
    panels.retain(|panel| panel.bytes() >= most / LEAST_SHARE);
    panels.sort_by_key(|panel| panel.requests[0].span());
    panels
}

fn panel<'a>(mut requests: Vec<&'a Request>, trace: &'a Trace) -> Panel<'a> {
    let mut disks: HashMap<u8, usize> = HashMap::new();
    let mut paths: HashMap<&str, usize> = HashMap::new();
    for request in &requests {
        *disks.entry(request.disk).or_default() += 1;
    }
    let disk = disks.iter().max_by_key(|(_, count)| **count);
    let disk = disk.map_or(0, |(disk, _)| *disk);
    requests.retain(|request| request.disk == disk);
    requests.sort_by_key(|request| request.span());
    for request in &requests {
        *paths.entry(trace.names.text(request.path)).or_default() += 1;
    }
    let mut paths: Vec<(&str, usize)> = paths.into_iter().collect();
    // What is known of comes first, in its order.
    let place = |name: &str| {
        let mut known = KNOWN.iter();
        known.position(|(beginning, _)| name.starts_with(beginning))
    };
    paths.sort_by_key(|(name, count)| {
        let place = place(name).unwrap_or(KNOWN.len());
        (place, std::cmp::Reverse(*count), *name)
    });
    let says = paths.first().and_then(|(name, _)| place(name));
    let names: Vec<&str> = paths.iter().map(|(name, _)| *name).collect();
    Panel {
        title: names.join(", "),
        says: says.map_or("", |place| KNOWN[place].1),
        disk,
        requests,
    }
}

/// A few lives of the panel whose requests live longest, the same for all panels: only then can they
/// be compared.
pub fn window_length(panels: &[Panel<'_>]) -> Option<u64> {
    let typical = |panel: &Panel<'_>| {
        let mut lives: Vec<u64> = panel.requests.iter().map(|r| parts::whole(r)).collect();
        lives.sort_unstable();
        lives[lives.len() / 2]
    };
    let longest = panels.iter().map(typical).max()?;
    Some(((longest.max(1) as f64) * TYPICAL_LIVES) as u64)
}

/// In the middle of what the panel's requests did.
pub fn window_start(panel: &Panel<'_>, length: u64) -> Option<u64> {
    let (middle, _) = panel.requests.get(panel.requests.len() / 2)?.span()?;
    Some(middle.saturating_sub(length / 16))
}
