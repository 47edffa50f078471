//! Engine and store together, as the server uses them, on a folder that outlives both, with a clock that a test moves.
//!
//! Invariant: nothing happens by itself but what a commit makes due: no interval ends, and time stands still. Limits
//! are small, so that short histories reach them.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt;
use kalamdb_protocol::{ConversationId, ConversationType, Micros, Params, QueryRequest, QueryResponse, WriteResponse};
use kalamdb_store::{
    Actor, Clock, Components, ConversationKey, Durability, NewFile, Rules, Step, Store, StoredFile, Thumbnail,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{live_settings, query_settings, user};
use crate::{Caller, ConsolidationSettings, Engine, Error, Outcome, Result, Settings};

/// When a world begins.
const NOW: Micros = 1_760_313_600_000_000;
pub(super) const HOUR: Micros = 3_600_000_000;
/// The text of a message of so many bytes is large.
pub(super) const LARGE: usize = 2_048;
/// What a copy keeps of a large text.
pub(super) const PREVIEW: usize = 1_024;
pub(super) const TRASH_RETENTION: Micros = 240 * HOUR;
pub(super) const UPLOAD_TTL: Micros = 24 * HOUR;
pub(super) const AUDIT_RETENTION: Micros = 480 * HOUR;

/// A clock that a test moves.
pub(super) struct TestClock(AtomicI64);

impl TestClock {
    pub(super) fn advance(&self, by: Micros) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

/// The rules of a world.
pub(super) fn rules() -> Rules {
    Rules {
        default_type: ConversationType::Ai,
        max_group_participants: 10,
        large_message_threshold_bytes: LARGE,
        max_message_bytes: 1 << 20,
        max_metadata_bytes: 1 << 16,
        trash_retention: Some(TRASH_RETENTION),
        upload_ttl: UPLOAD_TTL,
        audit_retention: AUDIT_RETENTION,
        crowded_at: u64::MAX,
    }
}

fn settings() -> Settings {
    let never = Duration::from_hours(24);
    Settings {
        query: query_settings(),
        consolidation: ConsolidationSettings { interval: never, min_batch_rows: u64::MAX, max_hot_age: never },
        compaction_interval: never,
        replay: never,
        live: live_settings(),
    }
}

pub(super) fn caller(name: &str) -> Caller {
    Caller { user: user(name), admin: false }
}

pub(super) fn actor(name: &str) -> Actor {
    Actor { user: user(name), admin: false }
}

pub(super) fn key(id: &str, kind: ConversationType) -> ConversationKey {
    ConversationKey { id: ConversationId::new(id).unwrap(), kind }
}

/// A store and its engine, and the folder and the clock that outlive them.
pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) clock: Arc<TestClock>,
    components: Components,
    rules: Rules,
    running: Option<(Store, Engine)>,
    uploads: AtomicU32,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(rules(), |_| {})
    }

    pub(super) fn with(rules: Rules, on_step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(NOW)));
        let components =
            Components { clock: Arc::clone(&clock) as _, on_step: Some(Arc::new(on_step)), ..Components::default() };
        let mut world = Self { folder, clock, components, rules, running: None, uploads: AtomicU32::new(0) };
        world.start();
        world
    }

    fn start(&mut self) {
        let settings = kalamdb_store::Settings {
            base_path: self.folder.path().to_owned(),
            durability: Durability::Os,
            write_buffer_size_mb: 8,
            block_cache_mb: 8,
            max_background_jobs: 1,
            rules: self.rules.clone(),
        };
        let store = Store::open(settings, self.components.clone()).unwrap();
        let engine = Engine::start(store.clone(), self::settings()).unwrap();
        self.running = Some((store, engine));
    }

    /// Ends the engine and closes the store.
    pub(super) async fn stop(&mut self) {
        if let Some((_, engine)) = self.running.take() {
            engine.shutdown().await;
        }
    }

    pub(super) async fn restart(&mut self) {
        self.stop().await;
        self.start();
    }

    pub(super) fn store(&self) -> &Store {
        &self.running.as_ref().unwrap().0
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.running.as_ref().unwrap().1
    }

    async fn execute(&self, caller: &Caller, sql: &str, params: Vec<Value>) -> Result<Outcome> {
        let params = Some(Params::Positional(params));
        Box::pin(self.engine().execute(caller, QueryRequest { sql: sql.to_owned(), params }, None, None)).await
    }

    pub(super) async fn write(&self, caller: &Caller, sql: &str, params: Vec<Value>) -> Result<WriteResponse> {
        match self.execute(caller, sql, params).await? {
            Outcome::Written(answer) => Ok(answer),
            Outcome::Json(_) | Outcome::Stream(_) => Err(Error::fault("a write that answers rows")),
        }
    }

    pub(super) async fn rows(&self, caller: &Caller, sql: &str, params: Vec<Value>) -> Result<Vec<Vec<Value>>> {
        match self.execute(caller, sql, params).await? {
            Outcome::Json(document) => {
                let answer: QueryResponse = serde_json::from_slice(&document).unwrap();
                assert!(!answer.truncated, "{sql}");
                Ok(answer.rows)
            }
            Outcome::Stream(_) | Outcome::Written(_) => Err(Error::fault("a read that writes")),
        }
    }

    /// Hands an upload to the store as the server does: through a file of the spool.
    pub(super) async fn upload(
        &self,
        owner: &str,
        to: &ConversationKey,
        bytes: &[u8],
        thumbnail: Option<&[u8]>,
    ) -> kalamdb_store::Result<StoredFile> {
        let name = format!(".upload-{}", self.uploads.fetch_add(1, Ordering::SeqCst));
        let source = self.store().spool().join(name);
        std::fs::write(&source, bytes).unwrap();
        let file = NewFile {
            owner: user(owner),
            conversation: to.id.clone(),
            conversation_type: Some(to.kind),
            source: source.clone(),
            content_type: "image/png".to_owned(),
            extension: "png".to_owned(),
            thumbnail: thumbnail.map(|bytes| Thumbnail {
                bytes: Bytes::copy_from_slice(bytes),
                content_type: "image/png".to_owned(),
                extension: "png".to_owned(),
            }),
        };
        let stored = self.store().add_file(&actor(owner), file).await.map(|added| added.file);
        std::fs::remove_file(&source).unwrap();
        stored
    }

    /// A whole file; `None` when it was removed meanwhile.
    pub(super) async fn read(&self, file: &StoredFile) -> Option<Vec<u8>> {
        let stream = self.store().read_file(file, 0..file.bytes).await.unwrap()?;
        let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
        Some(parts.concat())
    }

    /// Whether a file lies at that path.
    pub(super) fn is_on_disk(&self, path: &str) -> bool {
        self.folder.path().join(path).exists()
    }

    /// What lies in the base folder besides the server's own state.
    pub(super) fn on_disk(&self) -> OnDisk {
        let mut found = OnDisk::default();
        walk(self.folder.path(), "", &mut found);
        found
    }
}

/// Paths relative to the base folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) files: BTreeSet<String>,
    /// Folders that hold nothing.
    pub(super) empty_folders: BTreeSet<String>,
}

/// What is removed while this looks is not there.
fn walk(base: &Path, folder: &str, found: &mut OnDisk) {
    let Ok(entries) = std::fs::read_dir(base.join(folder)) else { return };
    let mut empty = true;
    for entry in entries.map_while(std::result::Result::ok) {
        empty = false;
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && path != ".kalamdb" => walk(base, &path, found),
            Ok(kind) if kind.is_file() => drop(found.files.insert(path)),
            _ => {}
        }
    }
    if empty {
        found.empty_folders.insert(folder.to_owned());
    }
}
