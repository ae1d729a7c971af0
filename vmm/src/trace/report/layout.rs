//! Two sizes of the drawings that show time from left to right: one for a screen on a desk, one for a
//! screen in a hand, where the other could not be read.

use super::svg::small_width;

/// How a drawing lies in its width.
pub struct Layout {
    /// Its class in the style sheet of the page.
    pub class: &'static str,
    /// Width of the whole.
    pub width: f64,
    /// Width of drawings of which two stand beside each other, or would.
    pub small: f64,
    /// Width of the texts at the left.
    pub labels: f64,
    /// Texts that stand beside each other in a wide drawing have lines of their own.
    pub narrow: bool,
}

/// Free space at both sides.
pub const MARGIN: f64 = 16.0;

/// For a desk.
pub const WIDE: Layout = Layout {
    class: "wide",
    width: 960.0,
    small: 480.0,
    labels: 168.0,
    narrow: false,
};

/// For a hand.
pub const NARROW: Layout = Layout {
    class: "narrow",
    width: 380.0,
    small: 340.0,
    labels: 104.0,
    narrow: true,
};

impl Layout {
    /// Where time ends.
    pub fn right(&self) -> f64 {
        self.width - MARGIN
    }

    /// How long time is.
    pub fn time(&self) -> f64 {
        self.right() - self.labels
    }

    /// A text in lines that are no longer than the drawing is wide.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in text.split_whitespace() {
            let longer = lines
                .last()
                .map_or(0.0, |line| small_width(line) + small_width(word));
            if longer > 0.92 * (self.width - 2.0 * MARGIN) {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push_str(if line.is_empty() { "" } else { " " });
                line.push_str(word);
            }
        }
        lines
    }

    /// As much of a text as there is room for at the left.
    pub fn label(&self, text: &str) -> String {
        let most = ((self.labels - MARGIN) / 7.2) as usize;
        match text.chars().count() {
            count if count > most => text.chars().take(most - 1).chain(['…']).collect(),
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_or_cut() {
        let text = "one program asks, another drives the disk and keeps it busy for long";
        let lines = NARROW.lines(text);
        assert!(lines.len() == 2 && lines.join(" ") == text, "{lines:?}");
        assert_eq!(WIDE.lines(text), [text]);
        assert_eq!(NARROW.lines(""), [""]);
        assert_eq!(WIDE.label("block_server [3]"), "block_server [3]");
        assert_eq!(NARROW.label("block_server [3]"), "block_serve…");
    }
}
