//! Rules in front of what DataFusion 55.2 answers wrongly or cannot answer.
//!
//! Invariant: a statement that would be answered wrongly is rewritten to one that is not, or refused with a sentence.
//! Each item names the report upstream; where a small table shows it, its test asks DataFusion without ours too, and fails
//! once DataFusion answers right by itself, so that the item can go.
//!
//! | report | wrong | here |
//! |---|---|---|
//! | apache/datafusion#25350 | DISTINCT over a renamed subquery is an internal error | [`settle`] |
//! | – | a condition over JSON names a column `__datafusion_extracted_n` that is not there | [`settle`] |
//! | apache/datafusion#24927 | DISTINCT … ORDER BY … LIMIT loses rows | [`DetachFetch`] |
//! | apache/datafusion#23534 | OFFSET by an order that the answer does not show skips any rows | [`DetachFetch`] |
//! | apache/datafusion#25340, #25347 | NOT IN forgets NULLs of a constant, and of a correlated subquery | [`subqueries`] |
//! | apache/datafusion#23022 | EXISTS and IN stand in WHERE alone | [`subqueries`] |
//! | – | ANY and ALL compare a column of the subquery with itself | [`subqueries`] |
//! | apache/datafusion#25519 | a condition on the outer row is moved above a ROLLUP | [`pulled_up`] |
//! | – | of `CAST(u.v AS BIGINT) = t.id` a correlated aggregate makes a group for each `u.v` | [`dependents`] |
//! | apache/datafusion#24960 | EXISTS and IN forget the row of an aggregate without GROUP BY | [`pulled_up`] |
//! | – | a window in LATERAL is over the rows of all outer rows | [`dependents`] |
//! | apache/datafusion#21198, #21201 | LATERAL with HAVING, and by other than its WHERE, is not taken | [`dependents`] |
//! | – | correlated subqueries that make one value take equalities only, and no LIMIT | [`dependents`] |
//! | – | and have to be aggregates | [`one_row`] |
//! | – | what is constant below an outer join is taken for constant above | [`TakeBackClaims`] |
//! | apache/datafusion#25052 | a hash join of two sorted sides is taken for sorted by both | [`TakeBackClaims`] |
//! | apache/datafusion#21625 | a join below one that has no rows in a partition waits for ever | [`PartitionInnerJoins`] |
//! | apache/datafusion#24421 | GROUPING SETS over sorted rows lose rows | [`TakeBackClaims`] |
//! | – | `(a, b) = (1, NULL)` is true or false | [`row_values`] |
//! | – | an aggregate whose ORDER BY has a key twice panics | [`orders`] |
//! | – | `json_contains` of a NULL key is NULL or false, by the other rows | [`json_keys`] |
//! | – | INTERSECT ALL and EXCEPT ALL do not count | [`multisets`] |
//! | – | two IN of one value become one, whatever is NULL | [`list_pairs`] |
//! | – | LIKE has no ESCAPE but the backslash | [`escapes`] |
//! | – | a condition on columns of one name goes to one side of a join | [`SameNames`] |
//! | – | a condition without columns is moved below an aggregate without groups | [`fences`] |
//! | – | a condition on a volatile column is evaluated a second time, in the scan | [`fences`] |
//! | apache/datafusion#25415 | a condition on a volatile group key is evaluated a second time | [`group_keys`] |
//! | – | ROLLUP of a computed key forgets it when it is simplified | [`group_keys`] |
//! | apache/datafusion#24816 | MIN of a column takes rows away from MAX of what is computed | [`settle`] |
//! | – | an item of IN (…) that is computed from the row is computed once | [`lists`] |
//! | – | several `string_agg` with an order each are refused | [`joined_texts`] |
//! | – | a subquery that depends on the row stands in WHERE and in plain columns only | [`subquery_places`] |
//!
//! Of text, before a plan is made: `sql/merged`, `sql/windows` and `sql/outputs` settle what the planner knows in part only.

mod claims;
mod copies;
mod dependents;
mod escapes;
mod fences;
mod fetch;
mod group_keys;
mod joined_texts;
mod json_keys;
mod list_pairs;
mod lists;
mod multisets;
mod one_row;
mod orders;
mod pulled_up;
mod row_values;
mod same_names;
mod subqueries;
mod subquery_places;
#[cfg(test)]
mod tests;
mod waits;

use std::sync::Arc;

use datafusion::{common::Result, config::OptimizerOptions, logical_expr::LogicalPlan, optimizer::OptimizerRule};

pub(crate) use self::{claims::TakeBackClaims, fetch::DetachFetch, same_names::SameNames, waits::PartitionInnerJoins};

/// Turns off what is wrong and has a switch.
pub(crate) fn settle(options: &mut OptimizerOptions) {
    // A limit that an aggregate keeps when its input is found to be sorted; it is fixed by apache/datafusion#25349.
    options.enable_distinct_aggregation_soft_limit = false;
    // `SELECT MIN(timestamp), MAX(length(content))` reads no rows that are no new MIN of the column, and the MAX of what is
    // computed misses them.
    options.enable_aggregate_dynamic_filter_pushdown = false;
    // Moves `metadata->>'k'` below a limit and forgets a column on the way.
    options.enable_leaf_expression_pushdown = false;
}

/// These rules with ours before and after them.
pub(crate) fn around(rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let first: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(list_pairs::ListPairs);
    let last: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(orders::UniqueOrders);
    std::iter::once(first).chain(rules).chain([last]).collect()
}

/// Rewrites what is wrong and has none, before [`crate::functions::prepare`] sees it: what is added here is bounded there,
/// and names are still those of the statement.
pub(crate) fn rewrite_first(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = multisets::rewrite(joined_texts::rewrite(group_keys::rewrite(plan)?)?)?;
    lists::rewrite(row_values::rewrite(escapes::rewrite(json_keys::rewrite(plan)?)?)?)
}

/// The rest, after it.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    fences::rewrite(dependents::rewrite(subqueries::rewrite(subquery_places::rewrite(plan)?)?)?)
}
