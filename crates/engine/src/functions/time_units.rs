//! Reads the times that a statement compares with a time column: seconds, milliseconds and microseconds are told apart
//! by their size.
//!
//! Invariant: only what is compared with a time column is scaled, and only once; a column is a time column by the mark
//! on its field, which survives aliases and subqueries, never by its name.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    common::{
        DFSchema, ExprSchema, Result, ScalarValue,
        metadata::FieldMetadata,
        tree_node::{Transformed, TreeNode},
    },
    execution::context::ExecutionProps,
    logical_expr::{
        Between, BinaryExpr, Cast, Expr, LogicalPlan, Operator, TryCast, expr::InList, simplify::SimplifyContext,
        utils::merge_schema,
    },
    optimizer::{simplify_expressions::ExprSimplifier, utils::NamePreserver},
};

use super::{epoch, is_volatile_call};

/// The key of the mark in a field's metadata; its value for microseconds is `us`.
pub(crate) const TIME_UNIT_KEY: &str = "kalamdb.unit";
const MICROSECONDS: &str = "us";
const VARIES_KEY: &str = "kalamdb.varies";

/// Scales what is compared with time columns to microseconds.
pub(super) fn normalise_times(plan: LogicalPlan, props: &ExecutionProps) -> Result<LogicalPlan> {
    let context = SimplifyContext::builder().with_query_execution_start_time(props.query_execution_start_time);
    let context = match &props.config_options {
        Some(options) => context.with_config_options(Arc::clone(options)),
        None => context,
    };
    let simplifier = ExprSimplifier::new(context.build());
    let scaled = plan.transform_up_with_subqueries(|node| {
        let reader = Reader { schema: merge_schema(&node.inputs()), simplifier: &simplifier };
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let scaled = expr.transform_up(|expr| reader.comparison(expr))?;
            Ok(scaled.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(scaled.data)
}

struct Reader<'a> {
    schema: DFSchema,
    simplifier: &'a ExprSimplifier,
}

impl Reader<'_> {
    fn comparison(&self, expr: Expr) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
                let (left, right) = match (self.is_time(&left), self.is_time(&right)) {
                    (true, false) => (*left, self.scale(*right)?),
                    (false, true) => (self.scale(*left)?, *right),
                    _ => (*left, *right),
                };
                Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))))
            }
            Expr::Between(Between { expr, negated, low, high }) if self.is_time(&expr) => {
                let (low, high) = (self.scale(*low)?, self.scale(*high)?);
                Ok(Transformed::yes(Expr::Between(Between::new(expr, negated, Box::new(low), Box::new(high)))))
            }
            Expr::InList(InList { expr, list, negated }) if self.is_time(&expr) => {
                let list = list.into_iter().map(|item| self.scale(item)).collect::<Result<Vec<_>>>()?;
                Ok(Transformed::yes(Expr::InList(InList::new(expr, list, negated))))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// Whether an expression is a time column, perhaps as another number type.
    fn is_time(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Column(column) => {
                self.schema.field_from_column(column).is_ok_and(|field| is_marked(field.metadata()))
            }
            Expr::OuterReferenceColumn(field, _) => is_marked(field.metadata()),
            Expr::Alias(alias) => self.is_time(&alias.expr),
            Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                field.data_type().is_numeric() && self.is_time(expr)
            }
            _ => false,
        }
    }

    /// A constant time in microseconds; anything else as it is.
    fn scale(&self, expr: Expr) -> Result<Expr> {
        if !is_constant(&expr)? {
            return Ok(expr);
        }
        let varies = expr.exists(|expr| Ok(is_volatile_call(expr)))?;
        let coerced = self.simplifier.coerce(expr, &DFSchema::empty())?;
        match self.simplifier.simplify(coerced)? {
            Expr::Literal(value, _) if varies => Ok(Expr::Literal(read(value)?, Some(varying()))),
            Expr::Literal(value, metadata) => Ok(Expr::Literal(read(value)?, metadata)),
            other => Ok(other),
        }
    }
}

/// The mark of a constant that was `now()` or the like: as a literal it would look the same another time.
fn varying() -> FieldMetadata {
    FieldMetadata::new(BTreeMap::from([(VARIES_KEY.to_owned(), String::new())]))
}

/// Whether a constant has that mark.
pub(super) fn varies(metadata: Option<&FieldMetadata>) -> bool {
    metadata.is_some_and(|metadata| metadata.inner().contains_key(VARIES_KEY))
}

/// Whether an operator compares two values.
pub(super) fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn is_marked(metadata: &std::collections::HashMap<String, String>) -> bool {
    metadata.get(TIME_UNIT_KEY).is_some_and(|unit| unit == MICROSECONDS)
}

/// Whether an expression depends on no row.
fn is_constant(expr: &Expr) -> Result<bool> {
    let depends = expr.exists(|expr| {
        Ok(!matches!(
            expr,
            Expr::Literal(..)
                | Expr::Alias(_)
                | Expr::Negative(_)
                | Expr::Cast(_)
                | Expr::TryCast(_)
                | Expr::BinaryExpr(_)
                | Expr::ScalarFunction(_)
                | Expr::Case(_)
        ))
    })?;
    Ok(!depends && !expr.is_volatile())
}

/// A constant as microseconds, when it can be a time; text is a number, or a date and time.
fn read(value: ScalarValue) -> Result<ScalarValue> {
    if value.is_null() || !is_time_like(&value) {
        return Ok(value);
    }
    let number = value.cast_to(&datafusion::arrow::datatypes::DataType::Int64);
    let time = match (value.data_type().is_string(), number) {
        (true, Ok(number)) => number,
        _ => value.clone(),
    };
    match epoch::micros(&time.to_array()?) {
        Ok(micros) => ScalarValue::try_from_array(&micros, 0).map(|read| if read.is_null() { value } else { read }),
        // The comparison itself has the better error for a text that is no time.
        Err(_) => Ok(value),
    }
}

fn is_time_like(value: &ScalarValue) -> bool {
    let kind = value.data_type();
    kind.is_numeric() || kind.is_string() || kind.is_temporal()
}
