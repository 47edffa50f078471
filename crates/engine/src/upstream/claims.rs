//! Takes back what an operator says of its rows, where the operator above draws a wrong conclusion from it.
//!
//! - `FROM messages a LEFT JOIN messages b ON … AND b.from = 'ai' ORDER BY b.from DESC`: below the join `from` is the same
//!   in all rows of `b`. DataFusion takes it for that above the join too, where it may be NULL, and leaves the sort out.
//! - `ORDER BY b.x, a.y` over a hash join of `a`, sorted by `y`, with `b`, sorted by `x`: the rows of `a` come once for each
//!   row of `b`, so that among several of one `x` they start again; DataFusion takes them for sorted (apache/datafusion#25052).
//! - GROUPING SETS over sorted rows (apache/datafusion#24421): a group is taken for complete once the next value comes.
//!
//! Invariant: the rows pass as they are. Who is above knows of no order and no constant column, and so sorts more than it
//! needs to, and never less.

use std::{fmt, sync::Arc};

use datafusion::{
    common::{
        JoinType,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    config::ConfigOptions,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties, PhysicalExpr,
        equivalence::{EquivalenceClass, EquivalenceGroup},
        expressions::Column,
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
        aggregates::AggregateExec,
        execution_plan::CardinalityEffect,
        filter_pushdown::{ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation},
        joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
    },
};

/// The rule that chooses the sides of joins; ours comes right after it.
const SETTLES_JOINS: &str = "join_selection";

/// The optimizer's rule.
#[derive(Debug)]
pub(crate) struct TakeBackClaims;

impl TakeBackClaims {
    /// Puts it in its place among the others.
    pub fn insert(rules: &mut Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) {
        let place = rules.iter().position(|rule| rule.name() == SETTLES_JOINS).map_or(0, |place| place + 1);
        rules.insert(place, Arc::new(Self));
    }
}

impl PhysicalOptimizerRule for TakeBackClaims {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let inputs: Vec<Arc<dyn ExecutionPlan>> = node.children().into_iter().cloned().collect();
            let doubted: Vec<bool> =
                (0..inputs.len()).map(|number| is_doubted(&node, number, &inputs[number])).collect();
            if !doubted.contains(&true) {
                return Ok(Transformed::no(node));
            }
            let inputs = inputs.into_iter().zip(doubted);
            let inputs = inputs.map(|(input, doubted)| if doubted { Silent::above(input) } else { input }).collect();
            #[expect(deprecated, reason = "its replacement wants to be told what this finds out for itself")]
            Ok(Transformed::yes(node.with_new_children(inputs)?))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "TakeBackClaims"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether a node draws wrong conclusions from what that input of its says.
fn is_doubted(node: &Arc<dyn ExecutionPlan>, number: usize, input: &Arc<dyn ExecutionPlan>) -> bool {
    let says = input.equivalence_properties();
    let (has_order, has_constants) = (!says.oeq_class().is_empty(), !says.constants().is_empty());
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return aggregate.group_expr().has_grouping_set() && (has_order || has_constants);
    }
    let Some(join) = join_type(node) else { return false };
    let is_padded = match join {
        JoinType::Left => number == 1,
        JoinType::Right => number == 0,
        JoinType::Full => true,
        _ => false,
    };
    // Of a hash join the rows of the left side come again for each row of the right one.
    let repeats = number == 0 && node.is::<HashJoinExec>() && matches!(join, JoinType::Inner | JoinType::Right);
    is_padded && has_constants || repeats && has_order
}

fn join_type(node: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return Some(*join.join_type());
    }
    node.downcast_ref::<SortMergeJoinExec>().map(SortMergeJoinExec::join_type)
}

/// A node through which the rows pass, and what is said of them does not.
#[derive(Debug)]
struct Silent {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl Silent {
    fn above(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let said = input.equivalence_properties();
        // Columns that are equal are equal still, where all of them are NULL; a column and a constant are not.
        let columns =
            |class: &EquivalenceClass| class.iter().filter(|one| one.is::<Column>()).cloned().collect::<Vec<_>>();
        let classes = said.eq_group().iter().map(|class| EquivalenceClass::new(columns(class)));
        let mut rest = EquivalenceProperties::new(Arc::clone(said.schema()));
        let properties = match rest.add_equivalence_group(EquivalenceGroup::new(classes)) {
            Ok(()) => rest,
            Err(_) => EquivalenceProperties::new(Arc::clone(said.schema())),
        };
        let properties = Arc::new(input.properties().as_ref().clone().with_eq_properties(properties));
        Arc::new(Self { input, properties })
    }
}

impl DisplayAs for Silent {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SilentExec")
    }
}

impl ExecutionPlan for Silent {
    fn name(&self) -> &'static str {
        "SilentExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if let (Some(input), true) = (children.pop(), children.is_empty()) {
            Ok(Self::above(input))
        } else {
            datafusion::common::internal_err!("SilentExec has one input")
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }
}
