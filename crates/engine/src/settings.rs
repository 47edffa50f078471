//! What an operator may set of the engine; plain values, each already checked by whoever read them.
//!
//! Invariant: no handle and no default here: the defaults stand beside the documentation, in the server's settings.

use std::time::Duration;

/// All settings of the engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Reading.
    pub query: QuerySettings,
    /// Moving hot messages to segments.
    pub consolidation: ConsolidationSettings,
    /// How often segments are rewritten without the rows that are gone.
    pub compaction_interval: Duration,
    /// How far back the change log reaches.
    pub replay: Duration,
    /// Live queries.
    pub live: LiveSettings,
}

/// How far one query may go.
#[derive(Debug, Clone)]
pub struct QuerySettings {
    /// How long a statement may run.
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
    /// Of them, one user's.
    pub max_concurrent_per_user: usize,
    /// Threads that plan and run statements.
    pub threads: usize,
}

/// When hot messages become a segment.
#[derive(Debug, Clone)]
pub struct ConsolidationSettings {
    /// How often to look.
    pub interval: Duration,
    /// With fewer than this the interval leaves them hot: tiny files are worse than hot rows.
    pub min_batch_rows: u64,
    /// Unless the oldest has been hot for this long.
    pub max_hot_age: Duration,
}

/// How much one user and one client may watch, and how far a client may stay behind.
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
}
