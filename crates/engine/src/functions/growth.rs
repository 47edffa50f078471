//! The functions that can make more bytes than they are given, or do more than that, and at most how many.
//!
//! Invariant: each rule is an upper bound, from the lengths and numbers of one row's arguments. Of DataFusion's
//! scalar functions those that are not listed answer with at most a few times the bytes of their arguments, and not
//! more by being nested: they give back a part of a value (substr, `split_part`, trim, `array_slice`, `json_get`), reorder it
//! (reverse, `array_sort`), map characters (upper, lower, initcap), or make a number, a time, a hash or an id.
//! Aggregates that collect (`string_agg`, `array_agg`) report their size to the memory pool after each batch.

use std::{cell::OnceCell, collections::HashMap};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        compute::cast,
        datatypes::{
            DataType, Date32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
            TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
        },
    },
    common::Result,
    logical_expr::ColumnarValue,
};

use super::effort::effort;

/// The most that a function makes, or does, of one row.
pub(super) type Rule = fn(&ArgumentRow) -> u128;

/// The bound of a function: by the bytes of its result, or by its steps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cost {
    /// The bytes that it makes.
    Bytes(Rule),
    /// The steps that it takes to make little.
    Steps(Rule),
    /// The bytes that it is given.
    Bytewise,
}

const NANOS_PER_DAY: i128 = 86_400_000_000_000;
/// Bytes of a list's value besides its own: offsets, validity, and the row that `unnest` makes of it.
const PER_ITEM: u128 = 64;

/// The bound of the function of that name, if it can do more than pass over its input.
pub(super) fn cost(name: &str) -> Option<Cost> {
    let steps: Rule = match name {
        // Each letter with each.
        "levenshtein" => |row| row.bytes(0) * row.bytes(1),
        // Each value with each, of which there is one in eight bytes at most (a text of seven, a number).
        "array_has_all" | "array_has_any" | "arrays_overlap" | "list_has_all" | "list_has_any" => {
            |row| row.bytes(0) * row.bytes(1) / 64
        }
        _ => return rule(name).map(Cost::Bytes),
    };
    Some(Cost::Steps(steps))
}

/// The steps that the function of that name may take at worst, if it looks for one thing in another. They are not counted
/// against the statement's, since hardly any search takes as many.
pub(super) fn search(name: &str) -> Option<Rule> {
    let rule: Rule = match name {
        // At each byte it compares the rest, sixteen bytes at once.
        "strpos" | "instr" | "position" => |row| row.bytes(0) * (row.bytes(1) / 16 + 1),
        // Each character with each of those to be taken away.
        "btrim" | "ltrim" | "rtrim" | "trim" => |row| row.bytes(0) * row.bytes_or(1, 1).max(1),
        // Each search after a match is one more, and can be stopped before.
        "regexp_like" | "regexp_match" | "regexp_replace" | "regexp_count" => |row| row.bytes(0) * row.effort(),
        // The n-th match.
        "regexp_instr" => |row| row.bytes(0) * row.effort() * row.count(3).clamp(1, row.bytes(0).max(1)),
        _ => return None,
    };
    Some(rule)
}

/// The rule of the function of that name, if it can grow its input.
fn rule(name: &str) -> Option<Rule> {
    let rule: Rule = match name {
        "repeat" => |row| row.bytes(0) * row.count(1),
        // A fill may be of four bytes a character, but of no more than it has.
        "lpad" | "rpad" => |row| row.bytes(0) + row.count(1) * row.bytes_or(2, 1).clamp(1, 4),
        "concat" | "overlay" | super::guard::CONCAT_OPERATOR => |row| row.all_bytes(),
        "concat_ws" => |row| row.all_bytes() + row.bytes(0) * row.arguments(),
        // Nothing stands between any two characters, and at both ends.
        "replace" => |row| row.bytes(0) + (row.bytes(0) / row.bytes(1).max(1) + 1) * row.bytes(2),
        // Each match, of which there can be one at each character, becomes the replacement; and each reference in
        // that (of two bytes at least) can be the whole match.
        "regexp_replace" => |row| row.bytes(0) + (row.bytes(0) + 1) * row.bytes(2) + row.bytes(0) * (row.bytes(2) / 2),
        // Each group, of two bytes at least, can be the whole text.
        "regexp_match" => |row| (row.bytes(0) + PER_ITEM) * (row.bytes(1) / 2 + 1),
        "translate" => |row| row.bytes(0) * 4,
        "encode" => |row| row.bytes(0) * 2 + 4,
        // The longest item of a format of two bytes is some thirty characters.
        "to_char" => |row| row.bytes(1) * 20 + 64,
        "string_to_array" => |row| row.bytes(0) + (row.bytes(0) + 1) * PER_ITEM,
        "array_to_string" => |row| row.bytes(0) * (4 + row.bytes(1) + row.bytes_or(2, 0)),
        "range" | "generate_series" => |row| row.steps() * PER_ITEM,
        "array_repeat" => |row| (row.bytes(0) + PER_ITEM) * row.count(1),
        "array_resize" => |row| row.bytes(0) + (row.bytes_or(2, 0) + PER_ITEM) * row.count(1),
        "array_replace" | "array_replace_n" | "array_replace_all" => |row| row.bytes(0) * (1 + row.bytes(2)),
        "arrays_zip" => |row| row.all_bytes() * row.arguments(),
        "make_array" | "array_append" | "array_prepend" | "array_concat" | "array_union" | "map" | "struct"
        | "named_struct" => |row| row.all_bytes() + row.arguments() * PER_ITEM,
        _ => return None,
    };
    Some(rule)
}

/// A row of the arguments of a call.
pub(super) struct ArgumentRow<'a> {
    arguments: &'a [Argument],
    row: usize,
}

impl ArgumentRow<'_> {
    fn arguments(&self) -> u128 {
        self.arguments.len() as u128
    }

    /// The bytes of an argument; none when it is not given.
    fn bytes(&self, argument: usize) -> u128 {
        self.bytes_or(argument, 0)
    }

    fn bytes_or(&self, argument: usize, absent: u128) -> u128 {
        self.arguments.get(argument).map_or(absent, |argument| u128::from(argument.bytes.at(self.row)))
    }

    /// An argument that says how many; none when negative or not given.
    fn count(&self, argument: usize) -> u128 {
        u128::try_from(self.number(argument).unwrap_or(0)).unwrap_or(0)
    }

    /// The steps for each byte that the pattern, the second argument, may cost.
    fn effort(&self) -> u128 {
        u128::from(self.arguments.get(1).map_or(1, |pattern| pattern.effort(self.row)))
    }

    fn number(&self, argument: usize) -> Option<i128> {
        self.arguments.get(argument).map(|argument| argument.number.at(self.row))
    }

    fn all_bytes(&self) -> u128 {
        (0..self.arguments.len()).map(|argument| self.bytes(argument)).sum()
    }

    /// The length of the series from one argument to the next by the third.
    fn steps(&self) -> u128 {
        let (first, last) = match (self.number(0), self.number(1)) {
            (Some(last), None) => (0, last),
            (Some(first), Some(last)) => (first, last),
            _ => return 0,
        };
        let stride = self.number(2).unwrap_or(1).unsigned_abs().max(1);
        first.abs_diff(last) / stride + 1
    }
}

/// The facts about an argument that the rules ask for, row by row.
struct Argument {
    array: ArrayRef,
    bytes: Column<u64>,
    number: Column<i128>,
    /// Steps for each byte, by each pattern; computed when asked for.
    effort: OnceCell<Vec<u64>>,
}

enum Column<T> {
    Same(T),
    Each(Vec<T>),
}

impl<T: Copy + Default> Column<T> {
    fn at(&self, row: usize) -> T {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values.get(row).copied().unwrap_or_default(),
        }
    }
}

/// The rule of a function that goes over all that it is given.
pub(super) fn all_bytes(row: &ArgumentRow<'_>) -> u128 {
    row.all_bytes()
}

/// The most bytes that a call makes of each row; of one row when all its arguments are constants.
pub(super) fn sizes(rule: Rule, args: &[ColumnarValue], rows: usize) -> Result<Vec<u128>> {
    let arguments = args.iter().map(Argument::new).collect::<Result<Vec<_>>>()?;
    let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let rows = if is_constant { 1 } else { rows };
    Ok((0..rows).map(|row| rule(&ArgumentRow { arguments: &arguments, row })).collect())
}

impl Argument {
    fn new(value: &ColumnarValue) -> Result<Self> {
        let array = match value {
            ColumnarValue::Array(array) => array.clone(),
            ColumnarValue::Scalar(scalar) => scalar.to_array_of_size(1)?,
        };
        let mut argument = Self { bytes: bytes(&array), number: numbers(&array)?, array, effort: OnceCell::new() };
        if matches!(value, ColumnarValue::Scalar(_)) {
            argument.bytes = Column::Same(argument.bytes.at(0));
            argument.number = Column::Same(argument.number.at(0));
        }
        Ok(argument)
    }

    /// The steps for each byte by the pattern of a row. Those of a batch are few, or the same for all.
    fn effort(&self, row: usize) -> u64 {
        let effort = self.effort.get_or_init(|| {
            // A pattern that cannot be looked at may be any work.
            let Ok(patterns) = cast(&self.array, &DataType::Utf8View) else { return vec![u64::MAX] };
            let mut known = HashMap::new();
            let each = patterns.as_string_view().iter().map(|pattern| {
                let pattern = pattern.unwrap_or_default();
                *known.entry(pattern).or_insert_with(|| effort(pattern))
            });
            each.collect()
        });
        effort.get(row).or(effort.first()).copied().unwrap_or(1)
    }
}

/// The bytes of each value.
fn bytes(array: &ArrayRef) -> Column<u64> {
    let length = |length: usize| length as u64;
    match array.data_type() {
        DataType::Utf8 => {
            Column::Each(array.as_string::<i32>().iter().map(|text| length(text.map_or(0, str::len))).collect())
        }
        DataType::LargeUtf8 => {
            Column::Each(array.as_string::<i64>().iter().map(|text| length(text.map_or(0, str::len))).collect())
        }
        DataType::Utf8View => Column::Each(array.as_string_view().lengths().map(u64::from).collect()),
        DataType::Binary => {
            Column::Each(array.as_binary::<i32>().iter().map(|text| length(text.map_or(0, <[u8]>::len))).collect())
        }
        DataType::LargeBinary => {
            Column::Each(array.as_binary::<i64>().iter().map(|text| length(text.map_or(0, <[u8]>::len))).collect())
        }
        DataType::BinaryView => Column::Each(array.as_binary_view().lengths().map(u64::from).collect()),
        DataType::List(_) => {
            Column::Each(array.as_list::<i32>().iter().map(|list| list.map_or(0, |list| total(&list))).collect())
        }
        DataType::LargeList(_) => {
            Column::Each(array.as_list::<i64>().iter().map(|list| list.map_or(0, |list| total(&list))).collect())
        }
        fixed if fixed.primitive_width().is_some() => Column::Same(length(fixed.primitive_width().unwrap_or_default())),
        // Structs, maps and what else there is: rare, and rather measured too high than too low.
        _ => Column::Each((0..array.len()).map(|row| length(array.slice(row, 1).get_array_memory_size())).collect()),
    }
}

/// The bytes of all values, each counted where it stands: of views those of what they show.
pub(crate) fn logical_bytes(array: &ArrayRef) -> usize {
    let views = size_of::<u128>() * array.len();
    match array.data_type() {
        DataType::Utf8View => views + array.as_string_view().lengths().map(|length| length as usize).sum::<usize>(),
        DataType::BinaryView => views + array.as_binary_view().lengths().map(|length| length as usize).sum::<usize>(),
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

/// The bytes of all values, with something for each.
pub(super) fn total(array: &ArrayRef) -> u64 {
    let values = match bytes(array) {
        Column::Same(each) => each.saturating_mul(array.len() as u64),
        Column::Each(values) => values.into_iter().fold(0, u64::saturating_add),
    };
    values.saturating_add(array.len() as u64)
}

/// Each value as a number: a count, or a moment or a duration in nanoseconds; zero for NULL and what is no number.
fn numbers(array: &ArrayRef) -> Result<Column<i128>> {
    macro_rules! scaled {
        ($kind:ty, $nanos:expr) => {
            Column::Each(
                array
                    .as_primitive::<$kind>()
                    .iter()
                    .map(|value| value.map_or(0, |value| i128::from(value) * $nanos))
                    .collect(),
            )
        };
    }
    Ok(match array.data_type() {
        integer if integer.is_integer() => {
            let array = cast(array, &DataType::Int64)?;
            Column::Each(array.as_primitive::<Int64Type>().iter().map(|value| value.map_or(0, i128::from)).collect())
        }
        DataType::Date32 => scaled!(Date32Type, NANOS_PER_DAY),
        DataType::Timestamp(TimeUnit::Second, _) => scaled!(TimestampSecondType, 1_000_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => scaled!(TimestampMillisecondType, 1_000_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => scaled!(TimestampMicrosecondType, 1_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => scaled!(TimestampNanosecondType, 1),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            // The shortest month there is, so that the series is never thought shorter than it is.
            let nanos = |months: i32, days: i32, nanos: i64| {
                (i128::from(months) * 28 + i128::from(days)) * NANOS_PER_DAY + i128::from(nanos)
            };
            let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
            Column::Each(
                intervals
                    .iter()
                    .map(|step| step.map_or(0, |step| nanos(step.months, step.days, step.nanoseconds)))
                    .collect(),
            )
        }
        _ => Column::Same(0),
    })
}
