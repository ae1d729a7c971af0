//! What slices and paths are called: each text once, and a small number for it.

use std::collections::HashMap;

/// A text, once for all who use it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(u16);

/// All texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    texts: Vec<String>,
    numbers: HashMap<String, u16>,
}

/// More different texts than these are a guest's mischief.
const MOST_NAMES: usize = 10_000;
/// What all further ones are called.
const FURTHER: &str = "one of too many names";

impl Names {
    /// The name for this text, which a guest or a file may have made up.
    pub fn of(&mut self, text: &str) -> Name {
        match self.texts.len() < MOST_NAMES || self.numbers.contains_key(text) {
            true => self.ours(text),
            false => self.ours(FURTHER),
        }
    }

    /// The name for a text of our own, of which there are few: there is always room.
    pub fn ours(&mut self, text: &str) -> Name {
        if let Some(number) = self.numbers.get(text) {
            return Name(*number);
        }
        let number = self.texts.len() as u16;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        Name(number)
    }

    /// The text.
    pub fn text(&self, name: Name) -> &str {
        self.texts
            .get(usize::from(name.0))
            .map_or("", String::as_str)
    }
}
