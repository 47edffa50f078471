//! Races, forced: two writes that contradict each other start at the same moment, many times over, on hot rows and on
//! cold ones, and each time one of the legal outcomes holds.
//!
//! Invariant: an outcome is legal when some order of the two writes gives it; `conflict` is a legal answer to a write
//! that then has left no trace.

use std::{sync::Barrier, thread};

use kalamdb_protocol::{ConversationType, ErrorCode, SendMessageRequest, WriteResponse};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Client, Failure, Server, assert_consistent, message, rounds};

/// Runs both at once.
fn race<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            start.wait();
            b()
        });
        start.wait();
        let first = a();
        (first, other.join().expect("the other side does not panic"))
    })
}

/// The rows that a write changed; a conflict changed none.
#[track_caller]
fn affected(result: Result<WriteResponse, Failure>) -> Option<u64> {
    match result {
        Ok(answer) => Some(answer.rows_affected),
        Err(failure) => {
            assert_eq!(failure.code(), Some(ErrorCode::Conflict), "{failure}");
            None
        }
    }
}

fn server() -> Server {
    Server::with(&[("rocksdb.durability", "os")])
}

fn group_of(owner: &Client, id: &str, others: &[&str]) {
    owner.run(&format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{id}', 'group')"));
    for user in others {
        owner.run(&format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('{id}', '{user}')"));
    }
}

/// Each race runs this often; every other time over cold rows.
fn each_round(server: &Server, setting: impl Fn(usize), mut run: impl FnMut(usize)) {
    let admin = server.admin();
    for round in 0..rounds(30) {
        setting(round);
        if round % 2 == 1 {
            admin.consolidate();
        }
        run(round);
    }
}

#[test]
fn delete_against_update() {
    let server = server();
    let amy = server.client("amy");
    let setting = |round: usize| {
        amy.say("c", &format!("old {round}"));
    };
    each_round(&server, setting, |round| {
        let delete = format!("DELETE FROM messages WHERE content IN ('old {round}', 'new {round}')");
        let update = format!("UPDATE messages SET content = 'new {round}' WHERE content = 'old {round}'");
        let (deleted, updated) = race(|| affected(amy.write(&delete)), || affected(amy.write(&update)));
        let left = amy.texts(&format!("SELECT content FROM messages WHERE content LIKE '% {round}'"));
        match (deleted, updated) {
            (Some(1), _) => assert_eq!(left, [""; 0]),
            (None, Some(1)) => assert_eq!(left, [format!("new {round}")]),
            (None, None) => assert_eq!(left, [format!("old {round}")]),
            other => panic!("{other:?}"),
        }
        assert_consistent(&amy, "amy");
        amy.run("DELETE FROM messages");
    });
}

#[test]
fn two_deletes_of_one_row_count_it_once() {
    let server = server();
    let amy = server.client("amy");
    let setting = |_| {
        amy.run(
            "INSERT INTO messages (conversationId, from, content) SELECT 'c', 'ai', 'x' FROM UNNEST(generate_series(1, 10)) AS numbers(value)",
        );
    };
    each_round(&server, setting, |_| {
        let all = "DELETE FROM messages WHERE msgId IN (SELECT msgId FROM messages)";
        let (one, other) = race(|| affected(amy.write(all)), || affected(amy.write("DELETE FROM messages")));
        let left = amy.number("SELECT COUNT(*) FROM messages");
        let gone = one.unwrap_or(0) + other.unwrap_or(0);
        assert_eq!((gone, left), (10, 0), "{one:?} {other:?}");
        assert_consistent(&amy, "amy");
    });
}

#[test]
fn two_updates_of_one_row_both_count_or_one_conflicts() {
    let server = server();
    let amy = server.client("amy");
    let setting = |_| {
        amy.run("DELETE FROM messages");
        amy.say("c", "0");
    };
    each_round(&server, setting, |_| {
        // Adding reads what it changes: a lost update would show.
        let add = "UPDATE messages SET content = CAST(CAST(content AS BIGINT) + 1 AS VARCHAR)";
        let (one, other) = race(|| affected(amy.write(add)), || affected(amy.write(add)));
        let done = one.unwrap_or(0) + other.unwrap_or(0);
        assert_eq!(amy.texts("SELECT content FROM messages"), [done.to_string()]);
        assert!(done >= 1, "one of two gets through");
    });
}

#[test]
fn removal_against_send() {
    let server = server();
    let (amy, bob, carol) = (server.client("amy"), server.client("bob"), server.client("carol"));
    let setting = |round: usize| group_of(&amy, &format!("g{round}"), &["bob", "carol"]);
    each_round(&server, setting, |round| {
        let group = format!("g{round}");
        let remove = format!("DELETE FROM conversationUsers WHERE conversationId = '{group}' AND userId = 'bob'");
        let mut hello = message(&group, &format!("hello {round}"));
        hello.conversation_type = Some(ConversationType::Group);
        let (removed, sent) = race(|| amy.write(&remove), || bob.send(&hello));
        let removed = affected(removed);
        let expected = match &sent {
            Ok(answer) => vec![answer.msg_id],
            Err(failure) => {
                assert!(matches!(failure.code(), Some(ErrorCode::Forbidden | ErrorCode::Conflict)), "{failure}");
                Vec::new()
            }
        };
        for client in [&amy, &bob, &carol] {
            let ids = client.numbers(&format!("SELECT msgId FROM messages WHERE conversationId = '{group}'"));
            assert_eq!(ids, expected, "all participants have it, the sender too, or nobody");
        }
        let participants =
            amy.number(&format!("SELECT COUNT(*) FROM conversationUsers WHERE conversationId = '{group}'"));
        assert_eq!(participants, if removed == Some(1) { 2 } else { 3 });
    });
}

#[test]
fn joining_against_send() {
    let server = server();
    let (amy, bob, dave) = (server.client("amy"), server.client("bob"), server.client("dave"));
    let setting = |round: usize| group_of(&amy, &format!("g{round}"), &["bob"]);
    each_round(&server, setting, |round| {
        let group = format!("g{round}");
        let add = format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('{group}', 'dave')");
        let (added, sent) = race(|| affected(amy.write(&add)), || bob.send(&message(&group, "hello")));
        let sent = sent.map(|answer| answer.msg_id).expect("a participant may send");
        let his = dave.numbers(&format!("SELECT msgId FROM messages WHERE conversationId = '{group}'"));
        assert!(his.is_empty() || his == [sent] && added == Some(1), "{his:?}");
        let later = bob.say(&group, "again");
        let his =
            dave.numbers(&format!("SELECT msgId FROM messages WHERE conversationId = '{group}' AND msgId >= {later}"));
        assert_eq!(his.len(), usize::from(added == Some(1)));
    });
}

#[test]
fn update_against_consolidation() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    for round in 0..rounds(30) {
        amy.run(&format!(
            "INSERT INTO messages (conversationId, content) SELECT 'c{round}', 'old' FROM UNNEST(generate_series(1, 40)) AS numbers(value)"
        ));
        let update = format!("UPDATE messages SET content = 'new' WHERE conversationId = 'c{round}'");
        let (updated, ()) = race(|| affected(amy.write(&update)), || admin.consolidate());
        let expected = if updated.is_some() { "new" } else { "old" };
        let rows = amy.rows(&format!("SELECT content, COUNT(*), COUNT(DISTINCT msgId) FROM messages WHERE conversationId = 'c{round}' GROUP BY content"));
        assert_eq!(rows, [vec![json!(expected), json!(40), json!(40)]]);
        assert!(updated.is_none_or(|rows| rows == 40));
    }
    assert_consistent(&amy, "amy");
}

#[test]
fn delete_against_consolidation() {
    let server = server();
    let (amy, admin) = (server.client("amy"), server.admin());
    let mut kept = 0;
    for round in 0..rounds(30) {
        amy.run(&format!("INSERT INTO messages (conversationId, from, content) SELECT 'c', 'ai', '{round}' FROM UNNEST(generate_series(1, 40)) AS numbers(value)"));
        let delete = format!("DELETE FROM messages WHERE content = '{round}'");
        let (deleted, ()) = race(|| affected(amy.write(&delete)), || admin.consolidate());
        match deleted {
            Some(rows) => assert_eq!(rows, 40),
            None => kept += 40,
        }
        assert_eq!(amy.number("SELECT COUNT(*) FROM messages"), kept);
        assert_consistent(&amy, "amy");
    }
}

#[test]
fn conversation_deletion_against_send() {
    let server = server();
    let amy = server.client("amy");
    let setting = |round: usize| {
        amy.say(&format!("c{round}"), "before");
    };
    each_round(&server, setting, |round| {
        let id = format!("c{round}");
        let delete = format!("DELETE FROM conversations WHERE conversationId = '{id}'");
        let (deleted, sent) = race(|| affected(amy.write(&delete)), || amy.say(&id, "during"));
        let left =
            amy.numbers(&format!("SELECT msgId FROM messages WHERE conversationId = '{id}' AND content = 'during'"));
        // Sent before the deletion: gone with it. Sent after: the first of a new conversation.
        assert!(left.is_empty() || left == [sent], "{left:?}");
        let before =
            amy.number(&format!("SELECT COUNT(*) FROM messages WHERE conversationId = '{id}' AND content = 'before'"));
        let rows = amy.number(&format!("SELECT COUNT(*) FROM conversations WHERE conversationId = '{id}'"));
        if deleted == Some(1) {
            assert_eq!((before, rows), (0, i64::try_from(left.len()).expect("0 or 1")));
        } else {
            assert_eq!((before, rows, left.len()), (1, 1, 1));
        }
        assert_consistent(&amy, "amy");
    });
}

#[test]
fn the_same_id_twice_is_there_once() {
    let server = server();
    let amy = server.client("amy");
    each_round(
        &server,
        |_| {},
        |round| {
            let id = i64::try_from(round).expect("few rounds") + 1;
            let send = |text: &str| {
                let request = SendMessageRequest { msg_id: Some(id), ..message("c", text) };
                amy.send(&request).map_err(|failure| failure.code())
            };
            let (one, other) = race(|| send("one"), || send("other"));
            let winner = match (one, other) {
                (Ok(_), Err(Some(ErrorCode::Conflict))) => "one",
                (Err(Some(ErrorCode::Conflict)), Ok(_)) => "other",
                outcome => panic!("{outcome:?}"),
            };
            assert_eq!(amy.texts(&format!("SELECT content FROM messages WHERE msgId = {id}")), [winner]);
        },
    );
}

#[test]
fn the_same_idempotency_key_twice_is_one_message() {
    let server = server();
    let amy = server.client("amy");
    each_round(
        &server,
        |_| {},
        |round| {
            let body = json!({ "conversationId": "c", "content": format!("{round}") }).to_string();
            let key = format!("key-{round}");
            let send = || {
                let headers = [("idempotency-key", key.as_str())];
                let answer = amy.request(Method::POST, "/api/v1/messages", &headers, Some(&body)).expect("an answer");
                assert_eq!(answer.status, 201, "{}", answer.text());
                answer.json()
            };
            let (one, other) = race(send, send);
            assert_eq!(one, other);
            assert_eq!(amy.number(&format!("SELECT COUNT(*) FROM messages WHERE content = '{round}'")), 1);
        },
    );
}

#[test]
fn two_creators_of_one_group_are_one() {
    let server = server();
    let (amy, bob) = (server.client("amy"), server.client("bob"));
    each_round(
        &server,
        |_| {},
        |round| {
            let sql =
                format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('g{round}', 'group')");
            let create = |client: &Client| match client.write(&sql) {
                Ok(_) => true,
                Err(failure) => {
                    assert!(matches!(failure.code(), Some(ErrorCode::Conflict | ErrorCode::Forbidden)), "{failure}");
                    false
                }
            };
            let (hers, his) = race(|| create(&amy), || create(&bob));
            assert!(hers != his, "one of two creates it");
            let owner = if hers { &amy } else { &bob };
            assert_eq!(
                owner.number(&format!("SELECT COUNT(*) FROM conversationUsers WHERE conversationId = 'g{round}'")),
                1
            );
        },
    );
}

#[test]
fn owner_and_heir_leave_together() {
    let server = server();
    let (amy, bob, carol) = (server.client("amy"), server.client("bob"), server.client("carol"));
    let setting = |round: usize| group_of(&amy, &format!("g{round}"), &["bob", "carol"]);
    each_round(&server, setting, |round| {
        let leave = |client: &Client, user: &str| {
            affected(client.write(&format!(
                "DELETE FROM conversationUsers WHERE conversationId = 'g{round}' AND userId = '{user}'"
            )))
        };
        let (one, other) = race(|| leave(&amy, "amy"), || leave(&bob, "bob"));
        let left = one.unwrap_or(0) + other.unwrap_or(0);
        let participants = carol
            .texts(&format!("SELECT role FROM conversationUsers WHERE conversationId = 'g{round}' ORDER BY role DESC"));
        assert_eq!(participants.len() as u64, 3 - left);
        assert_eq!(participants.iter().filter(|role| *role == "owner").count(), 1, "{participants:?}");
    });
}

/// The limit of participants holds when the last two places are asked for at once.
#[test]
fn the_last_place_in_a_group_is_given_once() {
    let server = Server::with(&[("rocksdb.durability", "os"), ("conversations.max_group_participants", "3")]);
    let amy = server.client("amy");
    let setting = |round: usize| group_of(&amy, &format!("g{round}"), &["bob"]);
    each_round(&server, setting, |round| {
        let add = |user: &str| {
            let sql = format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g{round}', '{user}')");
            amy.write(&sql).is_ok()
        };
        let (one, other) = race(|| add("carol"), || add("dave"));
        assert!(!(one && other));
        let participants =
            amy.number(&format!("SELECT COUNT(*) FROM conversationUsers WHERE conversationId = 'g{round}'"));
        assert_eq!(participants, 2 + i64::from(one || other));
    });
}
