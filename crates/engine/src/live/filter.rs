//! A statement of subscription, compiled: which rows it wants, and their JSON text.
//!
//! Invariant: compiled once however many subscriptions have it, and holds nobody's rows. A row that it cannot be
//! evaluated on spoils no other row.

use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, BooleanArray, RecordBatch},
        compute::{cast, filter_record_batch},
        datatypes::{DataType, SchemaRef},
    },
    error::Result as PlanResult,
    logical_expr::Expr,
    physical_expr::PhysicalExpr,
};
use kalamdb_protocol::{OWNER_COLUMN, UserId};

use super::{
    delivery::DeliveryQueue,
    rows::{Known, LiveTable, OwnedRow},
    statement::{LiveStatement, Understood},
};
use crate::{
    Result,
    functions::Work,
    read::{View, client_error, objects},
};

/// Rows that are looked at together: enough to make much of one evaluation, few enough to be held.
const ROWS_AT_A_TIME: usize = 1_024;

/// The judgement of a row: its text if it is wanted, or the error that keeps it from being judged.
pub(super) type Verdict = Result<Option<Arc<str>>>;

/// A compiled statement.
pub(super) struct CompiledFilter {
    pub statement: Arc<LiveStatement>,
    /// The table's columns.
    schema: SchemaRef,
    columns: Vec<Arc<dyn PhysicalExpr>>,
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// The parts of the condition that can be decided by a row's conversation and id, and by its conversation alone.
    by_id: Option<Arc<dyn PhysicalExpr>>,
    by_conversation: Option<Arc<dyn PhysicalExpr>>,
    rows_at_a_time: usize,
    /// The budget of its functions; renewed by whoever evaluates it.
    pub work: Arc<Work>,
    /// The commits that its subscribers are still to be told.
    pub deliveries: DeliveryQueue,
    /// Rows whose text was written.
    #[cfg(test)]
    pub encoded: AtomicUsize,
}

impl CompiledFilter {
    /// Compiles a statement.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn compile(view: &View, understood: &Understood) -> Result<Self> {
        let statement = Arc::new(understood.statement.clone());
        let schema = statement.table.schema(statement.everybody);
        let compiled = |expr: &Expr| view.compiled(expr.clone(), &schema);
        let known = |columns: &[&str]| statement.conditions_on(columns).as_ref().map(compiled).transpose();
        let conversation = ["conversationId", "conversationType", OWNER_COLUMN.name];
        let id = ["conversationId", "conversationType", OWNER_COLUMN.name, "msgId"];
        Ok(Self {
            columns: statement.columns.iter().map(compiled).collect::<Result<_>>()?,
            condition: statement.condition.as_ref().map(compiled).transpose()?,
            by_id: known(&id)?,
            by_conversation: known(&conversation)?,
            rows_at_a_time: view.rows_at_a_time(&understood.plan, ROWS_AT_A_TIME)?,
            work: Arc::clone(view.work()),
            deliveries: DeliveryQueue::default(),
            #[cfg(test)]
            encoded: AtomicUsize::new(0),
            schema,
            statement,
        })
    }

    pub fn table(&self) -> LiveTable {
        self.statement.table
    }

    /// The owner of a row, for filters whose rows come with their owner.
    pub fn owner<'a>(&self, owner: &'a UserId) -> Option<&'a UserId> {
        self.statement.everybody.then_some(owner)
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The number of rows that are evaluated together at most.
    pub fn rows_at_a_time(&self) -> usize {
        self.rows_at_a_time
    }

    /// The verdicts on these rows, in their order; a wanted row whose text is not `asked` for has an empty one.
    pub fn judge_rows(&self, rows: &[OwnedRow<'_>], asked: &[bool]) -> Vec<Verdict> {
        match self.table().batch(&self.schema, rows) {
            Ok(batch) => self.judge(&batch, asked),
            Err(error) => rows.iter().map(|_| Err(client_error(&error, None))).collect(),
        }
    }

    /// The verdicts on the rows of a batch.
    pub fn judge(&self, batch: &RecordBatch, asked: &[bool]) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(batch.num_rows());
        let mut start = 0;
        while start < batch.num_rows() {
            if self.work.check().is_err() {
                self.give_up(batch.num_rows() - start, &mut verdicts);
                break;
            }
            let rows = self.rows_at_a_time.min(batch.num_rows() - start);
            self.judge_some(&batch.slice(start, rows), &asked[start..start + rows], &mut verdicts);
            start += rows;
        }
        verdicts
    }

    /// Nothing can be known of so many rows any more.
    fn give_up(&self, rows: usize, verdicts: &mut Vec<Verdict>) {
        if let Err(error) = self.work.check() {
            verdicts.extend((0..rows).map(|_| Err(error.clone())));
        }
    }

    fn judge_some(&self, batch: &RecordBatch, asked: &[bool], verdicts: &mut Vec<Verdict>) {
        match self.texts(batch, asked) {
            Ok(texts) => verdicts.extend(texts.into_iter().map(Ok)),
            Err(error) if batch.num_rows() == 1 => verdicts.push(Err(client_error(&error, None))),
            // There is no time to look for the one that takes it.
            Err(_) if self.work.check().is_err() => self.give_up(batch.num_rows(), verdicts),
            // One row of them fails; judged one by one, the others get their verdicts.
            Err(_) => {
                for row in 0..batch.num_rows() {
                    self.judge_some(&batch.slice(row, 1), &asked[row..=row], verdicts);
                }
            }
        }
    }

    fn texts(&self, batch: &RecordBatch, asked: &[bool]) -> PlanResult<Vec<Option<Arc<str>>>> {
        let wanted = match &self.condition {
            Some(condition) => holds(condition, batch)?,
            None => vec![true; batch.num_rows()],
        };
        let told: BooleanArray = wanted.iter().zip(asked).map(|(wanted, asked)| Some(*wanted && *asked)).collect();
        let told = filter_record_batch(batch, &told)?;
        let mut texts = self.encode(&told)?.into_iter();
        let text = |(wanted, asked): (bool, &bool)| match (wanted, asked) {
            (false, _) => None,
            (true, false) => Some(Arc::from("")),
            (true, true) => texts.next().map(Arc::from),
        };
        Ok(wanted.into_iter().zip(asked).map(text).collect())
    }

    fn encode(&self, batch: &RecordBatch) -> PlanResult<Vec<String>> {
        let rows = batch.num_rows();
        // An expression that fails without any row (`1 / 0`) does no harm as long as there is none.
        if rows == 0 {
            return Ok(Vec::new());
        }
        let columns = self.columns.iter().map(|column| column.evaluate(batch)?.into_array(rows));
        let columns: Vec<ArrayRef> = columns.collect::<PlanResult<_>>()?;
        #[cfg(test)]
        self.encoded.fetch_add(rows, Ordering::Relaxed);
        Ok(objects(&self.statement.names, &columns, rows)?)
    }

    /// Whether the filter can have wanted a row of which no more is known than this.
    pub fn may_want(&self, known: &Known<'_>) -> bool {
        let condition = if known.msg_id.is_some() { &self.by_id } else { &self.by_conversation };
        let Some(condition) = condition else { return true };
        let batch = self.table().batch_of_known(&self.schema, known);
        let judged = batch.and_then(|batch| holds(condition, &batch));
        // To be told that something is gone that one never had does no harm.
        judged.map_or(true, |judged| judged.first().copied().unwrap_or(true))
    }
}

/// The rows of which a condition is true.
fn holds(condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> PlanResult<Vec<bool>> {
    let values = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    // A condition that is always NULL has no other type.
    let values = cast(&values, &DataType::Boolean)?;
    Ok(values.as_boolean().iter().map(|value| value.unwrap_or(false)).collect())
}
