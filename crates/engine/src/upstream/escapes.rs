//! `LIKE 'a!%' ESCAPE '!'`, of which DataFusion takes the backslash only.
//!
//! Invariant: a constant pattern is written with backslashes, and matches the same texts.

use datafusion::{
    common::{
        Result, ScalarValue,
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    error::DataFusionError,
    logical_expr::{Expr, Like, LogicalPlan},
    optimizer::utils::NamePreserver,
};
use kalamdb_protocol::ErrorCode;

use crate::Error;

const BACKSLASH: char = '\\';

/// Writes such patterns anew.
pub(super) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let written = expr.transform_up(|expr| match expr {
                Expr::Like(like) => with_backslashes(like),
                other => Ok(Transformed::no(other)),
            })?;
            Ok(written.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

fn with_backslashes(like: Like) -> Result<Transformed<Expr>> {
    let (Some(escape), Expr::Literal(value, None)) = (like.escape_char, like.pattern.as_ref()) else {
        return Ok(Transformed::no(Expr::Like(like)));
    };
    let Some(Some(pattern)) = value.try_as_str().filter(|_| escape != BACKSLASH) else {
        return Ok(Transformed::no(Expr::Like(like)));
    };
    let pattern = Expr::Literal(ScalarValue::Utf8(Some(rewritten(pattern, escape)?)), None);
    Ok(Transformed::yes(Expr::Like(Like { pattern: Box::new(pattern), escape_char: None, ..like })))
}

fn rewritten(pattern: &str, escape: char) -> Result<String> {
    let mut written = String::with_capacity(pattern.len() * 2);
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        let literal = if letter == escape { Some(letters.next().ok_or_else(unfinished)?) } else { None };
        if matches!(literal, Some('%' | '_')) || literal.unwrap_or(letter) == BACKSLASH {
            written.push(BACKSLASH);
        }
        written.push(literal.unwrap_or(letter));
    }
    Ok(written)
}

fn unfinished() -> DataFusionError {
    let message = "A pattern of LIKE ends with its own ESCAPE character, which stands before another one.";
    DataFusionError::External(Box::new(Error::new(ErrorCode::InvalidValue, message)))
}
