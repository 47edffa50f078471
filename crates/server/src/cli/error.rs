//! Errors, as somebody at a terminal sees them.
//!
//! Invariant: each message is a sentence that says what to do; tokens and secrets are in none of them.

use std::fmt;

use kalamdb_protocol::{ErrorBody, ErrorCode};

use super::text::printable;

/// Why a sub-command ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with an error.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer, or not one of a KalamDB server.
    #[error("{0}")]
    Server(String),
    /// The local settings or secret cannot be used.
    #[error("{0}")]
    Settings(String),
    /// A file or an argument cannot be used.
    #[error("{0}")]
    Input(String),
    /// The terminal, or the file or pipe in its place, cannot be written.
    #[error("The output cannot be written: {0}.")]
    Output(std::io::Error),
    /// The terminal cannot be read.
    #[error("The terminal cannot be read: {0}.")]
    Terminal(#[from] rustyline::error::ReadlineError),
}

/// An error answer, with the statement it is about.
#[derive(Debug)]
pub struct Refusal {
    /// The server's error.
    pub body: ErrorBody,
    /// The statement, to point into.
    pub statement: Option<String>,
}

impl Error {
    /// The code, when the server gave one.
    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.body.error),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorBody { error, message, .. } = &self.body;
        // A message of ours holds no content, and a server elsewhere may be anybody's.
        write!(f, "{} ({})", printable(message), error.as_str())?;
        match (self.statement.as_deref(), self.place()) {
            (Some(statement), Some((line, column))) => match point_at(statement, line, column) {
                Some(picture) => write!(f, "\n{picture}"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl Refusal {
    /// Line and column in the statement, from 1.
    fn place(&self) -> Option<(usize, usize)> {
        let number = |name: &str| self.body.details.get(name)?.as_u64().and_then(|n| usize::try_from(n).ok());
        Some((number("line")?, number("column")?))
    }
}

/// Characters shown before and after the place in a long line, so that line and caret stay on one row each.
const CONTEXT_CHARS: usize = 36;

/// The line of the statement with a caret under the column.
fn point_at(statement: &str, line: usize, column: usize) -> Option<String> {
    let text: Vec<char> = statement
        .lines()
        .nth(line.checked_sub(1)?)?
        .chars()
        // A character is one column on the screen, as in the server's counting.
        .map(|c| if c.is_control() || printable(c.encode_utf8(&mut [0; 4])).len() > 4 { ' ' } else { c })
        .collect();
    let column = column.checked_sub(1)?.min(text.len());
    let start = column.saturating_sub(CONTEXT_CHARS);
    let end = text.len().min(column + CONTEXT_CHARS);
    let shown: String = text[start..end].iter().collect();
    let prefix = format!("line {line}: {}", if start > 0 { "…" } else { "" });
    let suffix = if end < text.len() { "…" } else { "" };
    let indent = prefix.chars().count() + column - start;
    Some(format!("{prefix}{shown}{suffix}\n{:indent$}^", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_is_pointed_at() {
        let mut body = ErrorBody {
            error: ErrorCode::SyntaxError,
            message: "Expected an expression, found FROM.".into(),
            details: serde_json::Map::new(),
        };
        body.details.insert("line".into(), 2.into());
        body.details.insert("column".into(), 8.into());
        let refusal = Refusal { body, statement: Some("SELECT 1,\n\tcount FRM messages".into()) };
        assert_eq!(
            refusal.to_string(),
            "Expected an expression, found FROM. (syntax_error)\nline 2:  count FRM messages\n               ^"
        );
    }

    #[test]
    fn a_terminal_obeys_nothing_of_an_error() {
        let body = ErrorBody {
            error: ErrorCode::InvalidValue,
            message: "Cannot cast '\u{1b}]0;gone\u{7}' to BIGINT.".into(),
            details: serde_json::from_str(r#"{"line": 1, "column": 8}"#).unwrap(),
        };
        let told = Refusal { body, statement: Some("SELECT \u{1b}[2J\u{202e}x".into()) }.to_string();
        assert!(!told.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{told:?}");
        assert!(told.starts_with("Cannot cast '\\u{1b}]0;gone\\u{7}' to BIGINT. (invalid_value)"), "{told}");
    }

    #[test]
    fn a_place_that_is_not_there_is_not_shown() {
        assert_eq!(point_at("SELECT", 0, 1), None);
        assert_eq!(point_at("SELECT", 2, 1), None);
        assert_eq!(point_at("SELECT", 1, 99).as_deref(), Some("line 1: SELECT\n              ^"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let statement = format!("{}here{}", "x".repeat(200), "y".repeat(200));
        let picture = point_at(&statement, 1, 201).unwrap();
        let (line, caret) = picture.split_once('\n').unwrap();
        let under = line.chars().nth(caret.chars().count() - 1);
        assert_eq!(under, Some('h'));
        assert!(line.chars().count() < 90, "{line}");
    }
}
