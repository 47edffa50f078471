//! Who is let in, for how long, and what becomes of the token.
//!
//! Invariant: a connection without a valid token sees nothing but its close frame.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use kalamdb_protocol::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{next_texts, server};
use crate::harness::{Closed, Events, Live, Server, eventually};

const SECRET: &str = "a secret of at least thirty-two bytes, for tests";

/// A token of amy's that ends so many seconds from now.
fn token_for(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    let claims = json!({ "sub": "amy", "exp": i64::try_from(now).expect("seconds fit") + seconds });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

fn unauthorized(reason: &str) -> Closed {
    Closed { code: Some(4401), reason: format!("unauthorized: {reason}") }
}

fn auth(token: &str) -> Value {
    json!({ "type": "auth", "token": token })
}

/// A connection of amy's for each way to say so; the first frame is the server's own to answer.
fn three_ways(server: &Server, token: &str) -> [Live; 3] {
    let nobody = server.client_with_token(None);
    let header = format!("Bearer {token}");
    let mut by_frame = Live::connect(&nobody);
    by_frame.say(auth(token));
    [
        Live::connect_to(&nobody, "/api/v1/ws", Some(&header)),
        Live::connect_to(&nobody, &format!("/api/v1/ws?token={token}"), None),
        by_frame,
    ]
}

#[test]
fn a_token_comes_in_the_header_in_the_address_or_in_the_first_frame() {
    let server = server();
    let amy = server.client("amy");
    let mut connections = three_ways(&server, &server.token("amy", false));
    for live in &mut connections {
        live.subscribe(json!({ "id": "all" }));
    }
    server.client("bob").say("c", "not for amy");
    amy.say("c", "for amy");
    for live in &mut connections {
        assert_eq!(next_texts(live, 1), ["for amy"]);
    }
}

#[test]
fn a_bad_token_closes_with_4401() {
    let server = Server::with(&[("server.jwt_secret", SECRET)]);
    let good = token_for(3_600);
    let (signed, _) = good.rsplit_once('.').expect("a signature");
    for (token, reason) in [
        ("garbage".to_owned(), "malformed"),
        (format!("{signed}.AAAA"), "signature"),
        (token_for(-1), "expired"),
        (token_of_another_secret(), "signature"),
    ] {
        for live in &mut three_ways(&server, &token) {
            assert_eq!(live.expect_end(), unauthorized(reason), "{reason}");
        }
        let address = format!("/api/v1/live?token={token}");
        let refused = Events::refused(&server.client_with_token(None), &address, &[]);
        assert_eq!(refused.refusal().error.error, ErrorCode::Unauthorized, "{reason}");
    }
}

fn token_of_another_secret() -> String {
    let claims = json!({ "sub": "amy", "exp": 4_102_444_800_u64 });
    let key = EncodingKey::from_secret(b"another secret of thirty-two bytes or more");
    encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token")
}

#[test]
fn nothing_is_listened_to_before_the_token() {
    let server = server();
    let nobody = server.client_with_token(None);
    for first in [
        Message::text(r#"{"type":"subscribe","id":"all"}"#),
        Message::text(r#"{"type":"ping"}"#),
        Message::text("not JSON"),
        Message::binary(vec![1, 2, 3]),
    ] {
        let mut live = Live::connect(&nobody);
        live.send(first.clone());
        assert_eq!(live.expect_end(), unauthorized("missing"), "{first:?}");
    }
    let refused = Events::refused(&nobody, "/api/v1/live", &[]);
    assert_eq!(refused.refusal().error.error, ErrorCode::Unauthorized);
}

#[test]
fn who_never_says_who_they_are_is_let_go() {
    let server = server();
    let mut live = Live::connect(&server.client_with_token(None));
    assert_eq!(live.expect_end(), unauthorized("missing"));
}

#[test]
fn a_connection_has_one_user() {
    let server = server();
    let mut live = Live::connect(&server.client("amy"));
    live.say(auth(&server.token("bob", false)));
    assert_eq!(live.expect("error")["code"], "conflict");
    live.subscribe(json!({ "id": "all" }));
    server.client("bob").say("c", "bob's");
    server.client("amy").say("c", "amy's");
    assert_eq!(next_texts(&mut live, 1), ["amy's"]);
}

/// On a machine that is slow, a token of one second may have ended before anybody could use it: then a longer one is
/// tried.
#[test]
fn a_connection_ends_with_its_token() {
    let server = Server::with(&[("server.jwt_secret", SECRET)]);
    let nobody = server.client_with_token(None);
    let was_open = [2, 4, 8, 16, 32].into_iter().any(|seconds| {
        let token = token_for(seconds);
        let mut live = Live::connect_to(&nobody, "/api/v1/ws", Some(&format!("Bearer {token}")));
        live.say(json!({ "type": "ping" }));
        let answered = live.hear();
        if answered.is_ok() {
            assert_eq!(live.expect_end(), unauthorized("expired"));
        }
        answered.is_ok()
    });
    assert!(was_open);
    let was_open = [2, 4, 8, 16, 32].into_iter().any(|seconds| {
        let address = format!("/api/v1/live?token={}", token_for(seconds));
        let Ok(mut events) = Events::try_open(&nobody, &address, &[]) else { return false };
        events.expect("subscribe_ack");
        assert_eq!(events.next(), None, "the stream ends with the token");
        true
    });
    assert!(was_open);
}

/// Their requests are answered with 101 before their tokens are looked at.
#[test]
fn a_refused_token_is_logged_with_the_address_it_came_from() {
    let server = server();
    for live in &mut three_ways(&server, "bad") {
        assert_eq!(live.expect_end(), unauthorized("malformed"));
    }
    let is_told = |line: &&str| line.contains("live connection") && line.contains("client=127.0.0.1");
    eventually("the log says who it was", || server.log_text().lines().filter(is_told).count() == 3);
}

#[test]
fn a_token_is_in_no_log_line_and_in_no_metric() {
    let server = Server::with(&[("log.level", "trace")]);
    let token = server.token("amy", false);
    for live in &mut three_ways(&server, &token) {
        live.ping();
    }
    let bad = format!("{token}x");
    for live in &mut three_ways(&server, &bad) {
        assert_eq!(live.expect_end().code, Some(4401));
    }
    let nobody = server.client_with_token(None);
    let mut events = Events::open(&nobody, &format!("/api/v1/live?token={token}"), &[]);
    events.expect("subscribe_ack");
    Events::refused(&nobody, &format!("/api/v1/live?token={bad}"), &[]);

    let metrics = server.admin().request(Method::GET, "/metrics", &[], None).expect("an answer").text();
    let log = server.log_text();
    for text in [&log, &metrics] {
        assert!(text.contains("/api/v1/ws") && text.contains("/api/v1/live"), "{text}");
        for part in token.split('.') {
            assert!(!text.contains(part), "a part of the token is told");
        }
    }
}
