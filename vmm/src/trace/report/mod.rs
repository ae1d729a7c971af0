//! `iolite trace html`: a trace as one page that needs no network and no script; and `iolite trace
//! picture`: its picture of the lanes as an SVG file.

mod histogram;
mod lanes;
mod layout;
mod overview;
mod page;
mod panels;
mod svg;
mod waterfall;

pub use page::page;

use super::model::Trace;

/// Colours and texts of the drawings.
const STYLE: &str = include_str!("style.css");

/// The picture of the lanes as a file of its own; none for a trace with hardly a request.
pub fn picture(trace: &Trace) -> Option<String> {
    let layout = &layout::WIDE;
    let (svg, height) = lanes::picture(trace, layout)?;
    let label = "Lanes of programs, of the kernel that works for them, and of the disk";
    Some(svg.file((layout.width, height), label, STYLE))
}
