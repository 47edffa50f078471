//! Puts a count before every function: before those that can grow their input, or look long for something in it, while a
//! plan is made, and before all others once it is, so that each can be stopped.
//!
//! Invariant: what a guarded call makes is at most [`MAX_BATCH_BYTES`] at a time and [`MAX_VALUE_BYTES`] in one value;
//! DataFusion's memory pool sees none of that. What the calls of a statement do together is counted by [`Work`], which
//! also stops them: a batch of them may take long and does not yield.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef},
        compute::{concat, kernels::concat_elements::concat_elements_dyn},
        datatypes::{DataType, FieldRef},
    },
    common::{
        Result, ScalarValue, plan_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        BinaryExpr, Cast, ColumnarValue, Documentation, Expr, LogicalPlan, Operator, ReturnFieldArgs,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        binary::BinaryTypeCoercer,
        cast,
        expr::ScalarFunction,
        sort_properties::{ExprProperties, SortProperties},
    },
    optimizer::utils::NamePreserver,
};

use super::{
    TooLarge, Work,
    growth::{Cost, Rule, all_bytes, cost, logical_bytes, search, sizes, total},
    matching::bound_operator,
    pattern::{Kind, Pattern},
    repeated,
};

/// Bytes that one call may make of one batch of rows.
const MAX_BATCH_BYTES: u128 = 64 << 20;
/// Bytes that one call may make of one row: more than any message, and little enough for some to be held at a time.
pub(super) const MAX_VALUE_BYTES: u128 = 16 << 20;
/// Bytes that a function may be given until it asks whether it is to go on: a batch whose rows all hold the same value of
/// 16 MiB comes to many times that.
const PART_BYTES: u128 = 16 << 20;
/// Steps that a search may take for one row at worst: a second, and for each byte of the longest value there are four.
pub(super) const MAX_SEARCH_STEPS: u128 = 64 << 20;
/// Steps that a function may take for one row…
const MAX_VALUE_STEPS: u128 = 16 << 20;
/// …and until it asks whether it is to go on: some hundredths of a second.
const PART_STEPS: u128 = 16 << 20;
/// Shorter constants may be copied into every row of a batch.
const SMALL_CONSTANT_BYTES: usize = 1 << 10;
/// An UNNEST makes many rows of one, with a copy of all else in it: so it gets fewer at a time.
const UNNEST_ROWS: usize = 256;

/// The function that stands for `||`.
pub(super) const CONCAT_OPERATOR: &str = "||";

/// Guards every call in the plan that needs it.
pub(super) fn guard(plan: LogicalPlan, work: &Arc<Work>) -> Result<LogicalPlan> {
    let guarded = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let guarded = expr.transform_up(|expr| Ok(guard_call(guard_pattern(expr), work)))?;
            Ok(guarded.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(guarded.data)
}

/// Puts [`Pattern`] around a pattern that may be another for each row.
fn guard_pattern(mut expr: Expr) -> Expr {
    match &mut expr {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch,
            right,
            ..
        }) => wrap_pattern(right, Kind::Regex),
        Expr::SimilarTo(like) => wrap_pattern(&mut like.pattern, Kind::Regex),
        Expr::Like(like) => wrap_pattern(&mut like.pattern, Kind::Like),
        Expr::ScalarFunction(call) => {
            let flags = match call.func.name() {
                "regexp_like" | "regexp_match" => 2,
                "regexp_replace" | "regexp_count" => 3,
                "regexp_instr" => 4,
                _ => return expr,
            };
            call.args.get_mut(1).into_iter().for_each(|pattern| wrap_pattern(pattern, Kind::Regex));
            call.args.get_mut(flags).into_iter().for_each(|flags| wrap_pattern(flags, Kind::Flags));
        }
        _ => {}
    }
    expr
}

fn wrap_pattern(pattern: &mut Expr, kind: Kind) {
    if !is_constant_expr(pattern) {
        let args = vec![std::mem::take(pattern)];
        *pattern =
            Expr::ScalarFunction(ScalarFunction { func: Arc::new(ScalarUDF::new_from_impl(Pattern::new(kind))), args });
    }
}

fn is_constant_expr(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) => true,
        Expr::Cast(Cast { expr, .. }) => is_constant_expr(expr),
        _ => false,
    }
}

/// Guards what is left in an optimized plan, where no function has to show any more what it is.
pub(super) fn watch(plan: LogicalPlan, work: &Arc<Work>) -> Result<LogicalPlan> {
    let watched = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let watched = expr.transform_up(|expr| {
                let bounded = bound_operator(expr, work).data;
                Ok(match bounded {
                    Expr::ScalarFunction(call) if !call.args.is_empty() && !call.func.inner().is::<Guarded>() => {
                        let (cost, search) =
                            (cost(call.func.name()).unwrap_or(Cost::Bytewise), search(call.func.name()));
                        let guarded = Guarded { inner: call.func, cost, search, work: Arc::clone(work) };
                        let func = Arc::new(ScalarUDF::new_from_impl(guarded));
                        Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: call.args }))
                    }
                    other => Transformed::no(other),
                })
            })?;
            Ok(watched.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(watched.data)
}

fn guard_call(expr: Expr, work: &Arc<Work>) -> Transformed<Expr> {
    let (inner, args) = match expr {
        // DataFusion compares texts of one kind only, and `string_agg` makes another than a column has.
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "levenshtein" => {
            (func, args.into_iter().map(|arg| cast(arg, DataType::Utf8)).collect())
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => (func, args),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
            (Arc::new(ScalarUDF::new_from_impl(ConcatOperator::new())), vec![*left, *right])
        }
        other => return Transformed::no(other),
    };
    let (cost, search) = (cost(inner.name()), search(inner.name()));
    if (cost.is_none() && search.is_none()) || inner.inner().is::<Guarded>() {
        return Transformed::no(Expr::ScalarFunction(ScalarFunction { func: inner, args }));
    }
    let guarded = Guarded { inner, cost: cost.unwrap_or(Cost::Bytewise), search, work: Arc::clone(work) };
    let func = Arc::new(ScalarUDF::new_from_impl(guarded));
    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
}

/// How many rows a batch may have so that constants, which are copied into each row, do not outgrow what one batch may
/// hold. To be asked of the optimized plan, where `repeat('x', 1000000)` has become a constant.
pub(crate) fn batch_rows(plan: &LogicalPlan, usual: usize) -> Result<usize> {
    let mut constant_bytes = 0_usize;
    let mut rows = usual;
    plan.apply_with_subqueries(|node| {
        match node {
            // Rows of constants are there once.
            LogicalPlan::Values(_) => return Ok(TreeNodeRecursion::Continue),
            LogicalPlan::Unnest(_) => rows = rows.min(UNNEST_ROWS),
            _ => {}
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Literal(value, _) = expr {
                    let bytes = value.size();
                    constant_bytes += if bytes > SMALL_CONSTANT_BYTES { bytes } else { 0 };
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    let fitting = usize::try_from(MAX_BATCH_BYTES).unwrap_or(usize::MAX) / constant_bytes.max(1);
    Ok(rows.min(fitting).max(1))
}

/// A function with a count before it; all else is the function's own.
#[derive(Debug)]
struct Guarded {
    inner: Arc<ScalarUDF>,
    cost: Cost,
    /// The steps that it may take at worst, when it is a search.
    search: Option<Rule>,
    work: Arc<Work>,
}

// What it is allowed to make does not change what it makes of the same arguments.
impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Guarded {}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl Guarded {
    /// A function that looks for something: hardly ever as long as it may.
    fn run_search(&self, rule: Rule, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let sizes = sizes(rule, &args.args, args.number_rows)?;
        if sizes.iter().any(|size| *size > MAX_SEARCH_STEPS) {
            return Err(TooLarge::Work.into());
        }
        if is_constant(&args.args) || sizes.iter().sum::<u128>() <= PART_STEPS {
            return self.run(args);
        }
        self.run_in_parts(args, &sizes, PART_STEPS, |part| self.run(part))
    }

    fn run(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self.cost {
            Cost::Bytes(rule) => self.run_by_bytes(rule, args),
            Cost::Steps(rule) => self.run_by_steps(rule, args),
            Cost::Bytewise => self.run_bytewise(args),
        }
    }

    /// A function that makes more bytes than it is given.
    fn run_by_bytes(&self, rule: Rule, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let sizes = sizes(rule, &args.args, args.number_rows)?;
        if sizes.iter().any(|size| *size > MAX_VALUE_BYTES) {
            return Err(TooLarge::Value.into());
        }
        let total: u128 = sizes.iter().sum();
        if is_constant(&args.args) {
            self.work.charge_constant(total)?;
        } else if total > MAX_BATCH_BYTES {
            return self.run_in_parts(args, &sizes, MAX_BATCH_BYTES, |part| self.compute(part));
        }
        self.compute(args)
    }

    /// A function that does more than it is given.
    fn run_by_steps(&self, rule: Rule, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let sizes = sizes(rule, &args.args, args.number_rows)?;
        if sizes.iter().any(|size| *size > MAX_VALUE_STEPS) {
            return Err(TooLarge::Work.into());
        }
        let total: u128 = sizes.iter().sum();
        self.work.charge_steps(total)?;
        if is_constant(&args.args) || total <= PART_STEPS {
            return self.compute(args);
        }
        self.run_in_parts(args, &sizes, PART_STEPS, |part| self.compute(part))
    }

    /// A function that goes once over what it is given.
    fn run_bytewise(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of_arg = |arg: &ColumnarValue| match arg {
            ColumnarValue::Array(array) => logical_bytes(array) as u128,
            ColumnarValue::Scalar(value) => value.size() as u128 * args.number_rows as u128,
        };
        if is_constant(&args.args) || args.args.iter().map(of_arg).sum::<u128>() <= PART_BYTES {
            return self.compute(args);
        }
        let sizes = sizes(all_bytes, &args.args, args.number_rows)?;
        self.run_in_parts(args, &sizes, PART_BYTES, |part| self.compute(part))
    }

    /// The function itself.
    fn compute(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        repeated::run(self.name(), args, &self.work).unwrap_or_else(|| self.inner.invoke_with_args(args.clone()))
    }

    /// Runs the function on as many rows at a time as are sure to fit, and adds up what it really makes: the bounds
    /// are far off for some functions, and must not refuse what fits.
    fn run_in_parts(
        &self,
        args: &ScalarFunctionArgs,
        sizes: &[u128],
        most: u128,
        run: impl Fn(&ScalarFunctionArgs) -> Result<ColumnarValue>,
    ) -> Result<ColumnarValue> {
        let mut parts: Vec<ArrayRef> = Vec::new();
        let (mut made, mut start) = (Made::beside(&args.args), 0);
        while start < sizes.len() {
            self.work.goes_on()?;
            let end = start + rows_that_fit(&sizes[start..], most);
            let part = run(&slice(args, start, end - start))?.into_array(end - start)?;
            let allowed = match self.cost {
                Cost::Bytes(_) => MAX_BATCH_BYTES,
                // As much as it is given is no growth.
                Cost::Steps(_) | Cost::Bytewise => MAX_BATCH_BYTES.max(made.given),
            };
            if made.add(&part) > allowed {
                return Err(TooLarge::Batch.into());
            }
            parts.push(part);
            start = end;
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }
}

/// Bytes that were made: views of what was there already are none.
struct Made {
    known: HashSet<usize>,
    /// Bytes that were there.
    given: u128,
    bytes: u128,
}

impl Made {
    fn beside(args: &[ColumnarValue]) -> Self {
        let mut made = Self { known: HashSet::new(), given: 0, bytes: 0 };
        for arg in args {
            if let ColumnarValue::Array(array) = arg {
                made.add(array);
            }
        }
        Self { given: std::mem::take(&mut made.bytes), ..made }
    }

    /// The bytes with these.
    fn add(&mut self, array: &ArrayRef) -> u128 {
        self.bytes += match array.data_type() {
            DataType::Utf8View | DataType::BinaryView => {
                let data = array.to_data();
                let new = data.buffers().iter().filter(|buffer| self.known.insert(buffer.as_ptr() as usize));
                new.map(|buffer| buffer.len() as u128).sum()
            }
            _ => u128::from(total(array)),
        };
        self.bytes
    }
}

fn is_constant(args: &[ColumnarValue]) -> bool {
    args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
}

/// The number of rows from the first that are sure to come to no more than `most`: at least one, which its own limit
/// has let through.
fn rows_that_fit(sizes: &[u128], most: u128) -> usize {
    let mut sum = 0;
    let fitting = sizes.iter().take_while(|size| {
        sum += **size;
        sum <= most
    });
    fitting.count().max(1)
}

/// The rows of the arguments from `start`.
fn slice(args: &ScalarFunctionArgs, start: usize, rows: usize) -> ScalarFunctionArgs {
    let cut = |arg: &ColumnarValue| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, rows)),
        ColumnarValue::Scalar(_) => arg.clone(),
    };
    ScalarFunctionArgs { args: args.args.iter().map(cut).collect(), number_rows: rows, ..args.clone() }
}

impl ScalarUDFImpl for Guarded {
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.work.goes_on()?;
        match self.search {
            Some(rule) => self.run_search(rule, &args),
            None => self.run(&args),
        }
    }

    // The function's own simplification would put the unguarded function in its place.

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// `a || b` as a function, so that it can be guarded like the others. As the operator it is NULL when either side is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ConcatOperator {
    signature: Signature,
}

impl ConcatOperator {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn coercer(types: &[DataType]) -> Result<(DataType, DataType)> {
        let [left, right] = types else {
            return plan_err!("|| takes two values");
        };
        BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_input_types()
    }
}

impl ScalarUDFImpl for ConcatOperator {
    fn name(&self) -> &str {
        CONCAT_OPERATOR
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (left, right) = Self::coercer(types)?;
        Ok(vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Self::coercer(types).map(|(left, _)| left)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = arrays.as_slice() else {
            return plan_err!("|| takes two values");
        };
        let both = concat_elements_dyn(left, right)?;
        if is_constant {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&both, 0)?))
        } else {
            Ok(ColumnarValue::Array(both))
        }
    }
}
