//! Answers as a person or a program wants to read them.
//!
//! Invariant: a table is for people: what a terminal would obey is shown, not done. JSON and CSV are for programs:
//! every value is there as the server gave it.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Grid, presets};
use kalamdb_protocol::{ColumnType, QueryResponse, SYSTEM_SCHEMA, SYSTEM_TABLES, TABLES, Table, WriteResponse};
use serde_json::Value;

use super::Format;
use crate::cli::{
    client::Answer,
    text::{counted, printable, thousands},
};

/// Ids shown after an INSERT; more would fill the screen.
const SHOWN_IDS: usize = 5;

/// Writes an answer to `out`, and what is not part of the data to `notes`.
pub(super) fn answer(answer: &Answer, format: Format, out: &mut impl Write, notes: &mut impl Write) -> io::Result<()> {
    match (answer, format) {
        (Answer::Rows(rows), Format::Table) => {
            table(rows, out)?;
            writeln!(out, "{}", summary(rows))
        }
        (Answer::Rows(rows), Format::Json) => json(rows, out).and_then(|()| warn_of_cut(rows, notes)),
        (Answer::Rows(rows), Format::Csv) => csv(rows, out).and_then(|()| warn_of_cut(rows, notes)),
        (Answer::Written(written), Format::Table) => writeln!(out, "{}", outcome(written)),
        (Answer::Written(written), Format::Json) => {
            serde_json::to_writer(&mut *out, written)?;
            writeln!(out)
        }
        (Answer::Written(written), Format::Csv) => writeln!(notes, "{}", outcome(written)),
    }
}

fn table(rows: &QueryResponse, out: &mut impl Write) -> io::Result<()> {
    let mut table = new_table();
    table.set_header(rows.columns.iter().map(|column| printable(column)));
    for row in &rows.rows {
        table.add_row(row.iter().map(|value| Cell::new(shown(value))));
    }
    for (index, sql_type) in rows.types.iter().enumerate() {
        if is_number(sql_type)
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}")
}

/// Each row for itself, a column on each line: for rows that no screen is wide enough for.
///
/// ```text
/// ─[ row 1 ]──────
/// msgId   │ 7389405184819201
/// content │ Hello
/// ```
pub(super) fn expanded(rows: &QueryResponse, out: &mut impl Write) -> io::Result<()> {
    let names: Vec<_> = rows.columns.iter().map(|column| printable(column)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    for (index, row) in rows.rows.iter().enumerate() {
        writeln!(out, "─[ row {} ]──────", thousands(index as u64 + 1))?;
        for (name, value) in names.iter().zip(row) {
            // Further lines of a text stand below its first.
            let value = shown(value).replace('\n', &format!("\n{:width$} │ ", ""));
            writeln!(out, "{name:width$} │ {value}")?;
        }
    }
    writeln!(out, "{}", summary(rows))
}

/// A table that fits the terminal, or is as wide as it likes where there is none.
fn new_table() -> Grid {
    let mut table = Grid::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => printable(text).into_owned(),
        other => other.to_string(),
    }
}

fn is_number(sql_type: &str) -> bool {
    ["INT", "DOUBLE", "FLOAT", "REAL", "DECIMAL", "NUMERIC"].iter().any(|name| sql_type.contains(name))
}

fn summary(rows: &QueryResponse) -> String {
    let time = milliseconds(rows.execution_time_ms);
    let count = counted(rows.row_count as u64, "row");
    if rows.truncated { format!("(the first {count}; {CUT}; {time})") } else { format!("({count}, {time})") }
}

const CUT: &str = "there are more, truncated at the server's query.max_rows";

fn warn_of_cut(rows: &QueryResponse, notes: &mut impl Write) -> io::Result<()> {
    if rows.truncated { writeln!(notes, "{}", summary(rows)) } else { Ok(()) }
}

fn outcome(written: &WriteResponse) -> String {
    let rows = counted(written.rows_affected, "row");
    let ids = written.msg_ids.as_deref().unwrap_or_default();
    let mut names: Vec<String> = ids.iter().take(SHOWN_IDS).map(ToString::to_string).collect();
    if ids.len() > SHOWN_IDS {
        names.push(format!("… {} more", thousands((ids.len() - SHOWN_IDS) as u64)));
    }
    let ids = if names.is_empty() { String::new() } else { format!(", msgId {}", names.join(", ")) };
    let created = if written.conversation_created { ", in a new conversation" } else { "" };
    format!("({rows} affected{ids}{created}, {})", milliseconds(written.execution_time_ms))
}

/// A time for people: `1.2 ms`, `12.3 s`.
pub(super) fn milliseconds(time: f64) -> String {
    if time < 10_000.0 { format!("{time:.1} ms") } else { format!("{:.1} s", time / 1_000.0) }
}

/// An array of objects, one on each line. Written by hand, because two columns may have one name.
fn json(rows: &QueryResponse, out: &mut impl Write) -> io::Result<()> {
    write!(out, "[")?;
    for (row_index, row) in rows.rows.iter().enumerate() {
        write!(out, "{}", if row_index == 0 { "{" } else { ",\n{" })?;
        for (index, (column, value)) in rows.columns.iter().zip(row).enumerate() {
            if index > 0 {
                write!(out, ",")?;
            }
            serde_json::to_writer(&mut *out, column)?;
            write!(out, ":")?;
            serde_json::to_writer(&mut *out, value)?;
        }
        write!(out, "}}")?;
    }
    writeln!(out, "]")
}

/// With a header line; NULL is empty.
fn csv(rows: &QueryResponse, out: &mut impl Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(&rows.columns)?;
    for row in &rows.rows {
        writer.write_record(row.iter().map(|value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }))?;
    }
    writer.flush()
}

/// `\d`: the tables, or the columns of one; `false` when there is no such table.
pub(super) fn describe(name: &str, out: &mut impl Write) -> io::Result<bool> {
    let mut table = new_table();
    if name.is_empty() {
        table.set_header(["table", "key", "columns"]);
        for (name, described) in known_tables() {
            let columns: Vec<&str> = described.columns.iter().map(|column| column.name).collect();
            table.add_row([name.as_str(), &described.key.join(", "), &columns.join(", ")]);
        }
    } else if let Some((_, described)) = known_tables().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        table.set_header(["column", "type", "null", "key"]);
        for column in described.columns {
            let null = if column.nullable { "yes" } else { "" };
            let key = if described.key.contains(&column.name) { "yes" } else { "" };
            table.add_row([column.name, type_name(column.kind), null, key]);
        }
    } else {
        return Ok(false);
    }
    writeln!(out, "{table}")?;
    Ok(true)
}

/// All tables, by the names that statements call them.
pub(super) fn known_tables() -> impl Iterator<Item = (String, &'static Table)> {
    let own = TABLES.iter().map(|table| (table.name.to_owned(), table));
    own.chain(SYSTEM_TABLES.iter().map(|table| (format!("{SYSTEM_SCHEMA}.{}", table.name), table)))
}

const fn type_name(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::BigInt => "BIGINT",
        ColumnType::Time => "BIGINT (time, microseconds UTC)",
        ColumnType::Text => "VARCHAR",
        ColumnType::Json => "VARCHAR (JSON)",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> QueryResponse {
        QueryResponse {
            columns: vec!["msgId".into(), "content".into()],
            types: vec!["BIGINT".into(), "VARCHAR".into()],
            rows: vec![
                vec![json!(1), json!("hi, \u{1b}[2J\"you\"")],
                vec![json!(9_007_199_254_740_991_i64), Value::Null],
            ],
            row_count: 2,
            truncated: false,
            execution_time_ms: 1.25,
        }
    }

    fn rendered(given: &Answer, format: Format) -> (String, String) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        answer(given, format, &mut out, &mut notes).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
    }

    #[test]
    fn a_table_is_for_people() {
        let (out, _) = rendered(&Answer::Rows(rows()), Format::Table);
        assert!(out.contains("│                1 ┆ hi, \\u{1b}[2J\"you\" │"), "{out}");
        assert!(out.contains("│ 9007199254740991 ┆ NULL"), "{out}");
        assert!(out.ends_with("(2 rows, 1.2 ms)\n"), "{out}");
    }

    #[test]
    fn json_and_csv_are_for_programs() {
        let (out, notes) = rendered(&Answer::Rows(rows()), Format::Json);
        let read: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(read[0]["content"], "hi, \u{1b}[2J\"you\"");
        assert_eq!(read[1], json!({"msgId": 9_007_199_254_740_991_i64, "content": null}));
        assert_eq!(notes, "");
        let (out, _) = rendered(&Answer::Rows(rows()), Format::Csv);
        assert_eq!(out, "msgId,content\n1,\"hi, \u{1b}[2J\"\"you\"\"\"\n9007199254740991,\n");
        let empty = QueryResponse { rows: Vec::new(), row_count: 0, ..rows() };
        assert_eq!(rendered(&Answer::Rows(empty), Format::Json).0, "[]\n");
    }

    #[test]
    fn rows_may_come_one_below_the_other() {
        let mut wide = rows();
        wide.rows[0][1] = json!("two\nlines\u{1b}");
        let mut out = Vec::new();
        expanded(&wide, &mut out).unwrap();
        let expected = "─[ row 1 ]──────\nmsgId   │ 1\ncontent │ two\n        │ lines\\u{1b}\n\
                        ─[ row 2 ]──────\nmsgId   │ 9007199254740991\ncontent │ NULL\n(2 rows, 1.2 ms)\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_cut_answer_says_so() {
        let cut = Answer::Rows(QueryResponse { truncated: true, ..rows() });
        assert!(rendered(&cut, Format::Table).0.contains("truncated"));
        assert!(rendered(&cut, Format::Csv).1.contains("truncated"));
        assert!(!rendered(&cut, Format::Csv).0.contains("truncated"));
    }

    #[test]
    fn a_write_says_what_it_did() {
        let written = |ids: Vec<i64>| WriteResponse {
            rows_affected: 1,
            msg_ids: Some(ids),
            conversation_created: false,
            execution_time_ms: 0.75,
        };
        assert_eq!(outcome(&written(vec![7])), "(1 row affected, msgId 7, 0.8 ms)");
        assert_eq!(outcome(&written((1..=7).collect())), "(1 row affected, msgId 1, 2, 3, 4, 5, … 2 more, 0.8 ms)");
        let begun = WriteResponse { conversation_created: true, ..written(vec![7]) };
        assert_eq!(outcome(&begun), "(1 row affected, msgId 7, in a new conversation, 0.8 ms)");
        let deleted =
            WriteResponse { rows_affected: 0, msg_ids: None, conversation_created: false, execution_time_ms: 12_345.0 };
        assert_eq!(outcome(&deleted), "(0 rows affected, 12.3 s)");
        assert_eq!(rendered(&Answer::Written(written(vec![7])), Format::Csv).0, "");
    }

    #[test]
    fn tables_and_columns_are_described() {
        let described = |name: &str| {
            let mut out = Vec::new();
            (describe(name, &mut out).unwrap(), String::from_utf8(out).unwrap())
        };
        assert!(described("").1.contains("conversationUsers") && described("").1.contains("system.segments"));
        assert!(described("system.USERS").1.contains("hotMessages"));
        assert!(described("MESSAGES").1.contains("contentRef"));
        assert_eq!(described("nothing"), (false, String::new()));
    }
}
