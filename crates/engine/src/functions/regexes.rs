//! Constant regular expressions are looked at before anything runs.
//!
//! Invariant: a statement that is run holds no constant pattern that does not compile; the error names the pattern,
//! which is the statement's own text. (A pattern that comes from a row is never named.)

use std::collections::HashSet;

use datafusion::{
    common::{
        DFSchema, DataFusionError, Result, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::context::ExecutionProps,
    logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator},
    optimizer::simplify_expressions::ExprSimplifier,
};
use kalamdb_protocol::ErrorCode;
use regex::RegexBuilder;

use super::{
    Work,
    decimals::bound_expr,
    times::{is_constant, simplifier},
};
use crate::Error;

/// Bytes that one compiled pattern may take: as much as the functions that use it take.
pub(super) const MAX_COMPILED_BYTES: usize = 10 << 20;
/// Different patterns of one statement, since each takes some milliseconds of planning, which nothing stops.
const MAX_PATTERNS: usize = 64;
/// So much of a pattern is repeated in an error.
const SHOWN_CHARS: usize = 40;

/// Refuses a plan with a constant pattern that is none, or that is too large.
pub(super) fn check(plan: &LogicalPlan, props: &ExecutionProps, work: &Work) -> Result<()> {
    let mut patterns = Patterns { simplifier: simplifier(props), work, seen: HashSet::new() };
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Some((pattern, flags)) = pattern_of(expr) {
                    patterns.check(pattern, flags)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

/// The pattern of a call or operator, and its flags.
fn pattern_of(expr: &Expr) -> Option<(&Expr, Option<&Expr>)> {
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch,
            right,
            ..
        }) => Some((right, None)),
        Expr::SimilarTo(like) => Some((&like.pattern, None)),
        Expr::ScalarFunction(call) => {
            let flags = match call.name() {
                "regexp_like" | "regexp_match" => 2,
                "regexp_count" | "regexp_replace" => 3,
                "regexp_instr" => 4,
                _ => return None,
            };
            Some((call.args.get(1)?, call.args.get(flags)))
        }
        _ => None,
    }
}

struct Patterns<'a> {
    simplifier: ExprSimplifier,
    work: &'a Work,
    seen: HashSet<String>,
}

impl Patterns<'_> {
    fn check(&mut self, pattern: &Expr, flags: Option<&Expr>) -> Result<()> {
        let Some(pattern) = self.text(pattern)? else { return Ok(()) };
        // `g` says how often to match, not how.
        let flags = match flags {
            Some(flags) => self.text(flags)?.unwrap_or_default().replace('g', ""),
            None => String::new(),
        };
        let whole = if flags.is_empty() { pattern.clone() } else { format!("(?{flags}){pattern}") };
        if self.seen.contains(&whole) {
            return Ok(());
        }
        if self.seen.len() >= MAX_PATTERNS {
            return Err(refused(format!("A statement may have {MAX_PATTERNS} different patterns; split it.")));
        }
        // Each takes some milliseconds, or some ten when it is as large as it may be.
        self.work.goes_on()?;
        match RegexBuilder::new(&whole).size_limit(MAX_COMPILED_BYTES).build() {
            Ok(_) => {
                self.seen.insert(whole);
                Ok(())
            }
            Err(regex::Error::CompiledTooBig(_)) => Err(refused(format!(
                "The regular expression '{}' is too large once its repetitions are written out; repeat less.",
                shown(&pattern)
            ))),
            Err(_) => Err(refused(format!(
                "The pattern '{}' is no regular expression; write \\ before a character that stands for itself, and \
                 note that there is no look-around.",
                shown(&pattern)
            ))),
        }
    }

    /// The text of a constant.
    fn text(&self, expr: &Expr) -> Result<Option<String>> {
        if !is_constant(expr)? {
            return Ok(None);
        }
        let constant = self.simplifier.coerce(expr.clone(), &DFSchema::empty())?;
        let constant = bound_expr(constant, &DFSchema::empty())?.data;
        Ok(match self.simplifier.simplify(constant)? {
            Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text), _) => {
                text
            }
            _ => None,
        })
    }
}

fn shown(pattern: &str) -> String {
    let mut shown: String = pattern.chars().take(SHOWN_CHARS).collect();
    if shown.len() < pattern.len() {
        shown.push('…');
    }
    shown
}

fn refused(message: String) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(ErrorCode::InvalidValue, message)))
}
