//! Puts the values of a request in the place of the placeholders.
//!
//! Invariant: values become literals of the parsed statement, never text, so that no value can change what the
//! statement says; afterwards there is no placeholder left. A value counts each time it is used, for each use is a copy.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Select, SelectItem, Statement, UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut,
    visit_expressions,
};
use kalamdb_protocol::{ErrorCode, Params};
use serde_json::Value as Json;

use crate::{Error, Result};

/// Bytes of all values in a statement, each as often as it is used: twice what a body may hold, so that every value can
/// stand in one place and some in two. The planner makes a handful of copies of each.
const MAX_BOUND_BYTES: usize = 64 << 20;
/// A longer value is not part of a column's name…
const LONG_BYTES: usize = 256;
/// …which is what the statement says instead, up to this many characters.
const MAX_NAME_CHARS: usize = 64;

/// Binds the placeholders of `statement`.
pub(super) fn bind(statement: &mut Statement, params: Option<&Params>) -> Result<()> {
    let none = Params::default();
    let mut binder = Binder { params: params.unwrap_or(&none), used: BTreeSet::new(), bytes: 0 };
    match statement.visit(&mut binder) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => binder.check_all_used(),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidValue, message)
}

struct Binder<'a> {
    params: &'a Params,
    /// The positions (from 1) or the names that the statement has used.
    used: BTreeSet<Used>,
    /// Bytes of the literals so far.
    bytes: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Used {
    Position(usize),
    Name(String),
}

impl Binder<'_> {
    /// The value of a placeholder, as it stands in the statement.
    fn value(&mut self, placeholder: &str) -> Result<&Json> {
        let Some(name) = placeholder.strip_prefix('$').filter(|name| !name.is_empty()) else {
            return Err(invalid(format!("{placeholder} is no parameter here; write $1, $2, … or $name.")));
        };
        if name.bytes().all(|byte| byte.is_ascii_digit()) { self.positional(name) } else { self.named(name) }
    }

    /// The value of a placeholder as a literal, counted.
    fn literal(&mut self, placeholder: &str) -> Result<Value> {
        let value = literal(self.value(placeholder)?);
        self.bytes += match &value {
            Value::SingleQuotedString(text) => text.len(),
            _ => 0,
        };
        if self.bytes > MAX_BOUND_BYTES {
            return Err(Error::new(
                ErrorCode::QueryTooLarge,
                format!(
                    "The params of this statement are more than {} MiB, each counted as often as it is used; use a long \
                     value once.",
                    MAX_BOUND_BYTES >> 20
                ),
            ));
        }
        Ok(value)
    }

    fn has_long_value(&mut self, expr: &Expr) -> bool {
        visit_expressions(expr, |expr| match expr {
            Expr::Value(ValueWithSpan { value: Value::Placeholder(placeholder), .. }) => {
                match self.value(placeholder) {
                    Ok(Json::String(text)) if text.len() > LONG_BYTES => ControlFlow::Break(()),
                    Ok(value @ (Json::Array(_) | Json::Object(_))) if value.to_string().len() > LONG_BYTES => {
                        ControlFlow::Break(())
                    }
                    _ => ControlFlow::Continue(()),
                }
            }
            _ => ControlFlow::Continue(()),
        })
        .is_break()
    }

    fn positional(&mut self, digits: &str) -> Result<&Json> {
        let Params::Positional(values) = self.params else {
            let message = format!("${digits} is the parameter of a number: give params as an array, or use names.");
            return Err(invalid(message));
        };
        let position: usize = digits.parse().unwrap_or(usize::MAX);
        let Some(index) = position.checked_sub(1) else {
            return Err(invalid("$0 is no parameter; they count from $1."));
        };
        let value = values.get(index).ok_or_else(|| {
            invalid(format!("The parameter ${digits} is missing: params has {} values.", values.len()))
        })?;
        self.used.insert(Used::Position(position));
        Ok(value)
    }

    fn named(&mut self, name: &str) -> Result<&Json> {
        let value = match self.params {
            Params::Named(values) => values.get(name),
            // An empty array, as `"params": []` sends it, means none.
            Params::Positional(values) if values.is_empty() => None,
            Params::Positional(_) => {
                return Err(invalid(format!("${name} is the parameter of a name: give params as an object.")));
            }
        };
        self.used.insert(Used::Name(name.to_owned()));
        value.ok_or_else(|| invalid(format!("The parameter ${name} is missing in params.")))
    }

    /// A value that nothing refers to is most likely a misspelling.
    fn check_all_used(&self) -> Result<()> {
        match self.params {
            Params::Positional(values) => {
                let highest = self.used.last().map_or(0, |used| match used {
                    Used::Position(position) => *position,
                    Used::Name(_) => 0,
                });
                if values.len() > highest {
                    let message = format!("${} has a value in params, but the statement does not use it.", highest + 1);
                    return Err(invalid(message));
                }
            }
            Params::Named(values) => {
                if let Some(name) = values.keys().find(|name| !self.used.contains(&Used::Name((*name).clone()))) {
                    return Err(invalid(format!("${name} has a value in params, but the statement does not use it.")));
                }
            }
        }
        Ok(())
    }
}

impl VisitorMut for Binder<'_> {
    type Break = Box<Error>;

    /// A column without a name is called what it is computed of, which would have the values in it: each pass of the
    /// planner would copy them.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && self.has_long_value(expr)
            {
                let name: String = expr.to_string().chars().take(MAX_NAME_CHARS).collect();
                let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
                *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Value(ValueWithSpan { value: Value::Placeholder(placeholder), .. }) = expr {
            match self.value(placeholder) {
                Ok(Json::Number(number)) if number.to_string().starts_with('-') => *expr = negative(number),
                Ok(_) => {}
                Err(error) => return ControlFlow::Break(Box::new(error)),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<Self::Break> {
        if let Value::Placeholder(placeholder) = &value.value {
            match self.literal(placeholder) {
                Ok(bound) => value.value = bound,
                Err(error) => return ControlFlow::Break(Box::new(error)),
            }
        }
        ControlFlow::Continue(())
    }
}

fn literal(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => Value::Number(number.to_string(), false),
        Json::String(text) => Value::SingleQuotedString(text.clone()),
        // An array or object is what `metadata` holds: JSON text.
        Json::Array(_) | Json::Object(_) => Value::SingleQuotedString(value.to_string()),
    }
}

/// A number below zero, in parentheses: `x - $1` must not become `x --1`, and `-$1` is twice negative.
fn negative(number: &serde_json::Number) -> Expr {
    let digits = number.to_string().trim_start_matches('-').to_owned();
    let number = Expr::Value(Value::Number(digits, false).into());
    Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number) }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sql::{syntax, tokens};

    fn bound(sql: &str, params: Json) -> Result<String> {
        let params: Option<Params> = serde_json::from_value(params).unwrap();
        let mut statement = tokens::read(sql).and_then(syntax::parse).unwrap();
        bind(&mut statement, params.as_ref()).map(|()| statement.to_string())
    }

    #[track_caller]
    fn refused(sql: &str, params: Json, word: &str) {
        let error = bound(sql, params).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidValue);
        assert!(error.message.contains(word), "{error}");
    }

    #[test]
    fn values_become_literals() {
        let sql = "SELECT $1, $2, $3, $4, $5, $6, $7, $2 LIMIT $8";
        let params = json!(["it's", 7, 2.5, true, null, {"a": [1, "x"]}, [1], 10]);
        let expected = r#"SELECT 'it''s', 7, 2.5, true, NULL, '{"a":[1,"x"]}', '[1]', 7 LIMIT 10"#;
        assert_eq!(bound(sql, params).unwrap(), expected);
        let named = json!({"who": "a$1", "n": 3});
        assert_eq!(bound("SELECT $n WHERE x = $who", named).unwrap(), "SELECT 3 WHERE x = 'a$1'");
    }

    #[test]
    fn a_negative_number_nests() {
        assert_eq!(bound("SELECT x - $1", json!([-5])).unwrap(), "SELECT x - (-5)");
        assert_eq!(bound("SELECT -$1", json!([-5.5])).unwrap(), "SELECT -(-5.5)");
        let lowest = format!("SELECT ({})", i64::MIN);
        assert_eq!(bound("SELECT $1", json!([i64::MIN])).unwrap(), lowest);
        assert_eq!(bound("SELECT $1", json!([u64::MAX])).unwrap(), format!("SELECT {}", u64::MAX));
    }

    #[test]
    fn a_value_counts_each_time_it_is_used() {
        let text = "x".repeat(1 << 20);
        let uses = |count: usize| format!("SELECT 1 WHERE 'a' IN ({})", vec!["$1"; count].join(", "));
        assert!(bound(&uses(64), json!([text])).is_ok());
        let error = bound(&uses(65), json!([text])).unwrap_err();
        assert_eq!(error.code, ErrorCode::QueryTooLarge);
    }

    #[test]
    fn a_long_value_is_no_name() {
        let long = "x".repeat(300);
        let sql = bound("SELECT length($1), $1, $2", json!([long, 5])).unwrap();
        assert_eq!(sql, format!("SELECT length('{long}') AS \"length($1)\", '{long}' AS \"$1\", 5"));
    }

    #[test]
    fn a_value_cannot_become_sql() {
        let evil = "x' OR '1'='1";
        let sql = bound("SELECT 1 WHERE a = $1", json!([evil])).unwrap();
        assert_eq!(sql, "SELECT 1 WHERE a = 'x'' OR ''1''=''1'");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        refused("SELECT $2", json!([1]), "$2");
        refused("SELECT $1", json!([1, 2]), "$2");
        refused("SELECT 1", json!([1]), "$1");
        refused("SELECT $0", json!([1]), "$0");
        refused("SELECT $1", json!(null), "$1");
        refused("SELECT $who", json!({"whom": 1}), "$who");
        refused("SELECT $who", json!({"who": 1, "other": 1}), "$other");
        refused("SELECT $who", json!(["a"]), "object");
        refused("SELECT $1", json!({"1": "a"}), "array");
        refused("SELECT ?", json!([1]), "$1");
        refused("SELECT :who", json!({"who": 1}), "$name");
        refused("SELECT @who", json!({"who": 1}), "$name");
        refused("SELECT $99999999999999999999", json!([1]), "missing");
    }
}
