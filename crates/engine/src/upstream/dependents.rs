//! Queries that depend on the row beside them: LATERAL, and the subqueries of one value that DataFusion makes no join of,
//! or a wrong one (of `WHERE CAST(u.v AS BIGINT) = t.id` it counts each `u.v` by itself).
//!
//! Invariant: such a query is computed once, over the different values of the columns that it takes from the rows beside it
//! (the *given* ones), as if they were columns of its own; each row is then joined with what came of its values.
//! `FROM c, LATERAL (SELECT max(m.id) FROM m WHERE m.c = c.id) x` becomes
//! `FROM c JOIN (SELECT g.id, max(m.id) FROM (SELECT DISTINCT id FROM c) g LEFT JOIN m ON m.c = g.id GROUP BY g.id) x
//! ON x.id = c.id`, a LIMIT becomes a condition on a row number among the rows of one value, and so on, node by node.

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    common::{
        Column, DFSchema, ExprSchema, JoinType, Result, ScalarValue,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    functions_window::row_number::row_number_udwf,
    logical_expr::{
        Aggregate, Distinct, Expr, ExprFunctionExt, ExprSchemable, FetchType, Filter, Join, Limit, LogicalPlan,
        LogicalPlanBuilder, Operator, Projection, SkipType, Sort, Subquery, Union, Window, WindowFunctionDefinition,
        binary_expr, expr::WindowFunction, lit, utils::merge_schema, when,
    },
    optimizer::utils::NamePreserver,
};

use super::{
    copies::Copies,
    pulled_up::check_value,
    subqueries::{has_subquery, is_volatile, references, refused, subquery_in, subquery_of, with_name},
};

const NOT_TAKEN: &str = "A query that depends on the row beside it cannot have that condition below a ROLLUP, a DISTINCT ON, \
                         a VALUES or a RIGHT or FULL JOIN; write it as a join, or with the condition outside.";
const NOT_HERE: &str =
    "A subquery of one value that depends on the row cannot stand in ON like this; write the condition in WHERE.";
const NOT_THERE: &str = "A subquery here depends on a column that the query right around it does not have (after GROUP BY it has \
                         what it groups by); name it there first: SELECT … FROM (SELECT upper(content) AS k FROM …) GROUP BY k.";
const RANDOM: &str = "What is different each time (random(), say) cannot stand beside a query that depends on it; compute it \
                      in a WITH of its own first.";

/// Rewrites every such query of the plan.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut rewriter = Rewriter { copies: Copies::new(), names: 0 };
    let plan = plan.transform_up_with_subqueries(|node| rewriter.node(node))?;
    if !plan.transformed {
        return Ok(plan.data);
    }
    // What may be NULL now is so all the way up.
    plan.data.transform_up_with_subqueries(|node| node.recompute_schema().map(Transformed::yes)).data()
}

struct Rewriter {
    /// The rows beside are read once more for each place where their values are needed.
    copies: Copies,
    /// Names given so far.
    names: usize,
}

impl Rewriter {
    fn node(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Join(join) => {
                let given = taken_beside(&join.right, join.left.schema());
                if given.is_empty() {
                    return Ok(Transformed::no(LogicalPlan::Join(join)));
                }
                self.lateral(join, &given).map(Transformed::yes)
            }
            node if !has_subquery(&node)? => Ok(Transformed::no(node)),
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) => self.values(node),
            other => {
                other.apply_expressions(|expr| {
                    expr.apply(|expr| match expr {
                        Expr::ScalarSubquery(subquery) if is_ours(subquery)? => Err(refused(NOT_HERE)),
                        _ => Ok(TreeNodeRecursion::Continue),
                    })
                })?;
                Ok(Transformed::no(other))
            }
        }
    }

    fn lateral(&mut self, join: Join, given: &[Column]) -> Result<LogicalPlan> {
        let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
        let further = references(&join.right)?;
        let is_given = |one: &Expr| matches!(one, Expr::OuterReferenceColumn(_, column) if given.contains(column));
        let is_whole = further.iter().all(is_given);
        let condition = join.on.into_iter().map(|(left, right)| left.eq(right)).chain(join.filter).collect();
        let (left, right) = (Arc::unwrap_or_clone(join.left), Arc::unwrap_or_clone(join.right));
        let joined = self.beside(left, right, join.join_type, condition, given)?;
        let joined = LogicalPlanBuilder::from(joined).project(columns)?.build()?;
        // So that a query around finds what else this one takes.
        Ok(if is_whole { joined } else { LogicalPlan::Subquery(subquery_of(joined)?) })
    }

    /// Computes the subqueries of one value that DataFusion would not, or wrongly.
    fn values(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let [input] = node.inputs()[..] else { return Ok(Transformed::no(node)) };
        let (mut input, columns) = (input.clone(), node.schema().columns());
        let saver = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = saver.save(&expr);
            let found = expr.transform_down(|expr| match expr {
                Expr::ScalarSubquery(subquery) if is_ours(&subquery)? => {
                    let column = self.value(&mut input, subquery)?;
                    Ok(Transformed::new(Expr::Column(column), true, TreeNodeRecursion::Jump))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(if found.transformed { found.update_data(|expr| name.restore(expr)) } else { found })
        })?;
        if !node.transformed {
            return Ok(node);
        }
        let expressions = node.data.expressions();
        let above = node.data.with_new_exprs(expressions, vec![input])?;
        if above.schema().columns() == columns {
            return Ok(Transformed::yes(above));
        }
        LogicalPlanBuilder::from(above).project(columns.into_iter().map(Expr::Column))?.build().map(Transformed::yes)
    }

    /// Puts a subquery's value beside the rows.
    fn value(&mut self, input: &mut LogicalPlan, subquery: Subquery) -> Result<Column> {
        self.names += 1;
        let name = format!("__beside_{}", self.names);
        let rows = with_name(Arc::unwrap_or_clone(subquery.subquery), &name)?;
        let mut given = HashSet::new();
        for reference in references(&rows)? {
            if let Expr::OuterReferenceColumn(_, column) = reference
                && input.schema().has_column(&column)
            {
                given.insert(column);
            }
        }
        if given.is_empty() {
            return Err(refused(NOT_THERE));
        }
        let left = std::mem::take(input);
        *input = self.beside(left, rows, JoinType::Left, Vec::new(), &given.into_iter().collect::<Vec<_>>())?;
        Ok(Column::from_name(name))
    }

    /// The rows of `left`, each joined with those of `right` that are computed for it.
    fn beside(
        &mut self,
        left: LogicalPlan,
        right: LogicalPlan,
        kind: JoinType,
        condition: Vec<Expr>,
        given: &[Column],
    ) -> Result<LogicalPlan> {
        if !matches!(kind, JoinType::Inner | JoinType::Left) {
            return Err(refused(NOT_TAKEN));
        }
        if is_volatile(&left)? {
            return Err(refused(RANDOM));
        }
        let (right, found) = Dependent { rewriter: self, left: &left, given }.over_given(right)?;
        let same = same(given, &found, left.schema());
        LogicalPlanBuilder::from(left).join_on(right, kind, same.into_iter().chain(condition))?.build()
    }
}

/// Whether DataFusion would not compute a value that depends on the row, or wrongly.
fn is_ours(subquery: &Subquery) -> Result<bool> {
    let rows = &subquery.subquery;
    Ok(!references(rows)?.is_empty() && is_one_row_at_most(rows)? && check_value(rows).is_err())
}

/// The columns that a query of a FROM takes from those before it.
fn taken_beside(plan: &LogicalPlan, left: &DFSchema) -> Vec<Column> {
    match plan {
        LogicalPlan::Subquery(subquery) => {
            let mut given: Vec<Column> = Vec::new();
            for reference in &subquery.outer_ref_columns {
                if let Expr::OuterReferenceColumn(_, column) = reference
                    && left.has_column(column)
                    && !given.contains(column)
                {
                    given.push(column.clone());
                }
            }
            given
        }
        LogicalPlan::SubqueryAlias(alias) if matches!(*alias.input, LogicalPlan::Subquery(_)) => {
            taken_beside(&alias.input, left)
        }
        // `FROM a, LATERAL (…) b JOIN c ON …`
        LogicalPlan::Join(join) => {
            let mut given = taken_beside(&join.left, left);
            given.extend(
                taken_beside(&join.right, left).into_iter().filter(|one| !given.contains(one)).collect::<Vec<_>>(),
            );
            given
        }
        _ => Vec::new(),
    }
}

/// Whether there are never two rows.
pub(super) fn is_one_row_at_most(rows: &LogicalPlan) -> Result<bool> {
    match rows {
        LogicalPlan::Projection(projection) => is_one_row_at_most(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_one_row_at_most(&alias.input),
        LogicalPlan::Filter(filter) => is_one_row_at_most(&filter.input),
        LogicalPlan::Sort(sort) => is_one_row_at_most(&sort.input),
        LogicalPlan::Aggregate(aggregate) => Ok(aggregate.group_expr.is_empty()),
        LogicalPlan::EmptyRelation(_) => Ok(true),
        LogicalPlan::Limit(limit) => Ok(matches!(limit.get_fetch_type()?, FetchType::Literal(Some(0 | 1)))),
        _ => Ok(false),
    }
}

/// That columns have the same values, of which NULL is one.
fn same(columns: &[Column], others: &[Column], schema: &DFSchema) -> Vec<Expr> {
    let pairs = columns.iter().zip(others);
    pairs
        .map(|(one, other)| {
            let is_nullable = schema.field_from_column(one).map_or(true, |field| field.is_nullable());
            let same = if is_nullable { Operator::IsNotDistinctFrom } else { Operator::Eq };
            binary_expr(Expr::Column(one.clone()), same, Expr::Column(other.clone()))
        })
        .collect()
}

/// A plan's rows and, among their columns, the given ones.
type WithGiven = (LogicalPlan, Vec<Column>);

/// A query on its way to one that depends on nothing.
struct Dependent<'a> {
    rewriter: &'a mut Rewriter,
    /// The rows beside it.
    left: &'a LogicalPlan,
    /// Their columns that it takes.
    given: &'a [Column],
}

impl Dependent<'_> {
    /// The different values of the given columns, under names that nothing else has.
    fn given_rows(&mut self) -> Result<WithGiven> {
        self.rewriter.copies.pay_plan(self.left)?;
        let named = self.given.iter().map(|column| {
            self.rewriter.names += 1;
            (column, format!("__given_{}", self.rewriter.names))
        });
        let named: Vec<(&Column, String)> = named.collect();
        let columns = named.iter().map(|(column, name)| Expr::Column((*column).clone()).alias(name));
        let rows = LogicalPlanBuilder::from(self.left.clone()).project(columns)?.distinct()?.build()?;
        Ok((rows, named.into_iter().map(|(_, name)| Column::from_name(name)).collect()))
    }

    fn takes(&self, references: &[Expr]) -> bool {
        let is_given = |one: &Expr| matches!(one, Expr::OuterReferenceColumn(_, column) if self.given.contains(column));
        references.iter().any(is_given)
    }

    fn depends(&self, plan: &LogicalPlan) -> Result<bool> {
        Ok(self.takes(&references(plan)?))
    }

    /// The rows that a plan has for each of the given values.
    fn over_given(&mut self, plan: LogicalPlan) -> Result<WithGiven> {
        if !self.depends(&plan)? {
            let (rows, found) = self.given_rows()?;
            return Ok((LogicalPlanBuilder::from(rows).cross_join(plan)?.build()?, found));
        }
        match plan {
            LogicalPlan::Subquery(subquery) => self.over_given(Arc::unwrap_or_clone(subquery.subquery)),
            LogicalPlan::SubqueryAlias(alias) => {
                let (rows, found) = self.over_given(Arc::unwrap_or_clone(alias.input))?;
                let found = found.into_iter().map(|column| Column::new(Some(alias.alias.clone()), column.name));
                Ok((LogicalPlanBuilder::from(rows).alias(alias.alias.clone())?.build()?, found.collect()))
            }
            LogicalPlan::Filter(filter) => {
                let (rows, found) = self.over_given(Arc::unwrap_or_clone(filter.input))?;
                let predicate = self.here(filter.predicate, &found)?;
                Ok((LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(rows))?), found))
            }
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Sort(sort) => {
                let (rows, found) = self.over_given(Arc::unwrap_or_clone(sort.input))?;
                let expr = self.keys(sort.expr, &found)?;
                Ok((LogicalPlan::Sort(Sort { expr, input: Arc::new(rows), fetch: sort.fetch }), found))
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let (rows, found) = self.over_given(Arc::unwrap_or_clone(input))?;
                Ok((LogicalPlanBuilder::from(rows).distinct()?.build()?, found))
            }
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            _ => Err(refused(NOT_TAKEN)),
        }
    }

    fn projection(&mut self, projection: Projection) -> Result<WithGiven> {
        let (rows, found) = self.over_given(Arc::unwrap_or_clone(projection.input))?;
        let mut columns = Vec::with_capacity(projection.expr.len() + found.len());
        for expr in projection.expr {
            columns.push(self.called_as_before(expr, &found)?);
        }
        columns.extend(found.iter().cloned().map(Expr::Column));
        let rows = Projection::try_new(columns, Arc::new(rows))?;
        Ok((LogicalPlan::Projection(rows), found))
    }

    /// The first rows of each given value.
    fn limit(&mut self, limit: Limit) -> Result<WithGiven> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Err(refused(NOT_TAKEN));
        };
        let (order, input) = match Arc::unwrap_or_clone(limit.input) {
            // Each row makes one: the order is that of what is below.
            LogicalPlan::Projection(Projection { expr, input, .. }) => {
                let limit = LogicalPlan::Limit(Limit { skip: limit.skip, fetch: limit.fetch, input });
                return self.projection(Projection::try_new(expr, Arc::new(limit))?);
            }
            LogicalPlan::Sort(sort) => (sort.expr, Arc::unwrap_or_clone(sort.input)),
            other => (Vec::new(), other),
        };
        let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
        let (rows, found) = self.over_given(input)?;
        let found_columns: Vec<Expr> = found.iter().cloned().map(Expr::Column).collect();
        let number = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new());
        let mut number = Expr::from(number).partition_by(found_columns.clone());
        if !order.is_empty() {
            number = number.order_by(self.keys(order, &found)?);
        }
        let number = number.build()?;
        let column = || Expr::Column(Column::from_name(number.schema_name().to_string()));
        let mut within = column().gt(lit(skip as u64));
        if let Some(fetch) = fetch {
            within = within.and(column().lt_eq(lit(skip.saturating_add(fetch) as u64)));
        }
        let rows = LogicalPlanBuilder::from(rows).window([number.clone()])?.filter(within)?;
        Ok((rows.project(columns.into_iter().chain(found_columns))?.build()?, found))
    }

    fn aggregate(&mut self, aggregate: Aggregate) -> Result<WithGiven> {
        if matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)]) {
            return Err(refused(NOT_TAKEN));
        }
        let schema = Arc::clone(aggregate.input.schema());
        let (rows, found) = self.over_given(Arc::unwrap_or_clone(aggregate.input))?;
        let of_all = aggregate.group_expr.is_empty();
        let mut keys = Vec::with_capacity(aggregate.group_expr.len() + found.len());
        for key in aggregate.group_expr {
            keys.push(self.called_as_before(key, &found)?);
        }
        keys.extend(found.iter().cloned().map(Expr::Column));
        let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
        let mut of_none = Vec::with_capacity(aggregate.aggr_expr.len());
        for call in aggregate.aggr_expr {
            let name = call.schema_name().to_string();
            of_none.push((name, value_of_none(&call, &schema)?));
            calls.push(self.called_as_before(call, &found)?);
        }
        let rows = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(rows), keys, calls)?);
        if of_all { self.with_groups_of_none(rows, &found, of_none) } else { Ok((rows, found)) }
    }

    /// Adds what an aggregate without GROUP BY answers where there is no row.
    fn with_groups_of_none(
        &mut self,
        rows: LogicalPlan,
        found: &[Column],
        of_none: Vec<(String, ScalarValue)>,
    ) -> Result<WithGiven> {
        self.rewriter.names += 1;
        let any = format!("__any_{}", self.rewriter.names);
        let columns = rows.schema().columns().into_iter().map(Expr::Column).chain([lit(true).alias(&any)]);
        let rows = LogicalPlanBuilder::from(rows).project(columns.collect::<Vec<_>>())?.build()?;
        let (all, own) = self.given_rows()?;
        let same = same(&own, found, all.schema());
        let mut columns: Vec<Expr> = own.iter().cloned().map(Expr::Column).collect();
        for (name, value) in of_none {
            let found = Expr::Column(Column::from_name(&name));
            let is_none = Expr::Column(Column::from_name(&any)).is_null();
            let value = if value.is_null() { found } else { when(is_none, lit(value)).otherwise(found)?.alias(name) };
            columns.push(value);
        }
        Ok((LogicalPlanBuilder::from(all).join_on(rows, JoinType::Left, same)?.project(columns)?.build()?, own))
    }

    /// Each given value's rows are a partition, or several.
    fn window(&mut self, window: Window) -> Result<WithGiven> {
        let before: Vec<Expr> = window.input.schema().columns().into_iter().map(Expr::Column).collect();
        let (rows, found) = self.over_given(Arc::unwrap_or_clone(window.input))?;
        let found_columns: Vec<Expr> = found.iter().cloned().map(Expr::Column).collect();
        let (mut calls, mut answered) = (Vec::new(), before);
        for call in window.window_expr {
            let name = call.schema_name().to_string();
            let call = self.here(call, &found)?.transform_up(|expr| match expr {
                Expr::WindowFunction(mut function) => {
                    function.params.partition_by.extend(found_columns.iter().cloned());
                    Ok(Transformed::yes(Expr::WindowFunction(function)))
                }
                other => Ok(Transformed::no(other)),
            });
            let call = call.data()?;
            answered.push(Expr::Column(Column::from_name(call.schema_name().to_string())).alias(name));
            calls.push(call);
        }
        let rows = LogicalPlanBuilder::from(rows).window(calls)?;
        Ok((rows.project(answered.into_iter().chain(found_columns))?.build()?, found))
    }

    fn join(&mut self, join: Join) -> Result<WithGiven> {
        let condition: Vec<Expr> =
            join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).chain(join.filter.clone()).collect();
        let of_condition = condition.iter().map(|one| self.expr_depends(one)).collect::<Result<Vec<bool>>>()?;
        let (of_left, of_right) = (self.depends(&join.left)?, self.depends(&join.right)?);
        let (left, right) = (Arc::unwrap_or_clone(join.left), Arc::unwrap_or_clone(join.right));
        let is_inner = join.join_type == JoinType::Inner;
        if !is_inner && join.join_type != JoinType::Left {
            return Err(refused(NOT_TAKEN));
        }
        if is_inner && !of_left && of_right && !of_condition.contains(&true) {
            let (right, found) = self.over_given(right)?;
            return Ok((LogicalPlanBuilder::from(left).join_on(right, join.join_type, condition)?.build()?, found));
        }
        let (left, found) = self.over_given(left)?;
        let mut on = Vec::with_capacity(condition.len() + found.len());
        let right = if of_right {
            let (right, others) = self.over_given(right)?;
            on.extend(same(&found, &others, left.schema()));
            right
        } else {
            right
        };
        for one in condition {
            on.push(self.here(one, &found)?);
        }
        Ok((LogicalPlanBuilder::from(left).join_on(right, join.join_type, on)?.build()?, found))
    }

    fn union(&mut self, union: Union) -> Result<WithGiven> {
        let names: Vec<_> = union.schema.iter().map(|(table, field)| (table.cloned(), field.name().clone())).collect();
        let mut inputs = Vec::with_capacity(union.inputs.len());
        let mut shared: Vec<String> = Vec::new();
        for input in union.inputs {
            let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
            let (rows, found) = self.over_given(Arc::unwrap_or_clone(input))?;
            if shared.is_empty() {
                shared = found.iter().map(|column| column.name.clone()).collect();
            }
            let found = found.into_iter().zip(&shared).map(|(column, name)| Expr::Column(column).alias(name));
            let rows = LogicalPlanBuilder::from(rows).project(columns.into_iter().chain(found))?.build()?;
            inputs.push(Arc::new(rows));
        }
        let rows = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
        let answered = rows.schema().columns().into_iter().enumerate().map(|(place, column)| match names.get(place) {
            Some((table, name)) => Expr::Column(column).alias_qualified(table.clone(), name),
            None => Expr::Column(column),
        });
        let answered: Vec<Expr> = answered.collect();
        let rows = LogicalPlanBuilder::from(rows).project(answered)?.build()?;
        Ok((rows, shared.into_iter().map(Column::from_name).collect()))
    }

    fn keys(
        &self,
        keys: Vec<datafusion::logical_expr::SortExpr>,
        found: &[Column],
    ) -> Result<Vec<datafusion::logical_expr::SortExpr>> {
        keys.into_iter().map(|key| Ok(key.with_expr(self.here(key.expr.clone(), found)?))).collect()
    }

    fn expr_depends(&self, expr: &Expr) -> Result<bool> {
        expr.exists(|expr| match expr {
            Expr::OuterReferenceColumn(..) => Ok(self.takes(std::slice::from_ref(expr))),
            expr => subquery_in(expr).map_or(Ok(false), |subquery| self.depends(&subquery.subquery)),
        })
    }

    /// The same under the name that it had.
    fn called_as_before(&self, expr: Expr, found: &[Column]) -> Result<Expr> {
        let (table, name) = expr.qualified_name();
        let expr = self.here(expr, found)?;
        Ok(if expr.qualified_name() == (table.clone(), name.clone()) {
            expr
        } else {
            expr.alias_qualified(table, name)
        })
    }

    /// An expression that finds the given values in its own rows.
    fn here(&self, expr: Expr, found: &[Column]) -> Result<Expr> {
        let place = |column: &Column| self.given.iter().position(|given| given == column);
        expr.transform_up(|expr| match expr {
            Expr::OuterReferenceColumn(field, column) => Ok(match place(&column) {
                Some(place) => Transformed::yes(Expr::Column(found[place].clone())),
                None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
            }),
            other => self.within(other, found),
        })
        .data()
    }

    /// The same of the subquery that an expression is.
    fn within(&self, mut expr: Expr, found: &[Column]) -> Result<Transformed<Expr>> {
        let subquery = match &mut expr {
            Expr::Exists(exists) => &mut exists.subquery,
            Expr::InSubquery(query) => &mut query.subquery,
            Expr::ScalarSubquery(subquery) => subquery,
            _ => return Ok(Transformed::no(expr)),
        };
        if !self.depends(&subquery.subquery)? {
            return Ok(Transformed::no(expr));
        }
        let plan = Arc::unwrap_or_clone(std::mem::take(&mut subquery.subquery));
        *subquery = subquery_of(self.renamed(plan, found)?)?;
        Ok(Transformed::yes(expr))
    }

    /// A subquery's plan with the new names of the given columns.
    fn renamed(&self, plan: LogicalPlan, found: &[Column]) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            // What a subquery of this node takes from it is not the given column.
            let schema = merge_schema(&node.inputs());
            if has_subquery(&node)? && self.given.iter().any(|given| schema.has_column(given)) {
                return Err(refused(
                    "A table has the same name in a subquery and around the query that it stands in; give the inner one \
                     another name: FROM messages AS other.",
                ));
            }
            let saver = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = saver.save(&expr);
                let renamed = expr.transform_up(|expr| match expr {
                    Expr::OuterReferenceColumn(field, column) => {
                        Ok(match self.given.iter().position(|given| *given == column) {
                            Some(place) => Transformed::yes(Expr::OuterReferenceColumn(field, found[place].clone())),
                            None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
                        })
                    }
                    other => Ok(Transformed::no(other)),
                })?;
                Ok(if renamed.transformed { renamed.update_data(|expr| name.restore(expr)) } else { renamed })
            })
        })
        .data()
    }
}

/// What an aggregate answers of no rows.
fn value_of_none(call: &Expr, schema: &DFSchema) -> Result<ScalarValue> {
    match call {
        Expr::Alias(alias) => value_of_none(&alias.expr, schema),
        Expr::AggregateFunction(function) => function.func.default_value(&call.get_type(schema)?),
        _ => Err(refused(NOT_TAKEN)),
    }
}

#[cfg(test)]
mod tests;
