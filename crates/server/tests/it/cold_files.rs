//! The Parquet files as other programs meet them: `DuckDB` opens an owner's folder as it is.
//!
//! Invariant: the files are read by a program that knows nothing of this one.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{Server, bounded_output};

/// What `read_parquet.py` tells of a file.
#[derive(Deserialize)]
struct File {
    columns: Vec<(String, String)>,
    rows: Vec<Vec<Value>>,
    codecs: Vec<String>,
}

/// A Python that has `DuckDB`.
fn python() -> PathBuf {
    let own = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/kalamdb-venv/bin/python");
    let python = std::env::var_os("KALAMDB_PYTHON").map_or_else(own, PathBuf::from);
    assert!(python.is_file(), "no Python with DuckDB at {}: run `make test`, which installs it", python.display());
    python
}

/// Reads files of the base path, given relative to it.
fn read(server: &Server, files: &[String]) -> Vec<File> {
    let mut command = Command::new(python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/read_parquet.py"));
    command.args(files.iter().map(|file| server.data().join(file)));
    let output = bounded_output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// Three conversations in one owner's schema, written out of order.
fn some_messages(server: &Server) {
    let john = server.client("user_john");
    for round in 0..20 {
        for conversation in ["zoo", "arc", "mid"] {
            john.say(conversation, &format!("round {round}: \"{conversation}\" 🙂\n"));
        }
    }
    john.run("INSERT INTO messages (msgId, conversationId, from, timestamp, content, metadata) VALUES (5, 'mid', 'ai', 1699000000, 'early', '{\"k\":1}')");
    john.run("INSERT INTO messages (conversationId, conversationType, content) VALUES ('mid', 'group', 'beside')");
}

#[test]
fn a_segment_lies_where_the_founding_document_says() {
    let server = Server::start();
    some_messages(&server);
    server.admin().consolidate();
    server.client("user_john").say("arc", "another day's work");
    server.admin().consolidate();
    let files = server.segment_files();
    assert_eq!(files.len(), 2, "{files:?}");
    for (file, number) in files.iter().zip(["001", "002"]) {
        let name = file.strip_prefix("user_john/batch-").and_then(|rest| rest.strip_suffix(".parquet"));
        let (date, counter) = name.and_then(|name| name.split_once('-')).unwrap_or_else(|| panic!("{file}"));
        assert!(date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()), "{file}");
        assert_eq!(counter, number, "{file}");
    }
}

#[test]
fn a_segment_holds_the_messages_in_order() {
    let server = Server::start();
    some_messages(&server);
    server.admin().consolidate();
    let files = read(&server, &server.segment_files());
    let [file] = files.as_slice() else { panic!("one file") };
    let names: Vec<&str> = file.columns.iter().map(|(name, _)| name.as_str()).collect();
    let columns: Vec<&str> =
        kalamdb_protocol::TableId::Messages.table().columns.iter().map(|column| column.name).collect();
    for column in &columns {
        assert!(names.contains(column), "no {column} in {names:?}");
    }
    for (name, kind) in &file.columns {
        let number = ["msgId", "timestamp"].contains(&name.as_str());
        assert!(
            !columns.contains(&name.as_str()) || kind == if number { "BIGINT" } else { "VARCHAR" },
            "{name}: {kind}"
        );
    }
    assert_eq!(file.codecs, ["ZSTD"]);
    let at = |name: &str| names.iter().position(|column| *column == name).expect("it is there");
    let order: Vec<usize> = columns.iter().map(|column| at(column)).collect();
    let rows: Vec<Vec<Value>> =
        file.rows.iter().map(|row| order.iter().map(|&index| row[index].clone()).collect()).collect();
    let sql = "SELECT * FROM userId.messages ORDER BY conversationId, conversationType, msgId";
    assert_eq!(rows, server.client("user_john").rows(sql), "the same rows, sorted by conversation, then id");
}

#[test]
fn the_files_of_a_folder_together_hold_every_message_once() {
    let server = Server::start();
    let john = server.client("user_john");
    let mut sent = BTreeSet::new();
    for _ in 0..4 {
        for _ in 0..5 {
            sent.insert(john.say("c", "hello"));
        }
        server.admin().consolidate();
    }
    let files = read(&server, &server.segment_files());
    assert_eq!(files.len(), 4);
    let ids: Vec<i64> = files.iter().flat_map(|file| &file.rows).map(|row| id_of(&files[0], row)).collect();
    assert_eq!(ids.len(), sent.len());
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), sent);
}

fn id_of(file: &File, row: &[Value]) -> i64 {
    let index = file.columns.iter().position(|(name, _)| name == "msgId").expect("the id's column");
    row[index].as_i64().expect("an id")
}

/// `%41` is `A`.
fn percent_decoded(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().expect("two digits follow"), rest.next().expect("two digits follow")];
            let digits = std::str::from_utf8(&digits).expect("digits are ASCII").to_owned();
            bytes.push(u8::from_str_radix(&digits, 16).expect("hexadecimal digits"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("an id is UTF-8")
}

/// A case-blind disk, a path separator or a dot must not put two users into one folder, or one outside of it.
#[test]
fn each_user_has_a_folder_of_their_own() {
    let server = Server::start();
    let users = [
        "user_john",
        "auth0|123",
        "Bob",
        "bob",
        "BOB",
        "a+b@x.org",
        "..",
        ".",
        "a/b",
        "a\\b",
        "%41",
        "A",
        "名前",
        ".kalamdb",
        "Zoë",
    ];
    for user in users {
        server.client(user).say("c", user);
    }
    server.admin().consolidate();
    let files = server.segment_files();
    assert_eq!(files.len(), users.len(), "{files:?}");
    let folders: BTreeSet<&str> = files.iter().map(|file| file.rsplit_once('/').expect("a folder").0).collect();
    let decoded: BTreeSet<String> = folders.iter().map(|folder| percent_decoded(folder)).collect();
    assert_eq!(decoded, users.iter().map(|user| (*user).to_owned()).collect(), "{folders:?}");
    let blind: BTreeSet<String> = folders.iter().map(|folder| folder.to_lowercase()).collect();
    assert_eq!(blind.len(), users.len(), "{folders:?}");
    assert!(folders.contains("user_john"), "an ordinary id stays as it is: {folders:?}");
    assert!(folders.iter().all(|folder| folder.is_ascii() && !folder.contains(['/', '\\', '|'])), "{folders:?}");
    for user in users {
        assert_eq!(server.client(user).texts("SELECT content FROM messages"), [user]);
    }
}

/// What `system.segments` says is what lies there.
#[test]
fn the_segments_table_names_every_file() {
    let server = Server::start();
    some_messages(&server);
    server.client("auth0|123").say("c", "hello");
    server.admin().consolidate();
    let mut paths = server.admin().texts("SELECT path FROM system.segments");
    paths.sort();
    assert_eq!(paths, server.segment_files());
    let rows = server.admin().rows("SELECT userId, rows FROM system.segments ORDER BY userId");
    assert_eq!(rows, [vec![json!("auth0|123"), json!(1)], vec![json!("user_john"), json!(62)]]);
    for path in paths {
        let bytes = std::fs::metadata(server.data().join(&path)).expect("the file").len();
        assert_eq!(
            server.admin().number(&format!("SELECT bytes FROM system.segments WHERE path = '{path}'")),
            i64::try_from(bytes).expect("it fits")
        );
    }
}

/// Few messages stay hot: tiny files are worse than hot rows.
#[test]
fn the_interval_leaves_few_messages_hot_and_the_threshold_does_not_wait() {
    let server = Server::with(&[
        ("consolidation.interval_seconds", "1"),
        ("consolidation.min_batch_rows", "50"),
        ("consolidation.messages_threshold", "200"),
    ]);
    let (john, amy) = (server.client("user_john"), server.client("user_amy"));
    amy.say("c", "all alone");
    for _ in 0..60 {
        john.say("c", "one of many");
    }
    crate::harness::eventually("the interval moves a batch", || !server.segment_files().is_empty());
    assert!(server.segment_files().iter().all(|file| file.starts_with("user_john/")));
    assert_eq!(john.number("SELECT COUNT(*) FROM messages"), 60);
    let many = "INSERT INTO messages (conversationId, content) SELECT 'd', 'x' FROM UNNEST(generate_series(1, 300)) AS numbers(value)";
    assert_eq!(amy.run(many), 300);
    crate::harness::eventually("the threshold moves a batch", || {
        server.segment_files().iter().any(|file| file.starts_with("user_amy/"))
    });
    assert_eq!(amy.number("SELECT COUNT(*) FROM messages"), 301);
}

/// What was purged is in no file after a compaction: not for a program that never heard of deletion vectors, and not
/// beside the segments.
#[test]
fn after_a_compaction_no_file_holds_a_purged_message() {
    let server = Server::start();
    let (john, admin) = (server.client("user_john"), server.admin());
    let large = "a secret of many words, ".repeat(5_000);
    let kept = [john.say("c", "kept"), john.say("c", &format!("kept: {large}"))];
    let purged = [john.say("c", "purged"), john.say("c", &format!("purged: {large}")), john.say("gone", "purged too")];
    let waiting = john.say("c", "deleted, and may come back");
    let last = john.say("c", "last");
    let file_of = |id: i64| server.data().join(format!("user_john/msg-{id}.bin"));
    admin.consolidate();
    let before = server.segment_files();
    assert_eq!(before.len(), 1, "{before:?}");
    assert!(file_of(kept[1]).is_file() && file_of(purged[1]).is_file());

    let ids = format!("{}, {}", purged[0], purged[1]);
    assert_eq!(john.run(&format!("DELETE FROM messages WHERE msgId IN ({ids}, {waiting})")), 3);
    assert_eq!(john.run("DELETE FROM conversations WHERE conversationId = 'gone'"), 1);
    assert_eq!(john.run(&format!("DELETE FROM deletedMessages WHERE msgId IN ({ids}, {})", purged[2])), 3);
    let compact: Result<Value, _> = admin.post("/api/admin/compact", &json!({ "userId": "user_john" }));
    compact.unwrap_or_else(|failure| panic!("{failure}"));

    // The files that nothing needs any more are removed as soon as nobody reads them.
    crate::harness::eventually("the old segment is gone", || !server.segment_files().contains(&before[0]));
    crate::harness::eventually("the purged text is gone", || !file_of(purged[1]).exists());
    let files = read(&server, &server.segment_files());
    let mut found: BTreeSet<i64> = files.iter().flat_map(|file| file.rows.iter().map(|row| id_of(file, row))).collect();
    // What can still come back may lie there: it is deleted, and not purged.
    found.remove(&waiting);
    assert_eq!(found, BTreeSet::from([kept[0], kept[1], last]));
    for row in files.iter().flat_map(|file| &file.rows) {
        assert!(!json!(row).to_string().contains("purged"), "{row:?}");
    }
    assert!(file_of(kept[1]).is_file(), "what is kept keeps its file");

    let back = format!("UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = {waiting}");
    assert_eq!(john.run(&back), 1);
    assert_eq!(john.numbers("SELECT msgId FROM messages ORDER BY msgId"), [kept[0], kept[1], waiting, last]);
    assert_eq!(john.number("SELECT COUNT(*) FROM deletedMessages"), 0);
}
