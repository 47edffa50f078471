//! DataFusion's Parquet reader, given only those conditions that cannot fail.
//!
//! Invariant: a condition that could fail (a division, a cast, a function whose result may be too large) is left to
//! the operator above: the Parquet decoder turns an error of a condition into text, and then nobody can tell whose
//! fault it was.

use std::{fmt, sync::Arc};

use datafusion::{
    common::tree_node::TreeNodeRecursion,
    config::ConfigOptions,
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileOpener, FileScanConfig, FileSource},
        table_schema::TableSchema,
    },
    error::Result,
    logical_expr::Operator,
    object_store::ObjectStore,
    physical_expr::{
        EquivalenceProperties, PhysicalExpr, PhysicalSortExpr,
        expressions::{
            BinaryExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal,
            NotExpr,
        },
        projection::ProjectionExprs,
    },
    physical_plan::{
        DisplayFormatType, SortOrderPushdownResult,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::ExecutionPlanMetricsSet,
    },
};
use datafusion_datasource::morsel::Morselizer;

use crate::functions::is_comparison;

/// A [`FileSource`] that hands on everything but conditions that could fail.
#[derive(Clone)]
pub(super) struct SegmentSource(Arc<dyn FileSource>);

impl SegmentSource {
    pub fn wrap(inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self(inner))
    }
}

/// Whether evaluating the expression cannot fail: comparisons and tests of columns and literals, which the planner
/// has brought to the same types.
fn cannot_fail(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let node = expr.as_ref();
    let harmless = node.is::<Column>()
        || node.is::<Literal>()
        || node.is::<InListExpr>()
        || node.is::<LikeExpr>()
        || node.is::<IsNullExpr>()
        || node.is::<IsNotNullExpr>()
        || node.is::<NotExpr>()
        // A dynamic filter's comparisons are made by operators, not by users, and its children are what it compares.
        || node.is::<DynamicFilterPhysicalExpr>()
        || node.downcast_ref::<BinaryExpr>().is_some_and(|binary| compares(*binary.op()));
    harmless && expr.children().into_iter().all(cannot_fail)
}

fn compares(operator: Operator) -> bool {
    is_comparison(operator) || matches!(operator, Operator::And | Operator::Or)
}

impl FileSource for SegmentSource {
    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let mut answers = vec![PushedDown::No; filters.len()];
        let (places, offered): (Vec<_>, Vec<_>) =
            filters.into_iter().enumerate().filter(|(_, filter)| cannot_fail(filter)).unzip();
        let taken = self.0.try_pushdown_filters(offered, config)?;
        for (place, answer) in places.into_iter().zip(taken.filters) {
            answers[place] = answer;
        }
        Ok(FilterPushdownPropagation { filters: answers, updated_node: taken.updated_node.map(Self::wrap) })
    }

    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.0.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        self.0.create_morselizer(store, config, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.0.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Self::wrap(self.0.with_batch_size(batch_size))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.0.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.0.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.0.metrics()
    }

    fn file_type(&self) -> &str {
        self.0.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt_extra(format, f)
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        Ok(self.0.try_pushdown_sort(order, properties)?.map(Self::wrap))
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.0.reorder_files(files)
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.0.try_pushdown_projection(projection)?.map(Self::wrap))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(f)
    }
}
