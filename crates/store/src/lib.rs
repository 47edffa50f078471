//! The truth: RocksDB for recent rows, Parquet segments for older ones, and the rules of every write.
//!
//! Invariant: knows nothing of SQL, HTTP or tokens, and has one way in for a change: [`Store::commit`].
//!
//! The journey of a write: a [`Proposal`] is prepared by the caller on a [`Snapshot`]; `sequencer` takes its turn,
//! `apply` decides it by the rules on an `overlay`, `database` writes it in one batch. The journey of a row to
//! Parquet: `consolidate`, `segment`, `objects`, and back to the `sequencer` to publish; `compact` goes the same way.
//! The journey of a file: `files` (spool, commit, its place), and `sweep` once nothing refers to it.

mod apply;
#[expect(clippy::disallowed_types, reason = "asked by key, many times a commit, and never listed")]
mod cache;
mod command;
mod commit;
mod compact;
mod consolidate;
mod counters;
mod database;
mod due;
mod error;
mod fatal;
#[expect(clippy::disallowed_types, reason = "asked by key, hundreds of times a commit, and never listed")]
mod feed;
mod files;
mod horizon;
mod inbox;
mod keys;
mod large;
mod limits;
mod model;
mod newest;
#[expect(clippy::disallowed_methods, reason = "the one place for files")]
mod objects;
mod overlay;
mod paths;
mod queue;
mod records;
mod recover;
mod rows;
mod segment;
mod sequencer;
mod settings;
mod snapshot;
mod stages;
mod sweep;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test looks at what is really there")]
mod tests;
mod threads;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

pub use commit::{Actor, Change, ColdSummary, Expect, Idempotency, NewMessage, Place, Proposal, Receipt, Sent};
pub use compact::Compacted;
pub use error::{Error, ErrorKind, Result};
pub use feed::{Commit, Event, Feed, FeedItem, RowChange, RowState, Watching};
pub use files::FileBytes;
pub use inbox::{InboxColumn, InboxOrder};
use kalamdb_protocol::{Micros, UserId};
pub use limits::{MAX_CHANGES, MAX_PROPOSAL_BYTES};
pub use model::{
    AuditEntry, ChangeKind, ColdTrash, Conversation, ConversationKey, FileKind, HotMessage, LoggedChange, Message,
    MessageRange, NewFile, OwnerState, Participant, Segment, Seq, StoredFile, Thumbnail, TrashedMessage, Uploaded,
};
pub use paths::holds_text;
pub use segment::segment_schema;
pub use settings::{Clock, Components, Durability, Rules, Settings, Step, SystemClock};
pub use snapshot::{
    AuditCursor, ChangeCursor, ConversationCursor, FileCursor, MessageCursor, ParticipantCursor, Snapshot, TrashCursor,
};
pub use stages::WriteStages;
pub use sweep::Swept;

use tokio::{sync::Notify, time::Instant};

use crate::{
    command::{Ask, Command, Moved, ReleaseIntents, SetRules},
    database::{Database, DatabaseSnapshot},
    feed::Watched,
    horizon::Horizon,
    inbox::Inboxes,
    objects::Objects,
    sequencer::Sequencer,
    snapshot::Pins,
};

/// Consolidations that may run at the same time: they wait for the disk most of the time, and each holds a segment
/// in memory.
pub const CONSOLIDATIONS: usize = 4;

/// The time for which a result of [`Store::ready`] is taken for true: each look costs a write.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The time that the database may take for that write: longer than a slow disk's sync with a full queue before it.
const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// The result of a consolidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consolidated {
    /// Messages written to the new segment.
    pub messages: u64,
    /// Bytes of its file.
    pub bytes: u64,
}

/// The store: cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Arc<Database>,
    sequencer: Sequencer,
    objects: Objects,
    components: Components,
    horizon: Arc<Horizon>,
    inboxes: Arc<Inboxes>,
    rules: Rules,
    durability: Durability,
    epoch: u64,
    /// The folder of files that no commit has named yet.
    spool: PathBuf,
    next_spooled: AtomicU64,
    pins: Arc<Pins>,
    watched: Arc<Watched>,
    feed: parking_lot::Mutex<Option<Feed>>,
    /// The time when old audit rows were last looked for.
    audit_trimmed: AtomicI64,
    consolidating: [tokio::sync::Mutex<()>; CONSOLIDATIONS],
    /// Rows that consolidations have moved to segments, and of which the database still holds traces.
    moved: AtomicU64,
    sweeping: tokio::sync::Mutex<()>,
    /// The last result of [`Store::ready`], and its time.
    probed: tokio::sync::Mutex<Option<(Instant, Result<()>)>>,
}

impl Inner {
    /// Makes commits survive a power loss, where each is not synced by itself.
    fn sync_if_os(&self) -> Result<()> {
        match self.durability {
            Durability::Sync => Ok(()),
            Durability::Os => self.database.sync(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sequencer.stop();
        if let Err(error) = counters::stop(&self.database) {
            tracing::error!(%error, "the database could not be closed cleanly");
        }
    }
}

impl Store {
    /// Opens the folder, creating it if there is none, and removes what a crash left half-way. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be used, is in use, or has a newer format.
    pub fn open(settings: Settings, components: Components) -> Result<Self> {
        let state = settings.base_path.join(paths::STATE);
        objects::make_folder(&state)?;
        let base_path = std::path::absolute(&settings.base_path)
            .map_err(|error| Error::io("find the working directory", &error))?;
        let horizon = Arc::new(Horizon::default());
        let database = Arc::new(Database::open(&state.join("rocksdb"), &settings, &horizon)?);
        let epoch = counters::start(&database, settings.durability)?;
        horizon.load(&*database)?;
        let objects = Objects::local(&base_path)?;
        let intents = recover::clear_intents(&database, &objects)?;
        let (moved, next_spooled) = recover::finish_moves(&database, &objects)?;
        // A run begins with commands that set the rules in force and finish what a crash left half done.
        let first: Vec<Command> = vec![
            SetRules { rules: settings.rules.deciding() }.into(),
            ReleaseIntents { paths: intents }.into(),
            Moved { paths: moved }.into(),
        ];
        let litter = Arc::new(Notify::new());
        // Files that a crash left to remove are looked for at once.
        litter.notify_one();
        let pins = Arc::new(Pins::new(Arc::clone(&litter)));
        let watched = Arc::new(Watched::default());
        let (teller, feed) = feed::channel();
        let sequencer = Sequencer::start(
            Arc::clone(&database),
            settings.rules.crowded_at,
            components.clone(),
            litter,
            Arc::clone(&watched),
            teller,
            first,
        )?;
        let inner = Inner {
            database,
            sequencer,
            objects,
            components,
            inboxes: Arc::new(Inboxes::new(Arc::clone(&horizon))),
            horizon,
            rules: settings.rules,
            durability: settings.durability,
            epoch,
            spool: base_path.join(paths::spooled("")),
            next_spooled: AtomicU64::new(next_spooled),
            pins,
            watched,
            feed: parking_lot::Mutex::new(Some(feed)),
            audit_trimmed: AtomicI64::new(0),
            consolidating: Default::default(),
            moved: AtomicU64::new(0),
            sweeping: tokio::sync::Mutex::default(),
            probed: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A consistent view of everything, as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // The pin comes first and may be older than the snapshot, never younger. A commit number that cannot be read
        // counts as the oldest; then the snapshot cannot be read either.
        let pin = self.inner.pins.pin(self.last_seq().unwrap_or(0));
        Snapshot::new(DatabaseSnapshot::new(&self.inner.database), Arc::clone(&self.inner.inboxes), pin)
    }

    /// Applies a proposal whole, or not at all; returns once it is as durable as the settings say.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] when something that the preparation read is no longer so; [`ErrorKind::Refused`] when a
    /// rule forbids it; [`ErrorKind::Unavailable`] when the disk fails.
    pub async fn commit(&self, proposal: Proposal) -> Result<Receipt> {
        limits::check(&proposal, &self.inner.rules)?;
        self.commit_with_texts(proposal).await
    }

    /// The receipt of a request that was committed under this client's name before.
    ///
    /// # Errors
    /// `conflict` when the name was another request's; [`ErrorKind::Unavailable`] when the disk fails.
    pub fn earlier_receipt(&self, user: &UserId, idempotency: &Idempotency) -> Result<Option<Receipt>> {
        apply::earlier_receipt(&*self.inner.database, user, idempotency, self.now())
    }

    async fn command<C: Ask>(&self, command: C) -> Result<C::Answer> {
        self.inner.sequencer.commit(command).await
    }

    /// The object store in which [`Segment::path`] is a path.
    #[must_use]
    pub fn objects(&self) -> Arc<dyn object_store::ObjectStore> {
        self.inner.objects.reader()
    }

    /// Whether a commit would be written now: the sequencer answers, and the database takes a write. What was found is
    /// true for a moment, so that whoever asks all the time costs no more than one who asks now and then.
    ///
    /// # Errors
    /// Why not.
    pub async fn ready(&self) -> Result<()> {
        let mut probed = self.inner.probed.lock().await;
        if let Some((at, found)) = &*probed
            && at.elapsed() < PROBE_EVERY
        {
            return found.clone();
        }
        let probe = async {
            self.inner.sequencer.barrier().await?;
            let database = Arc::clone(&self.inner.database);
            threads::blocking(move || database.probe()).await
        };
        let found = tokio::time::timeout(PROBE_WITHIN, probe).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "The database does not answer in time; its disk may be overloaded."))
        });
        *probed = Some((Instant::now(), found.clone()));
        found
    }

    /// The last commit that changed anything the owner can see, newest, not a snapshot's.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn change_number(&self, owner: &UserId) -> Result<Seq> {
        Ok(rows::owner(&*self.inner.database, owner)?.change)
    }

    /// The last commit, newest, not a snapshot's.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn last_seq(&self) -> Result<Seq> {
        counters::seq(&*self.inner.database)
    }

    /// Changes at each start after which a commit number could have been given twice.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// The rules that this store was opened with.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.inner.rules
    }

    /// The writes of this process so far, and where their time was spent.
    #[must_use]
    pub fn write_stages(&self) -> WriteStages {
        self.inner.sequencer.stages()
    }

    /// The store's clock.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.inner.components.clock.now()
    }

    /// The changes that commits make to the rows of watched owners, from now on; there is one listener.
    #[must_use]
    pub fn feed(&self) -> Option<Feed> {
        self.inner.feed.lock().take()
    }

    /// Has the feed tell of an owner's rows, or of everybody's, as long as the answer is kept. A snapshot taken after
    /// this returns holds every commit that the feed does not tell of.
    ///
    /// # Errors
    /// When the store is closing.
    pub async fn watch(&self, owner: Option<UserId>) -> Result<Watching> {
        let watching = Watching::new(Arc::clone(&self.inner.watched), owner);
        // Commits that were being decided when the watching began may not be told; they are written when this returns.
        self.inner.sequencer.barrier().await?;
        Ok(watching)
    }

    /// Waits until some owners have reached [`Rules::crowded_at`] hot messages, and names them.
    pub async fn crowded(&self) -> BTreeSet<UserId> {
        self.inner.sequencer.crowded().await
    }

    /// Lets compaction forget derived rows that have had their time: change log entries of commits that are older than
    /// `reach`, and receipts of requests that have expired. To be called now and then: each call notes how far commits
    /// have come, which a later one goes by, in this process or another.
    ///
    /// # Errors
    /// When the disk fails; nothing is forgotten then.
    pub fn forget(&self, reach: Micros) -> Result<()> {
        self.inner.horizon.advance(&self.inner.database, self.now(), reach)
    }
}
