//! CASTs of texts in CASE, which the planner would do before CASE says whether they are needed.
//!
//! Invariant: `CASE WHEN $1 <> '' THEN CAST($1 AS BIGINT) END` is NULL for an empty parameter and no error. A CAST becomes
//! a function there, for the planner leaves to the rows what fails of a function, and not what fails of a CAST. A column
//! may be a constant by then: `SELECT … FROM (SELECT '' AS a FROM messages) AS q`.

use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef},
    common::{
        DFSchema, Result, exec_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature, Volatility, utils::merge_schema,
    },
    optimizer::utils::NamePreserver,
};

/// Puts functions in the place of such CASTs.
pub(super) fn defer(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let deferred = expr.transform_down(|expr| match expr {
                Expr::Case(_) => in_case(expr, &schema),
                other => Ok(Transformed::no(other)),
            })?;
            Ok(deferred.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

fn in_case(case: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let deferred = case.transform_up(|expr| match expr {
        Expr::Cast(Cast { expr, field }) if reads_text(&expr, field.data_type(), schema) => {
            let late = ScalarUDF::new_from_impl(LateCast::new(field.data_type()));
            Ok(Transformed::yes(late.call(vec![*expr])))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(Transformed::new(deferred.data, deferred.transformed, TreeNodeRecursion::Jump))
}

/// Whether a CAST may fail: what is no text can be cast, or is no constant that the statement writes.
fn reads_text(expr: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    !is_text(to) && expr.get_type(schema).is_ok_and(|from| is_text(&from))
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LateCast {
    to: DataType,
    signature: Signature,
}

impl LateCast {
    fn new(to: &DataType) -> Self {
        Self { to: to.clone(), signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for LateCast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        // As the planner calls a CAST.
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Field::new(self.name(), self.to.clone(), nullable).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else { return exec_err!("a cast takes one value") };
        value.cast_to(&self.to, None)
    }
}
