//! `deletedMessages`: what was deleted and can still be brought back, from RocksDB and from segments as one table.
//!
//! Invariant: a message is shown until the moment at which it expires, whether or not it has been swept away by then;
//! it is in `messages` or here, never in both.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::ArrayRef,
        datatypes::{DataType, Field, SchemaRef},
    },
    catalog::{Session, TableProvider},
    error::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_expr::PhysicalExpr,
    physical_plan::ExecutionPlan,
};
use kalamdb_protocol::{Micros, MsgId, Table, UserId};
use kalamdb_store::{Snapshot, TrashedMessage};

use super::{
    OWNER,
    arrays::{ints, message_column, texts},
    cold::{ColdScan, DELETION, File, HOT, POSITION, SEGMENT, VERSION, hidden_fields},
    condition, count, matching_owners,
    ranges::{Keys, keys},
    store_error,
    streamed::{RowIter, Streamed, WithOwner, of_owners},
    table_schema, union,
};
use crate::sql::Schema;

/// The selection of deleted messages that a table shows.
#[derive(Debug, Clone, Copy)]
pub(in crate::read) struct DeletedOptions {
    /// With the columns of [`hidden_fields`] and `_deletion` (0: hot) at the end.
    pub hidden: bool,
    /// Whether those in RocksDB are shown, besides those in segments.
    pub hot: bool,
    /// The time that rows must expire after to be shown.
    pub after: Micros,
}

/// The table `deletedMessages`.
pub(in crate::read) struct DeletedMessages {
    schema: SchemaRef,
    snapshot: Snapshot,
    owners: Schema,
    options: DeletedOptions,
}

impl DeletedMessages {
    pub fn new(table: &Table, snapshot: Snapshot, owners: Schema, options: DeletedOptions) -> Self {
        let hidden = hidden_fields().into_iter().chain([Field::new(DELETION, DataType::Int64, false)]);
        let schema = table_schema(table.columns, &owners, hidden.filter(|_| options.hidden));
        Self { schema, snapshot, owners, options }
    }

    /// The deleted messages in RocksDB: the ones of these ids, or all.
    fn hot(&self, owners: Vec<UserId>, ids: Option<Vec<MsgId>>) -> Streamed<WithOwner<TrashedMessage>> {
        let (snapshot, after) = (self.snapshot.clone(), self.options.after);
        let open = Arc::new(move || {
            let (snapshot, ids) = (snapshot.clone(), ids.clone());
            of_owners(owners.clone(), move |owner| read(&snapshot, owner, ids.clone(), after))
        });
        let text_bytes = |(_, row): &WithOwner<TrashedMessage>| {
            row.message.content.len() + row.message.metadata.as_ref().map_or(0, String::len)
        };
        Streamed { schema: Arc::clone(&self.schema), open, column, text_bytes }
    }

    /// The deleted messages in segments, each deletion's by itself.
    fn cold(&self, owners: &[UserId], condition: Option<&Arc<dyn PhysicalExpr>>) -> Result<ColdScan> {
        let mut files = Vec::new();
        for owner in owners {
            let trash = self.snapshot.cold_trash(owner).map_err(store_error)?.into_iter();
            let kept = trash.filter(|trash| trash.expires_at > self.options.after);
            files.extend(kept.map(|trash| File::deleted(owner.clone(), trash)));
        }
        let mut scan = ColdScan { schema: Arc::clone(&self.schema), files };
        scan.prune(condition);
        Ok(scan)
    }
}

/// An owner's deleted messages in RocksDB that expire after that: the ones of these ids, or all.
fn read(
    snapshot: &Snapshot,
    owner: &UserId,
    ids: Option<Vec<MsgId>>,
    after: Micros,
) -> kalamdb_store::Result<RowIter<TrashedMessage>> {
    let rows: RowIter<TrashedMessage> = match ids {
        Some(ids) => {
            let (snapshot, owner) = (snapshot.clone(), owner.clone());
            Box::new(ids.into_iter().filter_map(move |id| snapshot.trashed_message(&owner, id).transpose()))
        }
        None => Box::new(snapshot.trash(owner)?),
    };
    Ok(Box::new(rows.filter(move |row| !row.as_ref().is_ok_and(|row| row.expires_at <= after))))
}

fn column(name: &str, rows: &[WithOwner<TrashedMessage>]) -> Option<ArrayRef> {
    let all = rows.iter().map(|(_, row)| row);
    Some(match name {
        OWNER => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        "deletedAt" => ints(all.map(|row| row.deleted_at)),
        "expiresAt" => ints(all.map(|row| row.expires_at)),
        SEGMENT => ints(all.map(|_| HOT)),
        POSITION | DELETION => ints(all.map(|_| 0)),
        VERSION => ints(all.map(|row| count(row.version))),
        _ => return message_column(name, all.map(|row| &row.message)),
    })
}

impl fmt::Debug for DeletedMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeletedMessages").field("owners", &self.owners).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for DeletedMessages {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// All conditions are wanted here, for pruning; they are checked by the operators above.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let condition = condition(session, &self.schema, filters)?;
        let owners = matching_owners(&self.snapshot, &self.owners, &self.schema, condition.as_ref())?;
        let mut tiers = Vec::new();
        let cold = self.cold(&owners, condition.as_ref())?;
        if !cold.files.is_empty() {
            tiers.push(cold.plan(session, &projection, limit)?);
        }
        if self.options.hot {
            let ids = match keys(condition.as_ref()) {
                Keys::Messages(ids) => Some(ids),
                Keys::Conversations(_) | Keys::All => None,
            };
            tiers.push(self.hot(owners, ids).into_plan(&projection, limit)?);
        }
        union(tiers, &self.schema, &projection)
    }
}
