//! Just enough SVG: shapes with classes, whose colours a style sheet gives.

use std::fmt::{Display, Write};

/// A drawing that grows.
#[derive(Default)]
pub struct Svg {
    body: String,
}

/// Where a text stands beside its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

impl Svg {
    /// A rectangle; `title` is shown where a pointer rests on it.
    pub fn rect(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), class: &str, title: &str) {
        let (x, y, w, h) = (Short(x), Short(y), Short(w.max(0.0)), Short(h));
        let shape = format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\""
        );
        // Writing to a string does not fail.
        let _ = match title {
            "" => write!(self.body, "{shape}/>"),
            title => write!(
                self.body,
                "{shape}><title>{}</title></rect>",
                Escaped(title)
            ),
        };
    }

    /// Is there something of this class?
    pub fn has(&self, class: &str) -> bool {
        self.body.contains(&format!("class=\"{class}\""))
    }

    /// A straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let (x1, y1, x2, y2) = (Short(x1), Short(y1), Short(x2), Short(y2));
        let _ = write!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        );
    }

    /// A path.
    pub fn path(&mut self, path: &str, class: &str) {
        let _ = write!(self.body, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    /// A line of text.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            Short(x),
            Short(y),
            Escaped(text)
        );
    }

    /// The whole, as an element of a page of this class; `label` is its text for screen readers.
    pub fn element(&self, class: &str, (width, height): (f64, f64), label: &str) -> String {
        format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">{}</svg>\n",
            Short(width),
            Short(height),
            Escaped(label),
            self.body
        )
    }

    /// The whole, as a file of its own with its style sheet.
    pub fn file(&self, (width, height): (f64, f64), label: &str, style: &str) -> String {
        let (width, height) = (Short(width), Short(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n\
             <style>{style}</style>\n<rect class=\"page\" width=\"{width}\" height=\"{height}\" \
             rx=\"12\"/>\n{}</svg>\n",
            Escaped(label),
            self.body
        )
    }
}

/// A number as short as a drawing needs it.
pub struct Short(pub f64);

impl Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.2}", self.0);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        f.write_str(if text == "-0" { "0" } else { text })
    }
}

/// A text that means nothing to HTML.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A time as people say it: three digits and a unit.
pub fn time(ns: f64) -> String {
    if ns == 0.0 {
        return "0".into();
    }
    let (value, unit) = match ns {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999_500.0 => (ns / 1e3, "µs"),
        ns if ns < 999_500_000.0 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = match value {
        v if v >= 99.95 || unit == "ns" => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A round time as an axis has it: without digits that say nothing.
pub fn round_time(ns: f64) -> String {
    let text = time(ns);
    match text.split_once(' ') {
        Some((value, unit)) if value.contains('.') => {
            let value = value.trim_end_matches('0').trim_end_matches('.');
            format!("{value} {unit}")
        }
        _ => text,
    }
}

/// How wide a small text is, roughly: nobody knows which font there will be.
pub fn small_width(text: &str) -> f64 {
    let wide = |c: char| if "fijlrt,.' ".contains(c) { 4.3 } else { 6.9 };
    text.chars().map(wide).sum()
}

/// Marks of an axis from 0 to `end`: some four to eight of them at round numbers.
pub fn marks(end: f64) -> Vec<f64> {
    if end <= 0.0 {
        return vec![0.0];
    }
    let rough = end / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    (0..)
        .map(|i| f64::from(i) * step)
        .take_while(|mark| *mark <= end * 1.0001)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_written_for_people() {
        let cases = [
            (0.0, "0"),
            (999.0, "999 ns"),
            (1500.0, "1.50 µs"),
            (12_345.0, "12.3 µs"),
            (2_000_000.0, "2.00 ms"),
            (250_000_000.0, "250 ms"),
            (3_200_000_000.0, "3.20 s"),
        ];
        for (ns, text) in cases {
            assert_eq!(time(ns), text);
        }
        assert_eq!(round_time(5e6), "5 ms");
        assert_eq!(round_time(1.5e3), "1.5 µs");
        assert_eq!(round_time(250e6), "250 ms");
        assert_eq!(round_time(0.0), "0");
        assert_eq!(Short(-0.001).to_string(), "0");
        assert_eq!(Short(12.5).to_string(), "12.5");
        assert_eq!(Escaped("<a&\"b>").to_string(), "&lt;a&amp;&quot;b&gt;");
        assert_eq!(marks(16.0), [0.0, 5.0, 10.0, 15.0]);
        assert_eq!(marks(100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    }
}
