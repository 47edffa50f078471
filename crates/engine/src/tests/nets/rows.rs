//! The rows that statements are asked over: the same history in three worlds, one for each place where rows can lie,
//! and in `SQLite`.
//!
//! Invariant: `SQLite` has what the history says of messages and not what we answer; before any statement is asked,
//! each world shows the same rows.

use std::collections::BTreeMap;

use kalamdb_protocol::{ConversationType, Params, QueryRequest, QueryResponse};
use kalamdb_store::ConversationKey;
use serde_json::{Map, Value, json};

use super::{
    dice::Dice,
    judge::{Judge, TABLES},
};
use crate::{
    Caller, Error, Outcome,
    tests::{
        user,
        world::{TRASH_RETENTION, World, caller, key},
    },
};

pub(super) const OWNER: &str = "ann";

/// A conversation of each type, and one whose id is the other's but for a capital.
const AI: [&str; 3] = ["c1", "c2", "C1"];
const GROUPS: [&str; 2] = ["g1", "c2"];
const MEMBERS: [&str; 3] = ["bo", "cy", "ai"];

/// Texts in which LIKE, JSON, quotes, numbers and letters of several bytes meet; none of those letters has a capital,
/// of which `SQLite` knows the Latin ones only.
pub(super) const TEXTS: [&str; 18] = [
    "",
    "a",
    "b",
    "ab",
    "B",
    "aB b",
    "a%b",
    "a_b",
    "7",
    "12",
    "x 7",
    "hello world",
    "Hello",
    "it's",
    "日本",
    "😀 a",
    "  pad ",
    "C1",
];

/// Moments are whole seconds from here on, so that they can be given in seconds too.
pub(super) const FIRST_SECOND: i64 = 1_760_313_600;
/// A step that crosses hours and days.
pub(super) const STEP_SECONDS: i64 = 7 * 3_600 + 61;
pub(super) const MOMENTS: usize = 24;

/// Where the messages of a world lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    Hot,
    Cold,
    /// In two segments and in RocksDB.
    Mixed,
}

pub(super) const TIERS: [Tier; 3] = [Tier::Hot, Tier::Cold, Tier::Mixed];

/// A message: its columns after `msgId`, in their order.
type Message = [Value; 7];

#[derive(Debug, Clone)]
enum Step {
    Send(i64, Message),
    Edit(i64, Value, Value),
    Delete(i64),
    /// Not where everything stays hot.
    Consolidate,
    /// Only where everything is to be cold at the end.
    ConsolidateForCold,
}

/// The worlds, and `SQLite`.
pub(super) struct Ground {
    worlds: Vec<(Tier, World)>,
    pub(super) judge: Judge,
}

impl Ground {
    /// The rows of a round, everywhere.
    pub(super) async fn new(round: u64) -> Self {
        let mut dice = Dice::of(round, u64::MAX);
        let rows = *dice.pick(&[5, 12, 12, 30, 30, 40]);
        let mut worlds = Vec::new();
        let mut files = Vec::new();
        for tier in TIERS {
            let world = World::new();
            found_groups(&world).await;
            files.push(world.upload(OWNER, &with_file(), b"a file", None).await.unwrap().path);
            worlds.push((tier, world));
        }
        files.dedup();
        let [file] = files.as_slice() else { panic!("the file has another name elsewhere: {files:?}") };
        let steps = history(&mut dice, rows, file);
        for (tier, world) in &worlds {
            for step in &steps {
                take(world, *tier, step).await;
            }
            mark_read(world).await;
        }
        let now = worlds[0].1.store().now();
        let judge = Judge::new();
        let ground = Self { worlds, judge };
        ground.fill(&steps, now).await;
        ground
    }

    pub(super) async fn stop(self) {
        for (_, mut world) in self.worlds {
            world.stop().await;
        }
    }

    fn world(&self, tier: Tier) -> &World {
        self.worlds.iter().find(|(of, _)| *of == tier).map(|(_, world)| world).expect("there is one of each")
    }

    /// What we answer.
    pub(super) async fn ask(&self, tier: Tier, sql: &str) -> Result<QueryResponse, Error> {
        ask(self.world(tier), &caller(OWNER), sql, vec![]).await
    }

    /// A write; how many rows it changed.
    pub(super) async fn write(&self, tier: Tier, sql: &str) -> Result<u64, Error> {
        self.world(tier).write(&caller(OWNER), sql, vec![]).await.map(|answer| answer.rows_affected)
    }

    /// Gives `SQLite` the rows: messages as the history says, the other tables as they are in the first world. Fails
    /// unless each world shows the same.
    async fn fill(&self, steps: &[Step], now: i64) {
        let (messages, deleted) = outcome(steps, now);
        self.judge.fill("messages", &messages);
        self.judge.fill("deletedMessages", &deleted);
        for table in ["conversations", "conversationUsers"] {
            let answer = self.ask(TIERS[0], &format!("SELECT * FROM {table}")).await.unwrap();
            self.judge.fill(table, &answer.rows);
        }
        for tier in TIERS {
            for (table, columns) in TABLES {
                let mut found = self.ask(tier, &format!("SELECT * FROM {table}")).await.unwrap().rows;
                let mut expected = self.judge.all(table, columns.len());
                for rows in [&mut found, &mut expected] {
                    rows.sort_by_key(|row| format!("{row:?}"));
                }
                assert_eq!(found, expected, "{table} of the world whose rows are {tier:?}");
            }
        }
    }
}

async fn ask(world: &World, by: &Caller, sql: &str, params: Vec<Value>) -> Result<QueryResponse, Error> {
    let request = QueryRequest { sql: sql.to_owned(), params: Some(Params::Positional(params)) };
    match Box::pin(world.engine().execute(by, request, None, None)).await? {
        Outcome::Json(document) => Ok(serde_json::from_slice(&document).expect("our own JSON")),
        Outcome::Stream(_) | Outcome::Written(_) => panic!("it writes: {sql}"),
    }
}

/// What happens to the messages: sends, edits and deletions, and where the moves to segments stand between them.
fn history(dice: &mut Dice, rows: i64, file: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut there: Vec<i64> = Vec::new();
    let mut written_by_owner: Vec<i64> = Vec::new();
    // A file that only messages in the trash refer to can be named no more.
    let mut holders: Vec<i64> = Vec::new();
    for id in 1..=rows {
        if id == rows / 3 || id == 2 * rows / 3 {
            steps.push(Step::Consolidate);
        }
        let message = message(dice, file);
        if message[1] == "ai" || message[2] == OWNER {
            written_by_owner.push(id);
        }
        if !message[5].is_null() {
            holders.push(id);
        }
        steps.push(Step::Send(id, message));
        there.push(id);
        if dice.chance(20) {
            let gone = *dice.pick(&there);
            if holders != [gone] {
                there.retain(|id| *id != gone);
                holders.retain(|id| *id != gone);
                steps.push(Step::Delete(gone));
            }
        }
        let editable: Vec<i64> = there.iter().copied().filter(|id| written_by_owner.contains(id)).collect();
        if dice.chance(20) && !editable.is_empty() {
            steps.push(Step::Edit(*dice.pick(&editable), json!(dice.pick(&TEXTS)), metadata(dice)));
        }
    }
    steps.push(Step::ConsolidateForCold);
    // Of what is cold only by now, some goes too.
    if there.len() > 4 {
        steps.push(Step::Delete(there.swap_remove(dice.below(there.len()))));
    }
    steps
}

fn message(dice: &mut Dice, file: &str) -> Message {
    let in_group = dice.chance(30);
    let conversation = if in_group { *dice.pick(&GROUPS) } else { *dice.pick(&AI) };
    let from = if in_group { *dice.pick(&[OWNER, "bo", "cy"]) } else { *dice.pick(&[OWNER, "ai", "ai", "Ann"]) };
    let step = i64::try_from(dice.below(MOMENTS)).expect("it is small");
    // Some between two seconds.
    let micros = (FIRST_SECOND + step * STEP_SECONDS) * 1_000_000 + if dice.chance(20) { 123_456 } else { 0 };
    [
        json!(conversation),
        json!(if in_group { "group" } else { "ai" }),
        json!(from),
        json!(micros),
        json!(dice.pick(&TEXTS)),
        if conversation == AI[0] && dice.chance(40) { json!(file) } else { Value::Null },
        metadata(dice),
    ]
}

/// The JSON text of an object, or NULL.
fn metadata(dice: &mut Dice) -> Value {
    if dice.chance(30) {
        return Value::Null;
    }
    let mut object = Map::new();
    let mut put = |dice: &mut Dice, key: &str, value: Value| {
        if dice.chance(60) {
            object.insert(key.to_owned(), if dice.chance(10) { Value::Null } else { value });
        }
    };
    let (text, number, flag) = (json!(dice.pick(&TEXTS)), json!(dice.below(9)), json!(dice.chance(50)));
    let (inner, digits) = (json!({ "a": dice.pick(&TEXTS) }), json!(dice.pick(&["7", "12", "x"])));
    put(dice, "k", text);
    put(dice, "n", number);
    put(dice, "f", flag);
    put(dice, "o", inner);
    put(dice, "v", digits);
    let list = json!([dice.below(5), dice.pick(&TEXTS), null]);
    put(dice, "l", list);
    json!(Value::Object(object).to_string())
}

/// The conversation whose messages may have a file.
fn with_file() -> ConversationKey {
    key(AI[0], ConversationType::Ai)
}

async fn found_groups(world: &World) {
    for group in GROUPS {
        let sql = "INSERT INTO conversations (conversationId, conversationType, metadata) VALUES ($1, 'group', $2)";
        let metadata = json!(r#"{"k":"a","n":3}"#);
        world.write(&caller(OWNER), sql, vec![json!(group), metadata]).await.unwrap();
        for participant in MEMBERS {
            let sql = "INSERT INTO conversationUsers (conversationId, userId) VALUES ($1, $2)";
            world.write(&caller(OWNER), sql, vec![json!(group), json!(participant)]).await.unwrap();
        }
    }
    let sql = "UPDATE conversationUsers SET metadata = $1 WHERE userId = 'ann' AND conversationId = 'g1'";
    world.write(&caller(OWNER), sql, vec![json!(r#"{"k":"b"}"#)]).await.unwrap();
}

async fn mark_read(world: &World) {
    let sql = "UPDATE conversations SET lastReadMsgId = 3 WHERE conversationId IN ('c1', 'g1')";
    world.write(&caller(OWNER), sql, vec![]).await.unwrap();
}

async fn take(world: &World, tier: Tier, step: &Step) {
    // Only an admin gives ids in a group, and writes there as another; only the owner refers to a file of hers.
    let admin = Caller { user: user("root"), admin: true };
    match step {
        Step::Send(id, message) => {
            let sql = format!(
                "INSERT INTO {OWNER}.messages (msgId, conversationId, conversationType, from, timestamp, content, \
                 contentRef, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            );
            let params = std::iter::once(json!(id)).chain(message.iter().cloned()).collect();
            let by = if message[1] == "group" { admin } else { caller(OWNER) };
            world.write(&by, &sql, params).await.unwrap();
        }
        Step::Edit(id, content, metadata) => {
            let sql = "UPDATE messages SET content = $1, metadata = $2 WHERE msgId = $3";
            let params = vec![content.clone(), metadata.clone(), json!(id)];
            assert_eq!(world.write(&caller(OWNER), sql, params).await.unwrap().rows_affected, 1);
        }
        Step::Delete(id) => {
            let sql = "DELETE FROM messages WHERE msgId = $1";
            assert_eq!(world.write(&caller(OWNER), sql, vec![json!(id)]).await.unwrap().rows_affected, 1);
        }
        Step::Consolidate if tier != Tier::Hot => consolidate(world).await,
        Step::ConsolidateForCold if tier == Tier::Cold => consolidate(world).await,
        Step::Consolidate | Step::ConsolidateForCold => {}
    }
}

async fn consolidate(world: &World) {
    world.engine().consolidate(Some(&user(OWNER))).await.unwrap();
}

/// What the history leaves: the rows of `messages`, and of `deletedMessages`.
fn outcome(steps: &[Step], now: i64) -> (Vec<Vec<Value>>, Vec<Vec<Value>>) {
    let (mut messages, mut deleted) = (BTreeMap::<i64, Message>::new(), BTreeMap::new());
    for step in steps {
        match step {
            Step::Send(id, message) => drop(messages.insert(*id, message.clone())),
            Step::Edit(id, content, metadata) => {
                let message = messages.get_mut(id).expect("it is there");
                (message[4], message[6]) = (content.clone(), metadata.clone());
            }
            Step::Delete(id) => {
                let message = messages.remove(id).expect("it is there");
                deleted.insert(*id, message);
            }
            Step::Consolidate | Step::ConsolidateForCold => {}
        }
    }
    let row = |(id, message): (i64, Message)| std::iter::once(json!(id)).chain(message).collect::<Vec<_>>();
    let in_trash = |row: Vec<Value>| row.into_iter().chain([json!(now), json!(now + TRASH_RETENTION)]).collect();
    (messages.into_iter().map(row).collect(), deleted.into_iter().map(row).map(in_trash).collect())
}
