//! The operator's settings: from `config.toml`, then the environment, then flags.
//!
//! Each setting stands once, in `table.rs`. Whatever is wrong is found before anything starts, all of it at
//! once, and each complaint says where the value stands, which setting it is, and what is allowed.
//!
//! Invariant: a [`Settings`] has been checked whole; no secret is in an error, in `Debug` or in what
//! `kalamdb config` prints.

mod layers;
mod show;
mod spec;
mod table;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, fmt, path::PathBuf, time::Duration};

use kalamdb_protocol::Micros;
use kalamdb_store::Rules;
pub use show::sample;
pub use spec::Hidden;
pub use table::*;
use toml::Value;

use self::{
    layers::Layers,
    spec::{Key, Setting},
};
use crate::media;

/// Statements of one user that run at the same time, for each thread: what computes shares the cores with the statements
/// of others, and more of one user's would only make those wait.
const STATEMENTS_PER_THREAD: usize = 2;

/// A replay that waits for its client holds a snapshot: what is deleted or moved meanwhile stays on the disk. A client on
/// a slow line takes its megabytes in this time, and who does not goes on in another replay.
const REPLAY_WITHIN: Duration = Duration::from_mins(10);

/// The file that is read when no other is named and this one is there.
const DEFAULT_FILE: &str = "config.toml";

/// Bytes in the unit of the settings that end in `_mb`.
const MIB: usize = 1024 * 1024;

/// Microseconds in the unit of the settings that end in `_hours`.
const MICROS_PER_HOUR: Micros = 3_600_000_000;

/// The ways to sign tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: one secret that signs and verifies.
    Hs256,
}

/// The callers who may read `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Everybody who reaches the port may.
    Open,
    /// Tokens with the role `admin`.
    Admin,
    /// Nobody may.
    Off,
}

/// The levels of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Events that an operator must act on.
    Error,
    /// Events that an operator should know of.
    Warn,
    /// Starts, ends, and requests that were refused.
    Info,
    /// Every request.
    Debug,
    /// Everything.
    Trace,
}

/// The formats of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Lines for programs.
    Json,
}

/// The sources of settings on the command line, besides the environment.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Source {
    /// The settings file [default: config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "KALAMDB_CONFIG")]
    pub config: Option<PathBuf>,
    /// The folder of all data
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The address to listen on
    #[arg(long)]
    pub host: Option<String>,
    /// The port to listen on; 0 takes a free one
    #[arg(long)]
    pub port: Option<u16>,
}

/// Settings in effect, and where each came from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    values: Values,
    file: Option<String>,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Default,
    File { name: String, line: usize },
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}, line {line}"),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A mistake in the settings, as a sentence.
type Problem = String;

/// All that is wrong with the settings, a line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Error(Vec<Problem>);

/// The value of every setting, in the order of the table.
#[derive(Debug)]
struct Values(Vec<Effective>);

struct Effective {
    key: &'static Key,
    value: Option<Value>,
    origin: Origin,
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.value.as_ref().map(|value| self.key.spec.show(value));
        write!(f, "{} = {shown:?} ({})", self.key.full_name(), self.origin)
    }
}

impl Values {
    fn defaults() -> Self {
        let keys = SECTIONS.iter().flat_map(|section| section.keys);
        Self(keys.map(|key| Effective { key, value: key.spec.default(), origin: Origin::Default }).collect())
    }

    /// Sets a value, if it may be one.
    fn set(&mut self, key: &'static Key, value: Value, origin: Origin) -> Result<(), Problem> {
        if !key.spec.accepts(&value) {
            return Err(refusal(key, &value, &origin));
        }
        if let Some(slot) = self.0.iter_mut().find(|effective| std::ptr::eq(effective.key, key)) {
            *slot = Effective { key, value: Some(value), origin };
        }
        Ok(())
    }

    fn typed<T: Setting>(&self, section: &str, name: &str) -> Result<T, Problem> {
        let effective = self.0.iter().find(|effective| effective.key.section == section && effective.key.name == name);
        let typed = effective.and_then(|effective| T::read(effective.value.as_ref()));
        // A value within the bounds of the table but not of its type would be a fault of the table; a test
        // holds the two together.
        typed.ok_or_else(|| format!("`{section}.{name}` does not fit its type."))
    }
}

fn refusal(key: &Key, value: &Value, origin: &Origin) -> Problem {
    let (name, allowed, shown) = (key.full_name(), &key.spec, key.spec.show(value));
    format!("{origin}: `{name}` must be {allowed}; it is {shown}.")
}

/// Reads the settings: defaults, file, environment, flags.
///
/// # Errors
/// [`Error`] holds all that is wrong.
pub fn load(source: &Source) -> Result<Loaded, Error> {
    let layers = Layers {
        file: read_file(source).map_err(|problem| Error(vec![problem]))?,
        environment: std::env::vars_os().collect(),
        flags: flags(source),
    };
    layers.resolve()
}

/// The name and text of the settings file, if there is one.
fn read_file(source: &Source) -> Result<Option<(String, String)>, Problem> {
    let path = match &source.config {
        Some(path) => path.clone(),
        None if PathBuf::from(DEFAULT_FILE).exists() => PathBuf::from(DEFAULT_FILE),
        None => return Ok(None),
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((name, text))),
        Err(error) => Err(format!("The settings file {name} cannot be read: {error}.")),
    }
}

/// The flags that set something, each with the setting's full name.
fn flags(source: &Source) -> Vec<(&'static str, &'static str, OsString)> {
    let given = [
        ("--data", "storage.base_storage_path", source.data.clone().map(OsString::from)),
        ("--host", "server.host", source.host.clone().map(OsString::from)),
        ("--port", "server.port", source.port.map(|port| port.to_string().into())),
    ];
    given.into_iter().filter_map(|(flag, name, value)| Some((flag, name, value?))).collect()
}

impl Settings {
    /// The store's settings among them.
    pub fn store(&self) -> kalamdb_store::Settings {
        let deletion = &self.deletion;
        let days = |days: u32| Micros::from(days) * 24 * MICROS_PER_HOUR;
        kalamdb_store::Settings {
            base_path: self.storage.base_storage_path.clone(),
            durability: self.rocksdb.durability,
            write_buffer_size_mb: self.rocksdb.write_buffer_size_mb,
            block_cache_mb: self.rocksdb.block_cache_mb,
            max_background_jobs: self.rocksdb.max_background_jobs,
            rules: Rules {
                default_type: self.conversations.default_type,
                max_group_participants: self.conversations.max_group_participants,
                large_message_threshold_bytes: self.message.large_message_threshold_bytes,
                max_message_bytes: self.message.max_size_bytes,
                max_metadata_bytes: self.message.max_metadata_bytes,
                trash_retention: deletion.soft_delete_enabled.then(|| days(deletion.soft_delete_retention_days)),
                upload_ttl: Micros::from(self.media.unreferenced_ttl_hours) * MICROS_PER_HOUR,
                audit_retention: days(self.audit.retention_days),
                crowded_at: self.consolidation.messages_threshold,
            },
        }
    }

    /// The bounds of uploads.
    pub fn media(&self) -> media::Limits {
        let media = &self.media;
        media::Limits {
            image: media.max_image_size_bytes,
            audio: media.max_audio_size_bytes,
            video: media.max_video_size_bytes,
            document: media.max_document_size_bytes,
        }
    }

    /// The engine's settings among them.
    pub fn engine(&self) -> kalamdb_engine::Settings {
        let query = &self.query;
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if query.threads == 0 { cores() } else { query.threads };
        kalamdb_engine::Settings {
            query: kalamdb_engine::QuerySettings {
                timeout: Duration::from_secs(query.timeout_seconds),
                max_rows: query.max_rows,
                enable_cache: query.enable_cache,
                cache_bytes: query.cache_size_mb * MIB as u64,
                max_memory_bytes: query.max_memory_mb.min(query.total_memory_mb) * MIB,
                total_memory_bytes: query.total_memory_mb * MIB,
                max_statement_bytes: query.max_statement_bytes,
                max_response_bytes: query.max_response_mb * MIB,
                max_concurrent: query.max_concurrent,
                max_concurrent_per_user: query
                    .max_concurrent_per_user
                    .min(query.max_concurrent)
                    .min(STATEMENTS_PER_THREAD * threads),
                threads,
            },
            consolidation: kalamdb_engine::ConsolidationSettings {
                interval: Duration::from_secs(self.consolidation.interval_seconds),
                min_batch_rows: self.consolidation.min_batch_rows,
                max_hot_age: Duration::from_secs(self.consolidation.max_hot_age_seconds),
            },
            compaction_interval: Duration::from_hours(self.deletion.compaction_interval_hours.into()),
            replay: Duration::from_hours(self.live.replay_hours.into()),
            live: kalamdb_engine::LiveSettings {
                max_sessions_per_user: self.live.max_connections_per_user,
                max_subscriptions: self.live.max_subscriptions_per_connection,
                queue_frames: self.live.queue_frames,
                queue_bytes: self.live.queue_bytes,
                replay_within: REPLAY_WITHIN,
            },
        }
    }
}
