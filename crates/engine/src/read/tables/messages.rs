//! `messages`: hot and cold rows as one table.
//!
//! Invariant: hot rows, segments and deletion vectors come from the one snapshot, so no message is there twice or
//! missed, whatever consolidation does meanwhile.

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    error::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_expr::PhysicalExpr,
    physical_plan::ExecutionPlan,
};
use kalamdb_protocol::{Table, UserId};
use kalamdb_store::Snapshot;
use roaring::RoaringBitmap;

use super::{
    cold::{ColdScan, File, hidden_fields},
    condition,
    hot::{HotExec, Source},
    matching_owners, store_error, table_schema, union,
};
use crate::sql::Schema;

/// The selection of messages that a table shows.
#[derive(Debug, Clone)]
pub(crate) struct MessageOptions {
    /// With `_segment` (-1: hot), `_position` (the row in the file; 0: hot) and `_version` (0: cold) at the end.
    pub hidden: bool,
    /// Whether those in RocksDB are shown.
    pub hot: bool,
    /// Whether those in segments are shown.
    pub cold: bool,
    /// Positions that count as deleted besides a segment's own, by owner and segment number.
    pub also_deleted: HashMap<(UserId, u64), RoaringBitmap>,
}

impl Default for MessageOptions {
    fn default() -> Self {
        Self { hidden: false, hot: true, cold: true, also_deleted: HashMap::new() }
    }
}

/// The table `messages`.
pub(crate) struct MessagesTable {
    schema: SchemaRef,
    snapshot: Snapshot,
    owners: Schema,
    options: MessageOptions,
}

impl MessagesTable {
    pub fn new(table: &Table, snapshot: Snapshot, owners: Schema, options: MessageOptions) -> Self {
        let hidden = hidden_fields().into_iter().filter(|_| options.hidden);
        Self { schema: table_schema(table.columns, &owners, hidden), snapshot, owners, options }
    }

    /// Hot rows; `None` when there are none.
    fn hot(
        &self,
        owners: &[UserId],
        projection: &[usize],
        limit: Option<usize>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let (mut with_rows, mut rows) = (Vec::new(), 0);
        for owner in owners {
            // The counter of the same snapshot, not a look for a first row: after a consolidation that would step over
            // the tombstone of each row that went.
            let hot = self.snapshot.owner(owner).map_err(store_error)?.hot_messages;
            if hot > 0 {
                rows += hot;
                with_rows.push(owner.clone());
            }
        }
        if with_rows.is_empty() {
            return Ok(None);
        }
        let (snapshot, schema) = (self.snapshot.clone(), Arc::clone(&self.schema));
        let source = Source { snapshot, owners: with_rows.into(), schema, rows };
        Ok(Some(Arc::new(HotExec::new(source, projection.to_vec(), limit)?)))
    }

    /// The segments that can matter.
    fn cold(&self, owners: &[UserId], condition: Option<&Arc<dyn PhysicalExpr>>) -> Result<ColdScan> {
        let mut files = Vec::new();
        for owner in owners {
            for mut segment in self.snapshot.segments(owner).map_err(store_error)? {
                if let Some(more) = self.options.also_deleted.get(&(owner.clone(), segment.number)) {
                    segment.deleted |= more;
                }
                files.push(File::messages(owner.clone(), segment));
            }
        }
        let mut scan = ColdScan { schema: Arc::clone(&self.schema), files };
        scan.prune(condition);
        Ok(scan)
    }
}

impl fmt::Debug for MessagesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagesTable").field("owners", &self.owners).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for MessagesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// All conditions are wanted here, for pruning; they are checked by the operators, who get them later as
    /// physical expressions and say for themselves which they check.
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
        if self.options.hot {
            tiers.extend(self.hot(&owners, &projection, limit)?);
        }
        if self.options.cold {
            let cold = self.cold(&owners, condition.as_ref())?;
            if !cold.files.is_empty() {
                tiers.push(cold.plan(session, &projection, limit)?);
            }
        }
        union(tiers, &self.schema, &projection)
    }
}
