//! Reads the times that a statement gives: seconds, milliseconds and microseconds are told apart by their size.
//!
//! Invariant: what is compared with a time column, or stands for one (in COALESCE, CASE, UNION), is scaled if the client
//! gave it, and only once; what comes from a time column is microseconds, whatever its size. Where a column comes from is
//! followed through the plan, down to the mark on the table's field; its name means nothing.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::{
        Column, DFSchema, DFSchemaRef, Result, ScalarValue,
        metadata::FieldMetadata,
        tree_node::{Transformed, TreeNode},
    },
    execution::context::ExecutionProps,
    logical_expr::{
        Between, BinaryExpr, Case, Cast, Distinct, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder,
        Operator, Subquery, TryCast, Union, cast,
        expr::{InList, InSubquery, ScalarFunction, SetComparison, WindowFunction},
        simplify::SimplifyContext,
        utils::merge_schema,
    },
    optimizer::{simplify_expressions::ExprSimplifier, utils::NamePreserver},
};

use super::{decimals::bound_expr, epoch, is_volatile_call};

/// The key of the mark in a field's metadata; its value for microseconds is `us`.
pub(crate) const TIME_UNIT_KEY: &str = "kalamdb.unit";
const MICROSECONDS: &str = "us";
const VARIES_KEY: &str = "kalamdb.varies";

/// Aggregates and window functions whose answer is one of the values that they are given, or between them.
const ONE_OF_MANY: [&str; 14] = [
    "min",
    "max",
    "first_value",
    "last_value",
    "nth_value",
    "lag",
    "lead",
    "any_value",
    "avg",
    "mean",
    "median",
    "approx_median",
    "approx_percentile_cont",
    "percentile_cont",
];

/// Functions that answer one of their arguments.
const ONE_OF_FEW: [&str; 5] = ["coalesce", "nvl", "ifnull", "greatest", "least"];

/// Functions that answer their first argument, rounded.
const ROUNDED: [&str; 4] = ["round", "trunc", "floor", "ceil"];

/// The kind of a column or an expression, as far as times go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Microseconds: a time column, or what stands for one.
    Time,
    /// Microseconds too, but perhaps no moment: what is added to a time, or is between two. Nobody compares it with
    /// seconds.
    Micros,
    /// Constants and what is computed of them alone: as a time, in the unit that its size says.
    Given,
    /// Anything else.
    Other,
}

impl Kind {
    /// The kind of a value that is one of these.
    fn any(kinds: impl IntoIterator<Item = Self>) -> Self {
        let any = kinds.into_iter().reduce(|all, one| match (all, one) {
            (Self::Time, _) | (_, Self::Time) => Self::Time,
            (all, one) if all == one => all,
            _ => Self::Other,
        });
        any.unwrap_or(Self::Given)
    }

    /// Whether it is certainly microseconds, so that there is nothing to tell by its size.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::Time | Self::Micros)
    }
}

/// Scales what the client gave for times to microseconds.
pub(super) fn normalise(plan: LogicalPlan, props: &ExecutionProps) -> Result<LogicalPlan> {
    let reader = Reader { simplifier: simplifier(props) };
    reader.plan(plan, None)
}

/// Computes constants of a statement.
pub(super) fn simplifier(props: &ExecutionProps) -> ExprSimplifier {
    let context = SimplifyContext::builder().with_query_execution_start_time(props.query_execution_start_time);
    let context = match &props.config_options {
        Some(options) => context.with_config_options(Arc::clone(options)),
        None => context,
    };
    ExprSimplifier::new(context.build())
}

/// The kinds of a plan's columns.
pub(crate) fn kinds(plan: &LogicalPlan) -> Vec<Kind> {
    kinds_within(plan, None)
}

/// The columns that a node's expressions can name: those below it, and those around the query that it is in.
struct VisibleColumns<'a> {
    inputs: Vec<(DFSchemaRef, Vec<Kind>)>,
    outer: Option<&'a VisibleColumns<'a>>,
}

impl<'a> VisibleColumns<'a> {
    fn of(plan: &LogicalPlan, outer: Option<&'a Self>) -> Self {
        let inputs = plan.inputs().into_iter();
        Self { inputs: inputs.map(|input| (Arc::clone(input.schema()), kinds_within(input, outer))).collect(), outer }
    }

    fn column(&self, column: &Column) -> Option<Kind> {
        self.inputs.iter().find_map(|(schema, kinds)| kinds.get(schema.maybe_index_of_column(column)?).copied())
    }

    fn outer_column(&self, column: &Column) -> Option<Kind> {
        let outer = self.outer?;
        outer.column(column).or_else(|| outer.outer_column(column))
    }

    fn kind(&self, expr: &Expr) -> Kind {
        match expr {
            Expr::Column(column) => self.column(column).unwrap_or(Kind::Other),
            Expr::OuterReferenceColumn(field, column) => {
                self.outer_column(column).unwrap_or_else(|| of_mark(field.metadata()))
            }
            Expr::Alias(alias) => self.kind(&alias.expr),
            // A number of another type is still the same time.
            Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })
                if field.data_type().is_numeric() =>
            {
                self.kind(expr)
            }
            Expr::AggregateFunction(call) if ONE_OF_MANY.contains(&call.func.name()) => self.first(&call.params.args),
            Expr::WindowFunction(call) if ONE_OF_MANY.contains(&call.fun.name()) => self.first(&call.params.args),
            Expr::ScalarFunction(call) => self.call(call),
            Expr::Case(case) => Kind::any(results(case).filter(|result| !is_null(result)).map(|one| self.kind(one))),
            Expr::ScalarSubquery(subquery) => self.only_column(subquery),
            other => self.computed(other),
        }
    }

    fn call(&self, call: &ScalarFunction) -> Kind {
        match (call.name(), call.args.as_slice()) {
            (epoch::TO_MICROS, _) => Kind::Time,
            (name, args) if ONE_OF_FEW.contains(&name) => {
                Kind::any(args.iter().filter(|arg| !is_null(arg)).map(|arg| self.kind(arg)))
            }
            ("nullif", args) => self.first(args),
            (name, args) if ROUNDED.contains(&name) => self.first(args),
            ("nvl2", [_, some, none]) => Kind::any([self.kind(some), self.kind(none)]),
            ("+" | "-", args) => self.moved(args),
            (_, args) => self.all_given(args),
        }
    }

    /// A sum or difference of these.
    fn moved<'e>(&self, parts: impl IntoIterator<Item = &'e Expr> + Clone) -> Kind {
        let exact = parts.clone().into_iter().any(|part| self.kind(part).is_exact());
        if exact { Kind::Micros } else { self.all_given(parts) }
    }

    fn first(&self, args: &[Expr]) -> Kind {
        args.first().map_or(Kind::Other, |first| self.kind(first))
    }

    fn all_given<'e>(&self, parts: impl IntoIterator<Item = &'e Expr>) -> Kind {
        if parts.into_iter().all(|part| self.kind(part) == Kind::Given) { Kind::Given } else { Kind::Other }
    }

    /// Of what is no longer what it is computed from: what is given if all of that is.
    fn computed(&self, expr: &Expr) -> Kind {
        match expr {
            Expr::Literal(..) => Kind::Given,
            Expr::Negative(inner) => self.all_given([inner.as_ref()]),
            Expr::Cast(Cast { expr, .. }) | Expr::TryCast(TryCast { expr, .. }) => self.all_given([expr.as_ref()]),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
                self.moved([left.as_ref(), right.as_ref()])
            }
            Expr::BinaryExpr(BinaryExpr { left, right, .. }) => self.all_given([left.as_ref(), right.as_ref()]),
            _ => Kind::Other,
        }
    }

    fn only_column(&self, subquery: &Subquery) -> Kind {
        kinds_within(&subquery.subquery, Some(self)).first().copied().unwrap_or(Kind::Other)
    }
}

fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.is_null())
}

/// The results of a CASE.
fn results(case: &Case) -> impl Iterator<Item = &Expr> {
    case.when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(case.else_expr.as_deref())
}

fn kinds_within(plan: &LogicalPlan, outer: Option<&VisibleColumns>) -> Vec<Kind> {
    let columns = plan.schema().fields().len();
    let visible = VisibleColumns::of(plan, outer);
    let passed_on = || visible.inputs.iter().flat_map(|(_, kinds)| kinds).copied();
    let mut kinds: Vec<Kind> = match plan {
        LogicalPlan::TableScan(_) => plan.schema().fields().iter().map(|field| of_mark(field.metadata())).collect(),
        LogicalPlan::Values(values) => (0..columns)
            .map(|column| {
                Kind::any(values.values.iter().filter_map(|row| row.get(column)).map(|cell| visible.kind(cell)))
            })
            .collect(),
        LogicalPlan::Projection(projection) => projection.expr.iter().map(|expr| visible.kind(expr)).collect(),
        LogicalPlan::Aggregate(aggregate) => {
            let keys = aggregate.group_expr.iter().flat_map(grouped);
            let keys: Vec<Kind> = keys.map(|key| visible.kind(key)).collect();
            let between = columns.saturating_sub(keys.len() + aggregate.aggr_expr.len());
            let keys = keys.into_iter().chain(std::iter::repeat_n(Kind::Other, between));
            keys.chain(aggregate.aggr_expr.iter().map(|expr| visible.kind(expr))).collect()
        }
        LogicalPlan::Window(window) => {
            passed_on().chain(window.window_expr.iter().map(|expr| visible.kind(expr))).collect()
        }
        LogicalPlan::Union(_) => (0..columns)
            .map(|column| Kind::any(visible.inputs.iter().filter_map(|(_, kinds)| kinds.get(column).copied())))
            .collect(),
        LogicalPlan::Unnest(unnest) => {
            let input: Vec<Kind> = passed_on().collect();
            let kind = |index: &usize| input.get(*index).copied().unwrap_or(Kind::Other);
            unnest.dependency_indices.iter().map(kind).collect()
        }
        LogicalPlan::Distinct(Distinct::On(on)) => on.select_expr.iter().map(|expr| visible.kind(expr)).collect(),
        LogicalPlan::RecursiveQuery(query) => kinds_within(&query.static_term, outer),
        LogicalPlan::Join(join) if join.schema.fields().len() == join.right.schema().fields().len() => {
            // A semi-join may keep either side.
            let side = usize::from(!join.schema.iter().eq(join.left.schema().iter()));
            visible.inputs.get(side).map(|(_, kinds)| kinds.clone()).unwrap_or_default()
        }
        _ => passed_on().collect(),
    };
    kinds.resize(columns, Kind::Other);
    kinds
}

/// The keys of GROUP BY, each once, as the aggregate has them for columns.
fn grouped(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::GroupingSet(set) => set.distinct_expr(),
        key => vec![key],
    }
}

struct Reader {
    simplifier: ExprSimplifier,
}

impl Reader {
    fn plan(&self, plan: LogicalPlan, outer: Option<&VisibleColumns>) -> Result<LogicalPlan> {
        let plan = plan.map_children(|child| self.plan(child, outer).map(Transformed::yes))?.data;
        let visible = VisibleColumns::of(&plan, outer);
        let plan = plan.map_subqueries(|query| self.plan(query, Some(&visible)).map(Transformed::yes))?.data;
        let names = NamePreserver::new(&plan);
        let schema = merge_schema(&plan.inputs());
        let plan = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let scaled = expr.transform_up(|expr| self.expr(expr, &visible, &schema).map(Transformed::yes))?;
            Ok(scaled.update_data(|expr| name.restore(expr)))
        })?;
        match plan.data {
            LogicalPlan::Join(join) => self.join(join, &visible),
            LogicalPlan::Union(union) => union_of(union, &visible),
            other => Ok(other),
        }
    }

    fn expr(&self, expr: Expr, visible: &VisibleColumns, schema: &DFSchema) -> Result<Expr> {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
                let (left, right) = self.pair(*left, *right, visible)?;
                Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
            }
            Expr::Between(Between { expr, negated, low, high }) => {
                let [expr, low, high] = self.alike([*expr, *low, *high], visible)?.map(Box::new);
                Expr::Between(Between::new(expr, negated, low, high))
            }
            Expr::InList(InList { expr, list, negated }) if is_row_expr(&expr) => {
                let one = |item| self.pair(expr.as_ref().clone(), item, visible).map(|(_, item)| item);
                let list = list.into_iter().map(one).collect::<Result<_>>()?;
                Expr::InList(InList::new(expr, list, negated))
            }
            Expr::InList(InList { expr, list, negated }) => {
                let mut all = list;
                all.push(*expr);
                let mut all = self.all_alike(all, visible)?;
                // The one that was pushed.
                let expr = all.pop().unwrap_or_else(|| Expr::Literal(ScalarValue::Null, None));
                Expr::InList(InList::new(Box::new(expr), all, negated))
            }
            Expr::Case(case) => Expr::Case(self.case(case, visible)?),
            Expr::ScalarFunction(call) => Expr::ScalarFunction(self.call(call, visible, schema)?),
            Expr::WindowFunction(mut call) if matches!(call.fun.name(), "lag" | "lead") => {
                self.default_of(&mut call, visible)?;
                Expr::WindowFunction(call)
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                let (expr, subquery) = self.among(*expr, subquery, visible)?;
                Expr::InSubquery(InSubquery { expr: Box::new(expr), subquery, negated })
            }
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) => {
                let (expr, subquery) = self.among(*expr, subquery, visible)?;
                Expr::SetComparison(SetComparison { expr: Box::new(expr), subquery, op, quantifier })
            }
            other => other,
        })
    }

    /// Both sides of a comparison; of rows, each place by itself.
    fn pair(&self, left: Expr, right: Expr, visible: &VisibleColumns) -> Result<(Expr, Expr)> {
        match (left, right) {
            (Expr::ScalarFunction(mut left), Expr::ScalarFunction(mut right))
                if is_row(&left) && is_row(&right) && left.args.len() == right.args.len() =>
            {
                let (lefts, rights) = (std::mem::take(&mut left.args), std::mem::take(&mut right.args));
                for (one, other) in lefts.into_iter().zip(rights) {
                    let (one, other) = self.pair(one, other, visible)?;
                    left.args.push(one);
                    right.args.push(other);
                }
                Ok((Expr::ScalarFunction(left), Expr::ScalarFunction(right)))
            }
            (left, right) => self.alike([left, right], visible).map(|[left, right]| (left, right)),
        }
    }

    fn alike<const N: usize>(&self, exprs: [Expr; N], visible: &VisibleColumns) -> Result<[Expr; N]> {
        let alike = self.all_alike(exprs.to_vec(), visible)?;
        Ok(alike.try_into().unwrap_or(exprs))
    }

    /// With a time among them, those that are given are times.
    fn all_alike(&self, exprs: Vec<Expr>, visible: &VisibleColumns) -> Result<Vec<Expr>> {
        if !exprs.iter().any(|expr| visible.kind(expr) == Kind::Time) {
            return Ok(exprs);
        }
        let scaled = |expr: Expr| if visible.kind(&expr) == Kind::Given { self.scale(expr) } else { Ok(expr) };
        exprs.into_iter().map(scaled).collect()
    }

    fn case(&self, case: Case, visible: &VisibleColumns) -> Result<Case> {
        let (whens, thens): (Vec<Expr>, Vec<Expr>) =
            case.when_then_expr.into_iter().map(|(when, then)| (*when, *then)).unzip();
        let (expr, whens) = match case.expr {
            Some(expr) => {
                let mut all = whens;
                all.push(*expr);
                let mut all = self.all_alike(all, visible)?;
                (all.pop().map(Box::new), all)
            }
            None => (None, whens),
        };
        let count = thens.len();
        let mut results =
            self.all_alike(thens.into_iter().chain(case.else_expr.map(|expr| *expr)).collect(), visible)?;
        let else_expr = (results.len() > count).then(|| results.pop()).flatten().map(Box::new);
        let when_then_expr = whens.into_iter().zip(results).map(|(when, then)| (Box::new(when), Box::new(then)));
        Ok(Case { expr, when_then_expr: when_then_expr.collect(), else_expr })
    }

    fn call(&self, mut call: ScalarFunction, visible: &VisibleColumns, schema: &DFSchema) -> Result<ScalarFunction> {
        let name = call.name().to_owned();
        let args = std::mem::take(&mut call.args);
        call.args = match (name.as_str(), args.as_slice()) {
            (name, _) if ONE_OF_FEW.contains(&name) || name == "nullif" => self.all_alike(args, visible)?,
            ("nvl2", [first, some, none]) => {
                let [some, none] = self.alike([some.clone(), none.clone()], visible)?;
                vec![first.clone(), some, none]
            }
            ("array_has" | "list_has" | "array_contains" | "list_contains", [list, value]) => {
                vec![self.list(list.clone(), value, visible)?, value.clone()]
            }
            (name, [time]) if epoch::is_part(name) && visible.kind(time).is_exact() => {
                vec![exact(time.clone(), schema)?]
            }
            _ => args,
        };
        Ok(call)
    }

    /// `time = ANY([…])`
    fn list(&self, list: Expr, value: &Expr, visible: &VisibleColumns) -> Result<Expr> {
        match list {
            Expr::ScalarFunction(mut list) if list.name() == "make_array" && visible.kind(value) == Kind::Time => {
                let scaled = |item: Expr| if visible.kind(&item) == Kind::Given { self.scale(item) } else { Ok(item) };
                list.args = list.args.into_iter().map(scaled).collect::<Result<_>>()?;
                Ok(Expr::ScalarFunction(list))
            }
            other => Ok(other),
        }
    }

    /// `lag(time, 1, 1699000000)`
    fn default_of(&self, call: &mut WindowFunction, visible: &VisibleColumns) -> Result<()> {
        if let [time, _, default] = call.params.args.as_mut_slice() {
            let [_, scaled] = self.alike([time.clone(), default.clone()], visible)?;
            *default = scaled;
        }
        Ok(())
    }

    /// `expr IN (SELECT …)`
    fn among(&self, expr: Expr, subquery: Subquery, visible: &VisibleColumns) -> Result<(Expr, Subquery)> {
        match (visible.kind(&expr), visible.only_column(&subquery)) {
            (Kind::Time, Kind::Given) => {
                let query = Arc::unwrap_or_clone(subquery.subquery);
                let query = Arc::new(scaled_columns(query, |column| column == 0)?);
                Ok((expr, Subquery { subquery: query, ..subquery }))
            }
            (Kind::Given, Kind::Time) => Ok((self.scale(expr)?, subquery)),
            _ => Ok((expr, subquery)),
        }
    }

    /// `JOIN … USING (timestamp)`, INTERSECT and EXCEPT, whose pairs of columns are no comparison.
    fn join(&self, mut join: Join, visible: &VisibleColumns) -> Result<LogicalPlan> {
        let on = std::mem::take(&mut join.on).into_iter();
        join.on = on.map(|(left, right)| self.pair(left, right, visible)).collect::<Result<_>>()?;
        Ok(LogicalPlan::Join(join))
    }

    /// What is given, in microseconds.
    fn scale(&self, expr: Expr) -> Result<Expr> {
        if is_null(&expr) {
            return Ok(expr);
        }
        if !is_constant(&expr)? {
            return Ok(epoch::to_micros(expr));
        }
        let varies = expr.exists(|expr| Ok(is_volatile_call(expr)))?;
        let coerced = self.simplifier.coerce(expr, &DFSchema::empty())?;
        let coerced = bound_expr(coerced, &DFSchema::empty())?.data;
        match self.simplifier.simplify(coerced)? {
            Expr::Literal(value, _) if varies => Ok(Expr::Literal(read(value)?, Some(varying()))),
            Expr::Literal(value, metadata) => Ok(Expr::Literal(read(value)?, metadata)),
            other => Ok(other),
        }
    }
}

/// `(a, b)`
fn is_row(call: &ScalarFunction) -> bool {
    call.name() == "struct"
}

fn is_row_expr(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if is_row(call))
}

/// A UNION with times in some parts of a column and given ones in others.
fn union_of(union: Union, visible: &VisibleColumns) -> Result<LogicalPlan> {
    let column = |index: usize| visible.inputs.iter().filter_map(move |(_, kinds)| kinds.get(index).copied());
    let times: Vec<bool> =
        (0..union.schema.fields().len()).map(|index| column(index).any(|kind| kind == Kind::Time)).collect();
    let inputs = union.inputs.into_iter().zip(&visible.inputs).map(|(input, (_, kinds))| {
        let given = |index: usize| times.get(index) == Some(&true) && kinds.get(index) == Some(&Kind::Given);
        scaled_columns(Arc::unwrap_or_clone(input), given).map(Arc::new)
    });
    Ok(LogicalPlan::Union(Union { inputs: inputs.collect::<Result<_>>()?, schema: union.schema }))
}

/// The plan with those of its columns that are numbers in microseconds.
fn scaled_columns(plan: LogicalPlan, is_given: impl Fn(usize) -> bool) -> Result<LogicalPlan> {
    let mut any = false;
    let columns = plan.schema().iter().enumerate().map(|(index, (relation, field))| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        if !is_given(index) || !field.data_type().is_numeric() {
            return column;
        }
        any = true;
        // The type stays, because others have been told of it.
        cast(epoch::to_micros(column), field.data_type().clone()).alias_qualified(relation.cloned(), field.name())
    });
    let columns: Vec<Expr> = columns.collect();
    if any { LogicalPlanBuilder::from(plan).project(columns)?.build() } else { Ok(plan) }
}

/// Microseconds as a timestamp, which is nothing to guess at.
fn exact(time: Expr, schema: &DFSchema) -> Result<Expr> {
    let kind = time.get_type(schema)?;
    if !kind.is_numeric() {
        return Ok(time);
    }
    Ok(cast(cast(time, DataType::Int64), DataType::Timestamp(TimeUnit::Microsecond, None)))
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
pub(crate) fn is_comparison(op: Operator) -> bool {
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

fn of_mark(metadata: &std::collections::HashMap<String, String>) -> Kind {
    if metadata.get(TIME_UNIT_KEY).is_some_and(|unit| unit == MICROSECONDS) { Kind::Time } else { Kind::Other }
}

/// Whether an expression can be computed now.
pub(super) fn is_constant(expr: &Expr) -> Result<bool> {
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
    let number = value.cast_to(&DataType::Int64);
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
