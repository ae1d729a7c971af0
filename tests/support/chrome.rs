//! The rules of Chrome's trace-event format, as far as Perfetto's importer relies on them
//! (src/trace_processor/importers/json): what the tests of traces check.
//!
//! - Numbers of processes and threads have 32 bits; a thread's number is its own in all processes.
//! - A time in microseconds is cut to whole nanoseconds after a multiplication of doubles: what meets
//!   may not overlap then, nor if it is rounded.
//! - Slices of a thread contain each other, or have nothing in common.
//! - An asynchronous slice ends with the category, id, name and thread that it began with.
//! - An arrow goes from slice to slice, each of them open at that time and there in the file before it.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// How many events of each phase a trace has.
pub type Phases = HashMap<String, usize>;

/// Where something is: process and thread.
type Place = (u64, u64);

/// Checks a trace in JSON, and counts its events.
pub fn check(json: &str) -> Result<Phases, String> {
    let trace: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let unit = trace["displayTimeUnit"].as_str();
    if !matches!(unit, Some("ns" | "ms")) {
        return Err(format!("displayTimeUnit {unit:?}"));
    }
    let events = trace["traceEvents"].as_array().ok_or("no traceEvents")?;
    let mut checked = Checked::default();
    for event in events {
        checked
            .take(event)
            .map_err(|why| format!("{why}: {event}"))?;
    }
    checked.end()?;
    Ok(checked.phases)
}

#[derive(Default)]
struct Checked {
    phases: Phases,
    named: HashSet<Place>,
    slices: HashMap<Place, Vec<(u64, u64)>>,
    /// Asynchronous pairs that are open, by category and id: when they began.
    open: HashMap<(String, u64), (String, Place, u64)>,
    /// The process of each thread.
    threads: HashMap<u64, u64>,
    arrows: HashMap<u64, Vec<(String, Place, u64)>>,
}

impl Checked {
    fn take(&mut self, event: &Value) -> Result<(), String> {
        let text = |key: &str| event[key].as_str().ok_or(format!("no {key}"));
        let number = |key: &str| event[key].as_u64().ok_or(format!("no {key}"));
        let time = |key: &str| match event[key].as_f64().map(|us| us * 1000.0) {
            Some(ns) if ns < 0.0 || ns.trunc() != ns.round() => Err(format!("{key} is uncertain")),
            Some(ns) => Ok(ns as u64),
            None => Err(format!("no time {key}")),
        };
        let phase = text("ph")?;
        let place = (number("pid")?, number("tid")?);
        if u32::try_from(place.0.max(place.1)).is_err() {
            return Err("a number of more than 32 bits".into());
        }
        if *self.threads.entry(place.1).or_insert(place.0) != place.0 {
            return Err("a thread of two processes".into());
        }
        let name = text("name")?;
        *self.phases.entry(phase.into()).or_default() += 1;
        match phase {
            "M" => {
                if name.ends_with("_name") && event["args"]["name"].as_str().is_none() {
                    return Err("a lane without a name".into());
                }
                if name == "thread_name" {
                    self.named.insert(place);
                }
            }
            "X" => {
                let (start, length) = (time("ts")?, time("dur")?);
                if !self.arrows.is_empty() {
                    return Err("a slice after an arrow".into());
                }
                let slices = self.slices.entry(place).or_default();
                slices.push((start, start + length));
            }
            "b" => {
                let key = (text("cat")?.to_owned(), number("id")?);
                let begun = (name.to_owned(), place, time("ts")?);
                if self.open.insert(key, begun).is_some() {
                    return Err("begun twice".into());
                }
            }
            "e" => {
                let key = (text("cat")?.to_owned(), number("id")?);
                let open = self.open.remove(&key);
                let (begun_as, begun_at, begun) = open.ok_or("ended without a beginning")?;
                if time("ts")? < begun || begun_as != name || begun_at != place {
                    return Err("ended before its beginning, or as something else".into());
                }
            }
            "s" | "t" | "f" => {
                // Without `bp` the arrow would end at the slice after it.
                if (phase == "f") != (event["bp"] == "e") || text("cat")?.is_empty() {
                    return Err("an arrow that ends elsewhere".into());
                }
                let arrow = self.arrows.entry(number("id")?).or_default();
                arrow.push((phase.into(), place, time("ts")?));
            }
            "C" => {
                time("ts")?;
                let args = event["args"].as_object().ok_or("no args")?;
                if args.is_empty() || args.values().any(|value| !value.is_number()) {
                    return Err("a counter counts numbers".into());
                }
            }
            other => return Err(format!("phase {other}")),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some(open) = self.open.keys().next() {
            return Err(format!("{open:?} never ends"));
        }
        for (place, slices) in &mut self.slices {
            if !self.named.contains(place) {
                return Err(format!("the lane {place:?} has no name"));
            }
            check_nesting(slices).map_err(|why| format!("lane {place:?}: {why}"))?;
        }
        for (id, arrow) in &self.arrows {
            self.check_arrow(arrow)
                .map_err(|why| format!("arrow {id}: {why}"))?;
        }
        Ok(())
    }

    /// An arrow begins, goes on forward in time, and ends, each time at a slice.
    fn check_arrow(&self, arrow: &[(String, Place, u64)]) -> Result<(), String> {
        let phases: String = arrow.iter().map(|(phase, ..)| phase.as_str()).collect();
        if !phases.starts_with('s') || !phases.ends_with('f') {
            return Err(format!("phases {phases}"));
        }
        if !arrow.is_sorted_by_key(|(.., at)| at) {
            return Err("it goes back in time".into());
        }
        for (_, place, at) in arrow {
            let slices = self.slices.get(place).map_or(&[][..], Vec::as_slice);
            let before = slices.partition_point(|(start, _)| start <= at);
            if !slices[..before].iter().rev().any(|(_, end)| end > at) {
                return Err(format!("no slice at {at} in {place:?}"));
            }
        }
        Ok(())
    }
}

/// Of two slices of a lane one contains the other, or they have nothing in common.
fn check_nesting(slices: &mut [(u64, u64)]) -> Result<(), String> {
    slices.sort_by_key(|(start, end)| (*start, u64::MAX - end));
    let mut around: Vec<u64> = Vec::new();
    for &(start, end) in slices.iter() {
        while around.last().is_some_and(|outer| *outer <= start) {
            around.pop();
        }
        if around.last().is_some_and(|outer| *outer < end) {
            return Err(format!("{start} to {end} crosses the end of another slice"));
        }
        around.push(end);
    }
    Ok(())
}
