//! What slices and paths are called: each text once, and a small number for it.

/// A text, once for all who use it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(u16);

/// All texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

/// More different texts than these are a guest's mischief.
const MOST_NAMES: usize = 10_000;

impl Names {
    /// The name for this text.
    pub fn of(&mut self, text: &str) -> Name {
        let known = self.0.iter().position(|known| known == text);
        let number = known.unwrap_or_else(|| {
            if self.0.len() < MOST_NAMES {
                self.0.push(text.to_owned());
            }
            self.0.len() - 1
        });
        Name(number as u16)
    }

    /// The text.
    pub fn text(&self, name: Name) -> &str {
        self.0.get(usize::from(name.0)).map_or("", String::as_str)
    }
}
