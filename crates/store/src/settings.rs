//! The values a store is opened with: settings, which are plain values, and components, which a test may replace.
//!
//! Invariant: nothing here reads or writes anything but the machine's clock, which the rest of the crate asks here.

use std::{path::PathBuf, sync::Arc};

use kalamdb_protocol::{ConversationType, Micros};

use crate::records::RulesRecord;

/// The point at which a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// An acknowledged commit survives a power loss: the log is synced before the answer.
    Sync,
    /// An acknowledged commit survives a killed process: the log has reached the operating system.
    Os,
}

/// The store's settings; plain values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of segments and content files; the server's own state lies under `.kalamdb` in it.
    pub base_path: PathBuf,
    /// The point at which a commit is acknowledged.
    pub durability: Durability,
    /// RocksDB's memory for recent writes, in MiB.
    pub write_buffer_size_mb: usize,
    /// RocksDB's memory for blocks that are read often, of all families together, in MiB; taken as they are read.
    pub block_cache_mb: usize,
    /// RocksDB's background threads.
    pub max_background_jobs: i32,
    /// The rules that an operator may set.
    pub rules: Rules,
}

/// Rules of the data that an operator may set.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The type of a conversation that its first message does not name.
    pub default_type: ConversationType,
    /// Participants that a group may have.
    pub max_group_participants: usize,
    /// The text of a message of this many bytes or more is stored in a file.
    pub large_message_threshold_bytes: usize,
    /// A message's text may have this many bytes.
    pub max_message_bytes: usize,
    /// The metadata of a message, a conversation or a participant may have this many bytes.
    pub max_metadata_bytes: usize,
    /// The time for which a deleted message can be brought back, in microseconds; with `None` it cannot.
    pub trash_retention: Option<Micros>,
    /// The time that an upload waits for a message that refers to it, in microseconds.
    pub upload_ttl: Micros,
    /// The time for which audit rows are kept, in microseconds.
    pub audit_retention: Micros,
    /// Hot messages of one owner at which [`crate::Store::crowded`] tells of it.
    pub crowded_at: u64,
}

impl Rules {
    /// The rules that decide what a command does, as the database keeps them.
    pub(crate) fn deciding(&self) -> RulesRecord {
        RulesRecord {
            default_type: self.default_type,
            max_group_participants: self.max_group_participants as u64,
            trash_retention: self.trash_retention,
            upload_ttl: self.upload_ttl,
        }
    }
}

/// A source of the time.
pub trait Clock: Send + Sync + 'static {
    /// Now, in microseconds since the Unix epoch.
    fn now(&self) -> Micros;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn now(&self) -> Micros {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
    }
}

/// A moment at which a crash would be interesting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A batch of commits is decided and not yet written.
    BeforeWrite,
    /// The batch is written and not yet acknowledged.
    AfterWrite,
    /// A segment has a name, and no file.
    SegmentReserved,
    /// The segment's file is complete in the spool, and not yet in its place.
    SegmentSpooled,
    /// The segment's file is in its place, and no commit has adopted it.
    SegmentWritten,
    /// The segment is adopted.
    SegmentPublished,
    /// A large text or an upload is in the spool, and no commit names it.
    FileSpooled,
    /// A commit names it; it is still in the spool.
    FileCommitted,
    /// The file is in its place, and no commit has noted that.
    FileMoved,
    /// Files that nothing refers to are about to be removed.
    LitterFound,
    /// Those files are removed, and their rows are still there.
    LitterRemoved,
}

/// A receiver of the log: it gets the bytes of each entry.
pub(crate) type OnEntry = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Parts that a test may want to replace.
#[derive(Clone)]
pub struct Components {
    /// The source of the time.
    pub clock: Arc<dyn Clock>,
    /// Told of every [`Step`]; a test may end the process in it.
    pub on_step: Option<Arc<dyn Fn(Step) + Send + Sync>>,
    /// Given each entry of the log (see docs/format.md) once its commit is written, in order.
    pub on_entry: Option<OnEntry>,
}

impl Default for Components {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), on_step: None, on_entry: None }
    }
}

impl Components {
    pub(crate) fn step(&self, step: Step) {
        if let Some(on_step) = &self.on_step {
            on_step(step);
        }
    }
}
