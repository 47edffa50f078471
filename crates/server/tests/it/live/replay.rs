//! What was missed: by the last id, or by the last place.
//!
//! Invariant: a client that comes back sees each thing once, wherever its rows lie by then, and what it cannot be told
//! any more it is told to read anew.

use serde_json::{Value, json};

use super::{next_message, next_texts, place, server, watching};
use crate::harness::{Client, Live, Server};

/// Sends numbered texts; answers their ids.
fn say_numbers(client: &Client, numbers: std::ops::Range<i64>) -> Vec<i64> {
    numbers.map(|number| client.say("c", &number.to_string())).collect()
}

/// Everything from the acknowledgement to the end of the replay: its frames, and what the end says.
#[track_caller]
fn replayed(live: &mut Live) -> (Vec<Value>, Value) {
    let mut frames = Vec::new();
    loop {
        let frame = live.hear().expect("the replay goes on");
        if frame["type"] == "replay_complete" {
            return (frames, frame);
        }
        frames.push(frame);
    }
}

fn ids(frames: &[Value]) -> Vec<i64> {
    let id = |frame: &Value| frame["message"]["msgId"].as_i64().expect("an id");
    frames.iter().map(id).collect()
}

#[test]
fn the_last_id_replays_what_came_after_it_wherever_it_lies() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    let mut sent = say_numbers(&amy, 0..20);
    admin.consolidate();
    sent.extend(say_numbers(&amy, 20..30));
    let mut live = Live::connect(&amy);
    for (after, expected) in [(0, &sent[..]), (sent[4], &sent[5..]), (sent[24], &sent[25..]), (sent[29], &sent[30..])] {
        live.subscribe(json!({ "id": "c", "conversationId": "c", "lastMsgId": after }));
        let (frames, end) = replayed(&mut live);
        assert_eq!(ids(&frames), expected);
        assert!(frames.iter().all(|frame| frame["type"] == "message" && frame["id"] == "c"), "{frames:?}");
        assert_eq!(end["messageCount"], expected.len());
        assert_eq!(end["lastMsgId"], *expected.last().unwrap_or(&after));
        live.say(json!({ "type": "unsubscribe", "id": "c" }));
    }
}

#[test]
fn after_a_replay_it_is_live() {
    let server = server();
    let amy = server.client("amy");
    say_numbers(&amy, 0..3);
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "all", "lastMsgId": 0 }));
    let (frames, _) = replayed(&mut live);
    assert_eq!(frames.len(), 3);
    say_numbers(&amy, 3..5);
    assert_eq!(next_texts(&mut live, 2), ["3", "4"]);
}

#[test]
fn without_a_replay_only_what_comes_is_told() {
    let server = server();
    let amy = server.client("amy");
    say_numbers(&amy, 0..3);
    let mut live = watching(&amy);
    say_numbers(&amy, 3..4);
    assert_eq!(next_texts(&mut live, 1), ["3"]);
}

#[test]
fn the_replay_obeys_the_filter_and_the_projection() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    say_numbers(&amy, 0..15);
    admin.consolidate();
    say_numbers(&amy, 15..20);
    let mut live = Live::connect(&amy);
    let sql = "SELECT content || '!' AS loud FROM messages WHERE CAST(content AS BIGINT) % $1 = 0";
    live.subscribe(json!({ "id": "loud", "sql": sql, "params": [7], "lastMsgId": 0 }));
    let (frames, _) = replayed(&mut live);
    let loud: Vec<&Value> = frames.iter().map(|frame| &frame["message"]["loud"]).collect();
    assert_eq!(loud, ["0!", "7!", "14!"]);
}

#[test]
fn a_place_replays_everything_since_edits_and_deletions_too() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    let mut live = watching(&amy);
    let sent = say_numbers(&amy, 0..4);
    let told: Vec<Value> = (0..4).map(|_| live.expect("message")).collect();
    let last = told[3]["position"].clone();
    drop(live);
    let new = amy.say("c", "new");
    amy.run(&format!("UPDATE messages SET content = 'edited' WHERE msgId = {}", sent[1]));
    admin.consolidate();
    amy.run(&format!("DELETE FROM messages WHERE msgId = {}", sent[2]));
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "all", "after": last }));
    let (frames, _) = replayed(&mut live);
    let told: Vec<(&str, i64)> = frames
        .iter()
        .map(|frame| {
            let id = if frame["type"] == "delete" { &frame["msgId"] } else { &frame["message"]["msgId"] };
            (frame["type"].as_str().expect("a type"), id.as_i64().expect("an id"))
        })
        .collect();
    assert_eq!(told, [("message", new), ("update", sent[1]), ("delete", sent[2])]);
    let mut places = vec![place(&last)];
    places.extend(frames.iter().map(|frame| place(&frame["position"])));
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    // From the end there is nothing to tell.
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "all", "after": frames[2]["position"] }));
    assert_eq!(replayed(&mut live).0, [Value::Null; 0]);
}

#[test]
fn a_place_within_a_commit_replays_the_rest_of_it() {
    let server = server();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    amy.run("INSERT INTO messages (conversationId, content) SELECT 'c', CAST(value AS VARCHAR) FROM UNNEST(generate_series(1, 50)) AS numbers(value)");
    let frames: Vec<Value> = (0..50).map(|_| live.expect("message")).collect();
    for seen in [0, 24, 49] {
        let mut again = Live::connect(&amy);
        again.subscribe(json!({ "id": "all", "after": frames[seen]["position"] }));
        let (rest, _) = replayed(&mut again);
        assert_eq!(ids(&rest), ids(&frames[seen + 1..]));
    }
}

/// What was told as it happened and what is replayed of it stand at the same places.
#[test]
fn a_place_is_the_same_live_and_replayed() {
    let server = server();
    let amy = server.client("amy");
    let mut live = Live::connect(&amy);
    let start = live.subscribe(json!({ "id": "all" }));
    say_numbers(&amy, 0..3);
    let told: Vec<Value> = (0..3).map(|_| live.expect("message")).collect();
    let mut again = Live::connect(&amy);
    again.subscribe(json!({ "id": "all", "after": start }));
    assert_eq!(replayed(&mut again).0, told);
}

#[test]
fn a_place_that_is_not_known_must_be_read_anew() {
    let server = server();
    let amy = server.client("amy");
    say_numbers(&amy, 0..3);
    let mut live = Live::connect(&amy);
    let now = live.subscribe(json!({ "id": "now" }));
    let (epoch, seq, _) = place(&now);
    for position in
        [json!({ "epoch": epoch + 1, "seq": seq, "n": 0 }), json!({ "epoch": epoch, "seq": seq + 1_000_000, "n": 0 })]
    {
        live.say(json!({ "type": "subscribe", "id": "then", "after": position }));
        // Whether it is acknowledged first makes no difference: it has ended.
        let mut frame = live.hear().expect("an answer");
        if frame["type"] == "subscribe_ack" {
            frame = live.hear().expect("an answer");
        }
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("lagged")), "{frame}");
        assert_eq!((&frame["id"], &frame["details"]["resync"]), (&json!("then"), &json!(true)), "{frame}");
    }
    amy.say("c", "on it goes");
    let frame = live.expect("message");
    assert_eq!(frame["id"], "now", "and only the other one sees it");
    live.ping();
}

#[test]
fn only_messages_have_a_last_id() {
    let server = server();
    let mut live = Live::connect(&server.client("amy"));
    let sql = "SELECT * FROM conversations";
    live.say(json!({ "type": "subscribe", "id": "conversations", "sql": sql, "lastMsgId": 0 }));
    let code = live.expect("error")["code"].clone();
    assert!(code == "invalid_value" || code == "unsupported", "{code}");
    live.ping();
}

#[test]
fn a_place_outlives_the_server() {
    let mut server = Server::start();
    let amy = server.client("amy");
    let mut live = watching(&amy);
    say_numbers(&amy, 0..3);
    next_message(&mut live);
    let seen = live.expect("message")["position"].clone();
    server.restart();
    say_numbers(&amy, 3..5);
    let mut live = Live::connect(&amy);
    live.subscribe(json!({ "id": "all", "after": seen }));
    let (frames, _) = replayed(&mut live);
    let texts: Vec<&Value> = frames.iter().map(|frame| &frame["message"]["content"]).collect();
    assert_eq!(texts, ["2", "3", "4"]);
}

#[test]
fn conversations_and_participants_are_replayed_from_a_place() {
    let server = server();
    let (amy, bob) = (server.client("amy"), server.client("bob"));
    let mut live = Live::connect(&bob);
    let conversations = live.subscribe(json!({ "id": "list", "sql": "SELECT lastMsgId FROM conversations" }));
    let participants = live.subscribe(json!({ "id": "participants", "sql": "SELECT role FROM conversationUsers" }));
    drop(live);
    amy.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    amy.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'bob')");
    amy.say("g", "one");
    let last = amy.say("g", "two");
    let mut live = Live::connect(&bob);
    live.subscribe(json!({ "id": "list", "sql": "SELECT lastMsgId FROM conversations", "after": conversations }));
    let (frames, _) = replayed(&mut live);
    assert_eq!(frames.len(), 1, "the conversation is told once: {frames:?}");
    assert_eq!(
        (&frames[0]["message"]["conversationId"], &frames[0]["message"]["lastMsgId"]),
        (&json!("g"), &json!(last))
    );
    live.subscribe(json!({ "id": "participants", "sql": "SELECT role FROM conversationUsers", "after": participants }));
    let (frames, _) = replayed(&mut live);
    let mut users: Vec<&str> = frames.iter().filter_map(|frame| frame["message"]["userId"].as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["amy", "bob"], "{frames:?}");
}
