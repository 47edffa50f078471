//! `SQLite` over the same rows, and when two answers are the same.
//!
//! Invariant: rows are compared as a bag, and in their order only where the statement says of any two unlike rows
//! which comes first.

use std::{sync::mpsc, thread, time::Duration};

use kalamdb_protocol::QueryResponse;
use rusqlite::{Connection, ErrorCode, params_from_iter, types::ValueRef};
use serde_json::{Value, json};

use super::forms::Type;

/// A column's name and type.
pub(super) type Columns = &'static [(&'static str, Type)];

const MESSAGES: Columns = &[
    ("msgId", Type::Int),
    ("conversationId", Type::Text),
    ("conversationType", Type::Text),
    ("from", Type::Text),
    ("timestamp", Type::Time),
    ("content", Type::Text),
    ("contentRef", Type::Text),
    ("metadata", Type::Json),
];

const CONVERSATIONS: Columns = &[
    ("conversationId", Type::Text),
    ("conversationType", Type::Text),
    ("userId", Type::Text),
    ("firstMsgId", Type::Int),
    ("lastMsgId", Type::Int),
    ("created", Type::Time),
    ("updated", Type::Time),
    ("storagePath", Type::Text),
    ("metadata", Type::Json),
    ("lastReadMsgId", Type::Int),
    ("unreadCount", Type::Int),
];

const MEMBERS: Columns = &[
    ("userId", Type::Text),
    ("conversationId", Type::Text),
    ("role", Type::Text),
    ("created", Type::Time),
    ("updated", Type::Time),
    ("metadata", Type::Json),
];

const DELETED: Columns = &[
    ("msgId", Type::Int),
    ("conversationId", Type::Text),
    ("conversationType", Type::Text),
    ("from", Type::Text),
    ("timestamp", Type::Time),
    ("content", Type::Text),
    ("contentRef", Type::Text),
    ("metadata", Type::Json),
    ("deletedAt", Type::Time),
    ("expiresAt", Type::Time),
];

/// The tables that are read.
pub(super) const TABLES: [(&str, Columns); 4] = [
    ("messages", MESSAGES),
    ("conversations", CONVERSATIONS),
    ("conversationUsers", MEMBERS),
    ("deletedMessages", DELETED),
];

/// The columns that tell a table's rows apart.
pub(super) fn key(table: &str) -> &'static [&'static str] {
    match table {
        "conversations" => &["conversationId", "conversationType"],
        "conversationUsers" => &["userId", "conversationId"],
        _ => &["msgId"],
    }
}

/// How long it may think: joins of joins, of which there are a few in ten thousand, are not worth minutes.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    Senseless(String),
    TooLong,
}

/// A database of `SQLite`.
pub(super) struct Judge(Connection);

impl Judge {
    /// With the tables, and no rows.
    pub(super) fn new() -> Self {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA case_sensitive_like = ON").unwrap();
        for (table, columns) in TABLES {
            let column = |(name, kind): &(&str, Type)| {
                let stored = if matches!(kind, Type::Int | Type::Time) { "INTEGER" } else { "TEXT" };
                format!("\"{name}\" {stored}")
            };
            let columns: Vec<_> = columns.iter().map(column).collect();
            connection.execute_batch(&format!("CREATE TABLE {table} ({})", columns.join(", "))).unwrap();
        }
        Self(connection)
    }

    /// Puts rows into a table.
    pub(super) fn fill(&self, table: &str, rows: &[Vec<Value>]) {
        for row in rows {
            let places = vec!["?"; row.len()].join(", ");
            let value = |value: &Value| match value {
                Value::Null => rusqlite::types::Value::Null,
                Value::Number(number) => rusqlite::types::Value::Integer(number.as_i64().expect("a whole number")),
                Value::String(text) => rusqlite::types::Value::Text(text.clone()),
                other => panic!("{other} is in no column"),
            };
            let sql = format!("INSERT INTO {table} VALUES ({places})");
            self.0.execute(&sql, params_from_iter(row.iter().map(value))).unwrap();
        }
    }

    /// All rows of a table.
    pub(super) fn all(&self, table: &str, width: usize) -> Vec<Vec<Value>> {
        let rows = self.rows(&format!("SELECT * FROM {table}"), width).unwrap();
        rows.into_iter().map(|row| row.into_iter().map(Cell::into_json).collect()).collect()
    }

    /// What it answers, or what it has against the statement.
    pub(super) fn rows(&self, sql: &str, width: usize) -> Result<Vec<Vec<Cell>>, Refusal> {
        let run = || -> rusqlite::Result<Vec<Vec<Cell>>> {
            let mut statement = self.0.prepare(sql)?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let cell = |column| Ok(Cell::of_sqlite(row.get_ref(column)?));
                found.push((0..width).map(cell).collect::<rusqlite::Result<_>>()?);
            }
            Ok(found)
        };
        let interrupt = self.0.get_interrupt_handle();
        let (done, waiting) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    interrupt.interrupt();
                }
            });
            let rows = run();
            drop(done);
            rows.map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::OperationInterrupted) => Refusal::TooLong,
                _ => Refusal::Senseless(error.to_string()),
            })
        })
    }
}

/// A value, as both have it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    /// A fraction, to nine digits.
    Real(String),
    /// What no column has.
    Other(String),
}

impl Cell {
    fn of_sqlite(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Int(number),
            ValueRef::Real(number) => Self::real(number),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(_) => Self::Other("a blob".to_owned()),
        }
    }

    fn of_ours(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Int(i64::from(*truth)),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Self::Int(number),
                (None, Some(number)) => Self::real(number),
                (None, None) => Self::Other(number.to_string()),
            },
            Value::String(text) => Self::Text(text.clone()),
            other => Self::Other(other.to_string()),
        }
    }

    fn real(number: f64) -> Self {
        // There is a zero below zero too.
        Self::Real(format!("{:.9e}", if number == 0.0 { 0.0 } else { number }))
    }

    fn into_json(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Int(number) => json!(number),
            Self::Text(text) | Self::Real(text) | Self::Other(text) => json!(text),
        }
    }
}

/// Our rows, as cells.
pub(super) fn cells(answer: &QueryResponse) -> Vec<Vec<Cell>> {
    answer.rows.iter().map(|row| row.iter().map(Cell::of_ours).collect()).collect()
}

/// How what came differs from what should have come. `cut`: whether what came may be the beginning only.
pub(super) fn difference(came: &[Vec<Cell>], expected: &[Vec<Cell>], ordered: bool, cut: bool) -> Option<String> {
    let shown = |rows: &[Vec<Cell>]| -> String {
        let rows: Vec<_> = rows.iter().take(12).map(|row| format!("  {}", line(row))).collect();
        rows.join("\n")
    };
    if ordered {
        let end = if cut { came.len().min(expected.len()) } else { expected.len() };
        if came != &expected[..end] {
            return Some(format!(
                "{} rows came:\n{}\n{} should, in this order:\n{}",
                came.len(),
                shown(came),
                expected.len(),
                shown(expected)
            ));
        }
        return None;
    }
    let (more, missing) = leftover(came, expected);
    if more.is_empty() && (missing.is_empty() || (cut && came.len() + missing.len() == expected.len())) {
        return None;
    }
    Some(format!(
        "{} rows came, {} should have\ntoo many:\n{}\nmissing:\n{}",
        came.len(),
        expected.len(),
        shown(&more),
        shown(&missing)
    ))
}

fn line(row: &[Cell]) -> String {
    let cells: Vec<_> = row
        .iter()
        .map(|cell| match cell {
            Cell::Null => "NULL".to_owned(),
            Cell::Int(number) => number.to_string(),
            Cell::Text(text) => format!("{text:?}"),
            Cell::Real(text) | Cell::Other(text) => text.clone(),
        })
        .collect();
    cells.join(", ")
}

/// What is in one bag and not in the other, each way.
fn leftover(left: &[Vec<Cell>], right: &[Vec<Cell>]) -> (Vec<Vec<Cell>>, Vec<Vec<Cell>>) {
    let (mut left, mut right) = (left.to_vec(), right.to_vec());
    left.sort();
    right.sort();
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    let (mut only_left, mut only_right) = (Vec::new(), Vec::new());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return (only_left, only_right),
            (Some(one), Some(other)) if one == other => {
                left.next();
                right.next();
            }
            (Some(one), Some(other)) if one > other => only_right.extend(right.next()),
            (None, Some(_)) => only_right.extend(right.next()),
            (Some(_), _) => only_left.extend(left.next()),
        }
    }
}
