//! Lines of `key=value` pairs, which one side writes and the other reads in the same order.

/// The pairs of a line that have not been taken yet.
pub struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    /// The pairs after `prefix`; None if the line does not begin with it.
    pub fn of(line: &'a str, prefix: &str) -> Option<Fields<'a>> {
        line.strip_prefix(prefix).map(Fields)
    }

    /// The value of the next pair, if its key is this.
    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.0.strip_prefix(key)?.strip_prefix('=')?;
        let (value, rest) = match value.split_once(' ') {
            // A blank at the end is no pair.
            Some((_, "")) => return None,
            Some(split) => split,
            None => (value, ""),
        };
        self.0 = rest;
        Some(value)
    }

    /// The value of the next pair, if its key is this and it is made of digits.
    pub fn number(&mut self, key: &str) -> Option<u64> {
        let digits = self.text(key)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    }

    /// None if there are pairs left.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_in_their_order() {
        let mut fields = Fields::of("x: a=1 b=two", "x: ").unwrap();
        assert_eq!(fields.text("b"), None);
        assert_eq!(fields.number("a"), Some(1));
        assert_eq!(fields.number("b"), None);
        assert!(fields.end().is_some());
        assert!(Fields::of("x: a=1", "y: ").is_none());
    }
}
