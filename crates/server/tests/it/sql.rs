//! The SQL contract as data: every file in `slt/` runs three times, with its rows hot, cold and mixed.
//!
//! Invariant: what a file expects does not depend on where the rows lie.
//!
//! In the files, `connection bob` makes the next record `bob`'s (`admin` is an admin, `user_john` the default), a
//! last line `-- params: …` binds parameters, and an expected error is matched against `code: message`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use kalamdb_protocol::ErrorCode;
use serde_json::{Value, json};
use sqllogictest::{Connection, DB, DBOutput, DefaultColumnType, Record, Runner, parse_file, strict_column_validator};

use crate::harness::{Client, Failure, Server};

/// Where the rows lie when a statement meets them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    /// All in `RocksDB`.
    Hot,
    /// All in segments: consolidated before each statement that follows a write.
    Cold,
    /// Some here, some there: consolidated before every other one of these.
    Mixed,
}

/// One user's connection.
struct Session(Client);

impl DB for Session {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, text: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let body = match text.rsplit_once("\n-- params: ") {
            Some((sql, params)) => {
                json!({ "sql": sql, "params": serde_json::from_str::<Value>(params).expect("params are JSON") })
            }
            None => json!({ "sql": text }),
        };
        let answer: Value = self.0.post("/api/v1/query", &body)?;
        if let Some(count) = answer["rowsAffected"].as_u64() {
            return Ok(DBOutput::StatementComplete(count));
        }
        let types = answer["types"].as_array().expect("types").iter().map(column_type).collect();
        let row = |row: &Value| row.as_array().expect("a row").iter().map(cell).collect();
        Ok(DBOutput::Rows { types, rows: answer["rows"].as_array().expect("rows").iter().map(row).collect() })
    }
}

fn column_type(name: &Value) -> DefaultColumnType {
    match name.as_str().expect("a type's name") {
        "VARCHAR" => DefaultColumnType::Text,
        "BIGINT" | "INTEGER" | "INT" | "SMALLINT" | "TINYINT" => DefaultColumnType::Integer,
        "DOUBLE" | "REAL" | "FLOAT" => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Any,
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) if text.is_empty() => "(empty)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/slt");
    let entries = std::fs::read_dir(folder).expect("the folder of the files");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.iter().all(|file| file.extension().is_some_and(|extension| extension == "slt")), "{files:?}");
    files
}

/// Runs one file on a server of its own; its failures, in words.
fn run_file(file: &Path, tier: Tier) -> Result<(), String> {
    let server = Server::with(&[("rocksdb.durability", "os"), ("conversations.max_group_participants", "4")]);
    let admin = server.admin();
    // The runner does not tell a new connection its name, so it is left here before each record.
    let user = Arc::new(Mutex::new(String::new()));
    let mut runner = {
        let (user, server) = (user.clone(), &server);
        Runner::new(move || {
            let session = match user.lock().expect("nobody panics while holding it").as_str() {
                "admin" => server.admin(),
                name => server.client(name),
            };
            std::future::ready(Ok(Session(session)))
        })
    };
    runner.with_column_validator(strict_column_validator);
    let (mut written, mut writes) = (false, 0);
    let mut failures = Vec::new();
    for record in parse_file::<DefaultColumnType>(file).map_err(|error| error.to_string())? {
        let writing = matches!(record, Record::Statement { .. });
        if let Record::Statement { connection, .. }
        | Record::Query { connection, .. }
        | Record::Let { connection, .. } = &record
        {
            if written && (tier == Tier::Cold || tier == Tier::Mixed && writes % 2 == 0) {
                admin.consolidate();
            }
            written = writing;
            writes += usize::from(writing);
            *user.lock().expect("nobody panics while holding it") = match connection {
                Connection::Default => "user_john".to_owned(),
                Connection::Named(name) => name.clone(),
            };
        }
        if let Err(error) = runner.run(record) {
            failures.push(error.to_string());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// All files, and all failures of each: a rule that is broken often shows in several places.
fn run_all(tier: Tier) {
    let failures: Vec<String> = files().iter().filter_map(|file| run_file(file, tier).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn the_contract_holds_over_hot_rows() {
    run_all(Tier::Hot);
}

#[test]
fn the_contract_holds_over_cold_rows() {
    run_all(Tier::Cold);
}

#[test]
fn the_contract_holds_over_mixed_rows() {
    run_all(Tier::Mixed);
}

/// sqllogictest does not look at names.
#[test]
fn names_come_back_in_their_canonical_spelling() {
    let server = Server::start();
    let john = server.client("user_john");
    john.say("c1", "hello");
    for (sql, columns) in [
        ("SELECT MSGID, ConversationID, From FROM USERID.MESSAGES", vec!["msgId", "conversationId", "from"]),
        ("SELECT \"from\" FROM \"messages\"", vec!["from"]),
        ("SELECT m.conversationtype, M.CONTENTREF FROM userid.messages m", vec!["conversationType", "contentRef"]),
        ("SELECT from AS userId FROM messages", vec!["userId"]),
        ("SELECT COUNT(*) AS messageCount FROM messages", vec!["messageCount"]),
        (
            "SELECT userid, lastreadmsgid, unreadcount FROM conversations",
            vec!["userId", "lastReadMsgId", "unreadCount"],
        ),
        ("SELECT userid, conversationid FROM conversationusers", vec!["userId", "conversationId"]),
        ("SELECT MSGID, deletedat FROM USERID.deletedmessages", vec!["msgId", "deletedAt"]),
        ("SELECT auditid, Action FROM auditlog", vec!["auditId", "action"]),
    ] {
        match john.query(sql) {
            Ok(answer) => assert_eq!(answer.columns, columns, "{sql}"),
            Err(failure) => panic!("{failure}\nin: {sql}"),
        }
    }
}

#[test]
fn select_star_answers_the_tables_as_they_are_described() {
    let server = Server::start();
    let (john, admin) = (server.client("user_john"), server.admin());
    john.say("c1", "hello");
    for table in kalamdb_protocol::TABLES {
        let expected: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
        let own = john.query(&format!("SELECT * FROM userId.{}", table.name)).expect("one's own table");
        assert_eq!(own.columns, expected, "{}", table.name);
        let all = admin.query(&format!("SELECT * FROM *.{}", table.name)).expect("everybody's table");
        assert_eq!((all.columns[0].as_str(), &all.columns[1..]), ("owner", own.columns.as_slice()), "{}", table.name);
    }
}

/// `DataFusion`'s own DELETE ignores a LIMIT; ours either honours it or refuses it.
#[test]
fn a_limit_on_a_delete_is_never_ignored() {
    let server = Server::start();
    let john = server.client("user_john");
    for content in ["one", "two", "three"] {
        john.say("c1", content);
    }
    let deleted = match john.write("DELETE FROM userId.messages WHERE conversationId = 'c1' LIMIT 1") {
        Ok(answer) => answer.rows_affected,
        Err(failure) => {
            assert!(matches!(failure.code(), Some(ErrorCode::Unsupported | ErrorCode::SyntaxError)), "{failure}");
            0
        }
    };
    assert!(deleted <= 1);
    assert_eq!(john.rows("SELECT msgId FROM messages").len() as u64, 3 - deleted);
}

/// A position in an error is the one in the text that was sent, whatever `from` and `*.` became on the way.
#[test]
fn a_syntax_error_says_where() {
    let server = Server::start();
    let admin = server.admin();
    for (sql, line, column) in [
        ("SELECT from FROM messages WHERE", 1, 32),
        ("SELECT from, m.from\nFROM *.messages m\nWHERE from = 'x' AND )", 3, 22),
    ] {
        let Err(Failure::Refused(refusal)) = admin.query(sql) else { panic!("it parses: {sql}") };
        assert_eq!(refusal.error.error, ErrorCode::SyntaxError, "{sql}");
        let details = &refusal.error.details;
        let at = (details.get("line").and_then(Value::as_i64), details.get("column").and_then(Value::as_i64));
        assert_eq!(at.0, Some(line), "{sql}: {details:?}");
        // At the very end of the text the parser knows no column; anywhere else it has to be exact.
        if sql.ends_with(')') {
            assert_eq!(at.1, Some(column), "{sql}: {details:?}");
        }
    }
}

#[test]
fn a_misspelt_name_gets_suggestions() {
    let server = Server::start();
    let john = server.client("user_john");
    for (sql, code, suggestion) in [
        ("SELECT * FROM userId.mesages", ErrorCode::UnknownTable, "messages"),
        ("SELECT * FROM userId.deleted_messages", ErrorCode::UnknownTable, "deletedMessages"),
        ("SELECT * FROM auditLogs", ErrorCode::UnknownTable, "auditLog"),
        ("SELECT contents FROM userId.messages", ErrorCode::UnknownColumn, "content"),
        ("UPDATE userId.messages SET contnt = 'x'", ErrorCode::UnknownColumn, "content"),
        (
            "INSERT INTO userId.messages (conversationIdd, content) VALUES ('a', 'b')",
            ErrorCode::UnknownColumn,
            "conversationId",
        ),
    ] {
        let Err(Failure::Refused(refusal)) = john.query(sql) else { panic!("it is known: {sql}") };
        assert_eq!(refusal.error.error, code, "{sql}: {}", refusal.error.message);
        let suggestions = refusal.error.details.get("suggestions").and_then(Value::as_array).expect("suggestions");
        let found = suggestions.iter().any(|name| name.as_str().is_some_and(|name| name.ends_with(suggestion)));
        assert!(found, "{sql}: {suggestions:?}");
    }
}
