//! The SQL tables that a user sees: one description for the planner, the documentation and the shell's `\d`.
//!
//! Invariant: the order and spelling here are what `SELECT *` answers; adding a column goes at the end.

/// A column's type, by its SQL name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `BIGINT`
    BigInt,
    /// `BIGINT`, microseconds since the Unix epoch; compared with seconds and milliseconds too.
    Time,
    /// `VARCHAR`
    Text,
    /// `VARCHAR` holding JSON text.
    Json,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The name in its canonical spelling.
    pub name: &'static str,
    /// The SQL type.
    pub kind: ColumnType,
    /// Whether it can be NULL.
    pub nullable: bool,
}

/// The name of a table in the program: whoever treats tables differently matches on it, so that the compiler lists
/// every place to visit when a table is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableId {
    /// `messages`
    Messages,
    /// `conversations`
    Conversations,
    /// `conversationUsers`
    ConversationUsers,
    /// `deletedMessages`
    DeletedMessages,
    /// `auditLog`
    AuditLog,
    /// `system.users`
    SystemUsers,
    /// `system.segments`
    SystemSegments,
    /// `system.files`
    SystemFiles,
}

/// A table, as SQL shows it.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The table's identity, by which code tells tables apart.
    pub id: TableId,
    /// The name in its canonical spelling.
    pub name: &'static str,
    /// The columns, in the order of `SELECT *`.
    pub columns: &'static [Column],
    /// The names of its key columns.
    pub key: &'static [&'static str],
}

const fn column(name: &'static str, kind: ColumnType) -> Column {
    Column { name, kind, nullable: false }
}

const fn nullable(name: &'static str, kind: ColumnType) -> Column {
    Column { name, kind, nullable: true }
}

use ColumnType::{BigInt, Json, Text, Time};

/// The tables in every user's schema.
pub const TABLES: &[Table] = &[
    Table {
        id: TableId::Messages,
        name: "messages",
        columns: &[
            column("msgId", BigInt),
            column("conversationId", Text),
            column("conversationType", Text),
            column("from", Text),
            column("timestamp", Time),
            column("content", Text),
            nullable("contentRef", Text),
            nullable("metadata", Json),
        ],
        key: &["msgId"],
    },
    Table {
        id: TableId::Conversations,
        name: "conversations",
        columns: &[
            column("conversationId", Text),
            column("conversationType", Text),
            nullable("userId", Text),
            nullable("firstMsgId", BigInt),
            nullable("lastMsgId", BigInt),
            column("created", Time),
            column("updated", Time),
            column("storagePath", Text),
            nullable("metadata", Json),
            nullable("lastReadMsgId", BigInt),
            column("unreadCount", BigInt),
        ],
        key: &["conversationId", "conversationType"],
    },
    Table {
        id: TableId::ConversationUsers,
        name: "conversationUsers",
        columns: &[
            column("userId", Text),
            column("conversationId", Text),
            column("role", Text),
            column("created", Time),
            column("updated", Time),
            nullable("metadata", Json),
        ],
        key: &["userId", "conversationId"],
    },
    Table {
        id: TableId::DeletedMessages,
        name: "deletedMessages",
        columns: &[
            column("msgId", BigInt),
            column("conversationId", Text),
            column("conversationType", Text),
            column("from", Text),
            column("timestamp", Time),
            column("content", Text),
            nullable("contentRef", Text),
            nullable("metadata", Json),
            column("deletedAt", Time),
            column("expiresAt", Time),
        ],
        key: &["msgId"],
    },
    Table {
        id: TableId::AuditLog,
        name: "auditLog",
        columns: &[
            column("auditId", BigInt),
            column("timestamp", Time),
            column("actor", Text),
            column("action", Text),
            column("target", Text),
            column("details", Json),
        ],
        key: &["auditId"],
    },
];

/// The schema of [`SYSTEM_TABLES`].
pub const SYSTEM_SCHEMA: &str = "system";

/// The column that leads every table of the schema `*`: whose row it is.
pub const OWNER_COLUMN: Column = column("owner", Text);

/// The tables of the schema `system`, which only admins may name: the server's own state.
pub const SYSTEM_TABLES: &[Table] = &[
    Table {
        id: TableId::SystemUsers,
        name: "users",
        columns: &[
            column("userId", Text),
            column("hotMessages", BigInt),
            column("segments", BigInt),
            column("coldMessages", BigInt),
            column("lastChange", BigInt),
        ],
        key: &["userId"],
    },
    Table {
        id: TableId::SystemSegments,
        name: "segments",
        columns: &[
            column("userId", Text),
            column("number", BigInt),
            column("path", Text),
            column("rows", BigInt),
            column("deletedRows", BigInt),
            column("bytes", BigInt),
            column("created", Time),
            column("minMsgId", BigInt),
            column("maxMsgId", BigInt),
        ],
        key: &["userId", "number"],
    },
    Table {
        id: TableId::SystemFiles,
        name: "files",
        columns: &[
            column("path", Text),
            column("userId", Text),
            column("conversationId", Text),
            column("conversationType", Text),
            column("kind", Text),
            column("contentType", Text),
            column("bytes", BigInt),
            column("created", Time),
            column("references", BigInt),
            column("state", Text),
        ],
        key: &["path"],
    },
];

/// The table `id` of `tables`; fails the build where it is not there.
const fn listed(tables: &'static [Table], id: TableId) -> &'static Table {
    let mut index = 0;
    while tables[index].id as u8 != id as u8 {
        index += 1;
    }
    &tables[index]
}

impl TableId {
    /// The table's description.
    #[must_use]
    pub const fn table(self) -> &'static Table {
        match self {
            Self::Messages => const { listed(TABLES, Self::Messages) },
            Self::Conversations => const { listed(TABLES, Self::Conversations) },
            Self::ConversationUsers => const { listed(TABLES, Self::ConversationUsers) },
            Self::DeletedMessages => const { listed(TABLES, Self::DeletedMessages) },
            Self::AuditLog => const { listed(TABLES, Self::AuditLog) },
            Self::SystemUsers => const { listed(SYSTEM_TABLES, Self::SystemUsers) },
            Self::SystemSegments => const { listed(SYSTEM_TABLES, Self::SystemSegments) },
            Self::SystemFiles => const { listed(SYSTEM_TABLES, Self::SystemFiles) },
        }
    }
}

impl Table {
    /// The column of that name, whatever its case.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }
}
