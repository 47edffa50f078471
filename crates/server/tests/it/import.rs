//! Real conversations, imported by the command line and compared with their files, message for message.
//!
//! Invariant: what is expected comes from the files alone, read here by other code than the importer's.
//!
//! The files lie in `tests/data`; `KALAMDB_TEST_DATA` names a folder with more of the same kind.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use flate2::read::GzDecoder;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{Server, bounded_output, eventually};

const FILES: [&str; 2] = ["ai_conversations.ndjson.gz", "group_conversations.ndjson.gz"];

/// A line of the files.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    owner: Option<String>,
    #[serde(default)]
    participants: Vec<String>,
    conversation_id: String,
    conversation_type: String,
    from: String,
    turn: usize,
    content: String,
    metadata: Value,
}

/// Owner, conversation, type.
type Key = (String, String, String);

/// What a message says: sender, text, metadata.
type Said = (String, String, Value);

/// Everything that everybody has, in order, with ids.
type History = BTreeMap<Key, Vec<(i64, Said)>>;

fn folder() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let folder = std::env::var_os("KALAMDB_TEST_DATA").map_or_else(ours, PathBuf::from);
    let there = FILES.iter().all(|file| folder.join(file).is_file());
    assert!(there, "no {FILES:?} in {}; set KALAMDB_TEST_DATA to the folder that holds them", folder.display());
    folder.canonicalize().expect("it is there")
}

fn files() -> Vec<String> {
    let path = |file: &&str| folder().join(file).to_str().expect("a UTF-8 path").to_owned();
    FILES.iter().map(path).collect()
}

/// What the files hold.
#[derive(Default)]
struct Expected {
    /// What each owner should have of each conversation, in order.
    histories: BTreeMap<Key, Vec<Said>>,
    /// The number of messages; a group's message counts once.
    messages: usize,
}

impl Expected {
    /// The number of copies: one of each message for each participant.
    fn copies(&self) -> usize {
        self.histories.values().map(Vec::len).sum()
    }
}

fn expected() -> Expected {
    let mut expected = Expected::default();
    for path in files() {
        let file = GzDecoder::new(std::fs::File::open(path).expect("the file"));
        for line in BufReader::new(file).lines() {
            let line: Line = serde_json::from_str(&line.expect("a line")).expect("a message");
            expected.messages += 1;
            for owner in line.owner.iter().chain(&line.participants) {
                let key = (owner.clone(), line.conversation_id.clone(), line.conversation_type.clone());
                let messages = expected.histories.entry(key).or_default();
                assert_eq!(messages.len(), line.turn, "the file counts its turns from 0");
                messages.push((line.from.clone(), line.content.clone(), line.metadata.clone()));
            }
        }
    }
    assert!(expected.messages > 10_000, "a history that is worth importing");
    expected
}

/// What everybody has, as an admin reads it.
fn history(server: &Server) -> History {
    let sql = "SELECT owner, conversationId, conversationType, msgId, from, content, metadata \
               FROM *.messages ORDER BY owner, conversationId, conversationType, msgId";
    let body = json!({ "sql": sql }).to_string();
    let headers = [("accept", "application/x-ndjson")];
    let answer = server.admin().request(Method::POST, "/api/v1/query", &headers, Some(&body)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.text().lines().last().is_some_and(|line| line.contains("\"truncated\":true")), "it was cut");
    let mut history = History::new();
    for line in answer.text().lines() {
        let row: Value = serde_json::from_str(line).expect("an object");
        let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        let metadata = serde_json::from_str(&text("metadata")).expect("JSON text");
        let id = row["msgId"].as_i64().expect("an id");
        let key = (text("owner"), text("conversationId"), text("conversationType"));
        history.entry(key).or_default().push((id, (text("from"), text("content"), metadata)));
    }
    history
}

fn server() -> Server {
    Server::with(&[("query.max_rows", "100000"), ("rocksdb.durability", "os")])
}

/// Compares what everybody has with the files, and the conversation rows with it.
fn check(server: &Server, expected: &Expected) -> History {
    let history = history(server);
    assert_eq!(history.len(), expected.histories.len(), "conversations");
    for (key, messages) in &expected.histories {
        let read: Vec<&Said> = history[key].iter().map(|(_, said)| said).collect();
        assert!(read.iter().copied().eq(messages), "{key:?}:\n{read:#?}\ninstead of\n{messages:#?}");
    }
    let rows = server
        .admin()
        .rows("SELECT owner, conversationId, conversationType, firstMsgId, lastMsgId FROM *.conversations");
    assert_eq!(rows.len(), history.len(), "conversation rows");
    for row in rows {
        let text = |index: usize| row[index].as_str().expect("a text").to_owned();
        let messages = &history[&(text(0), text(1), text(2))];
        let (first, last) = (messages[0].0, messages[messages.len() - 1].0);
        assert_eq!((&row[3], &row[4]), (&json!(first), &json!(last)), "{row:?}");
    }
    history
}

fn import(server: &Server) {
    let files = files();
    let mut arguments = vec!["import"];
    arguments.extend(files.iter().map(String::as_str));
    let output = server.cli(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_imported_is_what_is_in_the_files() {
    let mut server = server();
    let expected = expected();
    import(&server);
    let imported = check(&server, &expected);
    let same = |server: &Server, when: &str| assert!(check(server, &expected) == imported, "ids differ {when}");
    import(&server);
    same(&server, "after importing twice");
    server.admin().consolidate();
    same(&server, "after consolidation");
    import(&server);
    same(&server, "after importing what lies in segments");
    server.restart();
    same(&server, "after a restart");
    server.kill9();
    server.spawn();
    same(&server, "after a kill");
    let total = server.admin().number("SELECT COUNT(*) FROM *.messages");
    assert_eq!(usize::try_from(total), Ok(expected.copies()));
    let distinct = server.admin().number("SELECT COUNT(DISTINCT msgId) FROM *.messages");
    assert_eq!(usize::try_from(distinct), Ok(expected.messages), "participants share a message's id");
}

#[test]
fn an_import_that_a_crash_cut_short_resumes() {
    let mut server = server();
    let expected = expected();
    let copies = i64::try_from(expected.copies()).expect("a small number");
    for so_far in [copies / 27, copies * 2 / 5] {
        let files = files();
        let mut arguments = vec!["import"];
        arguments.extend(files.iter().map(String::as_str));
        let mut command = server.cli_command(&arguments);
        let mut importer =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let admin = server.admin();
        eventually("the import is under way", || admin.number("SELECT COUNT(*) FROM *.messages") > so_far);
        server.kill9();
        let status = importer.wait().expect("it ends");
        assert!(!status.success(), "the import did not notice that the server is gone, or was done already");
        server.spawn();
    }
    import(&server);
    check(&server, &expected);
}

#[test]
fn a_file_that_is_no_conversation_says_in_which_line() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("broken.ndjson");
    let good = json!({ "owner": "amy", "conversationId": "c", "conversationType": "ai", "from": "amy", "turn": 0, "content": "hi", "metadata": {} });
    std::fs::write(&file, format!("{good}\n{{\"owner\":\n")).expect("a file");
    let output = server.cli(&["import", file.to_str().expect("a UTF-8 path")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("line 2"), "{said}");
    let missing = bounded_output(server.cli_command(&["import", "no-such-file.ndjson"]));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && said.contains("no-such-file.ndjson"), "{said}");
}

/// Plain files too, not only gzip.
#[test]
fn a_plain_file_is_imported_in_the_order_of_its_turns() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plain.ndjson");
    let line = |turn: usize| {
        json!({ "participants": ["amy", "bob"], "conversationId": "g", "conversationType": "group",
                "from": if turn.is_multiple_of(2) { "amy" } else { "bob" }, "turn": turn,
                "content": format!("turn {turn}, \"quoted\" 🙂"), "metadata": { "turn": turn } })
        .to_string()
    };
    std::fs::write(&file, (0..40).map(line).collect::<Vec<_>>().join("\n")).expect("a file");
    for _ in 0..2 {
        let output = server.cli(&["import", file.to_str().expect("a UTF-8 path")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for user in ["amy", "bob"] {
            let turns = server.client(user).texts("SELECT metadata->>'turn' FROM messages ORDER BY msgId");
            assert_eq!(turns, (0..40).map(|turn| turn.to_string()).collect::<Vec<_>>(), "{user}");
        }
    }
}

/// Their rows hold only their beginnings, which is no difference.
#[test]
fn large_texts_are_imported_once() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("large.ndjson");
    let text = |turn: usize| format!("turn {turn} {}", "é".repeat(100_000));
    let line = |turn: usize| {
        json!({ "owner": "amy", "conversationId": "c", "conversationType": "ai", "from": "amy", "turn": turn,
                "content": text(turn), "metadata": { "turn": turn } })
        .to_string()
    };
    let amy = server.client("amy");
    // The second time one is there and one is new, the third time nothing is.
    for turns in [1, 2, 2] {
        std::fs::write(&file, (0..turns).map(line).collect::<Vec<_>>().join("\n")).expect("a file");
        let output = server.cli(&["import", file.to_str().expect("a UTF-8 path")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let refs = amy.texts("SELECT contentRef FROM messages ORDER BY msgId");
        assert_eq!(refs.len(), turns);
        for (turn, content_ref) in refs.iter().enumerate() {
            assert!(amy.content(content_ref).body == text(turn).as_bytes(), "turn {turn} comes back as it was");
        }
    }
}
