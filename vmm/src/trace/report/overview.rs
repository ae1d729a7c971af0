//! The whole trace at a glance: requests in flight on each disk, from beginning to end.

use super::layout::Layout;
use super::svg::{Anchor, Short, Svg, marks, round_time};
use crate::trace::in_flight;
use crate::trace::model::Trace;

const HEIGHT: f64 = 46.0;
/// How many steps the time has: finer ones could not be seen.
const STEPS: usize = 800;

/// The overview as an element of a page.
pub fn element(trace: &Trace, layout: &Layout) -> String {
    let end = trace.about.duration_ns.max(1);
    // The same as in the lanes above.
    let (labels, width) = (layout.labels, layout.time());
    let mut svg = Svg::default();
    let mut y = 10.0;
    for (name, changes) in trace.about.disks.iter().zip(in_flight::changes(trace)) {
        let most = most_per_step(&changes, end);
        let highest = most.iter().copied().max().unwrap_or(0);
        svg.text((labels - 10.0, y + 20.0), Anchor::End, "label", name);
        let text = format!("most {highest}");
        svg.text((labels - 10.0, y + 35.0), Anchor::End, "small", &text);
        svg.rect((labels, y), (width, HEIGHT), "trough", "");
        let bottom = y + HEIGHT;
        let mut path = format!("M{} {}", Short(labels), Short(bottom));
        for (step, count) in most.iter().enumerate() {
            let x = |step: usize| Short(labels + width * step as f64 / STEPS as f64);
            let top = bottom - *count as f64 / highest.max(1) as f64 * (HEIGHT - 4.0);
            path.push_str(&format!("V{}H{}", Short(top), x(step + 1)));
        }
        path.push_str(&format!("V{}Z", Short(bottom)));
        svg.path(&path, "area");
        y += HEIGHT + 10.0;
    }
    svg.line((labels, y), (labels + width, y), "axis");
    for mark in marks(end as f64) {
        let x = labels + mark / end as f64 * width;
        svg.line((x, y), (x, y + 5.0), "axis");
        svg.text((x, y + 18.0), Anchor::Middle, "small", &round_time(mark));
    }
    svg.element(
        layout.class,
        (layout.width, y + 28.0),
        "requests in flight over time",
    )
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
