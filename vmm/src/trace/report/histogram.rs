//! A latency histogram: logarithmic, ten bars for each power of ten, the slowest hundredth in
//! another colour.

use super::svg::{Anchor, Svg, time};
use crate::trace::parts;
use crate::trace::paths::PathFigures;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 130.0;
const MARGIN: f64 = 14.0;
const TOP: f64 = 18.0;
const PER_DECADE: f64 = 10.0;

/// The histogram as an element of a page.
pub fn element(path: &PathFigures<'_>, label: &str) -> String {
    let bucket = |ns: u64| ((ns.max(1) as f64).log10() * PER_DECADE).floor() as i64;
    let lives: Vec<u64> = path.requests.iter().map(|r| parts::whole(r)).collect();
    let (Some(least), Some(most)) = (lives.first(), lives.last()) else {
        return String::new();
    };
    // Whole powers of ten, so that histograms beside each other can be compared.
    let decade = PER_DECADE as i64;
    let first = bucket(*least).div_euclid(decade) * decade;
    let last = (bucket(*most).div_euclid(decade) + 1) * decade;
    let mut counts = vec![0usize; (last - first) as usize];
    for life in &lives {
        if let Some(count) = counts.get_mut((bucket(*life) - first) as usize) {
            *count += 1;
        }
    }
    let highest = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let width = (WIDTH - 2.0 * MARGIN) / counts.len() as f64;
    let p99 = path.percentile(0.99);
    let mut svg = Svg::default();
    for (i, count) in counts.iter().enumerate() {
        let x = MARGIN + width * i as f64;
        let at = 10f64.powf((first + i as i64) as f64 / PER_DECADE);
        if i as i64 % decade == 0 {
            svg.line((x, TOP), (x, TOP + HEIGHT), "grid");
            svg.text((x, TOP + HEIGHT + 15.0), Anchor::Start, "small", &time(at));
        }
        if *count > 0 {
            let height = (*count as f64 / highest * HEIGHT).max(1.5);
            let class = if at > p99 as f64 { "tail" } else { "bar" };
            let until = 10f64.powf((first + i as i64 + 1) as f64 / PER_DECADE);
            let title = format!("{count} from {} to {}", time(at), time(until));
            svg.rect(
                (x + 0.5, TOP + HEIGHT - height),
                ((width - 1.0).max(0.5), height),
                class,
                &title,
            );
        }
    }
    svg.line(
        (MARGIN, TOP + HEIGHT),
        (WIDTH - MARGIN, TOP + HEIGHT),
        "axis",
    );
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let ns = path.percentile(share);
        let place = (ns.max(1) as f64).log10() * PER_DECADE - first as f64;
        let x = MARGIN + place * width;
        svg.line((x, TOP - 2.0), (x, TOP + HEIGHT), "axis");
        let (anchor, x) = match name {
            "p50" => (Anchor::End, x - 4.0),
            _ => (Anchor::Start, x + 4.0),
        };
        let text = format!("{name} {}", time(ns as f64));
        let (anchor, x) = match x {
            x if x < 80.0 => (Anchor::Start, x + 8.0),
            x if x > WIDTH - 80.0 => (Anchor::End, x - 8.0),
            x => (anchor, x),
        };
        let y = if name == "p50" { TOP - 6.0 } else { TOP + 8.0 };
        svg.text((x, y), anchor, "small", &text);
    }
    svg.element((WIDTH, TOP + HEIGHT + 22.0), label)
}
