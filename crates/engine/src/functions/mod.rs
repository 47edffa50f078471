//! What a statement may compute, and how much: the functions of our own, bounds on those that can grow their input,
//! arithmetic that overflows with an error, and the units of time.
//!
//! Invariant: a plan that went through [`prepare`] holds no function that makes more bytes of its input without
//! counting them first, also where the planner evaluates it; and no expression that the optimizer would multiply
//! beyond bounds.

mod arithmetic;
mod decimals;
mod effort;
mod epoch;
mod frames;
mod growth;
mod guard;
mod late_casts;
mod matching;
mod pattern;
mod regexes;
mod repeated;
mod signed;
mod times;
mod weight;
mod work;

use std::{fmt, sync::Arc};

use datafusion::{
    common::{
        Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::{FunctionRegistry, context::ExecutionProps},
    logical_expr::{Expr, LogicalPlan, Volatility},
};

pub(crate) use self::{
    decimals::ShortNumerals,
    frames::MAX_FRAME_ROWS,
    growth::logical_bytes,
    guard::batch_rows,
    times::{TIME_UNIT_KEY, is_comparison, kinds},
    work::Work,
};

/// Functions that show the machine (its version, its files); that make a value of any size of a type's name
/// (`arrow_cast(NULL, 'FixedSizeBinary(2000000000)')`; CAST does what is needed); and that escape text as JSON, which
/// doubles it each time.
const REMOVED: [&str; 7] = [
    "version",
    "input_file_name",
    "file_row_index",
    "arrow_cast",
    "arrow_try_cast",
    "json_from_scalar",
    "json_union_to_text",
];

/// Adds the functions of our own and JSON access to those of DataFusion, and takes away what nobody should call.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    datafusion_functions_json::register_all(registry)?;
    for function in epoch::functions() {
        registry.register_udf(Arc::new(function))?;
    }
    for name in REMOVED {
        registry.deregister_udf(name)?;
    }
    signed::register(registry)
}

/// Makes a plan, as it comes from the statement, safe to optimize and run: bounds what its expressions may grow to, has
/// whole numbers overflow with an error, reads times by their size, and refuses what the optimizer would multiply and
/// patterns that are no regular expressions.
///
/// To be called once for each plan: a time that has been read is microseconds, and reading it again would scale it
/// again. What the plan's functions do is taken from `work`.
pub(crate) fn prepare(plan: LogicalPlan, props: &ExecutionProps, work: &Arc<Work>) -> Result<LogicalPlan> {
    weight::check(&plan)?;
    frames::check(&plan)?;
    let plan = late_casts::defer(decimals::bound(plan)?)?;
    let plan = arithmetic::check(guard::guard(plan, work)?)?;
    regexes::check(&plan, props, work)?;
    times::normalise(matching::bound(plan, work)?, props)
}

/// Sees to it that an optimized plan can be stopped wherever a function of it works; the last that is done to it, because
/// the optimizer does not know the functions behind the guards.
pub(crate) fn watch(plan: LogicalPlan, work: &Arc<Work>) -> Result<LogicalPlan> {
    guard::watch(plan, work)
}

/// Whether a plan calls anything that answers differently another time (now, random, `unix_timestamp()`, …), so that
/// its answer must not be kept. To be asked before the plan is optimized: by then `now()` is a literal like any other.
pub(crate) fn is_volatile_read(plan: &LogicalPlan) -> Result<bool> {
    let mut volatile = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                volatile |= is_volatile_call(expr);
                Ok(if volatile { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    Ok(volatile)
}

fn is_volatile_call(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => {
            // With an argument it converts that argument, the same each time.
            let converts = call.name() == epoch::UNIX_TIMESTAMP && !call.args.is_empty();
            !converts && call.func.signature().volatility != Volatility::Immutable
        }
        Expr::AggregateFunction(call) => call.func.signature().volatility != Volatility::Immutable,
        Expr::WindowFunction(call) => call.fun.signature().volatility != Volatility::Immutable,
        Expr::Literal(_, metadata) => times::varies(metadata.as_ref()),
        Expr::ScalarVariable(..) => true,
        _ => false,
    }
}

/// Why a statement is refused that would grow beyond its share of memory; found in a `DataFusionError::External`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooLarge {
    /// One value would.
    Value,
    /// The values of one batch of rows would.
    Batch,
    /// The constants of the statement would.
    Constants,
    /// The optimizer would copy its expressions too often.
    Expressions,
    /// The work of its functions, which outgrows the bytes that they see.
    Work,
    /// Regular expressions that come from rows.
    Patterns,
    /// A window function that collects what it sees, over a frame that grows.
    Frame,
}

impl TooLarge {
    /// Whether `error` is this refusal, however deep inside it is.
    pub(crate) fn of(error: &DataFusionError) -> Option<Self> {
        match error {
            DataFusionError::External(inner) => match inner.downcast_ref::<DataFusionError>() {
                Some(inner) => Self::of(inner),
                None => inner.downcast_ref::<Self>().copied(),
            },
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => Self::of(inner),
            DataFusionError::Shared(inner) => Self::of(inner),
            DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
                datafusion::arrow::error::ArrowError::ExternalError(inner) => {
                    inner.downcast_ref::<DataFusionError>().map_or_else(|| inner.downcast_ref().copied(), Self::of)
                }
                _ => None,
            },
            DataFusionError::Collection(inner) => inner.iter().find_map(Self::of),
            _ => None,
        }
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "A function of this statement would make a value of more than 16 MiB; make it smaller.",
            Self::Batch => {
                "A function of this statement would make too much at a time; choose fewer or shorter values."
            }
            Self::Constants => "The constants of this statement would take too much memory; make them smaller.",
            Self::Expressions => {
                "This statement uses results within results too often; split it, or compute them in fewer steps."
            }
            Self::Work => "This statement compares too much text, letter by letter; choose fewer rows or shorter values.",
            Self::Patterns => {
                "The patterns of this statement come from rows, and are too many or too long; write the pattern into the \
                 statement, or choose fewer rows."
            }
            Self::Frame => {
                "array_agg, median and DISTINCT as window functions take frames of at most 1000 rows, such as ROWS \
                 BETWEEN 10 PRECEDING AND CURRENT ROW, and string_agg none (array_to_string(array_agg(…) OVER …, ' ') \
                 does the same); use GROUP BY for more."
            }
        })
    }
}

impl std::error::Error for TooLarge {}

impl From<TooLarge> for DataFusionError {
    fn from(error: TooLarge) -> Self {
        Self::External(Box::new(error))
    }
}

#[cfg(test)]
mod tests;
