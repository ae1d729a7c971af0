//! Words and numbers of a command line, as the shell splits them and programs read them.

/// Why a line is not a list of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// A quotation mark is not closed.
    OpenQuote,
}

impl core::fmt::Display for LineError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LineError::OpenQuote => f.write_str("a quotation mark is not closed"),
        }
    }
}

/// Splits `line` at blanks and hands each word to `take`. A word that begins with `'` or `"` goes to
/// the next such mark, blanks included; one that begins with `#` ends the line.
pub fn split<'a>(line: &'a str, mut take: impl FnMut(&'a str)) -> Result<(), LineError> {
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '#' => return Ok(()),
            '\'' | '"' => rest[1..].split_once(first).ok_or(LineError::OpenQuote)?,
            _ => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        take(word);
        rest = after.trim_start();
    }
    Ok(())
}

/// Reads a number of bytes or anything else that is counted: decimal or `0x` hexadecimal, with an
/// optional binary suffix `K`, `M` or `G`.
pub fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16).ok()?,
        None if !digits.starts_with('+') => digits.parse().ok()?,
        _ => return None,
    };
    value.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> ([&str; 4], usize) {
        let mut found = [""; 4];
        let mut count = 0;
        split(line, |word| {
            found[count] = word;
            count += 1;
        })
        .unwrap();
        (found, count)
    }

    #[test]
    fn blanks_separate_and_quotes_hold_together() {
        assert_eq!(
            words("  cat\t etc/motd  "),
            (["cat", "etc/motd", "", ""], 2)
        );
        assert_eq!(
            words("echo 'a  b' \"it's\""),
            (["echo", "a  b", "it's", ""], 3)
        );
        assert_eq!(words("echo '' x"), (["echo", "", "x", ""], 3));
        assert_eq!(words("   "), (["", "", "", ""], 0));
    }

    #[test]
    fn a_comment_ends_the_line() {
        assert_eq!(words("ls # the rest"), (["ls", "", "", ""], 1));
        assert_eq!(words("echo a#b"), (["echo", "a#b", "", ""], 2));
        assert_eq!(words("# nothing 'open"), (["", "", "", ""], 0));
    }

    #[test]
    fn an_open_quote_is_an_error() {
        assert_eq!(split("echo 'a", |_| ()), Err(LineError::OpenQuote));
    }

    #[test]
    fn numbers_have_suffixes_and_limits() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("4096"), Some(4096));
        assert_eq!(number("64K"), Some(65_536));
        assert_eq!(number("0x10M"), Some(16 << 20));
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "K",
            "x",
            "-1",
            "+1",
            "0x",
            "0x+1",
            "1KB",
            "18446744073709551616",
            "17179869184G",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
