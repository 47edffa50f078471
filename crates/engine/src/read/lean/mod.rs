//! The short way: what applications ask all the time, read without the planner.
//!
//! A page of one conversation or of all, one message by its id, the number of a conversation's messages, and one's
//! conversations: to plan one takes ten times as long as to read its rows. So do the rows of a write that names a
//! conversation or a hot message by its key. Everything else goes through the planner, and so does EXPLAIN of these.
//!
//! Invariant: what is taken here is answered as the planner would have it answered, in every column, type and order (a
//! test gives both the same statements), from the same snapshot, under the same two walls, within the same memory.

mod blocks;
mod clauses;
mod count;
mod directory;
mod form;
mod keyed;
mod listing;
mod page;
mod templates;

use std::{io, sync::Arc};

use datafusion::{
    arrow::{
        array::RecordBatch,
        datatypes::{Field, Schema, SchemaRef},
    },
    error::{DataFusionError, Result},
    execution::{
        SendableRecordBatchStream,
        memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
    },
    physical_plan::stream::RecordBatchStreamAdapter,
    sql::sqlparser::ast,
};
use futures::stream;
use kalamdb_protocol::{ConversationId, ConversationType, Params, TableId, UserId};
use kalamdb_store::{ConversationKey, Segment};

pub(super) use self::{blocks::Blocks, directory::Directories, templates::Templates};
use self::{
    form::{Asked, Question, Wanted},
    page::{Found, Reading},
};
use super::{
    catalog::{Dependency, Names},
    planner::View,
    tables::schema_of,
};
use crate::sql::{self, Shape, Template, Values};

/// A message that is looked for in more segments than these is for the planner, which asks their bloom filters.
const MAX_SEARCHED: usize = 4;
/// Rows of a segment in which messages are looked for by their ids alone: these are read once and kept.
const MAX_SEARCHED_ROWS: u32 = 1 << 20;

/// A file that is not what was written: to the client its storage fails.
fn corrupt(what: &'static str) -> DataFusionError {
    tracing::error!(what, "a segment cannot be read");
    DataFusionError::IoError(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// The rows of a question, or `None` where it needs the planner after all.
type Answer = Result<Option<SendableRecordBatchStream>>;

impl View {
    /// The rows of a statement that needs no planner; `None`: it needs one.
    ///
    /// # Errors
    /// `scope_violation`, and what the snapshot runs into.
    pub(crate) fn lean(&self, statement: &ast::Statement) -> Answer {
        match Question::of(statement, Values::None) {
            Some(question) => self.answer(question),
            None => Ok(None),
        }
    }

    /// As [`Self::lean`], of a statement that was parsed before, with these values.
    ///
    /// # Errors
    /// What the snapshot runs into.
    pub(crate) fn lean_again(&self, template: &Template, shape: &Shape, params: Option<&Params>) -> Answer {
        let values = Values::Given(shape, params);
        let question = template.takes(params).then(|| Question::of(&template.statement, values)).flatten();
        match question.filter(|question| question.schema == sql::NOBODY) {
            Some(question) => self.answer(Question { schema: self.caller().user.as_str().to_owned(), ..question }),
            None => Ok(None),
        }
    }

    fn answer(&self, Question { schema, asked }: Question) -> Answer {
        let table = match &asked {
            Asked::Page { .. } | Asked::Count { .. } => TableId::Messages,
            Asked::Listing { table, .. } => *table,
        };
        let Some(sql::Schema::Owner(owner)) = Names(self).schema(&schema, table.table().name)? else {
            return Ok(None);
        };
        self.depends_on(Dependency::Owner(owner.clone()));
        match asked {
            Asked::Page { columns, wanted } => self.page(&owner, &columns, wanted),
            Asked::Count { name, conversation, kinds } => {
                let key = |id: &ConversationId, kind| ConversationKey { id: id.clone(), kind };
                let keys = conversation.map(|id| kinds.into_iter().map(|kind| key(&id, kind)).collect());
                self.count(&owner, &name, keys)
            }
            Asked::Listing { table, columns, listed } => self.listing(&owner, table, &columns, &listed).map(Some),
        }
    }

    fn page(&self, owner: &UserId, columns: &[(usize, String)], wanted: Wanted) -> Answer {
        let table = schema_of(TableId::Messages.table().columns, false, []);
        let schema = answer_schema(&table, columns);
        let cold = self.segments_of(owner, &wanted)?;
        let by_id = wanted.conversation.is_none();
        let one = wanted.first == wanted.last;
        // The index by id does not say of which type a message is: where few are, all others would be read in vain.
        let of_one_type = wanted.kinds != ConversationType::ALL && !one;
        let is_large = |segment: &Segment| segment.rows > MAX_SEARCHED_ROWS;
        if by_id && (of_one_type || one && cold.len() > MAX_SEARCHED || cold.iter().any(is_large)) {
            return Ok(None);
        }
        let mut reading = Reading {
            columns: columns.iter().map(|(index, _)| table.field(*index).name().clone()).collect(),
            table,
            schema: Arc::clone(&schema),
            wanted,
            directories: self.directories().clone(),
            blocks: self.blocks().clone(),
            held: self.reservation("a page of messages"),
            found: Found::default(),
        };
        reading.read_hot(self.snapshot(), owner)?;
        Ok(Some(stream_of(schema, async move { reading.rows(cold).await })))
    }

    /// The owner's segments that may have such rows.
    fn segments_of(&self, owner: &UserId, wanted: &Wanted) -> Result<Vec<Segment>> {
        let is_there = |segment: &&Segment| {
            segment.msg_ids.0 <= wanted.last
                && wanted.first <= segment.msg_ids.1
                && wanted.conversation.as_ref().is_none_or(|id| {
                    let (first, last) = &segment.conversations;
                    first.id.as_str() <= id.as_str() && id.as_str() <= last.id.as_str()
                })
        };
        Ok(self.segments(owner)?.iter().filter(is_there).cloned().collect())
    }

    /// The memory of this statement, for one purpose.
    fn reservation(&self, purpose: &str) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = self.memory();
        MemoryConsumer::new(purpose).register(&pool)
    }
}

/// The columns of an answer, out of the table's.
fn answer_schema(table: &SchemaRef, columns: &[(usize, String)]) -> SchemaRef {
    let named = columns.iter().map(|(index, name)| table.field(*index).clone().with_name(name));
    Arc::new(Schema::new(named.collect::<Vec<Field>>()))
}

/// One batch that is computed when it is asked for.
fn stream_of(
    schema: SchemaRef,
    batch: impl Future<Output = Result<RecordBatch>> + Send + 'static,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(batch)))
}
