//! `kill -9` at any moment: what was acknowledged is there, once, for everybody; what was not is there once or not at
//! all, for everybody.
//!
//! Invariant: the moment of the kill is random, the thresholds are small, so that it often falls into a
//! consolidation; the check knows only what the clients were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    thread,
    time::Duration,
};

use kalamdb_protocol::ConversationType;
use reqwest::Method;

use crate::harness::{Client, Dice, Failure, Server, assert_consistent, eventually, message, rounds};

const USERS: [&str; 3] = ["amy", "bob", "carol"];

/// What a client was told of one send.
struct Attempt {
    user: &'static str,
    to_group: bool,
    text: String,
    /// The id, when it was acknowledged.
    id: Option<i64>,
}

fn server(durability: &str) -> Server {
    let server = Server::with(&[
        ("rocksdb.durability", durability),
        ("consolidation.messages_threshold", "15"),
        ("consolidation.interval_seconds", "1"),
        ("consolidation.min_batch_rows", "1"),
        ("query.max_rows", "100000"),
    ]);
    let amy = server.client("amy");
    amy.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    amy.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'bob'), ('g', 'carol')");
    server
}

/// Sends until the connection breaks, and reports each acknowledgement as it comes.
fn send_until_it_breaks(
    client: &Client,
    user: &'static str,
    tag: &str,
    acknowledged: &mpsc::Sender<()>,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for number in 0.. {
        let to_group = number % 3 == 0;
        let text = format!("{tag}/{number}");
        let kind = if to_group { ConversationType::Group } else { ConversationType::Ai };
        let mut request = message(if to_group { "g" } else { tag }, &text);
        request.conversation_type = Some(kind);
        let id = match client.send(&request) {
            Ok(answer) => Some(answer.msg_id),
            Err(Failure::NoAnswer) => None,
            Err(refused) => panic!("{refused}"),
        };
        attempts.push(Attempt { user, to_group, text, id });
        if id.is_none() {
            break;
        }
        acknowledged.send(()).ok();
    }
    attempts
}

/// One round: everybody sends, somebody consolidates, and after some acknowledgements the server is killed.
fn one_crash(server: &mut Server, round: usize, dice: &mut Dice) -> Vec<Attempt> {
    let kill_after = 1 + dice.below(150);
    let (acknowledged, heard) = mpsc::channel();
    let clients: Vec<(&'static str, Client)> = USERS.iter().map(|user| (*user, server.client(user))).collect();
    let admin = server.admin();
    thread::scope(|scope| {
        let senders: Vec<_> = clients
            .iter()
            .flat_map(|(user, client)| [0, 1].map(|number| (*user, client, number)))
            .map(|(user, client, number)| {
                let acknowledged = acknowledged.clone();
                scope.spawn(move || {
                    send_until_it_breaks(client, user, &format!("{user}-{round}-{number}"), &acknowledged)
                })
            })
            .collect();
        scope.spawn(|| while admin.request(Method::POST, "/api/admin/consolidate", &[], Some("{}")).is_ok() {});
        for _ in 0..kill_after {
            heard.recv_timeout(Duration::from_mins(1)).expect("sends are acknowledged");
        }
        server.kill9();
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender")).collect()
    })
}

type Row = (i64, String, String);

/// A user's messages: id, type, text.
fn messages(client: &Client) -> Vec<Row> {
    let rows = client.rows("SELECT msgId, conversationType, content FROM messages ORDER BY msgId");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    rows.iter().map(|row| (row[0].as_i64().expect("an id"), text(&row[1]), text(&row[2]))).collect()
}

/// Holds what is there against what the clients were told.
fn check(server: &Server, attempts: &[Attempt]) {
    let histories: BTreeMap<&str, Vec<Row>> =
        USERS.iter().map(|user| (*user, messages(&server.client(user)))).collect();
    let of_group = |user: &str| -> Vec<&Row> { histories[user].iter().filter(|row| row.1 == "group").collect() };
    for user in &USERS[1..] {
        assert_eq!(of_group(USERS[0]), of_group(user), "a group send is there for all participants or for none");
    }
    for (user, history) in &histories {
        let ids: BTreeSet<i64> = history.iter().map(|row| row.0).collect();
        assert_eq!(ids.len(), history.len(), "an id of {user} is there twice");
        let mut by_text: BTreeMap<&str, i64> = BTreeMap::new();
        for (id, _, text) in history {
            assert_eq!(by_text.insert(text, *id), None, "{text} is there twice for {user}");
        }
        let meant = attempts.iter().filter(|attempt| attempt.to_group || attempt.user == *user);
        for attempt in meant {
            let found = by_text.remove(attempt.text.as_str());
            if attempt.id.is_some() {
                assert_eq!(
                    found, attempt.id,
                    "{} was acknowledged to {}; {user} has it as",
                    attempt.text, attempt.user
                );
            }
        }
        assert!(by_text.is_empty(), "nobody sent {by_text:?}");
        assert_consistent(&server.client(user), user);
    }
}

/// Each file has its segment and each segment its file, once nothing is on its way.
fn no_stray_files(server: &Server) {
    let admin = server.admin();
    admin.consolidate();
    eventually("every file has its segment, and every segment its file", || {
        let mut segments = admin.texts("SELECT path FROM system.segments");
        segments.sort();
        segments == server.segment_files()
    });
}

fn crash_again_and_again(durability: &str) {
    let mut dice = Dice::new(durability);
    let mut server = server(durability);
    let mut attempts: Vec<Attempt> = Vec::new();
    for round in 0..rounds(6) {
        let highest = attempts.iter().filter_map(|attempt| attempt.id).max().unwrap_or(0);
        let new = one_crash(&mut server, round, &mut dice);
        server.spawn();
        let lowest = new.iter().filter_map(|attempt| attempt.id).min();
        assert!(lowest.is_none_or(|lowest| lowest > highest), "ids rise across a crash: {lowest:?} after {highest}");
        attempts.extend(new);
        check(&server, &attempts);
    }
    no_stray_files(&server);
    check(&server, &attempts);
    server.restart();
    no_stray_files(&server);
    check(&server, &attempts);
}

#[test]
fn nothing_acknowledged_is_lost_with_synced_commits() {
    crash_again_and_again("sync");
}

#[test]
fn nothing_acknowledged_is_lost_to_a_kill_with_unsynced_commits() {
    crash_again_and_again("os");
}

/// Each user's own sends come back in the order in which they were acknowledged.
#[test]
fn ids_rise_with_each_acknowledged_send() {
    let mut server = server("os");
    let mut dice = Dice::new("ids");
    for round in 0..2 {
        let attempts = one_crash(&mut server, round, &mut dice);
        server.spawn();
        let mut threads: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for attempt in &attempts {
            let thread = attempt.text.rsplit_once('/').expect("a tag").0;
            threads.entry(thread).or_default().extend(attempt.id);
        }
        assert!(threads.values().all(|ids| ids.is_sorted_by(|a, b| a < b)), "{threads:?}");
    }
}
