//! Functions that count without a sign, with one.
//!
//! Invariant: no function that a statement can name answers `UInt64`. Together with a BIGINT such a number becomes
//! DECIMAL(20,0), which is answered as text (`SELECT row_number() OVER () UNION SELECT msgId …`), and `-` and `to_hex`
//! do not take it.

use std::{ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray},
        compute::cast,
        datatypes::{DataType, Field, FieldRef},
    },
    common::{Result, ScalarValue},
    execution::FunctionRegistry,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Documentation, EmitTo, Expr, GroupsAccumulator,
        LimitEffect, PartitionEvaluator, ReturnFieldArgs, ReversedUDWF, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, WindowUDF, WindowUDFImpl,
        function::{AccumulatorArgs, ExpressionArgs, PartitionEvaluatorArgs, StateFieldsArgs, WindowUDFFieldArgs},
    },
    physical_expr::PhysicalExpr,
};

/// Functions that count what is in a value, and what they are called besides.
const COUNTING: [&str; 5] = ["array_length", "array_ndims", "array_position", "cardinality", "json_length"];
/// Window functions that number rows.
const NUMBERING: [&str; 4] = ["row_number", "rank", "dense_rank", "ntile"];
/// Aggregates that count rows or values.
const AGGREGATES: [&str; 2] = ["approx_distinct", "regr_count"];

/// Puts functions with a sign in the place of those without.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for name in COUNTING {
        let inner = registry.udf(name)?;
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Counting(inner))))?;
    }
    for name in NUMBERING {
        let inner = registry.udwf(name)?;
        registry.register_udwf(Arc::new(WindowUDF::new_from_impl(Numbering(inner))))?;
    }
    for name in AGGREGATES {
        let inner = registry.udaf(name)?;
        registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(Aggregate(inner))))?;
    }
    Ok(())
}

fn signed_type(kind: &DataType) -> DataType {
    if *kind == DataType::UInt64 { DataType::Int64 } else { kind.clone() }
}

fn signed_field(field: &Field) -> FieldRef {
    Arc::new(field.clone().with_data_type(signed_type(field.data_type())))
}

fn signed_value(value: &ScalarValue) -> Result<ScalarValue> {
    value.cast_to(&signed_type(&value.data_type()))
}

fn signed_array(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(values, &signed_type(values.data_type()))?)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Counting(Arc<ScalarUDF>);

impl ScalarUDFImpl for Counting {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.0.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types).map(|kind| signed_type(&kind))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.0.return_field_from_args(args).map(|field| signed_field(&field))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(types)
    }

    fn is_strict(&self) -> bool {
        self.0.inner().is_strict()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let inside = self.0.return_field_from_args(ReturnFieldArgs {
            arg_fields: &args.arg_fields,
            scalar_arguments: &args.args.iter().map(constant).collect::<Vec<_>>(),
        })?;
        match self.0.invoke_with_args(ScalarFunctionArgs { return_field: inside, ..args })? {
            ColumnarValue::Array(values) => signed_array(&values).map(ColumnarValue::Array),
            ColumnarValue::Scalar(value) => signed_value(&value).map(ColumnarValue::Scalar),
        }
    }
}

fn constant(arg: &ColumnarValue) -> Option<&ScalarValue> {
    match arg {
        ColumnarValue::Scalar(value) => Some(value),
        ColumnarValue::Array(_) => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Numbering(Arc<WindowUDF>);

impl WindowUDFImpl for Numbering {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.0.expressions(args)
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(SignedEvaluator(self.0.partition_evaluator_factory(args)?)))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        self.0.field(args).map(|field| signed_field(&field))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.0.reverse_expr() {
            ReversedUDWF::Reversed(inner) => ReversedUDWF::Reversed(Arc::new(WindowUDF::new_from_impl(Self(inner)))),
            same => same,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.0.inner().limit_effect(args)
    }
}

#[derive(Debug)]
struct SignedEvaluator(Box<dyn PartitionEvaluator>);

impl PartitionEvaluator for SignedEvaluator {
    fn get_range(&self, idx: usize, rows: usize) -> Result<Range<usize>> {
        self.0.get_range(idx, rows)
    }

    fn is_causal(&self) -> bool {
        self.0.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        self.0.evaluate_all(values, rows).and_then(|values| signed_array(&values))
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        signed_value(&self.0.evaluate(values, range)?)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        self.0.evaluate_all_with_rank(rows, ranks).and_then(|values| signed_array(&values))
    }

    fn supports_bounded_execution(&self) -> bool {
        self.0.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.0.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.0.include_rank()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Aggregate(Arc<AggregateUDF>);

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types).map(|kind| signed_type(&kind))
    }

    fn is_nullable(&self) -> bool {
        self.0.is_nullable()
    }

    fn default_value(&self, kind: &DataType) -> Result<ScalarValue> {
        self.0.default_value(kind).and_then(|value| signed_value(&value))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.0.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(SignedAccumulator(self.0.accumulator(args)?)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(SignedAccumulator(self.0.create_sliding_accumulator(args)?)))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(SignedGroups(self.0.create_groups_accumulator(args)?)))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

#[derive(Debug)]
struct SignedAccumulator(Box<dyn Accumulator>);

impl Accumulator for SignedAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate().and_then(|value| signed_value(&value))
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }
}

struct SignedGroups(Box<dyn GroupsAccumulator>);

impl GroupsAccumulator for SignedGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.0.update_batch(values, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.0.evaluate(emit_to).and_then(|values| signed_array(&values))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit_to)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.0.merge_batch(states, groups, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.0.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
