//! The store as its callers use it, on a real folder, with a clock of the test's own.

mod crash;
mod overlay;
mod rules;
mod segments;

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
use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId, UserId};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{
    Actor, Change, Clock, Components, ConversationKey, Durability, MessageRange, NewMessage, Proposal, Receipt, Result,
    Rules, Settings, Step, Store,
};

/// A clock that a test sets.
pub(super) struct TestClock(pub(super) AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

pub(super) const NOW: Micros = 1_760_313_600_000_000;

pub(super) fn settings(base_path: &Path) -> Settings {
    Settings {
        base_path: base_path.to_owned(),
        durability: Durability::Os,
        write_buffer_size_mb: 8,
        max_background_jobs: 2,
        rules: Rules {
            default_type: ConversationType::Ai,
            max_group_participants: 3,
            large_message_threshold_bytes: 1024,
            crowded_at: 4,
        },
    }
}

/// A store in a folder of its own, whose clock stands still.
pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) clock: Arc<TestClock>,
    pub(super) store: Store,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with_steps(|_| {})
    }

    pub(super) fn with_steps(on_step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(NOW)));
        let components = Components { clock: Arc::clone(&clock) as _, on_step: Some(Arc::new(on_step)) };
        let store = Store::open(settings(folder.path()), components).unwrap();
        Self { folder, clock, store }
    }

    /// The same folder, opened again.
    pub(super) fn reopen(self) -> Self {
        let Self { folder, clock, store } = self;
        drop(store);
        let components = Components { clock: Arc::clone(&clock) as _, on_step: None };
        let store = Store::open(settings(folder.path()), components).unwrap();
        Self { folder, clock, store }
    }

    pub(super) async fn commit(&self, user: &str, changes: Vec<Change>) -> Result<Receipt> {
        let actor = Actor { user: id(user), admin: user == "root" };
        self.store.commit(Proposal { actor, idempotency: None, expect: Vec::new(), changes }).await
    }

    pub(super) async fn send(&self, user: &str, to: &ConversationKey, content: &str) -> Result<MsgId> {
        let receipt = self.commit(user, vec![Change::Send(message(user, to, content))]).await?;
        Ok(receipt.sent[0].msg_id)
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
    Change::AddMember { owner: id(owner), group: to.id.clone(), user: id(user), role: None, metadata: None }
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
