//! IN, EXISTS, ANY and ALL as SQL means them: with three values, and wherever an expression can stand.
//!
//! Invariant: `x IN (SELECT y …)` is NULL when it is not found and `x` is NULL (and there are rows) or some `y` is; what
//! DataFusion would forget of that (apache/datafusion#25340, #25347) is spelt out as EXISTS, which has two values only.
//! `x < ANY (SELECT y …)` is the same with another comparison (DataFusion takes `msgId > ALL (SELECT msgId …)` for a
//! comparison of the inner `msgId` with itself), and `x < ALL (…)` is `NOT (x >= ANY (…))`.
//! An EXISTS that no outer row decides becomes a scalar subquery, which runs once and may stand anywhere; one that
//! DataFusion would make a wrong join of ([`super::pulled_up`]) becomes the number of its rows, for [`super::dependents`].

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef},
    common::{
        Column, DFSchema, DataFusionError, ExprSchema, Result, ScalarValue, Spans,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    functions_aggregate::expr_fn::count,
    logical_expr::{
        BinaryExpr, ColumnarValue, Distinct, Expr, ExprSchemable, FetchType, Filter, LogicalPlan, LogicalPlanBuilder,
        Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, SkipType, Subquery,
        Volatility, binary_expr,
        expr::{Exists, InSubquery, SetComparison, SetQuantifier},
        lit, not,
        utils::{conjunction, merge_schema, split_conjunction_owned},
        when,
    },
    optimizer::utils::NamePreserver,
};
use kalamdb_protocol::ErrorCode;

use super::{copies::Copies, dependents::is_one_row_at_most, one_row::only, pulled_up::check_joined};
use crate::Error;

/// Rewrites every IN and EXISTS of the plan that needs it.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut rewriter = Rewriter { copies: Copies::new(), names: 0 };
    plan.transform_up_with_subqueries(|node| rewriter.node(node)).data()
}

/// The refusal with this sentence.
pub(super) fn refused(message: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(ErrorCode::Unsupported, message)))
}

/// The place of an expression. Only below a filter DataFusion joins a correlated EXISTS with its rows.
#[derive(Clone, Copy)]
struct ExprPlace<'a> {
    schema: &'a DFSchema,
    filter: bool,
}

struct Rewriter {
    /// NOT IN within NOT IN is three times as much at each level.
    copies: Copies,
    /// Names given so far.
    names: usize,
}

impl Rewriter {
    fn node(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        if !has_subquery(&node)? {
            return Ok(Transformed::no(node));
        }
        if let LogicalPlan::Filter(filter) = node {
            let place = ExprPlace { schema: filter.input.schema(), filter: true };
            let conditions = split_conjunction_owned(filter.predicate).into_iter();
            let conditions = conditions.map(|one| self.condition(one, place, true)).collect::<Result<Vec<_>>>()?;
            let predicate = conjunction(conditions).unwrap_or_else(|| lit(true));
            return Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)));
        }
        let schema = merge_schema(&node.inputs());
        let place = ExprPlace { schema: &schema, filter: false };
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(Transformed::yes(name.restore(self.value(expr, place)?)))
        })
    }

    /// A condition of which matters only whether it is true.
    /// `whole`: it is no part of another one.
    fn condition(&mut self, expr: Expr, place: ExprPlace, whole: bool) -> Result<Expr> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let (left, right) = (self.condition(*left, place, false)?, self.condition(*right, place, false)?);
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
            }
            Expr::Not(inner) => match Asked::of(*inner)? {
                Ok(asked) => self.asked(Asked { negated: !asked.negated, ..asked }, place, whole),
                Err(inner) => self.value(not(inner), place),
            },
            expr => match Asked::of(expr)? {
                Ok(asked) => self.asked(asked, place, whole),
                Err(expr) => self.value(expr, place),
            },
        }
    }

    /// The same of a value among rows.
    fn asked(&mut self, asked: Asked, place: ExprPlace, whole: bool) -> Result<Expr> {
        let Asked { value, operator, subquery, negated } = asked;
        let value = self.value(value, place)?;
        let set = self.set(value, operator, subquery, place);
        if let Some(scalar) = set.one_row() {
            let compared = set.compared(scalar);
            return Ok(if negated { not(compared) } else { compared });
        }
        let is_equality = operator == Operator::Eq;
        if negated {
            if is_equality && set.is_plain()? {
                return set.into_expr(true);
            }
            let found = self.found(&set, place)?;
            return Ok(match self.unknown(&set, place)? {
                Some(unknown) => not(found).and(not(unknown)),
                None => not(found),
            });
        }
        let correlated = !references(&set.rows)?.is_empty();
        if !is_equality || correlated && (!whole || check_joined(&set.rows).is_err()) {
            // As part of a condition, of which DataFusion would find the column twice.
            return self.found(&set, place);
        }
        // A semi-join, which forgets NULLs, as a condition does.
        set.into_expr(false)
    }

    /// An expression of which all three values matter.
    fn value(&mut self, expr: Expr, place: ExprPlace) -> Result<Expr> {
        expr.transform_up(|expr| match expr {
            expr @ (Expr::InSubquery(_) | Expr::SetComparison(_)) => match Asked::of(expr)? {
                Ok(Asked { value, operator, subquery, negated }) => {
                    let set = self.set(value, operator, subquery, place);
                    let truth = self.truth(&set, place)?;
                    Ok(Transformed::yes(if negated { not(truth) } else { truth }))
                }
                Err(other) => Ok(Transformed::no(other)),
            },
            Expr::Exists(Exists { subquery, negated }) => {
                let exists = exists(Arc::unwrap_or_clone(subquery.subquery), place)?;
                Ok(Transformed::yes(if negated { not(exists) } else { exists }))
            }
            Expr::ScalarSubquery(subquery) => self.scalar(subquery).map(Transformed::yes),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    /// `(SELECT one FROM …)`
    fn scalar(&mut self, subquery: Subquery) -> Result<Expr> {
        let mut rows = Arc::unwrap_or_clone(subquery.subquery);
        if !references(&rows)?.is_empty() {
            if !is_one_row_at_most(&rows)? {
                rows = only(rows)?;
            }
            self.names += 1;
            rows = with_name(rows, &format!("__value_{}", self.names))?;
        }
        let never_null = !rows.schema().field(0).is_nullable();
        let has_none = never_null && !is_one_row(&rows);
        let scalar = Expr::ScalarSubquery(subquery_of(rows)?);
        Ok(if has_none { optional(scalar) } else { scalar })
    }

    /// `value = ANY (rows)` in three values.
    fn truth(&mut self, set: &Set, place: ExprPlace) -> Result<Expr> {
        if let Some(scalar) = set.one_row() {
            return Ok(set.compared(scalar));
        }
        let found = self.found(set, place)?;
        match self.unknown(set, place)? {
            None => Ok(found),
            Some(unknown) => when(found, lit(true))
                .when(unknown, Expr::Literal(ScalarValue::Boolean(None), None))
                .otherwise(lit(false)),
        }
    }

    fn set(&mut self, value: Expr, operator: Operator, subquery: Subquery, place: ExprPlace) -> Set {
        let rows = without_distinct(Arc::unwrap_or_clone(subquery.subquery));
        let of_null = value.nullable(place.schema).unwrap_or(true);
        self.names += 1;
        Set {
            value,
            operator,
            of_null,
            with_null: rows.schema().field(0).is_nullable(),
            name: format!("__in_{}", self.names),
            rows,
        }
    }

    /// Whether the value is among the rows.
    fn found(&mut self, set: &Set, place: ExprPlace) -> Result<Expr> {
        self.copies.pay_plan(&set.rows)?;
        self.copies.pay_expr(&set.value, 1)?;
        set.check_outside(place)?;
        let outside = outer(set.value.clone(), place.schema)?;
        let compared = binary_expr(outside, set.operator, set.column());
        exists(set.named()?.filter(compared)?.build()?, place)
    }

    /// Whether nobody knows if a value that was not found is among the rows; `None` when it is always known.
    fn unknown(&mut self, set: &Set, place: ExprPlace) -> Result<Option<Expr>> {
        let mut unknown = Vec::new();
        if set.with_null {
            self.copies.pay_plan(&set.rows)?;
            unknown.push(exists(set.named()?.filter(set.column().is_null())?.build()?, place)?);
        }
        if set.of_null {
            self.copies.pay_plan(&set.rows)?;
            self.copies.pay_expr(&set.value, 1)?;
            unknown.push(set.value.clone().is_null().and(exists(set.rows.clone(), place)?));
        }
        if !unknown.is_empty() && (set.value.is_volatile() || is_volatile(&set.rows)?) {
            return Err(refused(
                "What is different each time (random(), say) cannot stand in this IN, where it is computed more than \
                 once; compute it in a WITH of its own first.",
            ));
        }
        Ok(unknown.into_iter().reduce(Expr::or))
    }
}

/// `value IN (rows)` or `value < ANY (rows)`, or NOT of it, as the statement has it.
struct Asked {
    value: Expr,
    operator: Operator,
    subquery: Subquery,
    negated: bool,
}

impl Asked {
    /// What an expression asks, or the expression, if it is none of these.
    fn of(expr: Expr) -> Result<std::result::Result<Self, Expr>> {
        Ok(Ok(match expr {
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                Self { value: *expr, operator: Operator::Eq, subquery, negated }
            }
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier: SetQuantifier::Any }) => {
                Self { value: *expr, operator: op, subquery, negated: false }
            }
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier: SetQuantifier::All }) => {
                let operator = op.negate().ok_or_else(|| refused("Before ALL stands a comparison, such as < or =."))?;
                Self { value: *expr, operator, subquery, negated: true }
            }
            other => return Ok(Err(other)),
        }))
    }
}

/// `value = ANY (rows)`
struct Set {
    value: Expr,
    operator: Operator,
    /// Whether the value may be NULL.
    of_null: bool,
    /// Whether a row may.
    with_null: bool,
    rows: LogicalPlan,
    /// The name of the rows' column, so that no name outside is the same.
    name: String,
}

impl Set {
    /// The value compared with another one.
    fn compared(&self, other: Expr) -> Expr {
        binary_expr(self.value.clone(), self.operator, other)
    }

    fn column(&self) -> Expr {
        Expr::Column(Column::from_name(&self.name))
    }

    /// The rows with their one column under its name.
    fn named(&self) -> Result<LogicalPlanBuilder> {
        with_name(self.rows.clone(), &self.name).map(LogicalPlanBuilder::from)
    }

    /// The rows as one value, when there is always exactly one: an aggregate without GROUP BY.
    fn one_row(&self) -> Option<Expr> {
        is_one_row(&self.rows).then(|| subquery_of(self.rows.clone()).ok().map(Expr::ScalarSubquery)).flatten()
    }

    /// Whether DataFusion has no NULL and no outer row to mind, and a column to join by.
    fn is_plain(&self) -> Result<bool> {
        let nulls = self.of_null || self.with_null;
        Ok(!nulls && self.value.any_column_refs() && references(&self.rows)?.is_empty())
    }

    fn into_expr(self, negated: bool) -> Result<Expr> {
        let mut rows = with_name(self.rows, &self.name)?;
        if references(&rows)?.is_empty() {
            // As part of a condition, the column would be there twice without.
            rows = LogicalPlanBuilder::from(rows).alias(&self.name)?.build()?;
        }
        let subquery = subquery_of(rows)?;
        Ok(Expr::InSubquery(InSubquery { expr: Box::new(self.value), subquery, negated }))
    }

    /// A column outside and one inside of the same table's name are told apart by it no longer once both are in a join.
    fn check_outside(&self, place: ExprPlace) -> Result<()> {
        if references(&self.rows)?.is_empty() {
            return Ok(());
        }
        let outside = self.value.column_refs();
        let clash = self.rows.exists(|node| {
            // Only the conditions that move out are told apart by names.
            let moves = matches!(node, LogicalPlan::Filter(_)) && node.contains_outer_reference();
            Ok(moves
                && node
                    .schema()
                    .columns()
                    .iter()
                    .any(|inside| outside.contains(inside) && place.schema.has_column(inside)))
        })?;
        if clash {
            return Err(refused(
                "A table has the same name inside of this IN (SELECT …) and outside; give the one inside another name: \
                 FROM messages AS other.",
            ));
        }
        Ok(())
    }
}

/// The name of [`optional`].
pub(super) const OPTIONAL: &str = "optional";

/// The same value, of which DataFusion does not know what it is made of, nor that it is never NULL.
pub(super) fn optional(value: Expr) -> Expr {
    ScalarUDF::new_from_impl(Optional::new()).call(vec![value])
}

/// A value that is NULL where there is no row. DataFusion takes `(SELECT 7 FROM t)` for what can never be NULL, as 7 is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Optional(Signature);

impl Optional {
    fn new() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Optional {
    fn name(&self) -> &'static str {
        OPTIONAL
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = args.arg_fields.first().map(|field| field.as_ref().clone());
        Ok(field.unwrap_or_else(|| Field::new(self.name(), DataType::Null, true)).with_nullable(true).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.into_iter().next().ok_or_else(|| refused("A subquery of one value has one."))
    }
}

/// Whether there is a row. In two values.
fn exists(rows: LogicalPlan, place: ExprPlace) -> Result<Expr> {
    let rows = peeled(rows)?;
    if is_one_row(&rows) {
        return Ok(lit(true));
    }
    let correlated = !references(&rows)?.is_empty();
    if correlated && place.filter && check_joined(&rows).is_ok() {
        let rows = LogicalPlanBuilder::from(rows).project([lit(1)])?.build()?;
        return Ok(Expr::Exists(Exists { subquery: subquery_of(rows)?, negated: false }));
    }
    let rows = LogicalPlanBuilder::from(rows);
    // The first row is enough, where it is the same for all.
    let rows = if correlated { rows } else { rows.limit(0, Some(1))? };
    let number = rows.aggregate(Vec::<Expr>::new(), [count(lit(1)).alias("n")])?;
    let any = number.project([Expr::Column(Column::from_name("n")).gt(lit(0_i64)).alias("any")])?.build()?;
    Ok(Expr::ScalarSubquery(subquery_of(any)?))
}

/// The rows without what does not change whether there is one.
fn peeled(rows: LogicalPlan) -> Result<LogicalPlan> {
    let input = match &rows {
        LogicalPlan::Projection(projection) => &projection.input,
        LogicalPlan::Sort(sort) => &sort.input,
        LogicalPlan::Distinct(Distinct::All(input)) => input,
        LogicalPlan::Limit(limit)
            if matches!(limit.get_skip_type()?, SkipType::Literal(0))
                && !matches!(limit.get_fetch_type()?, FetchType::Literal(Some(0)) | FetchType::UnsupportedExpr) =>
        {
            &limit.input
        }
        _ => return Ok(rows),
    };
    peeled(input.as_ref().clone())
}

/// Whether there is exactly one row, whatever it is made of.
fn is_one_row(rows: &LogicalPlan) -> bool {
    match rows {
        LogicalPlan::Projection(projection) => is_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_one_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// The rows with their one column under a name that nothing else has: what a condition on the outer row is compared with
/// becomes a column beside it, and may be called as the statement calls this one.
pub(super) fn with_name(rows: LogicalPlan, name: &str) -> Result<LogicalPlan> {
    if let LogicalPlan::Projection(projection) = &rows
        && let [only] = projection.expr.as_slice()
    {
        let input = projection.input.as_ref().clone();
        return LogicalPlanBuilder::from(input).project([only.clone().unalias_nested().data.alias(name)])?.build();
    }
    let column = Expr::Column(Column::from(rows.schema().qualified_field(0)));
    LogicalPlanBuilder::from(rows).project([column.alias(name)])?.build()
}

/// The rows of which the same twice is as good as once.
fn without_distinct(rows: LogicalPlan) -> LogicalPlan {
    match rows {
        LogicalPlan::Distinct(Distinct::All(input)) => without_distinct(Arc::unwrap_or_clone(input)),
        rows => rows,
    }
}

/// These rows as a subquery.
pub(super) fn subquery_of(rows: LogicalPlan) -> Result<Subquery> {
    Ok(Subquery { outer_ref_columns: references(&rows)?, subquery: Arc::new(rows), spans: Spans::new() })
}

/// An expression as a subquery below sees it.
fn outer(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    expr.transform(|expr| match expr {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        Expr::ScalarSubquery(subquery) if !subquery.outer_ref_columns.is_empty() => Err(refused(
            "A subquery that depends on the row cannot stand before IN (SELECT …); compute it in a WITH first.",
        )),
        Expr::OuterReferenceColumn(..) => Err(refused(
            "A subquery within a subquery cannot be compared with a column of the outermost query; write it as a join.",
        )),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

/// Columns from around the query that it refers to.
pub(super) fn references(query: &LogicalPlan) -> Result<Vec<Expr>> {
    let mut found: Vec<Expr> = Vec::new();
    query.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let here = match expr {
                    Expr::OuterReferenceColumn(..) => vec![expr.clone()],
                    // Of a subquery's, those that this node does not have itself.
                    expr => match subquery_in(expr) {
                        Some(subquery) => {
                            let schema = merge_schema(&node.inputs());
                            let mut inside = references(&subquery.subquery)?;
                            inside.retain(|reference| !is_of(reference, &schema));
                            inside
                        }
                        None => return Ok(TreeNodeRecursion::Continue),
                    },
                };
                found.extend(here);
                Ok(TreeNodeRecursion::Jump)
            })
        })
    })?;
    found.dedup();
    Ok(found)
}

fn is_of(reference: &Expr, schema: &DFSchema) -> bool {
    matches!(reference, Expr::OuterReferenceColumn(_, column) if schema.has_column(column))
}

/// The subquery that an expression is.
pub(super) fn subquery_in(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(query) => Some(&query.subquery),
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery),
        _ => None,
    }
}

/// Whether a subquery stands in an expression of this node.
pub(super) fn has_subquery(node: &LogicalPlan) -> Result<bool> {
    let mut has = false;
    node.apply_expressions(|expr| {
        has |= expr.exists(|expr| Ok(subquery_in(expr).is_some()))?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(has)
}

/// Whether rows may be others the next time.
pub(super) fn is_volatile(rows: &LogicalPlan) -> Result<bool> {
    let mut volatile = false;
    rows.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            volatile |= expr.is_volatile();
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(volatile)
}
