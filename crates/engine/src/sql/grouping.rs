//! The number of grouping sets that a GROUP BY comes to.
//!
//! Invariant: what passes here is no more than the planner writes out at once: it makes every set of CUBE, ROLLUP and
//! GROUPING SETS before anything can stop it, 2^n of n expressions, each with a copy of what is grouped by.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, GroupByWithModifier, Value, visit_expressions};

use super::{forms::unsupported, limits::too_large};
use crate::Result;

/// Sets of one GROUP BY: CUBE of twelve expressions, and each is aggregated by itself.
const MAX_SETS: u128 = 4_096;
/// Expressions of CUBE: 1,024 sets.
const MAX_CUBE: usize = 10;
/// Expressions of all sets together: ROLLUP of 255.
const MAX_EXPRESSIONS: u128 = 65_536;
/// Bytes of text in all sets together: a constant is copied into each.
const MAX_TEXT_BYTES: u128 = 16 << 20;

/// Refuses a GROUP BY that the planner would multiply beyond bounds.
pub(super) fn check(group_by: &GroupByExpr) -> Result<()> {
    let (expressions, modifiers) = match group_by {
        GroupByExpr::All(modifiers) => (&[][..], modifiers),
        GroupByExpr::Expressions(expressions, modifiers) => (expressions.as_slice(), modifiers),
    };
    let mut size = Size { sets: 1, expressions: 0, largest_cube: 0, nested: false };
    for expr in expressions {
        size.multiply(expr);
    }
    for modifier in modifiers {
        match modifier {
            GroupByWithModifier::Cube => size.cube(expressions.len()),
            GroupByWithModifier::Rollup => size.sets = size.sets.saturating_mul(expressions.len() as u128 + 1),
            GroupByWithModifier::GroupingSets(expr) => size.multiply(expr),
            GroupByWithModifier::Totals => {}
        }
    }
    if size.nested {
        return Err(unsupported(
            "Within GROUPING SETS stand lists of columns only; write the sets of CUBE or ROLLUP out: ROLLUP (a, b) is (a, b), \
             (a), ().",
        ));
    }
    if size.sets == 1 {
        return Ok(());
    }
    let too_wide = size.largest_cube > MAX_CUBE
        || size.sets > MAX_SETS
        || size.sets.saturating_mul(size.expressions) > MAX_EXPRESSIONS
        || size.sets.saturating_mul(text_bytes(group_by)) > MAX_TEXT_BYTES;
    if too_wide {
        return Err(too_large(&format!(
            "groups in too many ways; CUBE takes at most {MAX_CUBE} expressions, and all grouping sets together are at \
             most {MAX_SETS}"
        )));
    }
    Ok(())
}

struct Size {
    sets: u128,
    expressions: u128,
    largest_cube: usize,
    /// Whether sets stand within sets, which the parser takes for a function of that name.
    nested: bool,
}

impl Size {
    /// Counts an expression that is grouped by besides: each of its ways goes with each of the ways so far.
    fn multiply(&mut self, expr: &Expr) {
        match expr {
            Expr::Cube(parts) => {
                self.count(parts);
                self.cube(parts.len());
            }
            Expr::Rollup(parts) => {
                self.count(parts);
                self.sets = self.sets.saturating_mul(parts.len() as u128 + 1);
            }
            Expr::GroupingSets(sets) => {
                let mut all = 0_u128;
                for set in sets {
                    self.nested |= set.iter().any(is_of_sets);
                    let mut one = Self { sets: 1, ..*self };
                    for expr in set {
                        one.multiply(expr);
                    }
                    all = all.saturating_add(one.sets);
                    (self.expressions, self.largest_cube, self.nested) =
                        (one.expressions, one.largest_cube, one.nested);
                }
                self.sets = self.sets.saturating_mul(all.max(1));
            }
            Expr::Nested(inner) => self.multiply(inner),
            _ => self.expressions += 1,
        }
    }

    fn count(&mut self, parts: &[Vec<Expr>]) {
        self.expressions += parts.iter().map(|part| part.len() as u128).sum::<u128>();
    }

    fn cube(&mut self, expressions: usize) {
        self.largest_cube = self.largest_cube.max(expressions);
        let sets = u32::try_from(expressions).ok().and_then(|power| 2_u128.checked_pow(power)).unwrap_or(u128::MAX);
        self.sets = self.sets.saturating_mul(sets);
    }
}

fn is_of_sets(expr: &Expr) -> bool {
    let names_sets = |name: &str| ["cube", "rollup", "grouping sets"].iter().any(|one| name.eq_ignore_ascii_case(one));
    match expr {
        Expr::Cube(_) | Expr::Rollup(_) | Expr::GroupingSets(_) => true,
        Expr::Function(function) => names_sets(&function.name.to_string()),
        Expr::Nested(inner) => is_of_sets(inner),
        _ => false,
    }
}

fn text_bytes(group_by: &GroupByExpr) -> u128 {
    let mut bytes = 0;
    let walked: ControlFlow<()> = visit_expressions(group_by, |expr| {
        if let Expr::Value(value) = expr
            && let Value::SingleQuotedString(text) = &value.value
        {
            bytes += text.len() as u128;
        }
        ControlFlow::Continue(())
    });
    debug_assert!(walked.is_continue());
    bytes
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{SetExpr, Statement};
    use kalamdb_protocol::ErrorCode;

    use super::*;
    use crate::sql::{syntax, tokens};

    fn checked(group_by: &str) -> Result<()> {
        let sql = format!("SELECT count(*) FROM t GROUP BY {group_by}");
        let Statement::Query(query) = tokens::read(&sql).and_then(syntax::parse).unwrap() else { panic!("a query") };
        let SetExpr::Select(select) = *query.body else { panic!("a SELECT") };
        check(&select.group_by)
    }

    fn list(count: usize) -> String {
        (0..count).map(|number| format!("a + {number}")).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn grouping_sets_are_counted() {
        let wide = format!("{}, 'x'", list(300));
        for fine in
            ["a", "ALL", "CUBE (a, b)", "ROLLUP (a, (b, c)), d", "GROUPING SETS ((a, b), (a), ())", wide.as_str()]
        {
            assert!(checked(fine).is_ok(), "{fine}");
        }
        assert!(checked(&format!("CUBE ({})", list(10))).is_ok());
        let sets = vec!["(a)"; 5_000].join(", ");
        for refused in [
            format!("CUBE ({})", list(11)),
            format!("CUBE ({})", list(30)),
            format!("CUBE ({}), CUBE (b, c, d)", list(10)),
            format!("ROLLUP ({})", list(400)),
            format!("GROUPING SETS ({sets})"),
            format!("CUBE ({}, '{}')", list(8), "x".repeat(100_000)),
        ] {
            let error = checked(&refused).unwrap_err();
            assert_eq!(error.code, ErrorCode::QueryTooLarge, "{}", &refused[..60.min(refused.len())]);
        }
        for nested in ["GROUPING SETS (CUBE (a, b), (a))", "GROUPING SETS ((a), ROLLUP (a, b))"] {
            assert_eq!(checked(nested).unwrap_err().code, ErrorCode::Unsupported, "{nested}");
        }
    }
}
