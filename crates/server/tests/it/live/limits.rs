//! Bounds on live connections, and how they end.
//!
//! Invariant: who is refused is told why, and nobody else notices.

use std::thread;

use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::json;

use super::{next_texts, server, watching};
use crate::harness::{Client, Events, Live, Server, eventually};

/// A gauge of `/metrics`.
fn gauge(client: &Client, name: &str) -> i64 {
    let text = client.request(Method::GET, "/metrics", &[], None).expect("an answer").text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_default()
}

#[test]
fn a_user_has_so_many_connections() {
    let server = Server::with(&[("live.max_connections_per_user", "2")]);
    let (amy, bob) = (server.client("amy"), server.client("bob"));
    let (first, mut second) = (watching(&amy), watching(&amy));
    let mut third = Live::connect(&amy);
    assert_eq!(third.expect("error")["code"], "rate_limited");
    assert_eq!(third.expect_end().code, Some(4429));
    let refused = Events::refused(&amy, "/api/v1/live", &[]);
    assert_eq!(refused.refusal().error.error, ErrorCode::RateLimited);
    assert!(!refused.header("retry-after").is_empty());
    watching(&bob);
    second.ping();
    drop(first);
    eventually("the place of a connection that has gone is free", || {
        Events::try_open(&amy, "/api/v1/live", &[]).is_ok()
    });
}

#[test]
fn a_connection_has_so_many_subscriptions() {
    let server = Server::with(&[("live.max_subscriptions_per_connection", "2")]);
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    for id in ["one", "two"] {
        live.subscribe(json!({ "id": id, "conversationId": id }));
    }
    live.say(json!({ "type": "subscribe", "id": "three" }));
    assert_eq!(live.expect("error")["code"], "rate_limited");
    live.say(json!({ "type": "unsubscribe", "id": "one" }));
    live.subscribe(json!({ "id": "three", "conversationId": "three" }));
    amy.say("three", "hello");
    assert_eq!(next_texts(&mut live, 1), ["hello"]);
}

#[test]
fn live_connections_are_counted() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    let mut live = watching(&amy);
    let mut events = Events::open(&amy, "/api/v1/live", &[]);
    events.expect("subscribe_ack");
    live.ping();
    assert_eq!(gauge(&admin, "kalamdb_live_connections"), 2);
    assert!(gauge(&admin, "kalamdb_http_connections") >= 2, "they are connections like others");
    drop((live, events));
    eventually("nobody is there", || gauge(&admin, "kalamdb_live_connections") == 0);
}

/// A WebSocket takes one of `server.max_connections`, for as long as it is open.
#[test]
fn connections_of_all_kinds_are_bounded_together() {
    let server = Server::with(&[("server.max_connections", "2")]);
    let amy = server.client("amy");
    let (mut one, mut other) = (watching(&amy), watching(&amy));
    let health =
        thread::spawn(move || amy.request(Method::GET, "/api/v1/health", &[], None).expect("an answer").status);
    one.ping();
    other.ping();
    assert!(!health.is_finished());
    drop(one);
    assert_eq!(health.join().expect("the request"), 200);
    other.ping();
}

#[test]
fn the_server_says_that_it_stops() {
    let mut server = server();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    let mut events = Events::open(&amy, "/api/v1/live", &[]);
    events.expect("subscribe_ack");
    thread::scope(|scope| {
        let live = scope.spawn(|| live.expect_end());
        let events = scope.spawn(|| events.next());
        server.stop();
        assert_eq!(live.join().expect("the WebSocket").code, Some(1001));
        assert_eq!(events.join().expect("the stream"), None);
    });
}

#[test]
fn one_that_is_not_there_to_be_told_does_not_hold_the_server_up() {
    let mut server = server();
    let mut live = watching(&server.client("amy"));
    // Ends, although this one does not answer.
    server.stop();
    assert_eq!(live.expect_end().code, Some(1001));
}

/// What nobody takes is not kept for ever.
#[test]
fn a_client_that_takes_nothing_is_let_go() {
    let server = Server::with(&[("rocksdb.durability", "os"), ("server.request_timeout_seconds", "3")]);
    let (amy, admin) = (server.client("amy"), server.admin());
    let mut live = Live::connect_with_little_room(&amy);
    live.subscribe(json!({ "id": "all" }));
    let text = "x".repeat(90_000);
    eventually("the connection is closed", || {
        amy.say("c", &text);
        gauge(&admin, "kalamdb_live_connections") == 0
    });
    while live.hear().is_ok() {}
}
