//! The store as its callers use it, on a real folder, with a clock of the test's own.

mod bounds;
mod compaction;
mod crash;
mod document;
mod fatal;
mod feed;
mod files;
mod formats;
mod inbox;
mod old_folder;
mod overlay;
mod replay;
mod rules;
mod segments;
mod space;
mod trash;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId, UserId};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{
    Actor, Change, Clock, ColdSummary, Components, Conversation, ConversationKey, Durability, HotMessage, Message,
    MessageRange, NewMessage, Place, Proposal, Receipt, Result, Rules, Settings, Step, Store, settings::OnEntry,
};

/// A clock that a test sets.
pub(super) struct TestClock(pub(super) AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

pub(super) const NOW: Micros = 1_760_313_600_000_000;
pub(super) const HOUR: Micros = 3_600_000_000;
pub(super) const DAY: Micros = 24 * HOUR;

pub(super) fn settings(base_path: &Path) -> Settings {
    Settings {
        base_path: base_path.to_owned(),
        durability: Durability::Os,
        write_buffer_size_mb: 8,
        block_cache_mb: 8,
        max_background_jobs: 2,
        rules: Rules {
            default_type: ConversationType::Ai,
            max_group_participants: 3,
            large_message_threshold_bytes: 2048,
            max_message_bytes: 16_384,
            max_metadata_bytes: 4_096,
            trash_retention: None,
            upload_ttl: HOUR,
            audit_retention: 400 * DAY,
            crowded_at: 4,
        },
    }
}

/// A store in a folder of its own, whose clock stands still.
pub(super) struct Fixture {
    // Closed before its folder goes.
    pub(super) store: Store,
    pub(super) clock: Arc<TestClock>,
    pub(super) folder: tempfile::TempDir,
    settings: Settings,
    on_entry: Option<OnEntry>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_steps(|_| {})
    }

    pub(super) fn with_steps(on_step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self::with(on_step, None, |_| {})
    }

    /// Every entry of the log is given to `on_entry`.
    pub(super) fn recorded(on_entry: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self::with(|_| {}, Some(Arc::new(on_entry)), |_| {})
    }

    /// Deleted messages can be brought back for ten days.
    pub(super) fn with_trash() -> Self {
        Self::with(|_| {}, None, |settings| settings.rules.trash_retention = Some(10 * DAY))
    }

    /// The same, over a folder that somebody fills first.
    pub(super) fn over(fill: impl Fn(&Path)) -> Self {
        Self::with(
            |_| {},
            None,
            |settings| {
                settings.rules.trash_retention = Some(10 * DAY);
                fill(&settings.base_path);
            },
        )
    }

    fn with(
        on_step: impl Fn(Step) + Send + Sync + 'static,
        on_entry: Option<OnEntry>,
        change: impl Fn(&mut Settings),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(NOW)));
        let on_step = Some(Arc::new(on_step) as _);
        let components = Components { clock: Arc::clone(&clock) as _, on_step, on_entry: on_entry.clone() };
        let mut settings = settings(folder.path());
        change(&mut settings);
        let store = Store::open(settings.clone(), components).unwrap();
        Self { store, clock, folder, settings, on_entry }
    }

    /// Time goes by.
    pub(super) fn later(&self, micros: Micros) {
        self.clock.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// The same folder, opened again.
    pub(super) fn reopen(self) -> Self {
        let Self { store, clock, folder, settings, on_entry } = self;
        drop(store);
        let components = Components { clock: Arc::clone(&clock) as _, on_step: None, on_entry: on_entry.clone() };
        let store = Store::open(settings.clone(), components).unwrap();
        Self { store, clock, folder, settings, on_entry }
    }

    pub(super) async fn commit(&self, user: &str, changes: Vec<Change>) -> Result<Receipt> {
        let actor = Actor { user: id(user), admin: user == "root" };
        self.store.commit(Proposal { actor, idempotency: None, expect: Vec::new(), changes }).await
    }

    pub(super) async fn send(&self, user: &str, to: &ConversationKey, content: &str) -> Result<MsgId> {
        let receipt = self.commit(user, vec![Change::Send(message(user, to, content))]).await?;
        Ok(receipt.sent[0].msg_id)
    }

    /// Commits and consolidates, so that what the user has lies in one more segment.
    pub(super) async fn send_cold(&self, user: &str, to: &ConversationKey, texts: &[&str]) -> Vec<MsgId> {
        let changes = texts.iter().map(|text| Change::Send(message(user, to, text))).collect();
        let sent = self.commit(user, changes).await.unwrap().sent;
        self.store.consolidate(&id(user)).await.unwrap().unwrap();
        sent.into_iter().map(|sent| sent.msg_id).collect()
    }

    pub(super) fn hot(&self, owner: &str, msg_id: MsgId) -> HotMessage {
        self.store.snapshot().hot_message(&id(owner), msg_id).unwrap().unwrap()
    }

    pub(super) fn place(&self, owner: &str, msg_id: MsgId) -> Place {
        Place::Hot { version: self.hot(owner, msg_id).version }
    }

    pub(super) fn trashed(&self, owner: &str, msg_id: MsgId) -> Place {
        Place::TrashedHot {
            version: self.store.snapshot().trashed_message(&id(owner), msg_id).unwrap().unwrap().version,
        }
    }

    /// Deletes hot messages of one conversation, none of which is left in a segment.
    pub(super) async fn delete(&self, owner: &str, of: &ConversationKey, ids: &[MsgId]) {
        let delete = |msg_id: &MsgId| {
            let row = self.hot(owner, *msg_id);
            delete(owner, &row.message.from, of, *msg_id, Place::Hot { version: row.version })
        };
        let none_left = Change::Cold(ColdSummary { owner: id(owner), conversation: of.clone(), msg_ids: None });
        self.commit(owner, ids.iter().map(delete).chain([none_left]).collect()).await.unwrap();
    }

    /// The paths of all files but the server's own.
    pub(super) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut files);
        files.sort();
        files
    }

    /// A readable file's bytes.
    pub(super) async fn read(&self, reader: &str, path: &str) -> Option<Vec<u8>> {
        let file = self.store.readable_file(&id(reader), path).unwrap()?;
        let bytes = self.store.read_file(&file, 0..file.bytes).await.unwrap()?;
        let chunks: Vec<_> = bytes.try_collect().await.unwrap();
        Some(chunks.concat())
    }

    pub(super) fn conversation(&self, owner: &str, key: &ConversationKey) -> Option<Conversation> {
        self.store.snapshot().conversation(&id(owner), key).unwrap()
    }

    /// An owner's messages by id, from both tiers; fails if one is there twice.
    pub(super) fn messages(&self, owner: &str) -> BTreeMap<MsgId, String> {
        messages(&self.store, self.folder.path(), &id(owner))
    }
}

pub(super) fn id(text: &str) -> UserId {
    UserId::new(text).unwrap()
}

pub(super) fn ai(text: &str) -> ConversationKey {
    ConversationKey { id: ConversationId::new(text).unwrap(), kind: ConversationType::Ai }
}

pub(super) fn group(text: &str) -> ConversationKey {
    ConversationKey { id: ConversationId::new(text).unwrap(), kind: ConversationType::Group }
}

pub(super) fn message(owner: &str, to: &ConversationKey, content: &str) -> NewMessage {
    NewMessage {
        owner: id(owner),
        conversation: to.id.clone(),
        kind: Some(to.kind),
        from: None,
        msg_id: None,
        timestamp: None,
        content: content.to_owned(),
        content_ref: None,
        metadata: None,
    }
}

pub(super) fn add(owner: &str, to: &ConversationKey, user: &str) -> Change {
    Change::AddParticipant { owner: id(owner), group: to.id.clone(), user: id(user), role: None, metadata: None }
}

pub(super) fn edit(owner: &str, message: Message, content: &str, copies: Vec<(UserId, Place)>) -> Change {
    Change::Edit { owner: id(owner), message, content: Some(content.to_owned()), metadata: None, copies }
}

pub(super) fn delete(owner: &str, from: &str, of: &ConversationKey, msg_id: MsgId, place: Place) -> Change {
    Change::Delete { owner: id(owner), msg_id, conversation: of.clone(), from: from.to_owned(), place }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if relative.starts_with(".kalamdb") {
            continue;
        }
        if path.is_dir() {
            files.push(format!("{relative}/"));
            walk(root, &path, files);
        } else {
            files.push(relative);
        }
    }
}

/// The rows of a segment's file, deleted ones included.
pub(super) fn file_rows(base_path: &Path, path: &str) -> Vec<(MsgId, String, String)> {
    let file = std::fs::File::open(base_path.join(path)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let rows = |batch: RecordBatch| {
        let ids = batch.column(0).as_primitive::<Int64Type>().clone();
        let conversations = batch.column(1).as_string::<i32>().clone();
        let contents = batch.column(5).as_string::<i32>().clone();
        (0..batch.num_rows())
            .map(|row| (ids.value(row), conversations.value(row).to_owned(), contents.value(row).to_owned()))
            .collect::<Vec<_>>()
    };
    reader.flat_map(|batch| rows(batch.unwrap())).collect()
}

pub(super) fn messages(store: &Store, base_path: &Path, owner: &UserId) -> BTreeMap<MsgId, String> {
    let snapshot = store.snapshot();
    let mut all = BTreeMap::new();
    for row in snapshot.messages(owner, &MessageRange::default()).unwrap() {
        let message = row.unwrap().message;
        assert!(all.insert(message.msg_id, message.content).is_none());
    }
    for segment in snapshot.segments(owner).unwrap() {
        let rows = file_rows(base_path, &segment.path);
        assert_eq!(rows.len(), segment.rows as usize);
        for (position, (msg_id, _, content)) in (0..).zip(rows) {
            if !segment.deleted.contains(position) {
                assert!(all.insert(msg_id, content).is_none(), "{msg_id} is hot and cold");
            }
        }
    }
    all
}
