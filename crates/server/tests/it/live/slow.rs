//! A client that does not keep up: it is told where to resume, it misses nothing, and nobody waits for it.
//!
//! Invariant: the others see every message while the slow one reads nothing.

use serde_json::{Value, json};

use super::{group, watching};
use crate::harness::{Live, Server};

/// More than the system keeps for a socket, sender's and receiver's together, in messages of this size.
const MESSAGES: usize = 300;
const MESSAGE_BYTES: usize = 90_000;

/// Reads up to where it was left behind; answers the ids and where to resume.
fn read_until_lagged(live: &mut Live) -> (Vec<i64>, Value) {
    let mut seen = Vec::new();
    loop {
        let frame = live.hear().expect("the connection stays");
        if frame["type"] != "message" {
            assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("lagged")), "{frame}");
            assert_eq!(frame["id"], "all");
            return (seen, frame["details"]["resumeAfter"].clone());
        }
        seen.push(frame["message"]["msgId"].as_i64().expect("an id"));
    }
}

#[test]
fn a_slow_reader_is_told_where_to_resume_and_holds_nobody_up() {
    let server = Server::with(&[
        ("rocksdb.durability", "os"),
        ("live.queue_frames", "16"),
        ("server.request_timeout_seconds", "3600"),
        ("query.max_rows", "100000"),
    ]);
    group(&server, "g", &["amy", "bob", "carol"]);
    let (amy, bob) = (server.client("amy"), server.client("bob"));
    let mut slow = Live::connect_with_little_room(&bob);
    slow.subscribe(json!({ "id": "all" }));
    let mut fast = watching(&server.client("carol"));
    let mut other_of_the_slow_one_s = watching(&bob);
    let text = "x".repeat(MESSAGE_BYTES);
    let sent: Vec<i64> = (0..MESSAGES)
        .map(|_| {
            let id = amy.say("g", &text);
            for live in [&mut fast, &mut other_of_the_slow_one_s] {
                assert_eq!(live.expect("message")["message"]["msgId"], id);
            }
            id
        })
        .collect();

    let (mut seen, resume) = read_until_lagged(&mut slow);
    assert!(!seen.is_empty() && seen.len() < sent.len(), "{} of {} were seen", seen.len(), sent.len());
    slow.ping();
    slow.subscribe(json!({ "id": "all", "after": resume }));
    loop {
        let frame = slow.hear().expect("the replay");
        if frame["type"] == "replay_complete" {
            break;
        }
        assert_eq!(frame["type"], "message", "a replay waits for its client");
        seen.push(frame["message"]["msgId"].as_i64().expect("an id"));
    }
    assert_eq!(seen, sent);
    let last = amy.say("g", "live again");
    assert_eq!(slow.expect("message")["message"]["msgId"], last);
}

/// However much there is to replay, and however slowly it is read, it is replayed.
#[test]
fn a_long_replay_waits_for_its_client() {
    let server = Server::with(&[
        ("rocksdb.durability", "os"),
        ("live.queue_frames", "16"),
        ("server.request_timeout_seconds", "3600"),
        ("query.max_rows", "100000"),
    ]);
    let amy = server.client("amy");
    let text = "x".repeat(MESSAGE_BYTES);
    for _ in 0..MESSAGES {
        amy.say("c", &text);
    }
    let expected = amy.numbers("SELECT msgId FROM messages ORDER BY msgId");
    let mut slow = Live::connect_with_little_room(&amy);
    slow.subscribe(json!({ "id": "all", "lastMsgId": 0 }));
    let mut seen = vec![slow.expect("message")["message"]["msgId"].as_i64().expect("an id")];
    // What comes meanwhile comes after it.
    let new = amy.say("c", "meanwhile");
    while seen.len() < expected.len() {
        seen.push(slow.expect("message")["message"]["msgId"].as_i64().expect("an id"));
    }
    assert_eq!(seen, expected);
    assert_eq!(slow.expect("replay_complete")["messageCount"], expected.len());
    assert_eq!(slow.expect("message")["message"]["msgId"], new);
}
