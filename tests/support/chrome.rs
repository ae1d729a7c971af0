//! The rules of Chrome's trace-event format, as far as Perfetto relies on them: what the tests of
//! traces check.

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
    open: HashMap<(String, u64), u64>,
    arrows: HashMap<u64, Vec<(String, Place, u64)>>,
}

impl Checked {
    fn take(&mut self, event: &Value) -> Result<(), String> {
        let text = |key: &str| event[key].as_str().ok_or(format!("no {key}"));
        let number = |key: &str| event[key].as_u64().ok_or(format!("no {key}"));
        // Nanoseconds, so that no rounding makes two ends differ.
        let time = |key: &str| match event[key].as_f64() {
            Some(us) if us >= 0.0 => Ok((us * 1000.0).round() as u64),
            _ => Err(format!("no time {key}")),
        };
        let phase = text("ph")?;
        let place = (number("pid")?, number("tid")?);
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
                let slices = self.slices.entry(place).or_default();
                slices.push((start, start + length));
            }
            "b" => {
                let key = (text("cat")?.to_owned(), number("id")?);
                if self.open.insert(key, time("ts")?).is_some() {
                    return Err("begun twice".into());
                }
            }
            "e" => {
                let key = (text("cat")?.to_owned(), number("id")?);
                let begun = self.open.remove(&key).ok_or("ended without a beginning")?;
                if time("ts")? < begun {
                    return Err("ended before its beginning".into());
                }
            }
            "s" | "t" | "f" => {
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
            if !slices[..before].iter().rev().any(|(_, end)| end >= at) {
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
