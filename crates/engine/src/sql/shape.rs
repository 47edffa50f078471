//! The shape of a statement: its text without its plain values, by which statements that differ in values alone are one.
//!
//! Invariant: a shape and its values say together what the text says. Where that is not plain (comments, quotes within
//! quotes, numbers with a point) there is no shape, and the statement is parsed by itself.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{Expr, Statement, Value, ValueWithSpan, visit_expressions};
use kalamdb_protocol::{ConversationType, Params};
use serde_json::Value as Json;

/// Longer statements are rarely sent again.
const MAX_BYTES: usize = 2_048;
/// The name of the placeholder of the first value that was taken out is `$value_0`.
const VALUE: &str = "$value_";

/// A statement without its values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The text, with placeholders: `SELECT content FROM messages WHERE msgId = $value_0`.
    pub text: String,
    /// The values that were taken out: `7`.
    values: Vec<Literal>,
}

/// A plain value of a statement's text.
#[derive(Debug, PartialEq, Eq)]
enum Literal {
    Number(String),
    Text(String),
}

/// The values that stand behind a statement's placeholders.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    /// The statement has none.
    None,
    /// Whatever fits: to see what a statement asks for, and not of what.
    Any,
    /// Those of the text, and those of the request.
    Given(&'a Shape, Option<&'a Params>),
}

impl Shape {
    /// The shape of a statement; `None` where its values are not plain.
    pub fn of(sql: &str) -> Option<Self> {
        if sql.len() > MAX_BYTES || sql.contains(VALUE) {
            return None;
        }
        let mut shape = Self { text: String::with_capacity(sql.len() + 32), values: Vec::new() };
        let mut rest = sql;
        while let Some(first) = rest.bytes().next() {
            rest = shape.take(first, rest)?;
        }
        Some(shape)
    }

    /// Takes the next part of the text, which begins with `first`, and gives what is behind it.
    fn take<'a>(&mut self, first: u8, rest: &'a str) -> Option<&'a str> {
        match first {
            b'\'' => {
                let (text, behind) = rest[1..].split_once('\'')?;
                // `''` is a quote in the text, and a backslash may begin something else than itself.
                if behind.starts_with('\'') || text.contains('\\') {
                    return None;
                }
                self.put(Literal::Text(text.to_owned()));
                Some(behind)
            }
            b'0'..=b'9' => {
                let (digits, behind) = split_at_end(rest, |byte| byte.is_ascii_digit());
                // `1.5`, `1e3`, `0x1f`
                if behind.starts_with(|next: char| next == '.' || is_word(next)) {
                    return None;
                }
                self.put(Literal::Number(digits.to_owned()));
                Some(behind)
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => {
                let (word, behind) = split_at_end(rest, |byte| byte == b'$' || is_word(byte.into()));
                // `E'\n'`, and `$$text$$`
                if behind.starts_with(['\'', '"']) || word[1..].contains('$') {
                    return None;
                }
                self.text.push_str(word);
                Some(behind)
            }
            b'"' => {
                let end = rest[1..].find('"')? + 2;
                self.text.push_str(&rest[..end]);
                Some(&rest[end..])
            }
            b' ' | b'\n' | b'\t' | b'\r' | b',' | b'(' | b')' | b'*' | b'=' | b'<' | b'>' | b'+' | b'%' | b';'
            | b'!' => {
                self.text.push(first.into());
                Some(&rest[1..])
            }
            // Not before a digit, which would be a part of a number: `.5`.
            b'.' if !rest[1..].starts_with(|next: char| next.is_ascii_digit()) => {
                self.text.push('.');
                Some(&rest[1..])
            }
            // Comments begin with `-`, `/` and `#`; the rest is rare.
            _ => None,
        }
    }

    fn put(&mut self, value: Literal) {
        self.text.push_str(VALUE);
        self.text.push_str(&self.values.len().to_string());
        self.values.push(value);
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The front of a text whose bytes are all such, and what is behind it.
fn split_at_end(text: &str, is_inside: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !is_inside(byte)).unwrap_or(text.len()))
}

impl<'a> Values<'a> {
    /// The whole number, not negative, that is behind a placeholder.
    pub fn number(self, placeholder: &str) -> Option<i64> {
        let (shape, params) = match self {
            Self::None => return None,
            Self::Any => return Some(1),
            Self::Given(shape, params) => (shape, params),
        };
        match shape.literal(placeholder) {
            Some(Literal::Number(digits)) => digits.parse().ok(),
            Some(Literal::Text(_)) => None,
            None => param(params, placeholder)?.as_i64().filter(|number| *number >= 0),
        }
    }

    /// The text that is behind a placeholder.
    pub fn text(self, placeholder: &str) -> Option<&'a str> {
        let (shape, params) = match self {
            Self::None => return None,
            // A conversation may be called so, and a type is.
            Self::Any => return Some(ConversationType::Ai.as_str()),
            Self::Given(shape, params) => (shape, params),
        };
        match shape.literal(placeholder) {
            Some(Literal::Text(text)) => Some(text),
            Some(Literal::Number(_)) => None,
            None => param(params, placeholder)?.as_str(),
        }
    }
}

impl Shape {
    fn literal(&self, placeholder: &str) -> Option<&Literal> {
        self.values.get(placeholder.strip_prefix(VALUE)?.parse::<usize>().ok()?)
    }
}

/// A parameter of a request.
fn param<'a>(params: Option<&'a Params>, placeholder: &str) -> Option<&'a Json> {
    let name = placeholder.strip_prefix('$')?;
    match params? {
        Params::Positional(values) => values.get(name.parse::<usize>().ok()?.checked_sub(1)?),
        Params::Named(values) => values.get(name),
    }
}

/// The parameters that a statement uses: the highest position, and the number of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    positions: usize,
    names: usize,
}

impl Used {
    /// Those of a statement with placeholders.
    pub fn by(statement: &Statement) -> Self {
        let (mut positions, mut names) = (0, BTreeSet::new());
        let _: ControlFlow<()> = visit_expressions(statement, |expr| {
            if let Expr::Value(ValueWithSpan { value: Value::Placeholder(placeholder), .. }) = expr
                && !placeholder.starts_with(VALUE)
            {
                match placeholder.trim_start_matches('$').parse::<usize>() {
                    Ok(position) => positions = positions.max(position),
                    Err(_) => drop(names.insert(placeholder.clone())),
                }
            }
            ControlFlow::Continue(())
        });
        Self { positions, names: names.len() }
    }

    /// Whether a request gives these and no others: one that nothing refers to is told to the client.
    pub fn is_given(self, params: Option<&Params>) -> bool {
        match params {
            None => self == Self { positions: 0, names: 0 },
            Some(Params::Positional(values)) => self == Self { positions: values.len(), names: 0 },
            Some(Params::Named(values)) => self == Self { positions: 0, names: values.len() },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(sql: &str) -> Option<(String, Vec<Literal>)> {
        Shape::of(sql).map(|shape| (shape.text, shape.values))
    }

    #[test]
    fn plain_values_are_taken_out() {
        let sql = "SELECT \"a b1\", c1 FROM x WHERE msgId >= 12 AND t.c='d e' AND y = $1 LIMIT 50;";
        let text = "SELECT \"a b1\", c1 FROM x WHERE msgId >= $value_0 AND t.c=$value_1 AND y = $1 LIMIT $value_2;";
        let values = ["12", "50"].map(|digits| Literal::Number(digits.to_owned()));
        let [first, last] = values;
        assert_eq!(shape(sql), Some((text.to_owned(), vec![first, Literal::Text("d e".to_owned()), last])));
        assert_eq!(shape("SELECT 'né'").unwrap().1, [Literal::Text("né".to_owned())]);
    }

    #[test]
    fn what_is_not_plain_has_no_shape() {
        for sql in [
            "SELECT 'it''s'",
            "SELECT 'a\\b'",
            "SELECT E'a'",
            "SELECT x'6162'",
            "SELECT U&'a'",
            "SELECT 1.5",
            "SELECT .5",
            "SELECT 1e3",
            "SELECT 0x1f",
            "SELECT 1 -- one",
            "SELECT 1 - 1",
            "SELECT /* one */ 1",
            "SELECT 1 # one",
            "SELECT $$a$$",
            "SELECT $a$a$a$",
            "SELECT $value_0",
            "SELECT 'a",
            "SELECT \"a",
            "SELECT né",
            "SELECT `a`",
            "SELECT ?",
            "SELECT :a",
        ] {
            assert_eq!(shape(sql), None, "{sql}");
        }
        assert!(shape(&format!("SELECT '{}'", "x".repeat(MAX_BYTES))).is_none());
    }

    #[test]
    fn a_placeholder_finds_its_value() {
        let shape = Shape::of("SELECT 7, 'x', $1, $2").unwrap();
        let params = Some(serde_json::from_value::<Params>(json!(["p", 9])).unwrap());
        let values = Values::Given(&shape, params.as_ref());
        assert_eq!((values.number("$value_0"), values.text("$value_0")), (Some(7), None));
        assert_eq!((values.number("$value_1"), values.text("$value_1")), (None, Some("x")));
        assert_eq!((values.number("$1"), values.text("$1")), (None, Some("p")));
        assert_eq!((values.number("$2"), values.text("$2")), (Some(9), None));
        assert_eq!((values.number("$3"), values.text("$value_2"), values.text("$x")), (None, None, None));
        for (value, number) in [(json!(-1), None), (json!(1.0), None), (json!(null), None), (json!(0), Some(0))] {
            let params = Params::Named([("n".to_owned(), value)].into());
            assert_eq!(Values::Given(&shape, Some(&params)).number("$n"), number);
        }
    }

    #[test]
    fn a_template_takes_the_parameters_that_it_uses() {
        let used = |sql: &str| {
            let shape = Shape::of(sql).unwrap();
            super::super::template(&shape).unwrap().used
        };
        let params = |value| serde_json::from_value::<Params>(value).ok();
        let none = used("SELECT content FROM messages WHERE msgId = 7");
        assert!(none.is_given(None) && none.is_given(params(json!([])).as_ref()));
        assert!(!none.is_given(params(json!([1])).as_ref()));
        let second = used("SELECT content FROM messages WHERE msgId = $2");
        assert!(second.is_given(params(json!([1, 2])).as_ref()));
        assert!(!second.is_given(params(json!([1])).as_ref()) && !second.is_given(params(json!([1, 2, 3])).as_ref()));
        let named = used("SELECT content FROM messages WHERE msgId = $a AND conversationId = $b");
        assert!(named.is_given(params(json!({"a": 1, "b": 2})).as_ref()));
        assert!(!named.is_given(params(json!({"a": 1})).as_ref()) && !named.is_given(params(json!([1, 2])).as_ref()));
    }

    #[test]
    fn a_template_is_everybody_s_or_there_is_none() {
        let template = |sql: &str| Shape::of(sql).and_then(|shape| super::super::template(&shape)).is_some();
        assert!(template("SELECT content FROM messages WHERE msgId = 7"));
        assert!(template("SELECT content FROM userId.messages WHERE msgId = 7"));
        for sql in [
            "SELECT content FROM ann.messages WHERE msgId = 7",
            "SELECT content FROM nobody.messages WHERE msgId = 7",
            "SELECT content FROM \"nobody\".messages WHERE msgId = 7",
            "SELECT content FROM *.messages WHERE msgId = 7",
            "SELECT * FROM system.users",
            "DELETE FROM messages WHERE msgId = 7",
        ] {
            assert!(!template(sql), "{sql}");
        }
    }
}
