//! Every setting there is: its place, type, default, bounds and explanation, once.
//!
//! The macro makes from it the typed [`Settings`], the table that files, environment and flags are checked
//! against, and the sample `config.toml`; the doc comments here are the explanations there.
//!
//! Invariant: nothing but the table: no setting has a default or a bound anywhere else.

use std::path::PathBuf;

use kalamdb_protocol::ConversationType;
use kalamdb_store::Durability;

use super::{
    Hidden, JwtAlgorithm, LogFormat, LogLevel, MetricsAccess, Problem, Values,
    spec::{Choice, FOLDER, HOST, Key, ORIGIN, Section, list, number, one_of, optional_text, secret, switch, text},
};

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        [$section:ident] $Section:ident {
            $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $spec:expr;)+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone)]
            #[allow(dead_code, reason = "what comes with a later version is read and checked now")]
            #[allow(clippy::struct_field_names, reason = "a setting's name ends with its unit")]
            pub struct $Section {
                $($(#[doc = $doc])+ pub $name: $type,)+
            }
        )+

        /// All settings, checked.
        #[derive(Debug, Clone)]
        #[allow(dead_code, reason = "as its sections")]
        pub struct Settings {
            $($(#[doc = $section_doc])+ pub $section: $Section,)+
        }

        /// The table, in the order of the sample.
        pub(super) static SECTIONS: &[Section] = &[$(Section {
            name: stringify!($section),
            doc: &[$($section_doc),+],
            keys: &[$(Key {
                section: stringify!($section),
                name: stringify!($name),
                doc: &[$($doc),+],
                spec: $spec,
            }),+],
        }),+];

        impl Settings {
            pub(super) fn from_values(values: &Values) -> Result<Self, Problem> {
                Ok(Self {
                    $($section: $Section {
                        $($name: values.typed(stringify!($section), stringify!($name))?,)+
                    },)+
                })
            }
        }
    };
}

settings! {
    /// Where the server listens, and whom it lets in.
    [server] Server {
        /// The address to listen on. 127.0.0.1 serves this machine only, and a TLS proxy on it that lets other machines
        /// in; 0.0.0.0 serves the network, unencrypted.
        host: String = text("127.0.0.1", HOST);
        /// The port to listen on; 0 takes a free one and prints it.
        port: u16 = number(8080, 0, 65_535);
        /// The secret that tokens are signed with, 32 bytes or more: `openssl rand -base64 48` makes one. When
        /// it is not set, the server makes one at its first start and keeps it in the data folder, under
        /// .kalamdb/secret. A short one, and the sample of the documentation, are refused.
        jwt_secret: Option<Hidden> = secret("your own 32 bytes or more");
        /// How tokens are signed. A token that names another algorithm is refused. Public keys come with a
        /// later version.
        jwt_algorithm: JwtAlgorithm = one_of("HS256", JwtAlgorithm::NAMES);
        /// Web pages of which origins may call the API from a browser; "*" lets all of them. The token is
        /// needed all the same.
        cors_origins: Vec<String> = list(ORIGIN);
        /// Who may read /metrics: "open" for everybody, "admin" for tokens with the role admin, "off" for
        /// nobody. It holds counts and durations, never names.
        metrics: MetricsAccess = one_of("open", MetricsAccess::NAMES);
        /// The largest body of a request, in bytes; uploads have limits of their own, under [media]. The default
        /// holds a message of `message.max_size_bytes` as JSON three times its size, which is what text other
        /// than English becomes when a client writes every character of it as \uXXXX.
        max_body_bytes: usize = number(33_554_432, 1_024, 1_073_741_824);
        /// Bodies that arrive or are worked on at the same time, in MiB; more wait until there is room, and are not read
        /// meanwhile. One user has at most a quarter of it, and room for one of the largest in any case.
        max_bodies_mb: usize = number(256, 1, 1_048_576);
        /// How long a body may take to arrive (an upload: how long it may pause), and how long a client may take
        /// nothing of its answer, in seconds.
        request_timeout_seconds: u64 = number(30, 1, 3_600);
        /// Connections open at the same time, live ones too; more wait until one closes, and one address of another
        /// machine has seven eighths of them at most. The server takes fewer where the system lets it open fewer than
        /// twice as many files.
        max_connections: u32 = number(10_000, 1, 1_000_000);
    }

    /// What the server says about itself, on standard error.
    [log] Log {
        /// How much: at "info" its start and end and requests that were refused or failed, at "debug" every
        /// request; never tokens, SQL or messages. The environment variable `RUST_LOG`, where set, wins, and can
        /// make the libraries print more than that.
        level: LogLevel = one_of("info", LogLevel::NAMES);
        /// Lines for people or objects for programs.
        format: LogFormat = one_of("text", LogFormat::NAMES);
    }

    /// Messages.
    [message] Message {
        /// From this size on, in bytes, a message's text is kept in a file of its own, in a group once for all
        /// participants; the row keeps its beginning.
        large_message_threshold_bytes: usize = number(102_400, 1_024, 16_777_216);
        /// The largest text of a message, in bytes. In JSON it has to fit into `server.max_body_bytes`.
        max_size_bytes: usize = number(10_485_760, 1_024, 33_554_432);
        /// The largest metadata of a message, a conversation or a participant, in bytes. It is read with the row
        /// that it belongs to, so what is large belongs into a message's text or an upload.
        max_metadata_bytes: usize = number(65_536, 1_024, 1_048_576);
    }

    /// Uploads: what is taken, by what its first bytes show it to be.
    [media] Media {
        /// The largest picture, in bytes; 0 takes none.
        max_image_size_bytes: u64 = number(20_971_520, 0, 1_099_511_627_776);
        /// The largest sound, in bytes; 0 takes none.
        max_audio_size_bytes: u64 = number(104_857_600, 0, 1_099_511_627_776);
        /// The largest video, in bytes; 0 takes none.
        max_video_size_bytes: u64 = number(1_073_741_824, 0, 1_099_511_627_776);
        /// The largest of anything else that is taken (PDF, Office, text, archives), in bytes; 0 takes none.
        max_document_size_bytes: u64 = number(104_857_600, 0, 1_099_511_627_776);
        /// How long an upload waits for a message that refers to it, in hours; then it is removed.
        unreferenced_ttl_hours: u32 = number(24, 1, 8_760);
        /// Uploads that arrive at the same time, each of which takes disk space before it is complete; more wait,
        /// and are told to come back when no place becomes free within `server.request_timeout_seconds`. One user
        /// has at most a quarter of the places, so that others find one.
        max_concurrent_uploads: usize = number(32, 1, 1_024);
    }

    /// Where the data lies.
    [storage] Storage {
        /// The folder of all data, made if it is not there; a relative path starts at the working directory.
        base_storage_path: PathBuf = text("./data", FOLDER);
        /// The folder of the server's own state, when the messages lie in an object store. Has its effect with
        /// a later version, which brings `s3://`; today the state lies under .kalamdb in `base_storage_path`.
        data_path: Option<PathBuf> = optional_text("/var/lib/kalamdb", FOLDER);
    }

    /// Recent messages, and how safe a write is.
    [rocksdb] RocksDb {
        /// When a write is acknowledged: "sync" once it survives a power loss, "os" once it survives the end of
        /// the process (faster; a power loss may take the last moments).
        durability: Durability = one_of("sync", Durability::NAMES);
        /// Memory for recent writes, in MiB.
        write_buffer_size_mb: usize = number(64, 1, 4_096);
        /// Memory for what is read often, in MiB; it is taken as it is read. The rows of users,
        /// conversations and groups grow with their number, and a million users have more than this.
        block_cache_mb: usize = number(32, 8, 65_536);
        /// Background threads.
        max_background_jobs: i32 = number(4, 1, 64);
    }

    /// When recent messages move to Parquet files.
    [consolidation] Consolidation {
        /// How often to look, in seconds.
        interval_seconds: u64 = number(300, 1, 86_400);
        /// With this many recent messages, a user's are moved at once.
        messages_threshold: u64 = number(10_000, 1, 10_000_000);
        /// With fewer than this the interval leaves them where they are, because tiny files slow
        /// reading down.
        min_batch_rows: u64 = number(1_000, 1, 1_000_000);
        /// Unless the oldest of them is this old, in seconds, and they are a hundred at the least.
        max_hot_age_seconds: u64 = number(86_400, 1, 31_536_000);
    }

    /// How far a query may go.
    [query] Query {
        /// How long one may run, in seconds.
        timeout_seconds: u64 = number(30, 1, 3_600);
        /// Rows of one answer; the rest is cut, and the answer says so.
        max_rows: usize = number(10_000, 1, 10_000_000);
        /// Whether a repeated query is answered from memory while nothing that it read has changed.
        enable_cache: bool = switch(true);
        /// Memory for those answers, in MiB.
        cache_size_mb: u64 = number(64, 1, 65_536);
        /// Memory that one query may use, in MiB.
        max_memory_mb: usize = number(256, 1, 1_048_576);
        /// Memory that all queries together may use, in MiB; one user's together have half of it at most.
        total_memory_mb: usize = number(1_024, 1, 1_048_576);
        /// The longest statement, in bytes.
        max_statement_bytes: usize = number(1_048_576, 128, 16_777_216);
        /// The largest answer in JSON, in MiB; CSV, NDJSON and Arrow are streamed and have no such limit.
        max_response_mb: usize = number(32, 1, 1_024);
        /// Queries that run at the same time; more wait.
        max_concurrent: usize = number(32, 1, 1_024);
        /// Of them, one user's; and at most two for each of `threads`, so that nobody else waits long for a core.
        max_concurrent_per_user: usize = number(8, 1, 1_024);
        /// Threads that plan and run queries; 0 takes as many as the machine has cores.
        threads: usize = number(0, 0, 256);
    }

    /// Conversations.
    [conversations] Conversations {
        /// The type of a conversation that its first message does not name.
        default_type: ConversationType = one_of("ai", ConversationType::NAMES);
        /// Participants that a group may have; each message is written once for each of them.
        max_group_participants: usize = number(100, 1, 10_000);
    }

    /// What becomes of deleted messages.
    [deletion] Deletion {
        /// Whether they stay in `deletedMessages` for a while, from where they can be brought back; if not, they
        /// are gone at once.
        soft_delete_enabled: bool = switch(true);
        /// For how long, in days; then they are gone, and so are files that no other message refers to.
        soft_delete_retention_days: u32 = number(30, 1, 36_500);
        /// How often Parquet files are rewritten without the rows that are gone, in hours. Until then these rows
        /// are still in the file, where no query sees them.
        compaction_interval_hours: u32 = number(24, 1, 8_760);
    }

    /// The record of deletions, restores, changes of membership, and what admins did in others' schemas.
    [audit] Audit {
        /// How long its rows are kept, in days.
        retention_days: u32 = number(365, 1, 36_500);
    }

    /// Live updates, over WebSocket and as server-sent events.
    [live] Live {
        /// How long the log of changes is kept, so that a client that was away can catch up, in hours.
        replay_hours: u32 = number(24, 1, 8_760);
        /// Live connections of one user at the same time; more are refused.
        max_connections_per_user: usize = number(50, 1, 1_000_000);
        /// Subscriptions of one connection at the same time; more are refused.
        max_subscriptions_per_connection: usize = number(100, 1, 10_000);
        /// Frames that may wait for one client to read them. A client that lets more wait is told from where to
        /// resume, and nobody waits for it.
        queue_frames: usize = number(1_024, 16, 1_000_000);
        /// Bytes of them.
        queue_bytes: usize = number(1_048_576, 65_536, 1_073_741_824);
    }
}
