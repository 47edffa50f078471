//! The tables that a statement can read, each over one snapshot and for the owners it may show.
//!
//! Invariant: nothing here asks who is asking; whoever builds a table has decided whose rows it shows. A table's
//! columns are those of the protocol's description, in its order, then the hidden ones of the write path.

mod arrays;
mod audit;
mod cold;
mod conversations;
mod deleted;
mod hot;
mod messages;
mod participants;
mod ranges;
mod segment_source;
mod streamed;
mod system;

use std::{collections::HashMap, sync::Arc};

pub(crate) use arrays::{batch, message_column, texts};
pub(super) use audit::audit_log;
pub(crate) use conversations::conversation_column;
pub(super) use conversations::{conversation_with_owner_column, conversations};
use datafusion::{
    arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef},
    catalog::Session,
    common::DFSchema,
    error::{DataFusionError, Result},
    logical_expr::{Expr, utils::conjunction},
    physical_expr::PhysicalExpr,
    physical_plan::{ExecutionPlan, empty::EmptyExec, union::UnionExec},
};
pub(super) use deleted::{DeletedMessages, DeletedOptions};
pub(super) use hot::hot_message_column;
use kalamdb_protocol::{Column, ColumnType, UserId};
use kalamdb_store::Snapshot;
pub(crate) use messages::{MessageOptions, MessagesTable};
pub(crate) use participants::participant_column;
pub(super) use participants::participants;
pub(super) use system::{files, segments, users};

use crate::{Error, functions::TIME_UNIT_KEY, sql::Schema};

/// The leading column of a table that shows everybody's rows.
const OWNER: &str = "owner";

/// A batch ends here too, so that long messages do not make it many times larger than others.
const BATCH_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// The columns as Arrow has them. Text is `Utf8View`: that is how Parquet is read fastest, what DataFusion makes of
/// VARCHAR literals, and so what needs no cast anywhere between a segment and the answer.
fn fields(columns: &[Column]) -> impl Iterator<Item = Field> {
    columns.iter().map(|column| match column.kind {
        ColumnType::BigInt => Field::new(column.name, DataType::Int64, column.nullable),
        ColumnType::Time => Field::new(column.name, DataType::Int64, column.nullable)
            .with_metadata(HashMap::from([(TIME_UNIT_KEY.to_owned(), "us".to_owned())])),
        ColumnType::Text | ColumnType::Json => Field::new(column.name, DataType::Utf8View, column.nullable),
    })
}

/// The schema of a user's table: with a leading `owner` when it shows everybody's rows.
fn table_schema(columns: &[Column], schema: &Schema, hidden: impl IntoIterator<Item = Field>) -> SchemaRef {
    schema_of(columns, matches!(schema, Schema::All), hidden)
}

/// The schema of such columns, with the owner's where it shows everybody's rows.
pub(crate) fn schema_of(columns: &[Column], everybody: bool, hidden: impl IntoIterator<Item = Field>) -> SchemaRef {
    let owner = everybody.then(|| Field::new(OWNER, DataType::Utf8View, false));
    Arc::new(ArrowSchema::new(owner.into_iter().chain(fields(columns)).chain(hidden).collect::<Vec<_>>()))
}

/// The owners whose rows the schema shows.
fn owners(snapshot: &Snapshot, schema: &Schema) -> kalamdb_store::Result<Vec<UserId>> {
    match schema {
        Schema::Owner(owner) => Ok(vec![owner.clone()]),
        Schema::All => Ok(snapshot.owners()?.into_iter().map(|(owner, _)| owner).collect()),
    }
}

/// The conditions of a scan as one over the table's columns.
fn condition(session: &dyn Session, schema: &SchemaRef, filters: &[Expr]) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let columns = DFSchema::try_from(Arc::clone(schema))?;
    let all = conjunction(filters.iter().cloned()).map(|filter| session.create_physical_expr(filter, &columns));
    // A condition that cannot be computed here (a subquery) is for the operators above.
    Ok(all.and_then(Result::ok))
}

/// The owners whose rows the condition can be true of.
fn matching_owners(
    snapshot: &Snapshot,
    owners_of: &Schema,
    schema: &SchemaRef,
    condition: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Vec<UserId>> {
    let owners = owners(snapshot, owners_of).map_err(store_error)?;
    if matches!(owners_of, Schema::Owner(_)) {
        return Ok(owners);
    }
    let bounds = owners.iter().map(|owner| Arc::new(cold::owner_bounds(owner, schema))).collect();
    let keep = cold::prune(condition, schema, bounds);
    Ok(owners.into_iter().zip(keep).filter_map(|(owner, keep)| keep.then_some(owner)).collect())
}

/// The tiers of a table, RocksDB's rows and the segments', as one; no rows when there is none.
fn union(
    tiers: Vec<Arc<dyn ExecutionPlan>>,
    schema: &SchemaRef,
    projection: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    if tiers.is_empty() {
        return Ok(Arc::new(EmptyExec::new(Arc::new(schema.project(projection)?))));
    }
    UnionExec::try_new(tiers)
}

/// The store's error on its way through DataFusion.
pub(super) fn store_error(error: kalamdb_store::Error) -> DataFusionError {
    DataFusionError::External(Box::new(Error::from(error)))
}

/// A number of things as SQL has it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
