//! The same events for plain HTTP.
//!
//! Invariant: `id:` is where to come back to: whoever comes back with the last one misses nothing and sees nothing twice.

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use super::{group, place, server};
use crate::harness::{Client, Event, Events, Server};

fn open(client: &Client, query: &str, headers: &[(&str, &str)]) -> Events {
    Events::open(client, &format!("/api/v1/live{query}"), headers)
}

fn content(event: &Event) -> &str {
    event.data["message"]["content"].as_str().expect("a text")
}

/// The position of an event, as its id says it.
fn written(position: &Value) -> String {
    let (epoch, seq, n) = place(position);
    format!("{epoch}-{seq}-{n}")
}

#[test]
fn events_are_the_frames() {
    let server = server();
    let amy = server.client("amy");
    let sql = "?sql=SELECT%20content%20FROM%20messages%20WHERE%20from%20%3D%20%241&params=%5B%22amy%22%5D";
    let mut events = open(&amy, sql, &[]);
    assert_eq!(events.header("content-type"), "text/event-stream");
    assert_eq!(events.header("cache-control"), "no-cache");
    let ack = events.expect("subscribe_ack");
    assert_eq!(ack.id, Some(written(&ack.data["position"])));
    let sent = amy.say("c", "line one\nline two");
    let message = events.expect("message");
    assert_eq!(message.data["type"], "message");
    assert_eq!(message.data["message"], json!({ "msgId": sent, "content": "line one\nline two" }));
    assert_eq!(message.id, Some(written(&message.data["position"])));
    amy.run("UPDATE messages SET content = 'changed'");
    assert_eq!(content(&events.expect("update")), "changed");
    amy.run("DELETE FROM messages");
    assert_eq!(events.expect("delete").data["msgId"], sent);
}

#[test]
fn who_comes_back_with_the_last_id_misses_nothing() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    for round in 0..5 {
        let headers: Vec<(&str, &str)> = last.iter().map(|id| ("Last-Event-ID", id.as_str())).collect();
        let mut events = open(&amy, "?conversationId=c", &headers);
        last = events.expect("subscribe_ack").id.or(last);
        // These, and those that were sent while nobody was there.
        amy.say("c", &format!("{round} here"));
        let expected = if round == 0 { 1 } else { 3 };
        let mut got = 0;
        while got < expected {
            let event = events.next().expect("an event");
            last = event.id.clone().or(last);
            if event.kind == "message" {
                seen.push(content(&event).to_owned());
                got += 1;
            }
        }
        drop(events);
        amy.say("c", &format!("{round} away"));
        admin.consolidate();
        amy.say("c", &format!("{round} away too"));
    }
    let expected = amy.texts("SELECT content FROM messages ORDER BY msgId");
    assert_eq!(seen, expected[..seen.len()]);
    assert_eq!(seen.len(), 13);
}

#[test]
fn a_replay_s_end_is_where_to_come_back_to_and_not_its_beginning() {
    let server = server();
    let amy = server.client("amy");
    for text in ["one", "two", "three"] {
        amy.say("c", text);
    }
    let mut events = open(&amy, "?lastMsgId=0", &[]);
    let ack = events.expect("subscribe_ack");
    let replayed: Vec<Event> = (0..3).map(|_| events.expect("message")).collect();
    assert!(std::iter::once(&ack).chain(&replayed).all(|event| event.id.is_none()), "{replayed:?}");
    let end = events.expect("replay_complete").id.expect("an id");
    assert_eq!(end, written(&ack.data["position"]));
    amy.say("c", "four");
    // As a browser does it: with the address it began with, and the last id.
    let mut again = open(&amy, "?lastMsgId=0", &[("Last-Event-ID", &end)]);
    again.expect("subscribe_ack");
    assert_eq!(content(&again.expect("message")), "four");
    let mut after = open(&amy, &format!("?after={end}"), &[]);
    after.expect("subscribe_ack");
    assert_eq!(content(&after.expect("message")), "four");
}

#[test]
fn who_must_read_anew_is_told_so_and_forgets() {
    let server = server();
    let amy = server.client("amy");
    // No commit has that number yet: the client knows another history.
    let mut events = open(&amy, "?conversationId=c", &[("Last-Event-ID", "1-1000-1")]);
    let mut event = events.next().expect("an event");
    if event.kind == "subscribe_ack" {
        event = events.next().expect("an event");
    }
    assert_eq!((event.kind.as_str(), &event.data["details"]["resync"]), ("error", &json!(true)));
    assert_eq!(event.id.as_deref(), Some(""), "a browser would come back with the same id for ever");
    assert_eq!(events.next(), None, "the one subscription has ended");
}

#[test]
fn what_is_wrong_is_an_ordinary_error() {
    let server = server();
    let amy = server.client("amy");
    for (query, code) in [
        ("?sql=SELEC", ErrorCode::SyntaxError),
        ("?sql=SELECT%20COUNT(*)%20FROM%20messages", ErrorCode::Unsupported),
        ("?sql=SELECT%20*%20FROM%20bob.messages", ErrorCode::ScopeViolation),
        ("?lastMsgId=soon", ErrorCode::InvalidValue),
        ("?after=1-2", ErrorCode::InvalidValue),
        ("?conversation=c", ErrorCode::InvalidValue),
    ] {
        let answer = Events::refused(&amy, &format!("/api/v1/live{query}"), &[]);
        assert_eq!(answer.refusal().error.error, code, "{query}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let answer = amy.request(Method::POST, "/api/v1/live", &[], None).expect("an answer");
    assert_eq!(answer.refusal().error.error, ErrorCode::MethodNotAllowed);
    // And one that is no WebSocket.
    let answer = amy.request(Method::GET, "/api/v1/ws", &[], None).expect("an answer");
    assert_eq!(answer.refusal().error.error, ErrorCode::InvalidValue);
}

#[test]
fn a_page_of_a_named_origin_may_listen() {
    let server = Server::with(&[("server.cors_origins", "https://app.example.org")]);
    let amy = server.client("amy");
    let events = open(&amy, "", &[("Origin", "https://app.example.org")]);
    assert_eq!(events.header("access-control-allow-origin"), "https://app.example.org");
}

#[test]
fn a_group_s_messages_come_to_each_participant() {
    let server = server();
    group(&server, "g", &["amy", "bob"]);
    let mut events = open(&server.client("bob"), "?conversationId=g&conversationType=group", &[]);
    events.expect("subscribe_ack");
    server.client("amy").say("g", "hello");
    assert_eq!(content(&events.expect("message")), "hello");
}
