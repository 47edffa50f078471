//! Clients that join, drop and resume while somebody writes, and while messages move to segments and segments into
//! one another.
//!
//! Invariant: a client ends up with what the table has, and is told of each message once.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use kalamdb_protocol::SendMessageRequest;
use tokio::sync::watch;

use super::*;

/// The next of a row of numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Consolidates and compacts until told to stop.
async fn keep_house(world: &World, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        world.consolidate().await;
        world.engine.compact(None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_joins_meanwhile_gets_each_message_once_and_in_order() {
    const SENT: usize = 40;
    let world = World::new();
    for round in 0..12 {
        let start = world.store.last_seq().unwrap();
        let above = send(&world, "before").await;
        let (count, counted) = watch::channel(0);
        let stop = AtomicBool::new(false);
        let write = async {
            let mut ids = Vec::new();
            for number in 1..=SENT {
                ids.push(send(&world, if number == SENT { "end" } else { "x" }).await);
                count.send_replace(number);
            }
            stop.store(true, Ordering::Relaxed);
            ids
        };
        let join = async |at: usize| {
            let mut counted = counted.clone();
            counted.wait_for(|sent| *sent >= at).await.unwrap();
            let client = world.client("anna");
            client.begin(Subscribe { last_msg_id: Some(above), ..sql("SELECT content FROM messages") }).await;
            let mut ids = Vec::new();
            loop {
                let frame = client.next().await;
                if frame["type"] == "replay_complete" {
                    continue;
                }
                assert_eq!(frame["type"], "message", "{frame}");
                ids.push(frame["message"]["msgId"].as_i64().unwrap());
                if frame["message"]["content"] == "end" {
                    return ids;
                }
            }
        };
        let (ids, one, two, three, four, ()) =
            tokio::join!(write, join(0), join(1), join(SENT / 2), join(SENT), keep_house(&world, &stop));
        for joined in [one, two, three, four] {
            assert_eq!(joined, ids, "round {round}, from {start}");
        }
    }
}

async fn send(world: &World, content: &str) -> MsgId {
    let message = SendMessageRequest::new(ConversationId::new("c").unwrap(), content);
    world.engine.send(&caller("anna"), message.into(), None).await.unwrap()[0].msg_id
}

/// What a client has, and what it needs to go on.
#[derive(Default)]
struct Seen {
    rows: BTreeMap<MsgId, (String, String)>,
    after: Option<Position>,
    /// While a replay by id is not complete.
    above: Option<MsgId>,
}

impl Seen {
    /// Takes a frame in, as any client should.
    fn take(&mut self, frame: &Value) {
        if frame.get("position").is_some() {
            self.after = Some(position(frame));
        }
        let kind = frame["type"].as_str().unwrap();
        match kind {
            "message" | "update" => {
                let row = &frame["message"];
                let id = row["msgId"].as_i64().unwrap();
                let text = |name: &str| row[name].as_str().unwrap().to_owned();
                let row = (text("conversationId"), text("content"));
                let had = self.rows.insert(id, row);
                // A row that was deleted when its turn came in one replay, and is back in the next, comes by its edit.
                assert!(had.is_none() || kind == "update", "{frame} is told twice");
                self.above = self.above.map(|above| above.max(id));
            }
            "delete" => match frame.get("msgId") {
                Some(id) => drop(self.rows.remove(&id.as_i64().unwrap())),
                None => self.rows.retain(|_, (conversation, _)| frame["conversationId"] != *conversation),
            },
            "replay_complete" => self.above = None,
            other => assert_eq!(other, "subscribe_ack", "{frame}"),
        }
    }

    fn has_end(&self) -> bool {
        self.rows.values().any(|(_, content)| content == "end")
    }
}

/// A statement, again when consolidation was in its way three times.
async fn insist(world: &World, sql: &str) {
    loop {
        match world.execute("anna", sql).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{sql}: {error}"),
        }
    }
}

async fn write(world: &World, seed: u64, stop: &AtomicBool) {
    let mut dice = Dice(seed);
    let mut next = 1;
    for _ in 0..150 {
        let id = dice.below(next) + 1;
        let conversation = ["a", "b", "c"][usize::try_from(dice.below(3)).unwrap()];
        let sql = match dice.below(12) {
            0..=5 => {
                let rows: Vec<_> =
                    (0..=dice.below(3)).map(|more| format!("({}, '{conversation}', 'new')", next + more)).collect();
                next += 4;
                format!("INSERT INTO messages (msgId, conversationId, content) VALUES {}", rows.join(", "))
            }
            6..=7 => format!("UPDATE messages SET content = 'edited {next}' WHERE msgId = {id}"),
            8..=9 => format!("DELETE FROM messages WHERE msgId >= {id} AND msgId < {}", id + 3),
            10 => format!("UPDATE deletedMessages SET deletedAt = NULL WHERE msgId >= {id} AND msgId < {}", id + 5),
            _ => format!("DELETE FROM conversations WHERE conversationId = '{conversation}'"),
        };
        insist(world, &sql).await;
        next += 1;
    }
    insist(world, "INSERT INTO messages (conversationId, content) VALUES ('end', 'end')").await;
    stop.store(true, Ordering::Relaxed);
}

/// Connects, takes some frames, drops the connection, and goes on from there, until the end.
async fn come_and_go(world: &World, dice: u64) -> Seen {
    let mut dice = Dice(dice);
    let mut seen = Seen { above: Some(0), ..Seen::default() };
    while !seen.has_end() {
        let client = world.client("anna");
        let request = Subscribe {
            after: seen.after,
            last_msg_id: seen.above,
            ..sql("SELECT conversationId, content FROM messages")
        };
        client.session.subscribe(request).await.unwrap();
        for _ in 0..=dice.below(40) {
            seen.take(&client.next().await);
            if seen.has_end() {
                break;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_end_up_with_what_the_table_has() {
    for seed in 1..=4 {
        let world = World::new();
        let stop = AtomicBool::new(false);
        let ((), one, two, three, ()) = tokio::join!(
            write(&world, seed, &stop),
            come_and_go(&world, 10 * seed),
            come_and_go(&world, 10 * seed + 1),
            come_and_go(&world, 10 * seed + 2),
            keep_house(&world, &stop),
        );
        let table = world.rows("anna", "SELECT msgId, conversationId, content FROM messages ORDER BY msgId").await;
        for seen in [one, two, three] {
            let rows: Vec<Vec<Value>> =
                seen.rows.into_iter().map(|(id, (of, content))| vec![json!(id), json!(of), json!(content)]).collect();
            assert_eq!(rows, table, "seed {seed}");
        }
    }
}
