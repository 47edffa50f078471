//! `regexp_count`, and `regexp_replace` with flags: they search again after each match.
//!
//! Invariant: answers as DataFusion's functions do, and asks between two matches whether the statement is to go on.
//! `regexp_count(text, 'a*b|a')` reads a text of a million `a` to its end a million times.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray},
        compute::cast,
        datatypes::{DataType, Int64Type},
    },
    common::{Result, ScalarValue, exec_err},
    error::DataFusionError,
    logical_expr::{ColumnarValue, ScalarFunctionArgs},
};
use regex::{Captures, Regex};

use super::{TooLarge, Work, effort::effort, guard::MAX_VALUE_BYTES};

/// Steps between two looks at whether the statement is to go on.
const STEPS_BETWEEN_CHECKS: u64 = 1 << 20;

/// The answer of the function of that name, when it is one of these.
pub(super) fn run(name: &str, args: &ScalarFunctionArgs, work: &Work) -> Option<Result<ColumnarValue>> {
    match (name, args.args.len()) {
        ("regexp_count", 2..=4) => Some(answer(args, |rows, args| count(rows, args, work))),
        ("regexp_replace", 4) => Some(answer(args, |rows, args| replace(rows, args, work))),
        _ => None,
    }
}

/// The answer of `run`: one value when all arguments are constants, else one for each row.
fn answer(
    args: &ScalarFunctionArgs,
    run: impl FnOnce(usize, &[ColumnarValue]) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) {
        let one = run(1, &args.args)?;
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?));
    }
    run(args.number_rows, &args.args).map(ColumnarValue::Array)
}

fn texts(arg: &ColumnarValue, rows: usize) -> Result<StringViewArray> {
    Ok(cast(&arg.to_array(rows)?, &DataType::Utf8View)?.as_string_view().clone())
}

fn count(rows: usize, args: &[ColumnarValue], work: &Work) -> Result<ArrayRef> {
    let (values, patterns) = (texts(&args[0], rows)?, texts(&args[1], rows)?);
    let starts = args.get(2).map(|starts| cast(&starts.to_array(rows)?, &DataType::Int64)).transpose()?;
    let flags = args.get(3).map(|flags| texts(flags, rows)).transpose()?;
    let mut search = Search::new(work);
    let counted = (0..rows).map(|row| {
        let start = match &starts {
            Some(starts) => starts.is_valid(row).then(|| starts.as_primitive::<Int64Type>().value(row)),
            None => Some(1),
        };
        let flags = match &flags {
            Some(flags) => at(flags, row),
            None => Some(""),
        };
        let (Some(value), Some(pattern), Some(start), Some(flags)) =
            (at(&values, row), at(&patterns, row), start, flags)
        else {
            return Ok(None);
        };
        if start < 1 {
            return exec_err!("regexp_count() requires start to be 1 based");
        }
        if flags.contains('g') {
            return exec_err!("regexp_count() does not support the global flag");
        }
        let whole = if flags.is_empty() { pattern.to_owned() } else { format!("(?{flags}){pattern}") };
        let Some(value) = from_character(value, start) else { return Ok(Some(0)) };
        let (regex, mut patience) = search.of(&whole)?;
        let mut found = 0;
        for matched in regex.find_iter(value) {
            patience.wait(value.len() - matched.start())?;
            found += 1;
        }
        Ok(Some(found))
    });
    Ok(Arc::new(counted.collect::<Result<Int64Array>>()?))
}

fn at(texts: &StringViewArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

/// The text from its `start`th character.
fn from_character(text: &str, start: i64) -> Option<&str> {
    let before = usize::try_from(start - 1).ok()?;
    let offset = text.char_indices().map(|(offset, _)| offset).chain([text.len()]).nth(before)?;
    text.get(offset..)
}

fn replace(rows: usize, args: &[ColumnarValue], work: &Work) -> Result<ArrayRef> {
    let [values, patterns, replacements, flags] = args else { return exec_err!("regexp_replace takes four values") };
    let (data_type, flags) = (values.data_type(), texts(flags, rows)?);
    let (values, patterns) = (texts(values, rows)?, texts(patterns, rows)?);
    let replacements = texts(replacements, rows)?;
    let groups = Regex::new(r"\\{1,2}(\d+)").map_err(external)?;
    let mut search = Search::new(work);
    let replaced = (0..rows).map(|row| {
        let (Some(value), Some(pattern), Some(replacement), Some(flags)) =
            (at(&values, row), at(&patterns, row), at(&replacements, row), at(&flags, row))
        else {
            return Ok(None);
        };
        let whole = if flags == "g" { pattern.to_owned() } else { format!("(?{}){pattern}", flags.replace('g', "")) };
        let (regex, mut patience) = search.of(&whole)?;
        // `\1` is what Rust writes as `${1}`.
        let replacement = groups.replace_all(replacement, "$${$1}");
        let limit = if flags.contains('g') { usize::MAX } else { 1 };
        replaced(value, regex, &replacement, limit, &mut patience).map(Some)
    });
    let replaced: StringViewArray = replaced.collect::<Result<_>>()?;
    Ok(cast(&replaced, &data_type)?)
}

fn replaced(text: &str, regex: &Regex, by: &str, limit: usize, patience: &mut Patience<'_, '_>) -> Result<String> {
    let (mut made, mut last) = (String::new(), 0);
    let mut pass = |start: usize, end: usize, write: &dyn Fn(&mut String)| {
        patience.wait(text.len() - start)?;
        made.push_str(&text[last..start]);
        write(&mut made);
        last = end;
        if made.len() as u128 > MAX_VALUE_BYTES { Err(TooLarge::Value.into()) } else { Ok::<(), DataFusionError>(()) }
    };
    if by.contains('$') {
        let whole = |captures: &Captures<'_>| captures.get(0).map_or(0..0, |whole| whole.range());
        for captures in regex.captures_iter(text).take(limit) {
            let range = whole(&captures);
            pass(range.start, range.end, &|made| captures.expand(by, made))?;
        }
    } else {
        for found in regex.find_iter(text).take(limit) {
            pass(found.start(), found.end(), &|made| made.push_str(by))?;
        }
    }
    made.push_str(&text[last..]);
    Ok(made)
}

/// The expressions of a batch, each compiled once.
struct Search<'a> {
    compiled: HashMap<String, (Regex, u64)>,
    work: &'a Work,
    left: u64,
}

impl<'a> Search<'a> {
    fn new(work: &'a Work) -> Self {
        Self { compiled: HashMap::new(), work, left: STEPS_BETWEEN_CHECKS }
    }

    /// The expression of the pattern, and what counts its steps.
    fn of(&mut self, pattern: &str) -> Result<(&Regex, Patience<'_, 'a>)> {
        let Self { compiled, work, left } = self;
        if !compiled.contains_key(pattern) {
            work.goes_on()?;
            let regex = Regex::new(pattern).map_err(external)?;
            compiled.insert(pattern.to_owned(), (regex, effort(pattern)));
        }
        let Some((regex, effort)) = compiled.get(pattern) else { return exec_err!("the pattern is not compiled") };
        Ok((regex, Patience { work, left, effort: *effort }))
    }
}

/// A count of steps that asks now and then whether the statement is to go on.
struct Patience<'a, 'w> {
    work: &'w Work,
    left: &'a mut u64,
    effort: u64,
}

impl Patience<'_, '_> {
    /// Counts so many bytes, which may have been looked into.
    fn wait(&mut self, bytes: usize) -> Result<()> {
        let steps = self.effort.saturating_mul(bytes as u64).saturating_add(1);
        if let Some(left) = self.left.checked_sub(steps) {
            *self.left = left;
        } else {
            *self.left = STEPS_BETWEEN_CHECKS;
            self.work.goes_on()?;
        }
        Ok(())
    }
}

fn external(error: regex::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
