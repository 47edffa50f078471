//! The founding document, held to its letter: its curl lines run with the real curl, exactly as printed, and so does
//! every SQL statement in it.
//!
//! Invariant: the texts below are copied, not adapted; only the token and the address are put in, and what the upload
//! answered where the document shows an answer of its own.

use std::{io::Cursor, path::Path, process::Command};

use image::{ImageFormat, RgbImage};
use kalamdb_protocol::ErrorCode;
use serde_json::{Value, json};

use crate::harness::{Client, Server, bounded_output};

const INSERT: &str = r#"curl -X POST http://localhost:8080/api/v1/query \
  -H "Authorization: Bearer <jwt>" \
  -d '{"sql": "INSERT INTO userId.messages (msgId, conversationId, conversationType, from, timestamp, content) VALUES (123, '\''conv_ai'\'', '\''ai'\'', '\''user_john'\'', 1699000000, '\''Hello AI'\'')"}'"#;

const UPLOAD: &str = r#"curl -X POST http://localhost:8080/api/v1/media/upload \
  -H "Authorization: Bearer <jwt>" \
  -F "file=@image.jpg" \
  -F "conversationId=conv_group_123" \
  -F "conversationType=group""#;

/// What the document's upload answered.
const UPLOADED: &str = "shared/conversations/conv_group_123/media-789.jpg";

const SEND: &str = r#"curl -X POST http://localhost:8080/api/v1/messages \
  -H "Authorization: Bearer <jwt>" \
  -d '{
    "conversationId": "conv_group_123",
    "conversationType": "group",
    "from": "user_alice",
    "content": "Check this image!",
    "contentRef": "shared/conversations/conv_group_123/media-789.jpg"
  }'"#;

const SELECT: &str = r#"curl -X POST http://localhost:8080/api/v1/query \
  -H "Authorization: Bearer <jwt>" \
  -d '{"sql": "SELECT * FROM userId.messages WHERE conversationId = '\''conv_123'\'' LIMIT 100"}'"#;

const DELETE: &str = r#"curl -X POST http://localhost:8080/api/v1/query \
  -H "Authorization: Bearer <jwt>" \
  -d '{"sql": "DELETE FROM userId.conversations WHERE conversationId = '\''conv_old'\''"}'"#;

/// Runs a curl line through a shell, as a reader of the document would, and answers the JSON it prints.
fn curl(server: &Server, user: &str, line: &str) -> Value {
    curl_in(&server.data(), server, user, line)
}

/// The same, in a folder.
fn curl_in(folder: &Path, server: &Server, user: &str, line: &str) -> Value {
    let line = line.replace("http://localhost:8080", &server.url()).replace("<jwt>", &server.token(user, false));
    let mut command = Command::new("bash");
    command.args(["-c", &line.replacen("curl ", "curl --silent --show-error ", 1)]).current_dir(folder);
    let output = bounded_output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

fn conversation_with(client: &Client, id: &str, contents: &[&str]) {
    for content in contents {
        client.say(id, content);
    }
}

#[test]
fn a_message_is_sent_to_an_assistant() {
    let server = Server::start();
    let answer = curl(&server, "user_john", INSERT);
    assert_eq!((&answer["rowsAffected"], &answer["msgIds"]), (&json!(1), &json!([123])), "{answer}");
    let john = server.client("user_john");
    let rows = john.rows("SELECT msgId, conversationId, conversationType, from, timestamp, content FROM messages");
    assert_eq!(
        rows,
        [vec![
            json!(123),
            json!("conv_ai"),
            json!("ai"),
            json!("user_john"),
            json!(1_699_000_000_000_000_i64),
            json!("Hello AI")
        ]]
    );
}

#[test]
fn a_message_with_media_is_sent_to_a_group() {
    let server = Server::start();
    let alice = server.client("user_alice");
    alice.run("INSERT INTO userId.conversations (conversationId, conversationType) VALUES ('conv_group_123', 'group')");
    for user in ["user_bob", "user_charlie"] {
        alice.run(&format!(
            "INSERT INTO userId.conversationUsers (conversationId, userId) VALUES ('conv_group_123', '{user}')"
        ));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut image = Cursor::new(Vec::new());
    RgbImage::new(640, 480).write_to(&mut image, ImageFormat::Jpeg).expect("a picture");
    let image = image.into_inner();
    std::fs::write(folder.path().join("image.jpg"), &image).expect("it is written");

    let uploaded = curl_in(folder.path(), &server, "user_alice", UPLOAD);
    let content_ref = uploaded["contentRef"].as_str().unwrap_or_else(|| panic!("no contentRef: {uploaded}"));
    let number = content_ref
        .strip_prefix("shared/conversations/conv_group_123/media-")
        .and_then(|rest| rest.strip_suffix(".jpg"))
        .unwrap_or_else(|| panic!("another name than the document's: {content_ref}"));
    assert!(number.parse::<u64>().is_ok(), "{content_ref}");

    let answer = curl(&server, "user_alice", &SEND.replace(UPLOADED, content_ref));
    assert_eq!(
        (&answer["conversationId"], &answer["status"]),
        (&json!("conv_group_123"), &json!("stored")),
        "{answer}"
    );
    for user in ["user_alice", "user_bob", "user_charlie"] {
        let client = server.client(user);
        let copies = client.rows("SELECT msgId, from, content, contentRef FROM userId.messages");
        let expected =
            vec![answer["msgId"].clone(), json!("user_alice"), json!("Check this image!"), json!(content_ref)];
        assert_eq!(copies, [expected], "{user}");
        let read = client.content(content_ref);
        assert!(read.status == 200 && read.body == image, "{user}: {}", read.status);
        assert_eq!(read.header("content-type"), "image/jpeg");
    }
    assert_eq!(std::fs::read(server.data().join(content_ref)).expect("it lies where its name says"), image);
    // Who was not there when it was sent has no copy of the message, and so no way to the file.
    alice.run("INSERT INTO userId.conversationUsers (conversationId, userId) VALUES ('conv_group_123', 'user_late')");
    for user in ["user_stranger", "user_late"] {
        let refusal = server.client(user).content(content_ref).refusal();
        assert_eq!(refusal.error.error, ErrorCode::NotFound, "{user}");
    }
}

#[test]
fn messages_are_queried() {
    let server = Server::start();
    let john = server.client("user_john");
    conversation_with(&john, "conv_123", &["one", "two"]);
    conversation_with(&john, "conv_other", &["three"]);
    let answer = curl(&server, "user_john", SELECT);
    let columns =
        ["msgId", "conversationId", "conversationType", "from", "timestamp", "content", "contentRef", "metadata"];
    assert_eq!(answer["columns"], json!(columns), "{answer}");
    assert_eq!(answer["rowCount"], 2, "{answer}");
}

#[test]
fn a_conversation_is_deleted() {
    let server = Server::start();
    let john = server.client("user_john");
    conversation_with(&john, "conv_old", &["one", "two"]);
    conversation_with(&john, "conv_new", &["three"]);
    let answer = curl(&server, "user_john", DELETE);
    assert_eq!(answer["rowsAffected"], 1, "{answer}");
    assert_eq!(john.texts("SELECT content FROM userId.messages"), ["three"]);
    assert_eq!(john.texts("SELECT conversationId FROM userId.conversations"), ["conv_new"]);
}

/// The statements in the order in which they leave each other something to do, each as printed, semicolon included.
#[test]
fn every_statement_of_the_document_works() {
    let server = Server::start();
    let john = server.client("user_john");
    conversation_with(&john, "conv_123", &["a search party", "found"]);
    conversation_with(&john, "conv_124", &["nothing"]);
    john.run("INSERT INTO userId.messages (msgId, conversationId, content) VALUES (123, 'conv_9', 'one'), (123456789, 'conv_9', 'two')");
    john.run("INSERT INTO userId.messages (conversationId, content, timestamp) VALUES ('conv_9', 'old', 1698999999)");

    let page = john.rows("SELECT * FROM userId.messages WHERE conversationId = 'conv_123' LIMIT 100;");
    assert_eq!(page.len(), 2);
    let counts = john.rows("SELECT conversationId, COUNT(*) FROM userId.messages GROUP BY conversationId;");
    assert_eq!(counts.len(), 3);
    assert!(counts.contains(&vec![json!("conv_9"), json!(3)]), "{counts:?}");
    let found = john.rows("SELECT * FROM userId.messages WHERE content LIKE '%search%';");
    assert_eq!(found.len(), 1);
    assert_eq!(john.run("DELETE FROM userId.messages WHERE timestamp < 1699000000;"), 1);
    assert_eq!(john.run("UPDATE userId.conversations SET lastMsgId = 999 WHERE conversationId = 'conv_123';"), 1);
    let last = "SELECT lastMsgId FROM userId.conversations WHERE conversationId = 'conv_123'";
    assert_eq!(john.number(last), 999);
    assert_eq!(john.run("DELETE FROM userId.messages WHERE msgId = 123;"), 1);
    assert_eq!(john.run("DELETE FROM userId.messages WHERE msgId = 123456789"), 1);
    assert_eq!(john.run("DELETE FROM userId.conversations WHERE conversationId = 'conv_123';"), 1);
    assert_eq!(john.texts("SELECT content FROM userId.messages"), ["nothing"]);
}

/// `*.messages` is for admins, as "Admin users can query across all users" says.
#[test]
fn admins_query_across_all_users() {
    let server = Server::start();
    conversation_with(&server.client("user_john"), "c", &["his"]);
    conversation_with(&server.client("user_alice"), "c", &["hers"]);
    let answer = server.admin().query("SELECT * FROM *.messages ORDER BY content").expect("admins may");
    assert_eq!(answer.columns[0], "owner");
    let owners: Vec<&Value> = answer.rows.iter().map(|row| &row[0]).collect();
    assert_eq!(owners, ["user_alice", "user_john"]);
    let refused = server.client("user_john").query("SELECT * FROM *.messages").expect_err("users may not");
    assert!(matches!(refused.code(), Some(ErrorCode::Forbidden | ErrorCode::ScopeViolation)), "{refused}");
}

#[test]
fn the_four_endpoints_are_there() {
    let server = Server::start();
    let health = curl(&server, "user_john", "curl http://localhost:8080/api/v1/health");
    assert_eq!(health["status"], "ok", "{health}");
    assert!(health["uptime"].is_u64() && health["version"].is_string(), "{health}");
}
