//! A subquery that stands for one value and depends on the row: `(SELECT m.content FROM m WHERE m.id = c.last)`.
//!
//! Invariant: it is answered where it has one row or none, and is an error where it has more. DataFusion refuses it unless it
//! is an aggregate, so it becomes one: `only(first_value(content), count(*))`.

use datafusion::{
    arrow::{
        array::AsArray,
        datatypes::{DataType, Field, FieldRef, Int64Type},
    },
    common::{Column, Result, ScalarValue},
    error::DataFusionError,
    functions_aggregate::{count::count, first_last::first_value},
    logical_expr::{
        ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature, Volatility, lit,
    },
};
use kalamdb_protocol::ErrorCode;

use crate::Error;

/// The only value of these rows.
pub(super) fn only(rows: LogicalPlan) -> Result<LogicalPlan> {
    let value = Expr::Column(Column::from(rows.schema().qualified_field(0)));
    let (first, rows_in_all) = ("__first", "__rows");
    let made = [first_value(value, Vec::new()).alias(first), count(lit(1)).alias(rows_in_all)];
    let column = |name: &str| Expr::Column(Column::from_name(name));
    let only = ScalarUDF::new_from_impl(Only::new()).call(vec![column(first), column(rows_in_all)]);
    LogicalPlanBuilder::from(rows).aggregate(Vec::<Expr>::new(), made)?.project([only.alias("__only")])?.build()
}

/// The first argument, where the second, which counts, is not above one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Only(Signature);

impl Only {
    fn new() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Only {
    fn name(&self) -> &'static str {
        "only"
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
        let mut args = args.args.into_iter();
        let (Some(value), Some(rows)) = (args.next(), args.next()) else {
            return datafusion::common::internal_err!("a value and the number of its rows");
        };
        let is_more = match &rows {
            ColumnarValue::Scalar(rows) => matches!(rows, ScalarValue::Int64(Some(2..))),
            ColumnarValue::Array(rows) => rows.as_primitive::<Int64Type>().iter().flatten().any(|rows| rows > 1),
        };
        if is_more {
            return Err(DataFusionError::External(Box::new(Error::new(
                ErrorCode::InvalidValue,
                "A subquery that stands for one value has several rows for one of the rows around it; add LIMIT 1 with an \
                 ORDER BY, or an aggregate such as max.",
            ))));
        }
        Ok(value)
    }
}
