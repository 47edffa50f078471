//! The tables that a statement can read, each over one snapshot and for the owners it may show.
//!
//! Invariant: nothing here asks who is asking; whoever builds a table has decided whose rows it shows. A table's
//! columns are those of the protocol's description, in its order, then the hidden ones of the write path.

mod arrays;
mod cold;
mod conversations;
mod hot;
mod members;
mod messages;
mod owner_rows;
mod ranges;
mod segment_source;
mod system;

use std::{collections::HashMap, sync::Arc};

pub(super) use conversations::conversations;
use datafusion::{
    arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef},
    error::DataFusionError,
};
use kalamdb_protocol::{Column, ColumnType, UserId};
use kalamdb_store::Snapshot;
pub(super) use members::members;
pub(crate) use messages::{MessageOptions, MessagesTable};
pub(super) use system::{segments, users};

use crate::{Error, functions::TIME_UNIT_KEY, sql::Schema};

/// The leading column of a table that shows everybody's rows.
const OWNER: &str = "owner";

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
    let owner = matches!(schema, Schema::All).then(|| Field::new(OWNER, DataType::Utf8View, false));
    Arc::new(ArrowSchema::new(owner.into_iter().chain(fields(columns)).chain(hidden).collect::<Vec<_>>()))
}

/// Whose rows the schema shows.
fn owners(snapshot: &Snapshot, schema: &Schema) -> kalamdb_store::Result<Vec<UserId>> {
    match schema {
        Schema::Owner(owner) => Ok(vec![owner.clone()]),
        Schema::All => Ok(snapshot.owners()?.into_iter().map(|(owner, _)| owner).collect()),
    }
}

/// The store's error on its way through DataFusion.
fn store_error(error: kalamdb_store::Error) -> DataFusionError {
    DataFusionError::External(Box::new(Error::from(error)))
}

/// A number of things as SQL has it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
