//! `text ~ 'pattern'` as a function of our own, which ends with its statement.
//!
//! A regular expression that repeats can take as long for each byte as it is large, and the operator goes through a
//! whole batch of rows without asking anybody: minutes for `content ~ '(\w{1,40}\s){20}z'`.
//!
//! Invariant: answers as the operator does. What can be left to the operator (a pattern that repeats nothing) is, because
//! the planner knows how to look for it; so is one that is no pattern, for the operator to complain about.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder},
        compute::cast,
        datatypes::DataType,
    },
    common::{
        Result, ScalarValue, internal_err,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility, expr::ScalarFunction,
    },
    optimizer::utils::NamePreserver,
};
use regex::{Regex, RegexBuilder};

use super::{TooLarge, Work};

/// Bytes that an expression may become when compiled: as much as one from a row.
const MAX_COMPILED_BYTES: usize = 2 << 20;
/// A larger one than this is costly, and looks into short texts only.
const CHEAP_COMPILED_BYTES: usize = 64 << 10;
/// The longest text that a costly one looks into: longer than any `content`.
const MAX_COSTLY_TEXT_BYTES: usize = 16 << 10;
/// Bytes of text between two looks at whether the statement is to go on.
const BYTES_BETWEEN_CHECKS: usize = 1 << 10;

/// Puts the function in the place of operators that may take long.
pub(super) fn bound(plan: LogicalPlan, work: &Arc<Work>) -> Result<LogicalPlan> {
    let bounded = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let bounded = expr.transform_up(|expr| Ok(bound_operator(expr, work)))?;
            Ok(bounded.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(bounded.data)
}

fn bound_operator(expr: Expr, work: &Arc<Work>) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return Transformed::no(expr) };
    match Matches::new(op, &right, work) {
        Some(matches) => {
            let func = Arc::new(ScalarUDF::new_from_impl(matches));
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*left] }))
        }
        None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
    }
}

/// Whether a text matches one expression.
#[derive(Debug)]
struct Matches {
    regex: Regex,
    ignores_case: bool,
    is_costly: bool,
    /// Whether it must not.
    negated: bool,
    work: Arc<Work>,
    signature: Signature,
}

impl Matches {
    fn new(op: Operator, pattern: &Expr, work: &Arc<Work>) -> Option<Self> {
        let (ignores_case, negated) = match op {
            Operator::RegexMatch => (false, false),
            Operator::RegexIMatch => (true, false),
            Operator::RegexNotMatch => (false, true),
            Operator::RegexNotIMatch => (true, true),
            _ => return None,
        };
        let Expr::Literal(ScalarValue::Utf8(Some(pattern)) | ScalarValue::Utf8View(Some(pattern)), _) = pattern else {
            return None;
        };
        if !pattern.contains(['*', '+', '?', '{']) {
            return None;
        }
        let compiled = |bytes| RegexBuilder::new(pattern).case_insensitive(ignores_case).size_limit(bytes).build();
        let (regex, is_costly) = match compiled(CHEAP_COMPILED_BYTES) {
            Ok(regex) => (regex, false),
            Err(_) => (compiled(MAX_COMPILED_BYTES).ok()?, true),
        };
        let texts = vec![DataType::Utf8View, DataType::Utf8, DataType::LargeUtf8];
        let signature = Signature::uniform(1, texts, Volatility::Immutable);
        Some(Self { regex, ignores_case, is_costly, negated, work: Arc::clone(work), signature })
    }

    /// The values that decide its answers, by which two of them are equal.
    fn identity(&self) -> (&str, bool, bool) {
        (self.regex.as_str(), self.ignores_case, self.negated)
    }

    fn judge(&self, texts: &ArrayRef) -> Result<BooleanArray> {
        let texts = cast(texts, &DataType::Utf8View)?;
        let mut judged = BooleanBuilder::with_capacity(texts.len());
        let mut bytes = 0;
        for text in texts.as_string_view() {
            bytes += text.map_or(0, str::len) + 1;
            if bytes > BYTES_BETWEEN_CHECKS {
                self.work.goes_on()?;
                bytes = 0;
            }
            if self.is_costly && text.is_some_and(|text| text.len() > MAX_COSTLY_TEXT_BYTES) {
                return Err(TooLarge::Work.into());
            }
            judged.append_option(text.map(|text| self.regex.is_match(text) != self.negated));
        }
        Ok(judged.finish())
    }
}

impl PartialEq for Matches {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Matches {}

impl Hash for Matches {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl ScalarUDFImpl for Matches {
    fn name(&self) -> &'static str {
        if self.negated { "!~" } else { "~" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text] = args.args.as_slice() else { return internal_err!("a match of one text") };
        Ok(match text {
            ColumnarValue::Array(texts) => ColumnarValue::Array(Arc::new(self.judge(texts)?)),
            ColumnarValue::Scalar(text) => {
                let judged = self.judge(&text.to_array()?)?;
                ColumnarValue::Scalar(ScalarValue::try_from_array(&judged, 0)?)
            }
        })
    }
}
