//! Text that others have made, on a line of ours: a path may hold any character.

use std::borrow::Cow;

/// The text with its control characters escaped: a newline is `\n`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut line = String::with_capacity(2 * text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_characters_are_escaped() {
        assert_eq!(one_line("a \\ 'ü' →\u{feff}"), "a \\ 'ü' →\u{feff}");
        let escaped = r"one\ntwo\r\t\u{1b}[2J\u{0}\u{7f}\u{9b}";
        assert_eq!(one_line("one\ntwo\r\t\x1b[2J\0\x7f\u{9b}"), escaped);
    }
}
