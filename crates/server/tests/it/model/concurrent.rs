//! Several writers at once, with consolidation running: what must hold whatever the order was.
//!
//! Invariant: each writer changes only what nobody else changes (its own sends, its own messages' texts, its own
//! copies), so that the end is known exactly although the way there is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use kalamdb_protocol::{ConversationType, ErrorCode};
use serde_json::json;

use super::world::World;
use crate::harness::{Client, Dice, Failure, Server, assert_consistent, message, rounds};

const WRITERS: [&str; 3] = ["amy", "bob", "carol"];

/// Something that a writer did and was told to be done.
enum Done {
    Sent { kind: ConversationType, id: i64, content: String },
    Edited { id: i64, content: String },
    Deleted { ids: Vec<i64> },
    Cleared { ids: Vec<i64> },
}

fn group_of_all(server: &Server) {
    let amy = server.client("amy");
    amy.run("INSERT INTO conversations (conversationId, conversationType) VALUES ('g', 'group')");
    amy.run("INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'bob'), ('g', 'carol')");
}

/// A write that lost against others three times is told so and may be tried again; nothing else is excused.
#[track_caller]
fn done_or_conflict<T>(result: Result<T, Failure>) -> Option<T> {
    match result {
        Ok(answer) => Some(answer),
        Err(failure) => {
            assert_eq!(failure.code(), Some(ErrorCode::Conflict), "{failure}");
            None
        }
    }
}

/// One writer's own view of what it may still change.
struct Writer<'a> {
    user: &'static str,
    client: &'a Client,
    dice: Dice,
    /// Its copies of its own messages, by id: whether they are of the group.
    own: BTreeMap<i64, ConversationType>,
    done: Vec<Done>,
}

impl Writer<'_> {
    fn step(&mut self, number: usize) {
        match self.dice.below(10) {
            0..6 => self.send(number),
            6 | 7 => self.edit(number),
            8 => self.delete(),
            _ => self.clear(),
        }
    }

    fn send(&mut self, number: usize) {
        let kind = *self.dice.pick(ConversationType::ALL);
        let content = format!("{} {number}", self.user);
        let mut request = message("g", &content);
        request.conversation_type = Some(kind);
        if let Some(answer) = done_or_conflict(self.client.send(&request)) {
            self.own.insert(answer.msg_id, kind);
            self.done.push(Done::Sent { kind, id: answer.msg_id, content });
        }
    }

    fn one_of_its_own(&mut self) -> Option<i64> {
        let ids: Vec<i64> = self.own.keys().copied().collect();
        (!ids.is_empty()).then(|| *self.dice.pick(&ids))
    }

    fn edit(&mut self, number: usize) {
        let Some(id) = self.one_of_its_own() else { return };
        let content = format!("{} edited {number}", self.user);
        let sql = format!("UPDATE messages SET content = '{content}' WHERE msgId = {id}");
        if let Some(answer) = done_or_conflict(self.client.write(&sql)) {
            assert_eq!(answer.rows_affected, 1, "its own copy is there");
            self.done.push(Done::Edited { id, content });
        }
    }

    fn delete(&mut self) {
        let Some(id) = self.one_of_its_own() else { return };
        if let Some(answer) = done_or_conflict(self.client.write(&format!("DELETE FROM messages WHERE msgId = {id}"))) {
            assert_eq!(answer.rows_affected, 1, "its own copy is there");
            self.own.remove(&id);
            self.done.push(Done::Deleted { ids: vec![id] });
        }
    }

    /// Deletes by a subquery what only this writer writes: its AI conversation's older half.
    fn clear(&mut self) {
        let ai: Vec<i64> =
            self.own.iter().filter(|(_, kind)| **kind == ConversationType::Ai).map(|(id, _)| *id).collect();
        let ids = ai[..ai.len() / 2].to_vec();
        let sql = format!(
            "DELETE FROM messages WHERE msgId IN (SELECT msgId FROM messages WHERE conversationType = 'ai' ORDER BY msgId LIMIT {})",
            ids.len()
        );
        if let Some(answer) = done_or_conflict(self.client.write(&sql)) {
            assert_eq!(answer.rows_affected, ids.len() as u64, "{sql}");
            self.own.retain(|id, _| !ids.contains(id));
            self.done.push(Done::Cleared { ids });
        }
    }
}

/// What everybody should have in the end: all sends first, then each writer's own edits and deletions in its order.
fn expected_end(histories: &[(&str, Vec<Done>)]) -> World {
    let mut world = World::default();
    world.create("amy", &("g".to_owned(), ConversationType::Group)).expect("it is new");
    for user in ["bob", "carol"] {
        world.add_participant("amy", "g", user).expect("amy owns it");
    }
    for (user, history) in histories {
        for done in history {
            if let Done::Sent { kind, id, content } = done {
                world.send(user, &("g".to_owned(), *kind), *id, user, content);
            }
        }
    }
    for (user, history) in histories {
        for done in history {
            match done {
                Done::Sent { .. } => {}
                Done::Edited { id, content } => {
                    world.edit(user, &[(*id, content.clone())]).expect("its own message");
                }
                Done::Deleted { ids } | Done::Cleared { ids } => {
                    world.delete(user, ids);
                }
            }
        }
    }
    world
}

#[test]
fn several_writers_and_a_consolidator_end_as_the_model_says() {
    let mut dice = Dice::new("concurrent");
    let server = Server::with(&[
        ("rocksdb.durability", "os"),
        ("query.max_rows", "100000"),
        ("consolidation.messages_threshold", "40"),
        ("consolidation.interval_seconds", "1"),
        ("consolidation.min_batch_rows", "10"),
    ]);
    group_of_all(&server);
    let clients: Vec<(&'static str, Client)> = WRITERS.iter().map(|user| (*user, server.client(user))).collect();
    let admin = server.admin();
    let finished = AtomicBool::new(false);
    let histories: Vec<(&str, Vec<Done>)> = thread::scope(|scope| {
        let consolidator = scope.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                admin.consolidate();
            }
        });
        let reader = scope.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                for (user, client) in &clients {
                    one_snapshot_is_whole(client, user);
                }
            }
        });
        let writers: Vec<_> = clients
            .iter()
            .map(|(user, client)| {
                let dice = dice.fork();
                scope.spawn(move || {
                    let mut writer = Writer { user, client, dice, own: BTreeMap::new(), done: Vec::new() };
                    (0..rounds(150)).for_each(|number| writer.step(number));
                    (*user, writer.done)
                })
            })
            .collect();
        let histories = writers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>();
        finished.store(true, Ordering::Relaxed);
        consolidator.join().expect("the consolidator");
        reader.join().expect("the reader");
        histories.into_iter().map(|history| history.expect("a writer")).collect()
    });
    let world = expected_end(&histories);
    for (user, client) in &clients {
        super::compare_messages(client, &world, user);
        super::compare_conversations(client, &world, user);
        assert_consistent(client, user);
    }
}

/// Whatever moves between the tiers meanwhile: nothing is seen twice, and the rows of one snapshot agree.
fn one_snapshot_is_whole(client: &Client, user: &str) {
    let row = client.rows("SELECT COUNT(*), COUNT(DISTINCT msgId) FROM messages").remove(0);
    assert_eq!(row[0], row[1], "a message of {user} is seen twice");
    assert_consistent(client, user);
}

/// When something began and ended, on one clock for all threads.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

/// Runs `work` and says when.
fn spanned<T>(clock: &AtomicU64, work: impl FnOnce() -> T) -> (Span, T) {
    let start = clock.fetch_add(1, Ordering::SeqCst);
    let result = work();
    (Span { start, end: clock.fetch_add(1, Ordering::SeqCst) }, result)
}

/// Whether a message must, must not or may be among the copies of somebody who came and went at these times.
fn must_have(sent: Span, stays: &[(Span, Span)]) -> Option<bool> {
    let inside = |(added, removed): &(Span, Span)| added.end < sent.start && sent.end < removed.start;
    let outside = |(added, removed): &(Span, Span)| sent.end < added.start || removed.end < sent.start;
    if stays.iter().any(inside) {
        Some(true)
    } else if stays.iter().all(outside) {
        Some(false)
    } else {
        None
    }
}

/// Dave comes and goes while the others send: his copies are those of his stays.
#[test]
fn copies_follow_membership() {
    let server = Server::with(&[("rocksdb.durability", "os"), ("query.max_rows", "100000")]);
    group_of_all(&server);
    let (amy, admin) = (server.client("amy"), server.admin());
    let senders = [server.client("bob"), server.client("carol")];
    let clock = AtomicU64::new(0);
    let finished = AtomicBool::new(false);
    let (stays, sends) = thread::scope(|scope| {
        let senders: Vec<_> = senders
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    let mut sends = Vec::new();
                    while !finished.load(Ordering::Relaxed) {
                        let (span, sent) = spanned(&clock, || done_or_conflict(client.send(&message("g", "hello"))));
                        sends.extend(sent.map(|answer| (span, answer.msg_id)));
                    }
                    sends
                })
            })
            .collect();
        let consolidator = scope.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                admin.consolidate();
            }
        });
        let mut stays = Vec::new();
        let until_done = |sql: &str| while done_or_conflict(amy.write(sql)).is_none() {};
        for _ in 0..rounds(40) {
            let add = "INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', 'dave')";
            let (added, ()) = spanned(&clock, || until_done(add));
            let remove = "DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'dave'";
            let (removed, ()) = spanned(&clock, || until_done(remove));
            stays.push((added, removed));
        }
        finished.store(true, Ordering::Relaxed);
        consolidator.join().expect("the consolidator");
        let sends: Vec<(Span, i64)> = senders.into_iter().flat_map(|sender| sender.join().expect("a sender")).collect();
        (stays, sends)
    });
    let ids = |user: &str| -> BTreeSet<i64> {
        server.client(user).numbers("SELECT msgId FROM messages").into_iter().collect()
    };
    let all: BTreeSet<i64> = sends.iter().map(|(_, id)| *id).collect();
    for user in WRITERS {
        assert_eq!(ids(user), all, "{user} was there all the time");
    }
    let daves = ids("dave");
    assert!(daves.is_subset(&all));
    for (sent, id) in sends {
        if let Some(expected) = must_have(sent, &stays) {
            assert_eq!(daves.contains(&id), expected, "{id}, sent at {sent:?}, with stays at {stays:?}");
        }
    }
    assert_eq!(
        server
            .client("dave")
            .query_params("SELECT COUNT(*), COUNT(DISTINCT msgId) FROM messages", json!([]))
            .expect("a read")
            .rows[0][0],
        daves.len()
    );
}
