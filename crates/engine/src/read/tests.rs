//! Reading, over a real store in a temporary folder.
//!
//! Invariant: every question about messages is asked hot, cold and mixed, and the answers are the same.

mod order;
mod outside;
mod tables;
mod walls;

use std::{sync::Arc, time::Duration};

use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};
use kalamdb_protocol::{ConversationId, ConversationType, ErrorCode, MsgId, QueryRequest, QueryResponse};
use kalamdb_store::{Actor, Change, ConversationKey, NewMessage, Proposal, Receipt, Store};
use serde_json::Value;
use tempfile::TempDir;

use super::{Reader, Rows, View};
use crate::{
    Caller, Error, QuerySettings, Result,
    sql::Read,
    tests::{Shifted, open_store, query_settings as settings, user},
    workers::Workers,
};

/// A store, a reader and threads of their own.
struct World {
    store: Store,
    reader: Reader,
    workers: Workers,
    folder: TempDir,
}

fn caller(name: &str) -> Caller {
    Caller { user: user(name), admin: false }
}

fn admin() -> Caller {
    Caller { user: user("root"), admin: true }
}

fn key(id: &str, kind: ConversationType) -> ConversationKey {
    ConversationKey { id: ConversationId::new(id).unwrap(), kind }
}

fn message(owner: &str, conversation: &str, content: impl Into<String>) -> NewMessage {
    NewMessage {
        owner: user(owner),
        conversation: ConversationId::new(conversation).unwrap(),
        kind: Some(ConversationType::Ai),
        from: None,
        msg_id: None,
        timestamp: None,
        content: content.into(),
        content_ref: None,
        metadata: None,
    }
}

impl World {
    fn new() -> Self {
        Self::with(&settings())
    }

    fn with(settings: &QuerySettings) -> Self {
        let folder = TempDir::new().unwrap();
        let store = open_store(folder.path(), Arc::new(Shifted::default()));
        let reader = Reader::new(store.clone(), settings).unwrap();
        let workers = Workers::start(settings).unwrap();
        Self { store, reader, workers, folder }
    }

    async fn commit(&self, actor: &str, changes: Vec<Change>) -> Receipt {
        let actor = Actor { user: user(actor), admin: false };
        let proposal = Proposal { actor, idempotency: None, expect: vec![], changes };
        self.store.commit(proposal).await.unwrap()
    }

    async fn send(&self, messages: Vec<NewMessage>) -> Vec<MsgId> {
        let owner = messages[0].owner.as_str().to_owned();
        let receipt = self.commit(&owner, messages.into_iter().map(Change::Send).collect()).await;
        receipt.sent.into_iter().map(|sent| sent.msg_id).collect()
    }

    async fn consolidate(&self, owner: &str) {
        assert!(self.store.consolidate(&user(owner)).await.unwrap().is_some());
    }

    fn view(&self, caller: &Caller) -> View {
        self.reader.view(caller, self.store.snapshot())
    }

    async fn rows(&self, caller: &Caller, sql: &str) -> Result<Rows> {
        let ticket = self.workers.admit(&caller.user).await?;
        let request = QueryRequest { sql: sql.to_owned(), params: None };
        if let Some(rows) = self.reader.cached(caller, &request, &ticket) {
            return Ok(rows);
        }
        let (view, read, run) = (self.view(caller), read(sql), ticket.clone());
        run.run(async move { view.rows(&read, &request, &ticket).await }).await
    }

    async fn query(&self, caller: &Caller, sql: &str) -> Result<QueryResponse> {
        let ticket = self.workers.admit(&caller.user).await?;
        let request = QueryRequest { sql: sql.to_owned(), params: None };
        let body = if let Some(rows) = self.reader.cached(caller, &request, &ticket) {
            rows.into_json().await?
        } else {
            let (view, read, run) = (self.view(caller), read(sql), ticket.clone());
            run.run(async move { view.rows(&read, &request, &ticket).await?.into_json().await }).await?
        };
        Ok(serde_json::from_slice(&body).unwrap())
    }

    async fn answer(&self, caller: &Caller, sql: &str) -> Vec<Vec<Value>> {
        self.query(caller, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).rows
    }

    async fn error(&self, caller: &Caller, sql: &str) -> Error {
        match self.query(caller, sql).await {
            Ok(answer) => panic!("{sql} answered {:?}", answer.rows),
            Err(error) => error,
        }
    }

    async fn code(&self, caller: &Caller, sql: &str) -> ErrorCode {
        self.error(caller, sql).await.code
    }

    /// The plan as it ran, with its measurements.
    async fn explained(&self, caller: &Caller, sql: &str) -> String {
        let rows = self.answer(caller, &format!("EXPLAIN ANALYZE {sql}")).await;
        rows[0][1].as_str().unwrap().to_owned()
    }
}

fn read(sql: &str) -> Read {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    Read { statement: statements.remove(0), foreign: vec![] }
}

/// A measurement of the operator whose line holds `operator`.
fn measured(plan: &str, operator: &str, name: &str) -> f64 {
    let line = plan.lines().find(|line| line.contains(operator)).unwrap_or_else(|| panic!("no {operator} in {plan}"));
    let after = line.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("no {name} in {line}"));
    let value: String = after.chars().take_while(|c| !matches!(c, ',' | ']')).collect();
    let number: String = value.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let scale = if value.contains('K') { 1000.0 } else { 1.0 };
    number.parse::<f64>().unwrap() * scale
}

/// The same messages for `anna`, once in each tier and once in both.
async fn tiers(messages: Vec<NewMessage>) -> [(&'static str, World); 3] {
    let worlds = [("hot", World::new()), ("cold", World::new()), ("mixed", World::new())];
    for (tier, world) in &worlds {
        let (first, second) = messages.split_at(messages.len() / 2);
        world.send(first.to_vec()).await;
        if *tier == "mixed" {
            world.consolidate("anna").await;
        }
        world.send(second.to_vec()).await;
        if *tier == "cold" {
            world.consolidate("anna").await;
        }
    }
    worlds
}
