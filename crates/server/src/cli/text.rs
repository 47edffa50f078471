//! Small things about text for people.
//!
//! Invariant: what came from a server or a file reaches a terminal through [`printable`] only: a message's content
//! is somebody else's, and must not move the cursor or recolour the screen.

use std::borrow::Cow;

/// The text with everything that a terminal would obey, but line feeds and tabs, shown instead of done.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            // Bidirectional overrides reorder what stands beside them.
            || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(obeyed) {
        let shown = text.chars().map(|c| if obeyed(c) { c.escape_unicode().to_string() } else { c.to_string() });
        return Cow::Owned(shown.collect());
    }
    Cow::Borrowed(text)
}

/// A number as `12,345`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `2 messages`.
pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_a_message() {
        assert_eq!(printable("two\nlines\tand 🙂"), "two\nlines\tand 🙂");
        assert_eq!(printable("\u{1b}[31mred\r"), "\\u{1b}[31mred\\u{d}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(2_000, "row"), "2,000 rows");
    }
}
