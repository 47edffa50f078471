//! `text ~ 'pattern'`, SIMILAR TO and LIKE as a function of our own, which ends with its statement.
//!
//! A regular expression that repeats can take as long for each byte as it is large, and the operator goes through a
//! whole batch of rows without asking anybody: minutes for `content ~ '(\w{1,40}\s){20}z'`.
//!
//! Invariant: answers as the operator does. What can be left to the operator (a pattern that repeats nothing) is, because
//! the planner knows how to look for it (and a LIKE of one piece of text is the fastest of all); so is one that is no pattern, for the operator to complain about.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder},
        compute::cast,
        datatypes::{DataType, Field, FieldRef},
    },
    common::{
        Result, ScalarValue, internal_err,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, Like, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature, Volatility, expr::ScalarFunction,
    },
    optimizer::utils::NamePreserver,
};
use regex::{Regex, RegexBuilder};

use super::{TooLarge, Work, effort::effort, guard::MAX_SEARCH_STEPS, regexes::MAX_COMPILED_BYTES};

/// A larger one than this is costly where it has many places, and looks into short texts only: `(\w{1,9}(\d|x)){14}q` takes
/// a second for these. One of few places is fast however large it is: `\w+@\w+\.\w+`.
const CHEAP_COMPILED_BYTES: usize = 64 << 10;
/// The longest text that a costly one looks into.
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

/// The function in the place of one operator.
pub(super) fn bound_operator(expr: Expr, work: &Arc<Work>) -> Transformed<Expr> {
    let found = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            Sought::of_operator(*op, right).map(|sought| (left.as_ref().clone(), sought))
        }
        Expr::SimilarTo(like) => Sought::similar(like).map(|sought| (like.expr.as_ref().clone(), sought)),
        Expr::Like(like) => Sought::like(like).map(|sought| (like.expr.as_ref().clone(), sought)),
        _ => None,
    };
    match found.and_then(|(text, sought)| Matches::new(sought, work).map(|matches| (text, matches))) {
        Some((text, matches)) => {
            let func = Arc::new(ScalarUDF::new_from_impl(matches));
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![text] }))
        }
        None => Transformed::no(expr),
    }
}

/// A pattern that an operator looks for, when that may take long. It decides the answers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Sought {
    pattern: String,
    ignores_case: bool,
    /// Whether it must not be there.
    negated: bool,
    /// Whether a dot is a line's end, too.
    over_lines: bool,
}

impl Sought {
    fn of_operator(op: Operator, pattern: &Expr) -> Option<Self> {
        let (ignores_case, negated) = match op {
            Operator::RegexMatch => (false, false),
            Operator::RegexIMatch => (true, false),
            Operator::RegexNotMatch => (false, true),
            Operator::RegexNotIMatch => (true, true),
            _ => return None,
        };
        Self::repeating(pattern, ignores_case, negated)
    }

    /// SIMILAR TO, which DataFusion takes for `~`.
    fn similar(like: &Like) -> Option<Self> {
        like.escape_char.is_none().then(|| Self::repeating(&like.pattern, like.case_insensitive, like.negated))?
    }

    fn repeating(pattern: &Expr, ignores_case: bool, negated: bool) -> Option<Self> {
        let pattern = literal(pattern)?;
        let repeats = pattern.contains(['*', '+', '?', '{']);
        repeats.then(|| Self { pattern: pattern.to_owned(), ignores_case, negated, over_lines: false })
    }

    /// LIKE of several pieces, which is a regular expression.
    fn like(like: &Like) -> Option<Self> {
        let pattern = literal(&like.pattern)?;
        let has_pieces = like.escape_char.is_none() && pattern.trim_matches('%').contains(['%', '_']);
        has_pieces.then(|| Self {
            pattern: of_like(pattern),
            ignores_case: like.case_insensitive,
            negated: like.negated,
            over_lines: true,
        })
    }
}

fn literal(pattern: &Expr) -> Option<&str> {
    match pattern {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text), _) => {
            text.as_deref()
        }
        _ => None,
    }
}

/// The regular expression of a LIKE: `a_%` is `^a.`.
fn of_like(pattern: &str) -> String {
    let mut regex = if pattern.starts_with('%') { String::new() } else { "^".to_owned() };
    let mut chars = pattern.chars().skip(usize::from(pattern.starts_with('%')));
    while let Some(next) = chars.next() {
        match next {
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            // What comes after stands for itself; at the end the backslash does.
            '\\' => regex.push_str(&regex::escape(chars.next().unwrap_or('\\').encode_utf8(&mut [0; 4]))),
            other => regex.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    match regex.strip_suffix(".*") {
        Some(open) => open.to_owned(),
        None => regex + "$",
    }
}

/// Whether a text matches one expression.
#[derive(Debug)]
struct Matches {
    sought: Sought,
    regex: Regex,
    is_costly: bool,
    /// Steps for each byte, at worst.
    effort: u128,
    work: Arc<Work>,
    signature: Signature,
}

impl Matches {
    fn new(sought: Sought, work: &Arc<Work>) -> Option<Self> {
        let compiled = |bytes| {
            let mut builder = RegexBuilder::new(&sought.pattern);
            builder.case_insensitive(sought.ignores_case).dot_matches_new_line(sought.over_lines);
            builder.size_limit(bytes).build()
        };
        let regex = compiled(MAX_COMPILED_BYTES).ok()?;
        let effort = u128::from(effort(&sought.pattern));
        let is_costly = effort > 1 && compiled(CHEAP_COMPILED_BYTES).is_err();
        let texts = vec![DataType::Utf8View, DataType::Utf8, DataType::LargeUtf8];
        let signature = Signature::uniform(1, texts, Volatility::Immutable);
        let work = Arc::clone(work);
        Some(Self { sought, regex, is_costly, effort, work, signature })
    }

    fn judge(&self, texts: &ArrayRef) -> Result<BooleanArray> {
        let texts = cast(texts, &DataType::Utf8View)?;
        let mut judged = BooleanBuilder::with_capacity(texts.len());
        let mut bytes = 0;
        for text in texts.as_string_view() {
            let length = text.map_or(0, str::len);
            bytes += length + 1;
            if bytes > BYTES_BETWEEN_CHECKS {
                self.work.goes_on()?;
                bytes = 0;
            }
            let is_long = self.is_costly && length > MAX_COSTLY_TEXT_BYTES;
            if is_long || length as u128 * self.effort > MAX_SEARCH_STEPS {
                return Err(TooLarge::Work.into());
            }
            judged.append_option(text.map(|text| self.regex.is_match(text) != self.sought.negated));
        }
        Ok(judged.finish())
    }
}

impl PartialEq for Matches {
    fn eq(&self, other: &Self) -> bool {
        self.sought == other.sought
    }
}

impl Eq for Matches {}

impl Hash for Matches {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sought.hash(state);
    }
}

impl ScalarUDFImpl for Matches {
    fn name(&self) -> &'static str {
        if self.sought.negated { "!~" } else { "~" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    /// The operator's field: of no text it is not known.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), DataType::Boolean, nullable)))
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
