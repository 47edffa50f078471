//! The frames, as they stand on the wire.
//!
//! Invariant: the snapshot holds what a client would see, with nothing taken out but numbers that differ from run to run.

use std::fmt::Write as _;

use serde_json::json;

use super::{group, next_message, next_texts, place, server, watching};
use crate::harness::Live;

/// The values of these fields differ from run to run.
const GENERATED: [&str; 6] = ["epoch", "seq", "n", "msgId", "lastMsgId", "timestamp"];

/// A frame with such numbers replaced by `#`.
fn redacted(frame: &str) -> String {
    GENERATED.iter().fold(frame.to_owned(), |text, name| {
        let field = format!("\"{name}\":");
        let mut parts = text.split(&field);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            let value = if rest.len() < part.len() { "#" } else { "" };
            format!("{text}{field}{value}{rest}")
        })
    })
}

/// Says a frame as it stands here, and hears so many.
fn exchange(text: &mut String, live: &mut Live, say: &str, hear: usize) {
    if !say.is_empty() {
        live.send(say.to_owned().into());
        writeln!(text, "> {say}").expect("it is a text");
    }
    for _ in 0..hear {
        writeln!(text, "< {}", redacted(&live.hear_text().expect("a frame"))).expect("it is a text");
    }
}

#[test]
fn each_frame_is_as_it_was() {
    let server = server();
    let amy = server.client("amy");
    amy.say("c", "before");
    let mut live = Live::connect(&amy);
    let mut text = String::new();
    let subscribe = r#"{"type":"subscribe","id":"inbox","sql":"SELECT msgId, from, content FROM userId.messages WHERE conversationId = $1","params":["c"],"lastMsgId":0}"#;
    exchange(&mut text, &mut live, subscribe, 3);
    amy.say("c", "a \"new\"\none");
    exchange(&mut text, &mut live, "", 1);
    amy.run("UPDATE messages SET content = 'changed' WHERE content = 'before'");
    exchange(&mut text, &mut live, "", 1);
    amy.run("DELETE FROM messages WHERE content = 'changed'");
    exchange(&mut text, &mut live, "", 1);
    exchange(&mut text, &mut live, r#"{"type":"ping"}"#, 1);
    exchange(&mut text, &mut live, r#"{"type":"unsubscribe","id":"inbox"}"#, 0);
    // Nothing answers that, but what is said after it is answered after it.
    live.ping();
    amy.say("c", "unseen");
    exchange(&mut text, &mut live, r#"{"type":"subscribe","id":"one","conversationId":"c"}"#, 1);
    amy.say("c", "seen");
    exchange(&mut text, &mut live, "", 1);
    insta::assert_snapshot!("frames", text);
}

#[test]
fn without_sql_it_is_all_one_s_messages_and_without_an_id_the_server_makes_one() {
    let server = server();
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    live.say(json!({ "type": "subscribe" }));
    let ack = live.expect("subscribe_ack");
    let id = ack["id"].as_str().expect("an id");
    let sent = amy.say("c", "hello");
    let frame = live.expect("message");
    assert_eq!(frame["id"], id);
    let row = &frame["message"];
    assert_eq!((&row["msgId"], &row["conversationId"], &row["content"]), (&json!(sent), &json!("c"), &json!("hello")));
    let columns =
        ["msgId", "conversationId", "conversationType", "from", "timestamp", "content", "contentRef", "metadata"];
    assert!(columns.iter().all(|column| row.get(column).is_some()), "{row}");
    assert!(place(&frame["position"]) > place(&ack["position"]));
}

#[test]
fn one_connection_holds_several_subscriptions() {
    let server = server();
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "c", "conversationId": "c" }));
    live.subscribe(json!({ "id": "long", "sql": "SELECT content FROM messages WHERE length(content) > 3" }));
    let mut told = Vec::new();
    for (conversation, content, frames) in [("c", "hi", 1), ("d", "hello", 1), ("c", "hello", 2), ("c", "end", 1)] {
        amy.say(conversation, content);
        let mut ids: Vec<String> = (0..frames)
            .map(|_| {
                let frame = live.expect("message");
                assert_eq!(frame["message"]["content"], content);
                frame["id"].as_str().expect("an id").to_owned()
            })
            .collect();
        ids.sort();
        told.push(ids);
    }
    assert_eq!(told, [vec!["c"], vec!["long"], vec!["c", "long"], vec!["c"]]);
    live.say(json!({ "type": "unsubscribe", "id": "c" }));
    live.ping();
    amy.say("c", "unseen, but for the other subscription");
    assert_eq!(live.expect("message")["id"], "long");
}

#[test]
fn the_rows_of_one_commit_come_in_order_each_with_its_place() {
    let server = server();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    amy.run("INSERT INTO messages (conversationId, content) SELECT 'c', CAST(value AS VARCHAR) FROM UNNEST(generate_series(1, 100)) AS numbers(value)");
    let frames: Vec<_> = (0..100).map(|_| live.expect("message")).collect();
    let ids: Vec<_> = frames.iter().map(|frame| frame["message"]["msgId"].as_i64().expect("an id")).collect();
    assert_eq!(ids, amy.numbers("SELECT msgId FROM messages ORDER BY msgId"));
    let places: Vec<_> = frames.iter().map(|frame| place(&frame["position"])).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    assert!(places.iter().all(|place| place.1 == places[0].1), "it is one commit: {places:?}");
}

#[test]
fn a_row_comes_and_goes_as_it_starts_and_stops_to_match() {
    let server = server();
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    let sql = "SELECT content, metadata->>'mood' AS mood FROM messages WHERE content LIKE $start";
    live.subscribe(json!({ "id": "good", "sql": sql, "params": { "start": "good%" } }));
    let first = amy.say("c", "bad news");
    let second = amy.say("c", "good news");
    let row = next_message(&mut live);
    assert_eq!(row, json!({ "msgId": second, "content": "good news", "mood": null }));
    amy.run(&format!("UPDATE messages SET content = 'good, after all' WHERE msgId = {first}"));
    assert_eq!(next_message(&mut live)["msgId"], first);
    amy.run(&format!("UPDATE messages SET metadata = '{{\"mood\": \"calm\"}}' WHERE msgId = {first}"));
    assert_eq!(live.expect("update")["message"]["mood"], "calm");
    amy.run(&format!("UPDATE messages SET content = 'not so good' WHERE msgId = {first}"));
    assert_eq!(live.expect("delete")["msgId"], first);
    amy.run(&format!("DELETE FROM messages WHERE msgId IN ({first}, {second})"));
    assert_eq!(live.expect("delete")["msgId"], second);
}

#[test]
fn a_conversation_s_row_is_told_as_it_changes() {
    let server = server();
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "list", "sql": "SELECT lastMsgId, unreadCount FROM conversations" }));
    let first = amy.say("c", "one");
    let row = next_message(&mut live);
    assert_eq!((&row["conversationId"], &row["conversationType"]), (&json!("c"), &json!("ai")));
    assert_eq!(row["lastMsgId"], first);
    let second = amy.say("c", "two");
    assert_eq!(live.expect("update")["message"]["lastMsgId"], second);
    amy.run("DELETE FROM conversations WHERE conversationId = 'c'");
    let gone = live.expect("delete");
    assert_eq!((&gone["conversationId"], &gone["conversationType"]), (&json!("c"), &json!("ai")));
}

#[test]
fn a_conversation_that_goes_takes_its_messages_with_it() {
    let server = server();
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "c", "conversationId": "c" }));
    for text in ["one", "two"] {
        amy.say("c", text);
    }
    assert_eq!(next_texts(&mut live, 2), ["one", "two"]);
    server.admin().consolidate();
    amy.run("DELETE FROM conversations WHERE conversationId = 'c'");
    let gone = live.expect("delete");
    assert_eq!((&gone["conversationId"], &gone["conversationType"]), (&json!("c"), &json!("ai")));
    assert!(gone.get("msgId").is_none(), "all of them: {gone}");
    amy.say("c", "a new one");
    assert_eq!(next_texts(&mut live, 1), ["a new one"]);
}

#[test]
fn admins_see_everybody_s_rows_with_their_owners() {
    let server = server();
    group(&server, "g", &["amy", "bob"]);
    let mut live = Live::connect(&server.admin());
    live.subscribe(json!({ "id": "all", "sql": "SELECT content FROM *.messages" }));
    server.client("amy").say("g", "hello");
    let mut owners: Vec<String> =
        (0..2).map(|_| next_message(&mut live)["owner"].as_str().expect("an owner").to_owned()).collect();
    owners.sort();
    assert_eq!(owners, ["amy", "bob"]);
    live.subscribe(json!({ "id": "one", "sql": "SELECT content FROM amy.messages WHERE conversationId = 'd'" }));
    let sent = server.client("amy").say("d", "hers");
    let told: Vec<_> = (0..2).map(|_| live.expect("message")).collect();
    assert!(told.iter().all(|frame| frame["message"]["msgId"] == sent), "{told:?}");
}

/// The text is from a file by then; what is seen is what a query answers.
#[test]
fn a_large_message_comes_with_its_beginning_and_its_file() {
    let server = server();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    amy.say("c", &"x".repeat(200_000));
    let row = next_message(&mut live);
    let read = amy.rows("SELECT content, contentRef FROM messages").remove(0);
    assert_eq!((&row["content"], &row["contentRef"]), (&read[0], &read[1]));
    assert!(row["contentRef"].is_string());
}
