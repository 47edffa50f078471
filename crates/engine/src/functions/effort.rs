//! How much work a regular expression may be.
//!
//! Invariant: an upper bound, from the pattern's text alone. For each byte of the text that it looks into, a search may
//! stand at as many places of the pattern as there are once its repetitions are written out: `(\w{50}x){20}` is 1,020.

use std::{iter::Peekable, str::Chars};

/// Places of a pattern with which a byte is one step: all sets of so few that a search comes to are known to it soon.
const FEW_PLACES: u64 = 16;

/// Steps for each byte of a text.
pub(super) fn effort(pattern: &str) -> u64 {
    let places = places(pattern);
    if places <= FEW_PLACES { 1 } else { places }
}

/// A part between two parentheses.
#[derive(Default)]
struct Group {
    /// The places before the last item…
    before: u64,
    /// …and of that, which a repetition is about.
    last: u64,
}

impl Group {
    fn add(&mut self, places: u64) {
        self.before = self.places();
        self.last = places;
    }

    fn places(&self) -> u64 {
        self.before.saturating_add(self.last)
    }
}

/// The places of a pattern. One that is no regular expression has any number.
fn places(pattern: &str) -> u64 {
    let mut groups = vec![Group::default()];
    let mut chars = pattern.chars().peekable();
    while let Some(next) = chars.next() {
        let innermost = groups.len() - 1;
        match next {
            '(' => groups.push(Group::default()),
            // One too many closes what is there: a comment may hold it.
            ')' if innermost == 0 => groups[0] = Group { before: 0, last: groups[0].places() },
            ')' => {
                let inner = groups.pop().map_or(0, |group| group.places());
                groups[innermost - 1].add(inner);
            }
            '{' => match repetition(&mut chars) {
                Some(times) => groups[innermost].last = groups[innermost].last.saturating_mul(times.max(1)),
                None => groups[innermost].add(1),
            },
            '[' => {
                skip_class(&mut chars);
                groups[innermost].add(1);
            }
            '\\' => {
                skip_escaped(&mut chars);
                groups[innermost].add(1);
            }
            '*' | '+' | '?' | '|' | '^' | '$' => {}
            _ => groups[innermost].add(1),
        }
    }
    groups.iter().fold(0, |sum: u64, group| sum.saturating_add(group.places()))
}

/// The number of `{n}` or `{n,}`, and the larger one of `{n,m}`; `None` when there is none.
fn repetition(chars: &mut Peekable<Chars<'_>>) -> Option<u64> {
    let (mut number, mut largest) = (None, None);
    for next in chars.by_ref() {
        match next.to_digit(10) {
            Some(digit) => number = Some(number.unwrap_or(0_u64).saturating_mul(10).saturating_add(digit.into())),
            None => largest = largest.max(number.take()),
        }
        if next == '}' {
            break;
        }
    }
    largest.max(number)
}

/// Goes behind a class, `[a[bc]\]]`.
fn skip_class(chars: &mut Peekable<Chars<'_>>) {
    let mut depth = 1;
    // A bracket that comes first stands for itself.
    chars.next_if_eq(&'^');
    chars.next_if_eq(&']');
    while depth > 0
        && let Some(next) = chars.next()
    {
        match next {
            '\\' => drop(chars.next()),
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
    }
}

/// Goes behind what an escape is about: `\d`, `\p{Greek}`, `\x{7F}`.
fn skip_escaped(chars: &mut Peekable<Chars<'_>>) {
    let takes_braces = matches!(chars.next(), Some('p' | 'P' | 'x' | 'u' | 'U' | 'b'));
    if takes_braces && chars.next_if_eq(&'{').is_some() {
        chars.by_ref().take_while(|next| *next != '}').for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_written_out() {
        for (pattern, expected) in [
            ("", 0),
            ("abc", 3),
            ("^a.c$", 3),
            (r"\w{50}", 50),
            (r"(\w{50}x){20}", 1_020),
            (r"((a{10}){10}){10,}", 1_000),
            (r"(ab|c){2,5}", 15),
            (r"[a-z{}(]{3}", 3),
            (r"[]a[b\]]c]{4}", 4),
            (r"\p{Greek}{7}\{9", 9),
            ("a{x}{2}", 3),
            ("aaaa)bbb){10", 70),
            ("(a{4", 4),
        ] {
            assert_eq!(places(pattern), expected, "{pattern}");
        }
        assert_eq!(effort("(foo|bar)+"), 1);
        assert_eq!(effort(r"\w{100}"), 100);
        assert_eq!(places(&format!("(((((a{{999999}}{0}{0}{0}{0}", "){999999}")), u64::MAX);
    }
}
