//! A latency histogram: logarithmic, forty bars for each power of ten, the slowest hundredth in
//! another colour.

use super::layout::Layout;
use super::svg::{Anchor, Svg, round_time, small_width, time};
use crate::trace::parts;
use crate::trace::paths::PathFigures;

const HEIGHT: f64 = 130.0;
const MARGIN: f64 = 14.0;
const TOP: f64 = 20.0;
/// Bars for each power of ten.
const PER_DECADE: f64 = 40.0;
/// How many bars there are at least: a single one would say little.
const FEWEST: i64 = 42;

/// The histogram as an element of a page.
pub fn element(path: &PathFigures<'_>, layout: &Layout, label: &str) -> String {
    let lives: Vec<u64> = path.requests.iter().map(|r| parts::whole(r)).collect();
    let (Some(least), Some(most)) = (lives.first(), lives.last()) else {
        return String::new();
    };
    let axis = Axis::around(*least, *most, layout.small);
    let mut counts = vec![0usize; axis.bars as usize];
    for life in &lives {
        if let Some(count) = counts.get_mut((bar(*life) - axis.first) as usize) {
            *count += 1;
        }
    }
    let mut svg = Svg::default();
    draw_axis(&mut svg, &axis);
    draw_bars(&mut svg, &axis, &counts, path.percentile(0.99) as f64);
    draw_percentiles(&mut svg, &axis, path);
    svg.element(layout.class, (layout.small, TOP + HEIGHT + 22.0), label)
}

/// The number of the bar that a time is in.
fn bar(ns: u64) -> i64 {
    ((ns.max(1) as f64).log10() * PER_DECADE).floor() as i64
}

/// Where times are.
struct Axis {
    /// The number of the first bar.
    first: i64,
    bars: i64,
    /// Width of the drawing.
    width: f64,
}

impl Axis {
    /// With some room at both ends.
    fn around(least: u64, most: u64, width: f64) -> Axis {
        let (first, last) = (bar(least) - 3, bar(most) + 3);
        let missing = (FEWEST - (last - first + 1)).max(0);
        Axis {
            first: first - missing / 2,
            bars: last - first + 1 + missing,
            width,
        }
    }

    /// Width of a bar.
    fn bar(&self) -> f64 {
        (self.width - 2.0 * MARGIN) / self.bars as f64
    }

    fn x(&self, ns: f64) -> f64 {
        MARGIN + (ns.max(1.0).log10() * PER_DECADE - self.first as f64) * self.bar()
    }

    /// When bar `index` begins.
    fn start(&self, index: i64) -> f64 {
        10f64.powf((self.first + index) as f64 / PER_DECADE)
    }
}

/// Marks at 1, 2 and 5 of each power of ten, as far as there is room.
fn draw_axis(svg: &mut Svg, axis: &Axis) {
    let mut free = 0.0;
    let decades = (axis.first as f64 / PER_DECADE).floor() as i32..;
    let marks = decades.flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power)));
    let from = axis.start(0);
    for mark in marks.skip_while(|mark| *mark < from) {
        let (x, text) = (axis.x(mark), round_time(mark));
        let half = small_width(&text) / 2.0;
        if x + half > axis.width {
            break;
        }
        svg.line((x, TOP), (x, TOP + HEIGHT), "grid");
        if x - half >= free {
            svg.text((x, TOP + HEIGHT + 15.0), Anchor::Middle, "small", &text);
            free = x + half + 8.0;
        }
    }
    let bottom = TOP + HEIGHT;
    svg.line((MARGIN, bottom), (axis.width - MARGIN, bottom), "axis");
}

fn draw_bars(svg: &mut Svg, axis: &Axis, counts: &[usize], p99: f64) {
    let highest = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    for (index, count) in (0..).zip(counts).filter(|(_, count)| **count > 0) {
        let (from, to) = (axis.start(index), axis.start(index + 1));
        let height = (*count as f64 / highest * HEIGHT).max(1.5);
        let class = if from > p99 { "tail" } else { "bar" };
        let place = (axis.x(from) + 0.4, TOP + HEIGHT - height);
        let size = ((axis.bar() - 0.8).max(0.5), height);
        let title = format!("{count} from {} to {}", time(from), time(to));
        svg.rect(place, size, class, &title);
    }
}

/// The median and the 99th percentile.
fn draw_percentiles(svg: &mut Svg, axis: &Axis, path: &PathFigures<'_>) {
    let marks = [
        (0.5, "p50", Anchor::End, -4.0),
        (0.99, "p99", Anchor::Start, 4.0),
    ];
    for (share, name, anchor, beside) in marks {
        let x = axis.x(path.percentile(share) as f64);
        svg.line((x, TOP - 14.0), (x, TOP + HEIGHT), "mark");
        svg.text((x + beside, TOP - 5.0), anchor, "small", name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_place_on_the_axis() {
        for (least, most) in [(0, 0), (1, 1), (999, 1001), (1, u64::MAX), (5_000, 5_100)] {
            let axis = Axis::around(least, most, 480.0);
            assert!(axis.bars >= FEWEST);
            for ns in [least, most] {
                let index = bar(ns) - axis.first;
                assert!((0..axis.bars).contains(&index), "{ns}");
                let x = axis.x(ns as f64);
                assert!((MARGIN..=480.0 - MARGIN).contains(&x), "{ns} at {x}");
            }
        }
    }
}
