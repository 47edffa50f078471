//! What a client that resumes properly knows, as an application would keep it.
//!
//! Invariant: each frame is held against what was seen before: a message that comes twice, out of order or from nowhere
//! fails the test when it comes.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use super::place;
use crate::harness::{Client, Dice, Live};

/// The text of the last message of a history.
pub const THE_END: &str = "the end";

/// A client's knowledge, and how it goes on after a connection is lost.
pub trait View {
    /// What to subscribe to, from where on.
    fn request(&self) -> Value;
    /// Takes a frame in.
    fn take(&mut self, frame: &Value) -> Step;
}

/// What a frame means for the subscription.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on.
    On,
    /// It has ended; subscribe anew.
    Again,
    /// The history is over.
    Over,
}

/// All of one's messages, with every change to them: resumes by position.
#[derive(Debug, Default)]
pub struct Table {
    /// Conversation and text, by id.
    pub rows: BTreeMap<i64, (String, String)>,
    /// What has been seen whole.
    seen: Option<Value>,
    /// Where the subscription began, while what lies before is still being replayed.
    replaying: Option<Value>,
    highest: i64,
    over: bool,
}

impl View for Table {
    fn request(&self) -> Value {
        match &self.seen {
            Some(position) => json!({ "id": "table", "after": position }),
            None => json!({ "id": "table", "lastMsgId": 0 }),
        }
    }

    fn take(&mut self, frame: &Value) -> Step {
        match frame["type"].as_str().expect("each frame has a type") {
            "subscribe_ack" => {
                // A first replay that was cut short is begun again: what it told may have changed since.
                if self.seen.is_none() {
                    *self = Self::default();
                }
                self.replaying = Some(frame["position"].clone());
            }
            "replay_complete" => {
                let start = self.replaying.take().expect("the replay began");
                if self.seen.as_ref().is_none_or(|seen| place(seen) < place(&start)) {
                    self.seen = Some(start);
                }
            }
            "message" => self.insert(&frame["message"]),
            "update" => self.update(&frame["message"]),
            "delete" => self.delete(frame),
            "error" => return self.lagged(frame),
            other => panic!("{other} has no place here: {frame}"),
        }
        self.move_to(&frame["position"]);
        if self.over && self.replaying.is_none() { Step::Over } else { Step::On }
    }
}

fn row(row: &Value) -> (i64, (String, String)) {
    let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("no {name} in {row}")).to_owned();
    (row["msgId"].as_i64().expect("an id"), (text("conversationId"), text("content")))
}

impl Table {
    fn insert(&mut self, message: &Value) {
        let (id, row) = row(message);
        assert!(id > self.highest, "{id} comes after {}: {message}", self.highest);
        self.highest = id;
        self.over |= row.1 == THE_END;
        self.rows.insert(id, row);
    }

    fn update(&mut self, message: &Value) {
        let (id, row) = row(message);
        assert!(self.rows.insert(id, row).is_some(), "{id} is changed and never came: {message}");
    }

    fn delete(&mut self, frame: &Value) {
        if let Some(id) = frame["msgId"].as_i64() {
            // What came and went while this client was away is told as gone.
            let known = self.rows.remove(&id).is_some();
            assert!(known || self.replaying.is_some(), "{id} is gone and never came: {frame}");
        } else {
            let gone = frame["conversationId"].as_str().expect("a row or a conversation");
            self.rows.retain(|_, (conversation, _)| conversation != gone);
        }
    }

    /// While a history is replayed by id, all of it stands where the subscription began: only with its end is that
    /// place reached.
    fn move_to(&mut self, position: &Value) {
        if position.is_null() || self.replaying.as_ref() == Some(position) {
            return;
        }
        if let Some(seen) = &self.seen {
            assert!(place(position) > place(seen), "{position} comes after {seen}");
        }
        self.seen = Some(position.clone());
    }

    fn lagged(&mut self, frame: &Value) -> Step {
        assert_eq!(frame["code"], "lagged", "{frame}");
        if frame["details"]["resync"] == true {
            *self = Self::default();
        }
        // Else it goes on from what it has seen whole, which is never further than where it is told to resume.
        self.replaying = None;
        Step::Again
    }
}

/// The messages of a conversation in which nothing changes: resumes by the last id.
#[derive(Debug, Default)]
pub struct Log {
    /// The ids, as they came.
    pub ids: Vec<i64>,
}

impl View for Log {
    fn request(&self) -> Value {
        json!({
            "id": "log",
            "sql": "SELECT content FROM messages WHERE conversationId = 'log' AND conversationType = 'ai'",
            "lastMsgId": self.ids.last().unwrap_or(&0),
        })
    }

    fn take(&mut self, frame: &Value) -> Step {
        match frame["type"].as_str().expect("each frame has a type") {
            "subscribe_ack" => Step::On,
            "replay_complete" => {
                assert_eq!(frame["lastMsgId"], *self.ids.last().unwrap_or(&0), "{frame}");
                Step::On
            }
            "message" => {
                let id = frame["message"]["msgId"].as_i64().expect("an id");
                assert!(self.ids.last().is_none_or(|last| *last < id), "{id} comes after {:?}", self.ids.last());
                self.ids.push(id);
                if frame["message"]["content"] == THE_END { Step::Over } else { Step::On }
            }
            "error" if frame["code"] == "lagged" => Step::Again,
            other => panic!("{other} has no place here: {frame}"),
        }
    }
}

/// Tells everybody when the server is there again.
#[derive(Default)]
pub struct Gate {
    starts: Mutex<usize>,
    again: Condvar,
}

impl Gate {
    /// How often the server was started again.
    pub fn starts(&self) -> usize {
        *self.starts.lock().expect("nobody panics while holding it")
    }

    /// It was.
    pub fn open(&self) {
        *self.starts.lock().expect("nobody panics while holding it") += 1;
        self.again.notify_all();
    }

    /// Waits for the next start after that one.
    pub fn wait_after(&self, starts: usize) {
        let patience = Duration::from_mins(1);
        let now = self.starts.lock().expect("nobody panics while holding it");
        let (now, _) =
            self.again.wait_timeout_while(now, patience, |now| *now <= starts).expect("nobody panics while holding it");
        assert!(*now > starts, "the connection is lost, and the server was not started again");
    }
}

/// Follows a history to its end, through lost connections: those that the dice want, and those of a server that dies.
pub fn follow(client: &Client, view: &mut impl View, mut dice: Dice, gate: &Gate) {
    loop {
        let starts = gate.starts();
        let Some(mut live) = Live::try_connect(client) else {
            gate.wait_after(starts);
            continue;
        };
        live.say({
            let mut request = view.request();
            request["type"] = json!("subscribe");
            request
        });
        loop {
            let Ok(frame) = live.hear() else {
                gate.wait_after(starts);
                break;
            };
            match view.take(&frame) {
                Step::On if dice.chance(3) => break,
                Step::On => {}
                Step::Again => break,
                Step::Over => return,
            }
        }
    }
}
