//! What goes wrong, and goes on: every bad frame is answered, and the connection stays.
//!
//! Invariant: after each answer the same connection is asked for a sign of life.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{next_texts, server, watching};
use crate::harness::Live;

/// The largest frame that means something, and the largest that is read at all.
const MAX_FRAME_BYTES: usize = 64 * 1024;
const MAX_READ_BYTES: usize = 1024 * 1024;

/// The error that a message is answered with.
#[track_caller]
fn error(live: &mut Live, message: Message) -> Value {
    live.send(message);
    let error = live.expect("error");
    let sentence = error["error"].as_str().expect("a sentence");
    assert!(sentence.ends_with(['.', '?']) && sentence.len() > 10, "{error}");
    live.ping();
    error
}

#[test]
fn bad_frames_are_answered_and_the_connection_stays() {
    let server = server();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    for bad in [
        "",
        "hello",
        "{",
        "[]",
        "{}",
        r#"{"type":"shout"}"#,
        r#"{"type":"subscribe","conversation":"c"}"#,
        r#"{"type":"subscribe","id":7}"#,
        r#"{"type":"subscribe","after":"yesterday"}"#,
        r#"{"type":"unsubscribe"}"#,
        r#"{"type":"ping","really":true}"#,
    ] {
        assert_eq!(error(&mut live, Message::text(bad))["code"], "invalid_value", "{bad}");
    }
    assert_eq!(error(&mut live, Message::binary(vec![0, 1]))["code"], "invalid_value");
    let deep = "[".repeat(10_000);
    assert_eq!(error(&mut live, Message::text(deep))["code"], "invalid_value");
    amy.say("c", "still here");
    assert_eq!(next_texts(&mut live, 1), ["still here"]);
}

#[test]
fn an_error_names_the_subscription_that_it_is_about() {
    let server = server();
    let mut live = Live::connect(&server.client("amy"));
    for frame in [
        r#"{"type":"subscribe","id":"mine","sql":"SELEC"}"#,
        r#"{"type":"subscribe","id":"mine","lastMsg":1}"#,
        r#"{"type":"unsubscribe","id":"mine"}"#,
    ] {
        assert_eq!(error(&mut live, Message::text(frame))["id"], "mine", "{frame}");
    }
}

#[test]
fn what_cannot_be_live_is_refused_with_its_code() {
    let server = server();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    for (sql, code) in [
        ("SELEC content FROM messages", "syntax_error"),
        ("SELECT content FROM message", "unknown_table"),
        ("SELECT contents FROM messages", "unknown_column"),
        ("SELECT content FROM bob.messages", "scope_violation"),
        ("SELECT content FROM *.messages", "scope_violation"),
        ("SELECT m.content FROM messages m JOIN conversations c ON c.conversationId = m.conversationId", "unsupported"),
        ("SELECT COUNT(*) FROM messages", "unsupported"),
        ("SELECT from, COUNT(*) FROM messages GROUP BY from", "unsupported"),
        ("SELECT DISTINCT from FROM messages", "unsupported"),
        ("SELECT content FROM messages ORDER BY msgId", "unsupported"),
        ("SELECT content FROM messages LIMIT 10", "unsupported"),
        ("SELECT content FROM messages WHERE msgId IN (SELECT lastMsgId FROM conversations)", "unsupported"),
        ("SELECT content, ROW_NUMBER() OVER (ORDER BY msgId) FROM messages", "unsupported"),
        ("SELECT content FROM messages UNION ALL SELECT from FROM messages", "unsupported"),
        ("SELECT content FROM messages WHERE random() < 0.5", "unsupported"),
        ("SELECT content FROM messages WHERE timestamp > UNIX_TIMESTAMP()", "unsupported"),
        ("SELECT content FROM deletedMessages", "unsupported"),
        ("SELECT 1", "unsupported"),
        ("INSERT INTO messages (conversationId, content) VALUES ('c', 'x')", "unsupported"),
        ("DELETE FROM messages", "unsupported"),
        ("DROP TABLE messages", "unsupported"),
    ] {
        let frame = json!({ "type": "subscribe", "id": "bad", "sql": sql }).to_string();
        let error = error(&mut live, Message::text(frame));
        assert_eq!(error["code"], code, "{sql}: {error}");
    }
    let missing = json!({ "type": "subscribe", "sql": "SELECT content FROM messages WHERE from = $1" }).to_string();
    assert_eq!(error(&mut live, Message::text(missing))["code"], "invalid_value");
    // Nothing of it was done, and nothing of it stands.
    assert_eq!(amy.number("SELECT COUNT(*) FROM messages"), 0);
    amy.say("c", "one");
    assert_eq!(next_texts(&mut live, 1), ["one"]);
    live.ping();
}

#[test]
fn ids_are_free_or_taken() {
    let server = server();
    let mut live = watching(&server.client("amy"));
    let again = json!({ "type": "subscribe", "id": "all" }).to_string();
    assert_eq!(error(&mut live, Message::text(again))["code"], "conflict");
    let unknown = json!({ "type": "unsubscribe", "id": "other" }).to_string();
    assert_eq!(error(&mut live, Message::text(unknown))["code"], "not_found");
    live.say(json!({ "type": "unsubscribe", "id": "all" }));
    live.subscribe(json!({ "id": "all" }));
}

#[test]
fn a_frame_that_is_too_large_is_refused_and_one_that_is_far_too_large_ends_the_connection() {
    let server = server();
    let mut live = watching(&server.client("amy"));
    let ping = r#"{"type":"ping"}"#;
    let padded = |bytes: usize| Message::text([ping, &" ".repeat(bytes - ping.len())].concat());
    live.send(padded(MAX_FRAME_BYTES));
    live.expect("pong");
    for bytes in [MAX_FRAME_BYTES + 1, MAX_READ_BYTES] {
        let error = error(&mut live, padded(bytes));
        assert_eq!(
            (&error["code"], &error["details"]["maxBytes"]),
            (&json!("payload_too_large"), &json!(MAX_FRAME_BYTES))
        );
    }
    live.send(padded(MAX_READ_BYTES + 1));
    assert_eq!(live.expect_end().code, Some(1009));
}
