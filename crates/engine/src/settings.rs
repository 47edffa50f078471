//! The engine's settings; plain values, each already checked by whoever read them.
//!
//! Invariant: no handle and no default here: the defaults stand beside the documentation, in the server's settings.

use std::time::Duration;

/// All settings of the engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Settings of queries.
    pub query: QuerySettings,
    /// Moving hot messages to segments.
    pub consolidation: ConsolidationSettings,
    /// The interval at which segments are rewritten without the rows that are gone.
    pub compaction_interval: Duration,
    /// The time that the change log reaches back.
    pub replay: Duration,
    /// Settings of live queries.
    pub live: LiveSettings,
}

/// Bounds of a query.
#[derive(Debug, Clone)]
pub struct QuerySettings {
    /// The time that a statement may run.
    pub timeout: Duration,
    /// Rows of an answer; the rest is cut and the answer says so.
    pub max_rows: usize,
    /// Whether repeated queries answer from memory.
    pub enable_cache: bool,
    /// Bytes of all cached answers.
    pub cache_bytes: u64,
    /// Bytes that one statement's operators may hold.
    pub max_memory_bytes: usize,
    /// Bytes that all statements' operators together may hold.
    pub total_memory_bytes: usize,
    /// Bytes of a statement's text.
    pub max_statement_bytes: usize,
    /// Bytes of a buffered (JSON) answer.
    pub max_response_bytes: usize,
    /// Statements that run at the same time; more wait.
    pub max_concurrent: usize,
    /// The number of statements of one user that run at a time.
    pub max_concurrent_per_user: usize,
    /// Threads that plan and run statements.
    pub threads: usize,
}

/// The conditions under which hot messages become a segment.
#[derive(Debug, Clone)]
pub struct ConsolidationSettings {
    /// The interval at which owners are looked at.
    pub interval: Duration,
    /// With fewer than this the interval leaves them hot: tiny files are worse than hot rows.
    pub min_batch_rows: u64,
    /// Unless the oldest has been hot for this long, and there are at least a hundred.
    pub max_hot_age: Duration,
}

/// Bounds of what one user and one client may watch, and how far a client may stay behind.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// Sessions of one user at the same time.
    pub max_sessions_per_user: usize,
    /// Subscriptions of one session.
    pub max_subscriptions: usize,
    /// Frames that may wait for a session's client, and as many more while a replay is under way.
    pub queue_frames: usize,
    /// Bytes of them; a larger frame waits alone.
    pub queue_bytes: usize,
    /// The time after which a replay waits for its client no more: it holds a snapshot, which keeps what was deleted and
    /// moved since on the disk.
    pub replay_within: Duration,
}
