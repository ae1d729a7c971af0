//! One request as a waterfall: each stretch of its life in a row of its own, where it lies in time.

use super::layout::Layout;
use super::svg::{Anchor, Svg, marks, round_time, small_width, time};
use crate::trace::model::Request;
use crate::trace::parts::{PART_NAMES, stretches, whole};

const LABELS: f64 = 128.0;
const VALUES: f64 = 64.0;
const ROW: f64 = 19.0;
const BAR: f64 = 12.0;

/// The waterfall as an element of a page.
pub fn element(request: &Request, layout: &Layout, label: &str) -> String {
    // What took no time is left out.
    let mut stretches = stretches(request);
    stretches.retain(|stretch| stretch.end > stretch.start);
    let Some((start, _)) = request.span() else {
        return String::new();
    };
    let life = whole(request).max(1) as f64;
    let width = layout.small - LABELS - VALUES;
    let x = |at: u64| LABELS + at.saturating_sub(start) as f64 / life * width;
    let bottom = 6.0 + ROW * stretches.len() as f64;
    let mut svg = Svg::default();
    let mut free = 0.0;
    for mark in marks(life) {
        let x = LABELS + mark / life * width;
        svg.line((x, 4.0), (x, bottom), "grid");
        let text = round_time(mark);
        let half = small_width(&text) / 2.0;
        if x - half >= free {
            svg.text((x, bottom + 14.0), Anchor::Middle, "small", &text);
            free = x + half + 6.0;
        }
    }
    let mut y = 6.0;
    for stretch in &stretches {
        let part = stretch.part as usize;
        let (side, name) = PART_NAMES[part];
        let class = format!("p{part}");
        let taken = (stretch.end - stretch.start) as f64;
        let (from, to) = (x(stretch.start), x(stretch.end));
        svg.text((LABELS - 8.0, y + 11.0), Anchor::End, "label", name);
        svg.rect(
            (from, y + 2.0),
            ((to - from).max(1.0), BAR),
            &class,
            &format!("{side} {name}"),
        );
        svg.text(
            (to + 6.0, y + 11.5),
            Anchor::Start,
            "small value",
            &time(taken),
        );
        y += ROW;
    }
    svg.element(layout.class, (layout.small, bottom + 22.0), label)
}
