//! Groups: every participant sees what is sent, and nobody else.
//!
//! Invariant: who leaves sees nothing from that commit on; that nothing came is shown by what came next.

use std::thread;

use serde_json::json;

use super::{group, next_message, next_texts, place, server, watching};
use crate::harness::{Live, message};

#[test]
fn every_participant_sees_each_message_once_and_in_order() {
    let server = server();
    let users = ["amy", "bob", "carol"];
    group(&server, "g", &users);
    let clients = users.map(|user| server.client(user));
    let mut connections: Vec<Live> = clients.iter().map(watching).collect();
    let each = 30;
    thread::scope(|scope| {
        for (user, client) in users.iter().zip(&clients) {
            scope.spawn(move || {
                for number in 0..each {
                    client.send(&message("g", &format!("{user} {number}"))).expect("it is sent");
                }
            });
        }
    });
    let expected = clients[0].numbers("SELECT msgId FROM messages ORDER BY msgId");
    assert_eq!(expected.len(), users.len() * each);
    for live in &mut connections {
        let seen: Vec<i64> = expected.iter().map(|_| next_message(live)["msgId"].as_i64().expect("an id")).collect();
        assert_eq!(seen, expected);
        live.ping();
    }
}

#[test]
fn one_send_is_one_place_in_everybody_s_history() {
    let server = server();
    group(&server, "g", &["amy", "bob"]);
    let (amy, bob) = (server.client("amy"), server.client("bob"));
    let (mut hers, mut his) = (watching(&amy), watching(&bob));
    let sent = amy.say("g", "hello");
    let (a, b) = (hers.expect("message"), his.expect("message"));
    assert_eq!((&a["message"], &a["message"]["msgId"]), (&b["message"], &json!(sent)));
    assert_eq!((place(&a["position"]).0, place(&a["position"]).1), (place(&b["position"]).0, place(&b["position"]).1));
    amy.run("UPDATE messages SET content = 'hello, all'");
    assert_eq!(hers.expect("update")["message"], his.expect("update")["message"]);
    amy.run("DELETE FROM messages");
    assert_eq!(hers.expect("delete")["msgId"], sent);
    amy.say("g", "next");
    assert_eq!(next_texts(&mut his, 1), ["next"], "her deletion is of her copy");
}

#[test]
fn who_is_removed_sees_nothing_from_then_on() {
    let server = server();
    group(&server, "g", &["amy", "bob", "carol"]);
    let (amy, bob, carol) = (server.client("amy"), server.client("bob"), server.client("carol"));
    let (mut his, mut carols) = (watching(&bob), watching(&carol));
    amy.say("g", "for three");
    amy.run("DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'carol'");
    amy.say("g", "for two");
    amy.run("UPDATE messages SET content = 'for three, edited' WHERE content = 'for three'");
    carol.say("mine", "carol's own");
    assert_eq!(next_texts(&mut carols, 2), ["for three", "carol's own"]);
    assert_eq!(next_texts(&mut his, 2), ["for three", "for two"]);
    bob.run("DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'bob'");
    amy.say("g", "alone");
    bob.say("mine", "bob's own");
    assert_eq!(his.expect("update")["message"]["content"], "for three, edited");
    assert_eq!(next_texts(&mut his, 1), ["bob's own"]);
}

#[test]
fn being_added_and_removed_is_seen() {
    let server = server();
    group(&server, "g", &["amy", "bob"]);
    let (amy, carol) = (server.client("amy"), server.client("carol"));
    let mut live = Live::connect(&carol);
    live.subscribe(
        json!({ "id": "participants", "sql": "SELECT role FROM conversationUsers WHERE conversationId = 'g'" }),
    );
    let participants = |live: &mut Live, kind: &str, number: usize| {
        let mut rows: Vec<(String, String)> = (0..number)
            .map(|_| {
                let frame = live.expect(kind);
                let row = if kind == "delete" { &frame } else { &frame["message"] };
                assert_eq!(row["conversationId"], "g");
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                (text("userId"), text("role"))
            })
            .collect();
        rows.sort();
        rows
    };
    let row = |user: &str, role: &str| (user.to_owned(), role.to_owned());
    amy.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'carol')");
    let all = [row("amy", "owner"), row("bob", "member"), row("carol", "member")];
    assert_eq!(participants(&mut live, "message", 3), all);
    amy.run("UPDATE conversationUsers SET role = 'admin' WHERE conversationId = 'g' AND userId = 'bob'");
    assert_eq!(participants(&mut live, "update", 1), [row("bob", "admin")]);
    amy.run("DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'bob'");
    assert_eq!(participants(&mut live, "delete", 1), [row("bob", "")]);
    amy.run("DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'carol'");
    assert_eq!(participants(&mut live, "delete", 2), [row("amy", ""), row("carol", "")]);
}

#[test]
fn a_newcomer_sees_what_is_sent_from_then_on() {
    let server = server();
    group(&server, "g", &["amy", "bob"]);
    let (amy, carol) = (server.client("amy"), server.client("carol"));
    let mut live = Live::connect(&carol);
    live.subscribe(json!({ "id": "g", "conversationId": "g", "conversationType": "group" }));
    amy.say("g", "before");
    amy.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'carol')");
    amy.say("g", "after");
    assert_eq!(next_texts(&mut live, 1), ["after"]);
}
