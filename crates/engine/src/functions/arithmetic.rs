//! `+`, `-`, `*` and SUM of whole numbers, with an error where DataFusion's wrap around.
//!
//! Invariant: a plan that went through here adds, subtracts, multiplies and negates whole numbers by functions that say
//! when a result does not fit its type, also where the planner computes constants; a SUM is computed in 128 bits and
//! fits in the end, or is an error. `9223372036854775807 + 1` is never a number.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray},
        compute::kernels::{
            cmp::lt,
            numeric::{add, mul, neg, sub},
            zip::zip,
        },
        datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type},
        error::ArrowError,
    },
    common::{
        Column, DFSchema, Result, ScalarValue, exec_err, plan_err,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    logical_expr::{
        Aggregate, BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator,
        ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, WindowFunctionDefinition,
        binary::BinaryTypeCoercer, cast, expr::WindowFunction, utils::merge_schema,
    },
    optimizer::utils::NamePreserver,
    physical_expr_common::datum::apply,
};

/// Digits of the largest whole number, which are needed to add such numbers up.
const DIGITS: u8 = 20;

/// Puts checked functions in the place of operators and sums.
pub(super) fn check(plan: LogicalPlan) -> Result<LogicalPlan> {
    let checked = plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let checked = expr.transform_up(|expr| Ok(checked(expr, &schema)))?;
            Ok(checked.update_data(|expr| name.restore(expr)))
        })?;
        node.transform_data(wide_sums)
    });
    checked.data()
}

fn checked(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let (op, args) = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match Checked::of(op) {
            Some(checked) if is_whole(&left, op, &right, schema) => {
                (checked, vec![signed(*left, schema), signed(*right, schema)])
            }
            _ => return Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
        },
        Expr::Negative(inner) if inner.get_type(schema).is_ok_and(|kind| kind.is_integer()) => {
            (Checked::Negate, vec![signed(*inner, schema)])
        }
        Expr::ScalarFunction(call) if call.name() == "abs" && is_signed(&call.args, schema) => {
            (Checked::Absolute, call.args)
        }
        other => return Transformed::no(other),
    };
    Transformed::yes(ScalarUDF::new_from_impl(CheckedOperator::new(op)).call(args))
}

/// A number that has no sign (`row_number()`) with one: with a BIGINT it would become a decimal, `row_number() + 1` too.
fn signed(expr: Expr, schema: &DFSchema) -> Expr {
    let unsigned = expr.get_type(schema).is_ok_and(|kind| kind.is_unsigned_integer());
    if unsigned { cast(expr, DataType::Int64) } else { expr }
}

fn is_signed(args: &[Expr], schema: &DFSchema) -> bool {
    matches!(args, [only] if only.get_type(schema).is_ok_and(|kind| kind.is_signed_integer()))
}

/// Whether both sides are whole numbers, by themselves or once their types are settled (one may be NULL).
fn is_whole(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> bool {
    let whole = |(left, right): &(DataType, DataType)| left.is_integer() && right.is_integer();
    let own = left.get_type(schema).and_then(|left| Ok((left, right.get_type(schema)?)));
    own.is_ok_and(|own| {
        whole(&own) || BinaryTypeCoercer::new(&own.0, &op, &own.1).get_input_types().is_ok_and(|types| whole(&types))
    })
}

/// An operation that can overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Checked {
    Add,
    Subtract,
    Multiply,
    Negate,
    /// DataFusion's own fails too, but its error holds the number.
    Absolute,
}

impl Checked {
    fn of(op: Operator) -> Option<Self> {
        match op {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract | Self::Negate | Self::Absolute => Operator::Minus,
            Self::Multiply => Operator::Multiply,
        }
    }
}

/// An operator on whole numbers as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedOperator {
    op: Checked,
    signature: Signature,
}

impl CheckedOperator {
    fn new(op: Checked) -> Self {
        Self { op, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CheckedOperator {
    fn name(&self) -> &str {
        match self.op {
            Checked::Add => "+",
            Checked::Subtract => "-",
            Checked::Multiply => "*",
            Checked::Negate => "(-)",
            Checked::Absolute => "abs",
        }
    }

    /// The name that the operator would give its column.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(match names.as_slice() {
            [only] if self.op == Checked::Absolute => format!("abs({only})"),
            [only] => format!("(- {only})"),
            names => names.join(&format!(" {} ", self.name())),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [only] => Ok(vec![only.clone()]),
            [left, right] => {
                let (left, right) = BinaryTypeCoercer::new(left, &self.op.operator(), right).get_input_types()?;
                Ok(vec![left, right])
            }
            _ => plan_err!("{} takes two numbers", self.name()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [only] => Ok(only.clone()),
            [left, right] => BinaryTypeCoercer::new(left, &self.op.operator(), right).get_result_type(),
            _ => plan_err!("{} takes two numbers", self.name()),
        }
    }

    /// NULL only of a NULL.
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match (self.op, args.args.as_slice()) {
            (Checked::Add, [left, right]) => apply(left, right, add),
            (Checked::Subtract, [left, right]) => apply(left, right, sub),
            (Checked::Multiply, [left, right]) => apply(left, right, mul),
            (Checked::Negate, [only]) => of_one(only, |values| Ok(neg(values.as_ref())?)),
            (Checked::Absolute, [only]) => of_one(only, absolute),
            _ => exec_err!("{} takes two numbers", self.name()),
        }
    }
}

fn absolute(values: &ArrayRef) -> Result<ArrayRef> {
    let zero = ScalarValue::new_zero(values.data_type())?.to_scalar()?;
    Ok(zip(&lt(values, &zero)?, &neg(values.as_ref())?, values)?)
}

/// A function of one argument, which stays a constant of a constant.
fn of_one(arg: &ColumnarValue, run: impl FnOnce(&ArrayRef) -> Result<ArrayRef>) -> Result<ColumnarValue> {
    match arg {
        ColumnarValue::Array(values) => run(values).map(ColumnarValue::Array),
        ColumnarValue::Scalar(value) => {
            let array = run(&value.to_array()?)?;
            ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar)
        }
    }
}

/// Computes the SUMs of a node in 128 bits, with a projection above it that has them fit their types again.
fn wide_sums(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let inputs = node.inputs().len();
    if inputs != 1 || !matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)) {
        return Ok(Transformed::no(node));
    }
    let schema = merge_schema(&node.inputs());
    let mut sums: Vec<(String, DataType)> = Vec::new();
    let names = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let written = expr.schema_name().to_string();
        let Some((wide, kind)) = wide_sum(expr.clone(), &schema) else { return Ok(Transformed::no(expr)) };
        sums.push((written, kind));
        Ok(Transformed::yes(name.restore(wide)))
    })?;
    if sums.is_empty() {
        return Ok(node);
    }
    // The node's own schema, with the types that its columns have by now.
    let node = node.data.recompute_schema()?;
    // What the planner adds for GROUPING it takes away itself.
    let asked = node.schema().iter().filter(|(_, field)| field.name() != Aggregate::INTERNAL_GROUPING_ID);
    let columns = asked.map(|(relation, field)| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        match sums.iter().find(|(name, _)| relation.is_none() && name == field.name()) {
            Some((name, kind)) => ScalarUDF::new_from_impl(Fit::new(kind)).call(vec![column]).alias(name),
            None => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(Transformed::yes(LogicalPlanBuilder::from(node).project(columns)?.build()?))
}

/// A SUM of whole numbers as one of decimals, and the type that it has; nothing when it is something else.
fn wide_sum(expr: Expr, schema: &DFSchema) -> Option<(Expr, DataType)> {
    let is_sum = match &expr {
        Expr::Alias(alias) => {
            let (wide, kind) = wide_sum(alias.expr.as_ref().clone(), schema)?;
            return Some((wide.alias_qualified(alias.relation.clone(), alias.name.clone()), kind));
        }
        Expr::AggregateFunction(call) => call.func.name() == "sum",
        Expr::WindowFunction(call) => is_window_sum(call),
        _ => false,
    };
    let kind = expr.get_type(schema).ok().filter(|kind| is_sum && kind.is_integer())?;
    let wide = |args: Vec<Expr>| args.into_iter().map(widened).collect::<Vec<_>>();
    let expr = match expr {
        Expr::AggregateFunction(mut call) => {
            call.params.args = wide(call.params.args);
            Expr::AggregateFunction(call)
        }
        Expr::WindowFunction(mut call) => {
            call.params.args = wide(call.params.args);
            Expr::WindowFunction(call)
        }
        _ => return None,
    };
    Some((expr, kind))
}

fn is_window_sum(call: &WindowFunction) -> bool {
    matches!(&call.fun, WindowFunctionDefinition::AggregateUDF(function) if function.name() == "sum")
}

fn widened(expr: Expr) -> Expr {
    cast(expr, DataType::Decimal128(DIGITS, 0))
}

/// A decimal as the whole number that it is, if it fits.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Fit {
    signed: bool,
    signature: Signature,
}

impl Fit {
    fn new(kind: &DataType) -> Self {
        let signed = *kind != DataType::UInt64;
        Self { signed, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Fit {
    fn name(&self) -> &'static str {
        "fit"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.signed { DataType::Int64 } else { DataType::UInt64 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [wide] = args.args.as_slice() else { return exec_err!("fit takes a number") };
        let too_large = || ArrowError::ArithmeticOverflow("a sum".to_owned());
        of_one(wide, |values| {
            let Some(values) = values.as_primitive_opt::<Decimal128Type>() else {
                return exec_err!("fit takes a decimal");
            };
            Ok(if self.signed {
                Arc::new(values.try_unary::<_, Int64Type, _>(|sum| i64::try_from(sum).map_err(|_| too_large()))?)
            } else {
                Arc::new(values.try_unary::<_, UInt64Type, _>(|sum| u64::try_from(sum).map_err(|_| too_large()))?)
            })
        })
    }
}
