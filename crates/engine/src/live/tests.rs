//! Live queries as the server uses them, over a real store in a temporary folder.
//!
//! Invariant: nothing waits for time to pass: what must not be told is shown by what is told next.

mod begin;
mod budget;
mod cost;
mod lag;
mod races;
mod scope;
mod statements;
mod tables;

use std::{sync::Arc, time::Duration};

use kalamdb_protocol::{ConversationId, ErrorCode, MsgId, Position, QueryRequest, QueryResponse, Subscribe};
use kalamdb_store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Caller, ConsolidationSettings, Engine, Error, LiveSession, LiveSettings, Outcome, Result, Settings,
    tests::{Shifted, live_settings, open_store, query_settings, user},
};

/// A frame that has not come by then will not come.
const PATIENCE: Duration = Duration::from_mins(1);

/// An engine with a store of its own, where nothing happens by itself.
struct World {
    engine: Engine,
    store: Store,
    _folder: TempDir,
}

/// A client with one connection.
struct Client {
    session: LiveSession,
}

/// `root` is the admin.
fn caller(name: &str) -> Caller {
    Caller { user: user(name), admin: name == "root" }
}

fn sql(sql: &str) -> Subscribe {
    Subscribe { sql: Some(sql.to_owned()), ..Subscribe::default() }
}

fn position(frame: &Value) -> Position {
    serde_json::from_value(frame["position"].clone()).unwrap()
}

impl World {
    fn new() -> Self {
        Self::with(live_settings())
    }

    fn with(live: LiveSettings) -> Self {
        let folder = TempDir::new().unwrap();
        let store = open_store(folder.path(), Arc::new(Shifted::default()));
        let never = Duration::from_hours(24);
        let settings = Settings {
            query: query_settings(),
            consolidation: ConsolidationSettings { interval: never, min_batch_rows: u64::MAX, max_hot_age: never },
            compaction_interval: never,
            replay: never,
            live,
        };
        let engine = Engine::start(store.clone(), settings).unwrap();
        Self { engine, store, _folder: folder }
    }

    async fn execute(&self, name: &str, sql: &str) -> Result<Outcome> {
        self.engine.execute(&caller(name), QueryRequest { sql: sql.to_owned(), params: None }, None, None).await
    }

    /// A write that has to succeed.
    async fn run(&self, name: &str, sql: &str) {
        match self.execute(name, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
            Outcome::Written(_) => {}
            Outcome::Json(_) | Outcome::Stream(_) => panic!("it reads: {sql}"),
        }
    }

    /// Messages to an AI conversation with these ids and texts, in one commit.
    async fn insert(&self, name: &str, conversation: &str, messages: &[(MsgId, &str)]) {
        let rows: Vec<_> =
            messages.iter().map(|(id, text)| format!("({id}, '{conversation}', 'ai', '{text}')")).collect();
        let columns = "msgId, conversationId, conversationType, content";
        let sql = format!("INSERT INTO messages ({columns}) VALUES {}", rows.join(", "));
        self.run(name, &sql).await;
    }

    async fn rows(&self, name: &str, sql: &str) -> Vec<Vec<Value>> {
        let Outcome::Json(document) = self.execute(name, sql).await.unwrap() else { panic!("it writes: {sql}") };
        serde_json::from_slice::<QueryResponse>(&document).unwrap().rows
    }

    async fn consolidate(&self) {
        self.engine.consolidate(None).await.unwrap();
    }

    /// A group of these users, made by the first of them.
    async fn group(&self, id: &str, users: &[&str]) {
        let owner = users[0];
        let create = format!("INSERT INTO conversations (conversationId, conversationType) VALUES ('{id}', 'group')");
        self.run(owner, &create).await;
        for name in &users[1..] {
            self.add(owner, id, name).await;
        }
    }

    async fn add(&self, owner: &str, group: &str, name: &str) {
        let sql = format!("INSERT INTO conversationUsers (conversationId, userId) VALUES ('{group}', '{name}')");
        self.run(owner, &sql).await;
    }

    /// A message to a group.
    async fn say(&self, name: &str, group: &str, text: &str) {
        let columns = "conversationId, conversationType, content";
        self.run(name, &format!("INSERT INTO messages ({columns}) VALUES ('{group}', 'group', '{text}')")).await;
    }

    fn client(&self, name: &str) -> Client {
        Client { session: self.engine.live(&caller(name)).unwrap() }
    }

    /// A client that has subscribed and is told so.
    async fn watch(&self, name: &str, statement: &str) -> Client {
        let client = self.client(name);
        client.begin(sql(statement)).await;
        client
    }

    async fn refused(&self, name: &str, request: Subscribe) -> Error {
        let shown = format!("{request:?}");
        match self.client(name).session.subscribe(request).await {
            Ok(id) => panic!("{shown} was accepted as {id}"),
            Err(error) => error,
        }
    }
}

impl Client {
    /// Subscribes, and waits for the answer.
    async fn begin(&self, request: Subscribe) -> Position {
        let shown = format!("{request:?}");
        self.session.subscribe(request).await.unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        let ack = self.next().await;
        assert_eq!(ack["type"], "subscribe_ack", "{ack}");
        position(&ack)
    }

    /// The next frame.
    async fn next(&self) -> Value {
        let frame = tokio::time::timeout(PATIENCE, self.session.next()).await.expect("no frame comes");
        let text: Value = serde_json::from_str(&frame.text).unwrap_or_else(|error| panic!("{}: {error}", frame.text));
        assert_eq!(text["type"], frame.kind);
        if let Some(resumable) = frame.position
            && text.get("position").is_some()
        {
            assert_eq!(json!(resumable), text["position"]);
        }
        text
    }

    /// What the next frames say of rows, each with its type.
    async fn told(&self, count: usize) -> Vec<(String, Value)> {
        let mut told = Vec::new();
        for _ in 0..count {
            let mut frame = self.next().await;
            let kind = frame["type"].as_str().unwrap().to_owned();
            let fields = frame.as_object_mut().unwrap();
            fields.retain(|name, _| !["type", "id", "position"].contains(&name.as_str()));
            let news = fields.remove("message").unwrap_or_else(|| json!(fields));
            told.push((kind, news));
        }
        told
    }
}

fn news(kind: &str, row: Value) -> (String, Value) {
    (kind.to_owned(), row)
}
