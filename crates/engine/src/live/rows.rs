//! The tables that can be watched, and their rows: one by one as the store tells of them, and as batches.
//!
//! Invariant: a batch has the columns of its table as a query sees them, in that order, with a leading `owner` where
//! everybody's rows are watched.

use std::sync::{Arc, LazyLock};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    error::Result,
};
use kalamdb_protocol::{ConversationType, MsgId, OWNER_COLUMN, Role, Table, TableId, UserId};
use kalamdb_store::{Conversation, ConversationKey, Message, Participant, RowChange};

use crate::read::{batch, conversation_column, message_column, participant_column, schema_of, texts};

/// A table that can be watched; the number of each is its place among the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LiveTable {
    Messages = 0,
    Conversations = 1,
    Participants = 2,
}

/// The tables' schemas, each for one owner and for everybody: there is no need for one each in many filters.
static SCHEMAS: LazyLock<[[SchemaRef; 2]; 3]> = LazyLock::new(|| {
    LiveTable::ALL.map(|table| {
        let columns = table.description().columns;
        [schema_of(columns, false, None), schema_of(columns, true, None)]
    })
});

/// A row as the store has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum LiveRow<'a> {
    Message(&'a Message),
    Conversation(&'a Conversation),
    Participant(&'a Participant),
}

/// A row and whose it is.
pub(super) type OwnedRow<'a> = (&'a UserId, LiveRow<'a>);

/// The known part of a row that was not read: its conversation, and its id where it is a single message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub owner: &'a UserId,
    pub conversation: &'a ConversationKey,
    pub msg_id: Option<MsgId>,
}

impl LiveTable {
    pub const ALL: [Self; 3] = [Self::Messages, Self::Conversations, Self::Participants];

    /// The table of that name, if it can be watched.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.description().name == name)
    }

    /// The table that a change is about.
    pub fn of(change: &RowChange) -> Self {
        match change {
            RowChange::Message { .. } | RowChange::MessagesGone { .. } => Self::Messages,
            RowChange::Conversation { .. } => Self::Conversations,
            RowChange::Participants { .. } => Self::Participants,
        }
    }

    pub fn description(self) -> &'static Table {
        match self {
            Self::Messages => TableId::Messages.table(),
            Self::Conversations => TableId::Conversations.table(),
            Self::Participants => TableId::ConversationUsers.table(),
        }
    }

    /// The table's columns as a query has them.
    pub fn schema(self, everybody: bool) -> SchemaRef {
        Arc::clone(&SCHEMAS[self as usize][usize::from(everybody)])
    }

    /// A batch of these rows.
    pub fn batch(self, schema: &SchemaRef, rows: &[OwnedRow<'_>]) -> Result<RecordBatch> {
        batch(schema, rows, |name, rows| {
            let all = rows.iter().map(|(_, row)| *row);
            match self {
                _ if name == OWNER_COLUMN.name => Some(texts(rows.iter().map(|(owner, _)| owner.as_str()))),
                Self::Messages => message_column(name, all.filter_map(LiveRow::message)),
                Self::Conversations => conversation_column(name, all.filter_map(LiveRow::conversation)),
                Self::Participants => participant_column(name, all.filter_map(LiveRow::participant)),
            }
        })
    }

    /// A batch of one row of which only this is known; the rest of it means nothing.
    pub fn batch_of_known(self, schema: &SchemaRef, known: &Known<'_>) -> Result<RecordBatch> {
        match self {
            Self::Messages => self.batch(schema, &[(known.owner, LiveRow::Message(&message(known)))]),
            Self::Conversations => self.batch(schema, &[(known.owner, LiveRow::Conversation(&conversation(known)))]),
            Self::Participants => self.batch(schema, &[(known.owner, LiveRow::Participant(&participant(known)))]),
        }
    }
}

impl<'a> LiveRow<'a> {
    fn message(self) -> Option<&'a Message> {
        match self {
            Self::Message(row) => Some(row),
            Self::Conversation(_) | Self::Participant(_) => None,
        }
    }

    fn conversation(self) -> Option<&'a Conversation> {
        match self {
            Self::Conversation(row) => Some(row),
            Self::Message(_) | Self::Participant(_) => None,
        }
    }

    fn participant(self) -> Option<&'a Participant> {
        match self {
            Self::Participant(row) => Some(row),
            Self::Message(_) | Self::Conversation(_) => None,
        }
    }

    /// The row's address in memory: several owners share one row, which is to be judged once.
    pub fn address(self) -> usize {
        match self {
            Self::Message(row) => std::ptr::from_ref(row).addr(),
            Self::Conversation(row) => std::ptr::from_ref(row).addr(),
            Self::Participant(row) => std::ptr::from_ref(row).addr(),
        }
    }
}

/// Bytes of a message's text, which is what makes one row larger than another.
pub(super) fn text_bytes(message: &Message) -> usize {
    message.content.len() + message.metadata.as_ref().map_or(0, String::len)
}

fn message(known: &Known<'_>) -> Message {
    Message {
        msg_id: known.msg_id.unwrap_or_default(),
        conversation: known.conversation.clone(),
        from: String::new(),
        timestamp: 0,
        content: String::new(),
        content_ref: None,
        metadata: None,
    }
}

fn conversation(known: &Known<'_>) -> Conversation {
    Conversation {
        key: known.conversation.clone(),
        user_id: (known.conversation.kind == ConversationType::Ai).then(|| known.owner.clone()),
        first_msg_id: None,
        last_msg_id: None,
        created: 0,
        updated: 0,
        storage_path: String::new(),
        metadata: None,
        last_read_msg_id: None,
        unread_count: 0,
        joined: false,
        version: 0,
    }
}

fn participant(known: &Known<'_>) -> Participant {
    Participant {
        user: known.owner.clone(),
        group: known.conversation.id.clone(),
        role: Role::Member,
        created: 0,
        updated: 0,
        metadata: None,
        version: 0,
    }
}
