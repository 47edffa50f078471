//! Hot messages as a DataFusion operator: conditions become key ranges, an order by `msgId` becomes the direction
//! of reading, and reading stops when the rows left cannot matter any more.
//!
//! Invariant: every condition it accepted holds for every row it gives out; what it declares sorted is sorted.

use std::{cmp::Ordering, fmt, iter::Peekable, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, RecordBatch},
        compute::{SortOptions, filter_record_batch},
        datatypes::SchemaRef,
    },
    common::{Statistics, internal_err, stats::Precision, tree_node::TreeNodeRecursion},
    config::ConfigOptions,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr, conjunction,
        expressions::Column,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SortOrderPushdownResult, apply_expression_roots,
        coop::cooperative,
        execution_plan::{Boundedness, EmissionType, SchedulingType},
        filter_pushdown::{ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown},
        metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet},
        projection::{ProjectionExec, all_alias_free_columns, new_projections_for_columns},
        statistics::StatisticsArgs,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::stream;
use kalamdb_protocol::{MsgId, UserId};
use kalamdb_store::{HotMessage, MessageCursor, MessageRange, Snapshot};

use super::{
    BATCH_TEXT_BYTES, OWNER,
    arrays::{batch, ints, message_column, texts},
    cold::{HOT, POSITION, SEGMENT, VERSION},
    count,
    ranges::{Keys, MsgIds, keys, msg_ids},
    store_error,
};

/// Rows of the first batch: about what a page of messages needs. Each next one is larger, so that reading much is
/// no slower for it.
const FIRST_BATCH_ROWS: usize = 64;
const BATCH_GROWTH: usize = 4;

/// The number of conversations that are merged by id; with more, finding the next row would cost more than sorting.
const MAX_MERGED: usize = 16;

/// Reads the hot messages of some owners.
#[derive(Debug, Clone)]
pub(super) struct HotExec {
    source: Source,
    /// Indexes of the table's columns.
    projection: Vec<usize>,
    /// Over the table's columns.
    condition: Option<Arc<dyn PhysicalExpr>>,
    order: Option<Order>,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// The source of the rows.
#[derive(Clone)]
pub(super) struct Source {
    /// The snapshot that is read.
    pub snapshot: Snapshot,
    /// The owners whose rows are read.
    pub owners: Arc<[UserId]>,
    /// All columns of the table.
    pub schema: SchemaRef,
    /// About how many rows there are.
    pub rows: u64,
}

/// By message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("owners", &self.owners).finish_non_exhaustive()
    }
}

impl HotExec {
    pub fn new(source: Source, projection: Vec<usize>, fetch: Option<usize>) -> Result<Self> {
        let properties = properties(&source.schema, &projection, None)?;
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { source, projection, condition: None, order: None, fetch, properties, metrics })
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Result<Arc<Self>> {
        let mut changed = self.clone();
        change(&mut changed);
        changed.properties = properties(&changed.source.schema, &changed.projection, changed.order)?;
        // Measurements belong to the operator that runs.
        changed.metrics = ExecutionPlanMetricsSet::new();
        Ok(Arc::new(changed))
    }

    /// Whether the rows can come by message id.
    fn can_sort(&self) -> bool {
        self.source.owners.len() == 1
            && match keys(self.condition.as_ref()) {
                Keys::Messages(_) => true,
                Keys::Conversations(keys) => keys.len() <= MAX_MERGED,
                Keys::All => false,
            }
    }

    /// The rows, in order if one was asked for.
    fn rows(&self) -> Box<dyn Iterator<Item = kalamdb_store::Result<OwnedMessage>> + Send> {
        let (first, last) = self.condition.as_ref().map_or((MsgId::MIN, MsgId::MAX), msg_ids);
        if first > last {
            return Box::new(std::iter::empty());
        }
        let range = MessageRange {
            conversation: None,
            min_msg_id: (first > MsgId::MIN).then_some(first),
            max_msg_id: (last < MsgId::MAX).then_some(last),
            newest_first: self.order == Some(Order::Descending),
        };
        let (snapshot, owners, order) = (self.source.snapshot.clone(), self.source.owners.to_vec(), self.order);
        match keys(self.condition.as_ref()) {
            Keys::All => {
                Box::new(owners.into_iter().flat_map(move |owner| owned(&owner, open(&snapshot, &owner, &range))))
            }
            Keys::Messages(mut wanted) => {
                if order == Some(Order::Descending) {
                    wanted.reverse();
                }
                Box::new(owners.into_iter().flat_map(move |owner| {
                    let snapshot = snapshot.clone();
                    let of = owner.clone();
                    let found =
                        wanted.clone().into_iter().filter_map(move |id| snapshot.hot_message(&of, id).transpose());
                    owned(&owner, found)
                }))
            }
            Keys::Conversations(keys) => {
                let ranges: Vec<_> =
                    keys.into_iter().map(|key| MessageRange { conversation: Some(key), ..range.clone() }).collect();
                Box::new(owners.into_iter().flat_map(move |owner| -> Box<dyn Iterator<Item = _> + Send> {
                    let (snapshot, of) = (snapshot.clone(), owner.clone());
                    let opened = ranges.clone().into_iter().map(move |range| open(&snapshot, &of, &range));
                    match order {
                        Some(order) => {
                            let cursors = opened.map(Iterator::peekable).collect();
                            Box::new(owned(&owner, MergedCursors { cursors, order }))
                        }
                        None => Box::new(owned(&owner, opened.flatten())),
                    }
                }))
            }
        }
    }
}

/// A range's rows; when it cannot be opened, that error.
fn open(snapshot: &Snapshot, owner: &UserId, range: &MessageRange) -> Opened {
    match snapshot.messages(owner, range) {
        Ok(cursor) => Opened::Cursor(cursor),
        Err(error) => Opened::Failed(Some(error)),
    }
}

/// An owner's rows, or once the error that kept them from being opened.
enum Opened {
    Cursor(MessageCursor),
    Failed(Option<kalamdb_store::Error>),
}

impl Iterator for Opened {
    type Item = kalamdb_store::Result<HotMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Cursor(cursor) => cursor.next(),
            Self::Failed(error) => error.take().map(Err),
        }
    }
}

/// Rows with their owner.
fn owned<I>(owner: &UserId, rows: I) -> impl Iterator<Item = kalamdb_store::Result<OwnedMessage>> + Send + use<I>
where
    I: Iterator<Item = kalamdb_store::Result<HotMessage>> + Send,
{
    let owner = owner.clone();
    rows.map(move |row| row.map(|row| (owner.clone(), row)))
}

/// A hot message and whose it is.
type OwnedMessage = (UserId, HotMessage);

fn properties(schema: &SchemaRef, projection: &[usize], order: Option<Order>) -> Result<Arc<PlanProperties>> {
    let schema = Arc::new(schema.project(projection)?);
    let mut equivalence = EquivalenceProperties::new(Arc::clone(&schema));
    if let (Some(order), Ok(index)) = (order, schema.index_of("msgId")) {
        let descending = order == Order::Descending;
        let options = SortOptions { descending, nulls_first: descending };
        equivalence.add_ordering([PhysicalSortExpr::new(Arc::new(Column::new("msgId", index)), options)]);
    }
    let properties = PlanProperties::new(
        equivalence,
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    );
    Ok(Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative)))
}

impl DisplayAs for HotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HotExec: ")?;
        match keys(self.condition.as_ref()) {
            Keys::Messages(ids) => write!(f, "messages={}", ids.len())?,
            Keys::Conversations(keys) => write!(f, "conversations={}", keys.len())?,
            Keys::All => write!(f, "all")?,
        }
        let columns: Vec<_> = self.projection.iter().map(|index| self.source.schema.field(*index).name()).collect();
        write!(f, ", projection={columns:?}")?;
        if let Some(condition) = &self.condition {
            write!(f, ", predicate={condition}")?;
        }
        if let Some(order) = self.order {
            write!(f, ", order={order:?}")?;
        }
        self.fetch.map_or(Ok(()), |fetch| write!(f, ", fetch={fetch}"))
    }
}

impl ExecutionPlan for HotExec {
    fn name(&self) -> &'static str {
        "HotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("HotExec is a leaf") }
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.condition.iter(), f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = HotBatches::new(self, partition, context.session_config().batch_size())?;
        let stream = RecordBatchStreamAdapter::new(self.schema(), stream::iter(batches));
        Ok(Box::pin(cooperative(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        statistics.num_rows = Precision::Inexact(usize::try_from(self.source.rows).unwrap_or(usize::MAX));
        Ok(Arc::new(statistics))
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(self.with(|hot| hot.fetch = fetch).ok()?)
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !all_alias_free_columns(projection.expr()) {
            return Ok(None);
        }
        let columns = new_projections_for_columns(projection.expr(), &self.projection);
        Ok(Some(self.with(|hot| hot.projection = columns)?))
    }

    /// Accepts every condition: they are checked row by row here, where a key range does not do it already. Not so once
    /// a limit is here: what comes from above it (a join's, say) chooses among the rows that the limit has let through.
    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        asked: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        if self.fetch.is_some() {
            return Ok(FilterPushdownPropagation::with_parent_pushdown_result(vec![
                PushedDown::No;
                asked.parent_filters.len()
            ]));
        }
        let conditions = asked.parent_filters.into_iter().map(|asked| asked.filter);
        let conditions =
            conditions.map(|filter| reassign_expr_columns(filter, &self.source.schema)).collect::<Result<Vec<_>>>()?;
        let accepted = FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::Yes; conditions.len()]);
        if conditions.is_empty() {
            return Ok(accepted);
        }
        let condition = conjunction(self.condition.iter().cloned().chain(conditions));
        Ok(accepted.with_updated_node(self.with(|hot| hot.condition = Some(condition))?))
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let first = order
            .first()
            .filter(|first| first.expr.downcast_ref::<Column>().is_some_and(|column| column.name() == "msgId"));
        let Some(first) = first.filter(|_| self.can_sort()) else {
            return Ok(SortOrderPushdownResult::Unsupported);
        };
        let wanted = if first.options.descending { Order::Descending } else { Order::Ascending };
        let inner = self.with(|hot| hot.order = Some(wanted))?;
        if inner.properties.eq_properties.ordering_satisfy(order.iter().cloned())? {
            Ok(SortOrderPushdownResult::Exact { inner })
        } else {
            Ok(SortOrderPushdownResult::Inexact { inner })
        }
    }
}

/// The rows of several conversations by message id.
struct MergedCursors {
    cursors: Vec<Peekable<Opened>>,
    order: Order,
}

impl Iterator for MergedCursors {
    type Item = kalamdb_store::Result<HotMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut best: Option<(usize, MsgId)> = None;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            let id = match cursor.peek() {
                Some(Ok(row)) => row.message.msg_id,
                // An error does not wait for its turn.
                Some(Err(_)) => return cursor.next(),
                None => continue,
            };
            let sooner = match self.order {
                Order::Ascending => Ordering::Less,
                Order::Descending => Ordering::Greater,
            };
            if best.is_none_or(|(_, other)| id.cmp(&other) == sooner) {
                best = Some((index, id));
            }
        }
        self.cursors.get_mut(best?.0)?.next()
    }
}

/// The rows in batches, filtered.
struct HotBatches {
    rows: Box<dyn Iterator<Item = kalamdb_store::Result<OwnedMessage>> + Send>,
    /// The columns needed: the output's and the condition's.
    schema: SchemaRef,
    /// Over those columns.
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// The output's columns among those.
    output: Vec<usize>,
    order: Option<Order>,
    left: Option<usize>,
    batch_rows: usize,
    max_batch_rows: usize,
    last: Option<MsgId>,
    done: bool,
    baseline: BaselineMetrics,
    rows_read: Count,
}

impl HotBatches {
    fn new(hot: &HotExec, partition: usize, max_batch_rows: usize) -> Result<Self> {
        let table = &hot.source.schema;
        let mut needed = hot.projection.clone();
        needed.extend(hot.condition.iter().flat_map(collect_columns).map(|column| column.index()));
        needed.sort_unstable();
        needed.dedup();
        let schema = Arc::new(table.project(&needed)?);
        let condition = hot.condition.clone().map(|condition| reassign_expr_columns(condition, &schema)).transpose()?;
        let output = hot.projection.iter().map(|index| Ok(schema.index_of(table.field(*index).name())?));
        Ok(Self {
            rows: hot.rows(),
            output: output.collect::<Result<_>>()?,
            schema,
            condition,
            order: hot.order,
            left: hot.fetch,
            batch_rows: FIRST_BATCH_ROWS.max(hot.fetch.unwrap_or(0)).min(max_batch_rows),
            max_batch_rows,
            last: None,
            done: false,
            baseline: BaselineMetrics::new(&hot.metrics, partition),
            rows_read: MetricBuilder::new(&hot.metrics).counter("rows_read", partition),
        })
    }

    /// Whether no row after the last one can matter: a top-N above has narrowed its condition past it.
    fn past_the_end(&self) -> bool {
        let (Some(condition), Some(last)) = (&self.condition, self.last) else { return false };
        let (first_wanted, last_wanted): MsgIds = msg_ids(condition);
        match self.order {
            Some(Order::Ascending) => last >= last_wanted,
            Some(Order::Descending) => last <= first_wanted,
            None => first_wanted > last_wanted,
        }
    }

    fn read(&mut self) -> Result<Vec<OwnedMessage>> {
        let mut rows = Vec::with_capacity(self.batch_rows);
        let mut bytes = 0;
        while rows.len() < self.batch_rows && bytes < BATCH_TEXT_BYTES {
            let Some(row) = self.rows.next().transpose().map_err(store_error)? else {
                self.done = true;
                break;
            };
            let message = &row.1.message;
            bytes += message.content.len() + message.metadata.as_ref().map_or(0, String::len);
            self.last = Some(message.msg_id);
            rows.push(row);
        }
        self.rows_read.add(rows.len());
        self.batch_rows = (self.batch_rows * BATCH_GROWTH).min(self.max_batch_rows);
        Ok(rows)
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if self.done || self.left == Some(0) || self.past_the_end() {
            return Ok(None);
        }
        let rows = self.read()?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut batch = batch(&self.schema, &rows, hot_message_column)?;
        if let Some(condition) = &self.condition {
            let matches = condition.evaluate(&batch)?.into_array(batch.num_rows())?;
            batch = filter_record_batch(&batch, matches.as_boolean())?;
        }
        if let Some(left) = &mut self.left {
            batch = batch.slice(0, batch.num_rows().min(*left));
            *left -= batch.num_rows();
        }
        Ok(Some(batch.project(&self.output)?))
    }
}

impl Iterator for HotBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let elapsed = self.baseline.elapsed_compute().clone();
        let timer = elapsed.timer();
        let next = self.next_batch().transpose();
        timer.done();
        match &next {
            Some(Ok(batch)) => self.baseline.record_output(batch.num_rows()),
            Some(Err(_)) => self.done = true,
            None => {}
        }
        next
    }
}

/// A column of `messages`, hidden ones too, of hot ones.
pub(in crate::read) fn hot_message_column(name: &str, rows: &[OwnedMessage]) -> Option<ArrayRef> {
    Some(match name {
        OWNER => texts(rows.iter().map(|(owner, _)| owner.as_str())),
        SEGMENT => ints(rows.iter().map(|_| HOT)),
        POSITION => ints(rows.iter().map(|_| 0)),
        VERSION => ints(rows.iter().map(|(_, row)| count(row.version))),
        _ => return message_column(name, rows.iter().map(|(_, row)| &row.message)),
    })
}
