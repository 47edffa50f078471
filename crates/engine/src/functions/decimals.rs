//! Long texts that are read as decimal numbers.
//!
//! Invariant: no text of more than [`MAX_DIGITS`] bytes is cast to a decimal. The cast goes a level deeper for each 38
//! digits: `CAST(repeat('1', 16000000) AS DECIMAL)` takes the whole stack, and with it the process.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, StringViewArray},
        compute::cast,
        datatypes::DataType,
    },
    common::{
        DFSchema, Result, ScalarValue, internal_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    config::ConfigOptions,
    error::DataFusionError,
    logical_expr::{
        Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        TryCast, Volatility, expr::ScalarFunction, utils::merge_schema,
    },
    optimizer::{AnalyzerRule, utils::NamePreserver},
};
use kalamdb_protocol::ErrorCode;

use crate::Error;

/// Bytes of a text that may be a decimal: it has at most 76 digits, and the others are zeros and spaces.
const MAX_DIGITS: usize = 1_000;

/// The text in the place of one that is too long for a decimal: CAST fails on it, and `TRY_CAST` gives NULL.
const NO_NUMBER: &str = "a long text";

/// Puts [`Numeral`] into each cast of a text to a decimal that the statement has.
pub(super) fn bound(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        if !has_cast(&node)? {
            return Ok(Transformed::no(node));
        }
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let bounded = bound_expr(expr, &schema)?;
            Ok(bounded.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

/// One expression with [`Numeral`] in it.
pub(super) fn bound_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| match expr {
        Expr::Cast(Cast { expr: inner, field }) if reads_text(&inner, field.data_type(), schema) => {
            Ok(Transformed::yes(Expr::Cast(Cast { expr: Box::new(numeral(*inner)), field })))
        }
        Expr::TryCast(TryCast { expr: inner, field }) if reads_text(&inner, field.data_type(), schema) => {
            Ok(Transformed::yes(Expr::TryCast(TryCast { expr: Box::new(numeral(*inner)), field })))
        }
        other => Ok(Transformed::no(other)),
    })
}

fn has_cast(node: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|expr| {
        found = found
            || expr.exists(|expr| {
                Ok(match expr {
                    Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) => {
                        holds(field.data_type(), &DataType::is_decimal)
                    }
                    _ => false,
                })
            })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Whether a cast to that type makes a decimal of a text, and is not bounded yet.
fn reads_text(inner: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    let is_bounded = matches!(inner, Expr::ScalarFunction(call) if call.func.inner().is::<Numeral>());
    !is_bounded
        && holds(to, &DataType::is_decimal)
        && inner.get_type(schema).is_ok_and(|from| holds(&from, &DataType::is_string))
}

/// Whether a type, or one within it, is such a one.
fn holds(data_type: &DataType, is: &dyn Fn(&DataType) -> bool) -> bool {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::Map(field, _) => holds(field.data_type(), is),
        DataType::Struct(fields) => fields.iter().any(|field| holds(field.data_type(), is)),
        DataType::Dictionary(_, values) => holds(values, is),
        other => is(other),
    }
}

fn numeral(expr: Expr) -> Expr {
    let func = Arc::new(ScalarUDF::new_from_impl(Numeral { signature: Signature::any(1, Volatility::Immutable) }));
    Expr::ScalarFunction(ScalarFunction { func, args: vec![expr] })
}

/// The rule that does so for the casts that the planner puts in where types differ; to come after it does.
#[derive(Debug)]
pub(crate) struct ShortNumerals;

impl AnalyzerRule for ShortNumerals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        bound(plan)
    }

    fn name(&self) -> &'static str {
        "ShortNumerals"
    }
}

/// The function `numeral(x)`: what it is given, as far as it can be a number.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Numeral {
    signature: Signature,
}

impl ScalarUDFImpl for Numeral {
    fn name(&self) -> &'static str {
        "numeral"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(texts)] => Ok(ColumnarValue::Array(shortened(texts)?)),
            [ColumnarValue::Scalar(text)] => {
                let shortened = shortened(&text.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&shortened, 0)?))
            }
            _ => internal_err!("a numeral of one text"),
        }
    }
}

fn shortened(texts: &ArrayRef) -> Result<ArrayRef> {
    if !texts.data_type().is_string() {
        return if longest_within(texts) > MAX_DIGITS { Err(too_long()) } else { Ok(Arc::clone(texts)) };
    }
    let views = cast(texts, &DataType::Utf8View)?;
    let views = views.as_string_view();
    if views.lengths().all(|length| length as usize <= MAX_DIGITS) {
        return Ok(Arc::clone(texts));
    }
    let short = |text| if str::len(text) > MAX_DIGITS { NO_NUMBER } else { text };
    let short: StringViewArray = views.iter().map(|text| text.map(short)).collect();
    Ok(cast(&short, texts.data_type())?)
}

/// Bytes of the longest text in lists, structs and maps, or more.
fn longest_within(values: &ArrayRef) -> usize {
    let text = |values: &ArrayRef| {
        let views = cast(values, &DataType::Utf8View);
        views.map_or(usize::MAX, |views| views.as_string_view().lengths().max().unwrap_or(0) as usize)
    };
    match values.data_type() {
        DataType::List(_) => longest_within(values.as_list::<i32>().values()),
        DataType::LargeList(_) => longest_within(values.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => longest_within(values.as_fixed_size_list().values()),
        DataType::Map(..) => values.as_map().entries().columns().iter().map(longest_within).max().unwrap_or(0),
        DataType::Struct(_) => values.as_struct().columns().iter().map(longest_within).max().unwrap_or(0),
        string if string.is_string() => text(values),
        other if holds(other, &DataType::is_string) => usize::MAX,
        _ => 0,
    }
}

fn too_long() -> DataFusionError {
    let message = format!("A text of more than {MAX_DIGITS} characters is no decimal number; cast shorter ones.");
    DataFusionError::External(Box::new(Error::new(ErrorCode::InvalidValue, message)))
}
