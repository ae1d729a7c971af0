//! The whole trace at a glance: requests in flight on each disk, from beginning to end.

use super::svg::{Anchor, Short, Svg, marks, time};
use crate::trace::in_flight;
use crate::trace::model::Trace;

const WIDTH: f64 = 960.0;
const LABELS: f64 = 92.0;
const MARGIN: f64 = 16.0;
const HEIGHT: f64 = 46.0;
/// How many steps the time has: finer ones could not be seen.
const STEPS: usize = 800;

/// The overview as an element of a page.
pub fn element(trace: &Trace) -> String {
    let end = trace.about.duration_ns.max(1);
    let width = WIDTH - LABELS - MARGIN;
    let mut svg = Svg::default();
    let mut y = 10.0;
    for (disk, name) in trace.about.disks.iter().enumerate() {
        let most = most_per_step(&in_flight::changes(trace, disk as u8), end);
        let highest = most.iter().copied().max().unwrap_or(0);
        svg.text((LABELS - 10.0, y + 20.0), Anchor::End, "label", name);
        let text = format!("most {highest}");
        svg.text((LABELS - 10.0, y + 35.0), Anchor::End, "small", &text);
        svg.rect((LABELS, y), (width, HEIGHT), "trough", "");
        let bottom = y + HEIGHT;
        let mut path = format!("M{} {}", Short(LABELS), Short(bottom));
        for (step, count) in most.iter().enumerate() {
            let x = |step: usize| Short(LABELS + width * step as f64 / STEPS as f64);
            let top = bottom - *count as f64 / highest.max(1) as f64 * (HEIGHT - 4.0);
            path.push_str(&format!("V{}H{}", Short(top), x(step + 1)));
        }
        path.push_str(&format!("V{}Z", Short(bottom)));
        svg.path(&path, "area");
        y += HEIGHT + 10.0;
    }
    svg.line((LABELS, y), (LABELS + width, y), "axis");
    for mark in marks(end as f64) {
        let x = LABELS + mark / end as f64 * width;
        svg.line((x, y), (x, y + 5.0), "axis");
        svg.text((x, y + 18.0), Anchor::Middle, "small", &time(mark));
    }
    svg.element((WIDTH, y + 28.0), "requests in flight over time")
}

/// The most requests in flight in each step of the time.
fn most_per_step(changes: &[(u64, i64)], end: u64) -> Vec<i64> {
    let mut most = vec![0; STEPS];
    let mut count = 0i64;
    let mut last = 0;
    for (at, change) in changes {
        let step = (u128::from(*at) * STEPS as u128 / u128::from(end)) as usize;
        let step = step.min(STEPS - 1);
        for passed in &mut most[last + 1..=step.max(last)] {
            *passed = count;
        }
        count += change;
        most[step] = most[step].max(count);
        last = step.max(last);
    }
    for left in &mut most[last + 1..] {
        *left = count.max(0);
    }
    most
}
