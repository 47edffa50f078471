//! Planning that ends with its statement.
//!
//! Invariant: between two steps of any rule, be it DataFusion's or ours, it is asked whether the statement is to go on. No
//! step takes long by itself: `sql/limits` and `sql/scope` bound what there is to plan.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use datafusion::{
    common::{config_err, tree_node::Transformed},
    config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions},
    error::{DataFusionError, Result},
    logical_expr::LogicalPlan,
    optimizer::{Analyzer, AnalyzerRule, ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule},
    physical_optimizer::{PhysicalOptimizerContext, PhysicalOptimizerRule},
    physical_plan::ExecutionPlan,
};

use crate::{
    functions::{ShortNumerals, Work},
    upstream,
};

/// Nodes of a plan that are looked at between two looks at the clock.
const NODES_BETWEEN_CHECKS: u32 = 64;

/// The statement's work, where rules and operators find it: among the options.
#[derive(Clone)]
pub(super) struct StopSign {
    work: Arc<Work>,
    nodes: Arc<AtomicU32>,
}

impl StopSign {
    pub fn of(work: &Arc<Work>) -> Self {
        Self { work: Arc::clone(work), nodes: Arc::default() }
    }

    /// The statement's, if it is one's at all.
    pub fn within(options: &ConfigOptions) -> Option<&Self> {
        options.extensions.get::<Self>()
    }

    /// Whether the statement is to go on.
    ///
    /// # Errors
    /// Why not.
    pub fn goes_on(&self) -> Result<()> {
        self.work.check().map_err(|error| DataFusionError::External(Box::new(error)))
    }

    /// Asks the same before one of many small steps.
    fn step(options: &ConfigOptions) -> Result<()> {
        match Self::within(options) {
            Some(sign) if sign.nodes.fetch_add(1, Ordering::Relaxed).is_multiple_of(NODES_BETWEEN_CHECKS) => {
                sign.goes_on()
            }
            _ => Ok(()),
        }
    }

    /// Asks the same before a large one.
    fn pass(options: &ConfigOptions) -> Result<()> {
        Self::within(options).map_or(Ok(()), Self::goes_on)
    }
}

impl fmt::Debug for StopSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopSign").finish_non_exhaustive()
    }
}

impl ConfigExtension for StopSign {
    const PREFIX: &'static str = "kalamdb";
}

impl ExtensionOptions for StopSign {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    /// A clone of the same statement's.
    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        config_err!("{key} is no option")
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// A rule that asks first.
#[derive(Debug)]
struct Stoppable<R>(R);

/// DataFusion's analysis, and ours after it.
pub(super) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.push(Arc::new(ShortNumerals));
    rules.into_iter().map(|rule| Arc::new(Stoppable(rule)) as _).collect()
}

/// DataFusion's optimizer.
pub(super) fn logical_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let rules = upstream::around(Optimizer::new().rules);
    rules.into_iter().map(|rule| Arc::new(Stoppable(rule)) as _).collect()
}

/// These rules, each of which asks first.
pub(super) fn stoppable(
    rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    rules.into_iter().map(|rule| Arc::new(Stoppable(rule)) as _).collect()
}

impl AnalyzerRule for Stoppable<Arc<dyn AnalyzerRule + Send + Sync>> {
    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        StopSign::pass(config)?;
        self.0.analyze(plan, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

impl OptimizerRule for Stoppable<Arc<dyn OptimizerRule + Send + Sync>> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        StopSign::step(&config.options())?;
        self.0.rewrite(plan, config)
    }
}

impl PhysicalOptimizerRule for Stoppable<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        StopSign::pass(config)?;
        self.0.optimize(plan, config)
    }

    fn optimize_with_context(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &dyn PhysicalOptimizerContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        StopSign::pass(context.config_options())?;
        self.0.optimize_with_context(plan, context)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}
