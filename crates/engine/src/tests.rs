//! Statements as the server runs them, over a real store in a temporary folder: deletion and the audit log.
//!
//! Invariant: what a test expects of messages holds whether they lie in RocksDB, in segments, or some here and some
//! there.

mod audit;
mod bounds;
mod deletion;
mod histories;
mod lean;
mod names;
mod nets;
mod races;
mod world;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use kalamdb_protocol::{ConversationType, ErrorCode, Micros, QueryRequest, QueryResponse, UserId};
use kalamdb_store::{Clock, Components, Durability, Rules, Store, SystemClock};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Caller, ConsolidationSettings, Engine, LiveSettings, Outcome, QuerySettings, Result, Settings};

const DAY: Micros = 24 * 3_600 * 1_000_000;

/// How long deleted messages are kept here.
pub(crate) const RETENTION: Micros = 30 * DAY;

/// The machine's clock, put forward by as much as a test says.
#[derive(Default)]
pub(crate) struct Shifted(AtomicI64);

impl Shifted {
    pub fn advance(&self, by: Micros) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Micros {
        SystemClock.now() + self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn query_settings() -> QuerySettings {
    QuerySettings {
        timeout: Duration::from_mins(1),
        max_rows: 1000,
        enable_cache: true,
        cache_bytes: 1024 * 1024,
        max_memory_bytes: 64 * 1024 * 1024,
        total_memory_bytes: 128 * 1024 * 1024,
        max_statement_bytes: 64 * 1024,
        max_response_bytes: 4 * 1024 * 1024,
        max_concurrent: 8,
        max_concurrent_per_user: 4,
        threads: 2,
    }
}

pub(crate) fn live_settings() -> LiveSettings {
    LiveSettings {
        max_sessions_per_user: 8,
        max_subscriptions: 8,
        queue_frames: 1_000,
        queue_bytes: 4 * 1024 * 1024,
        replay_within: Duration::from_mins(10),
    }
}

fn open_rules() -> Rules {
    Rules {
        default_type: ConversationType::Ai,
        max_group_participants: 10,
        large_message_threshold_bytes: 100 * 1024,
        max_message_bytes: 1024 * 1024,
        max_metadata_bytes: 64 * 1024,
        trash_retention: Some(RETENTION),
        upload_ttl: DAY,
        audit_retention: 365 * DAY,
        crowded_at: 10_000,
    }
}

/// Nothing happens by itself here but the first sweep, which finds nothing.
fn quiet_settings() -> Settings {
    Settings {
        query: query_settings(),
        consolidation: ConsolidationSettings {
            interval: Duration::from_hours(1),
            min_batch_rows: u64::MAX,
            max_hot_age: Duration::from_hours(1),
        },
        compaction_interval: Duration::from_hours(24),
        replay: Duration::from_hours(24),
        live: live_settings(),
    }
}

pub(crate) fn open_store(folder: &Path, clock: Arc<Shifted>) -> Store {
    open_store_with(folder, clock, |_| {})
}

/// The same with other rules.
pub(crate) fn open_store_with(folder: &Path, clock: Arc<Shifted>, change: impl FnOnce(&mut Rules)) -> Store {
    let mut rules = open_rules();
    change(&mut rules);
    let settings = kalamdb_store::Settings {
        base_path: folder.to_owned(),
        durability: Durability::Os,
        write_buffer_size_mb: 8,
        block_cache_mb: 8,
        max_background_jobs: 1,
        rules,
    };
    Store::open(settings, Components { clock, ..Components::default() }).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// `root` is the admin.
fn caller(name: &str) -> Caller {
    Caller { user: user(name), admin: name == "root" }
}

/// Where messages lie when a statement meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Hot,
    Cold,
    Mixed,
}

const TIERS: [Tier; 3] = [Tier::Hot, Tier::Cold, Tier::Mixed];

/// An engine with a store of its own.
struct World {
    engine: Engine,
    store: Store,
    clock: Arc<Shifted>,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with_settings(query_settings())
    }

    fn with_settings(query: QuerySettings) -> Self {
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(Shifted::default());
        let store = open_store(folder.path(), Arc::clone(&clock));
        let engine = Engine::start(store.clone(), Settings { query, ..quiet_settings() }).unwrap();
        Self { engine, store, clock, folder }
    }

    /// A world in which each of these statements of a user's is done, and their rows lie in that tier: mixed is the
    /// first half in segments.
    async fn with(tier: Tier, name: &str, statements: &[&str]) -> Self {
        let world = Self::new();
        for (number, sql) in statements.iter().enumerate() {
            if tier == Tier::Mixed && number == statements.len() / 2 {
                world.consolidate().await;
            }
            world.run(name, sql).await;
        }
        if tier == Tier::Cold {
            world.consolidate().await;
        }
        world
    }

    async fn consolidate(&self) {
        self.engine.consolidate(None).await.unwrap();
    }

    async fn execute(&self, name: &str, sql: &str) -> Result<Outcome> {
        self.engine.execute(&caller(name), QueryRequest { sql: sql.to_owned(), params: None }, None, None).await
    }

    /// A write that has to succeed: how many rows it changed.
    async fn run(&self, name: &str, sql: &str) -> u64 {
        match self.execute(name, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
            Outcome::Written(written) => written.rows_affected,
            Outcome::Json(_) | Outcome::Stream(_) => panic!("it reads: {sql}"),
        }
    }

    /// The answer to a read that has to succeed.
    async fn read(&self, name: &str, sql: &str) -> QueryResponse {
        match self.execute(name, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
            Outcome::Json(document) => serde_json::from_slice(&document).unwrap(),
            Outcome::Stream(_) | Outcome::Written(_) => panic!("it writes: {sql}"),
        }
    }

    async fn rows(&self, name: &str, sql: &str) -> Vec<Vec<Value>> {
        self.read(name, sql).await.rows
    }

    async fn code(&self, name: &str, sql: &str) -> ErrorCode {
        match self.execute(name, sql).await {
            Ok(_) => panic!("it was not refused: {sql}"),
            Err(error) => error.code,
        }
    }
}
