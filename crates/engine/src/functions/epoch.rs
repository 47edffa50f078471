//! `UNIX_TIMESTAMP`, `HOUR` and `DATE` on times as they are stored here: numbers since the epoch.
//!
//! Invariant: a number means seconds, milliseconds or microseconds by its size, everywhere by the same rule
//! (`kalamdb_protocol::to_micros`), and a timestamp means itself; days and hours are UTC.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Date32Array, Int64Array},
        compute::{CastOptions, cast, cast_with_options},
        datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType},
    },
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

pub(super) const UNIX_TIMESTAMP: &str = "unix_timestamp";
/// The function that [`to_micros`] calls.
pub(super) const TO_MICROS: &str = "to_micros";
const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_HOUR: i64 = 3_600 * MICROS_PER_SECOND;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// The functions of this file.
pub(super) fn functions() -> [ScalarUDF; 3] {
    [Part::UnixTimestamp, Part::Hour, Part::Date].map(|part| ScalarUDF::new_from_impl(EpochPart::new(part)))
}

/// Whether a function of that name is one of [`functions`].
pub(super) fn is_part(name: &str) -> bool {
    [Part::UnixTimestamp, Part::Hour, Part::Date].iter().any(|part| part.name() == name)
}

/// A given time in microseconds; not offered by name.
pub(super) fn to_micros(given: Expr) -> Expr {
    ScalarUDF::new_from_impl(EpochPart::new(Part::Micros)).call(vec![given])
}

/// The part that is taken of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    UnixTimestamp,
    Hour,
    Date,
    /// All of it.
    Micros,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::UnixTimestamp => UNIX_TIMESTAMP,
            Self::Hour => "hour",
            Self::Date => "date",
            Self::Micros => TO_MICROS,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct EpochPart {
    part: Part,
    signature: Signature,
}

impl EpochPart {
    fn new(part: Part) -> Self {
        // Without an argument it is the statement's own time: one value for the whole statement.
        let volatility = if part == Part::UnixTimestamp { Volatility::Stable } else { Volatility::Immutable };
        Self { part, signature: Signature::user_defined(volatility) }
    }
}

impl ScalarUDFImpl for EpochPart {
    fn name(&self) -> &str {
        self.part.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [] if self.part == Part::UnixTimestamp => Ok(vec![]),
            [given] => {
                // A text is a number or a date, which only its value tells.
                let as_given = self.part == Part::Micros && given.is_string();
                let Some(readable) = (if as_given { Some(given.clone()) } else { readable(given) }) else {
                    return plan_err!("{}(x) takes a time: a number, a timestamp, a date or its text", self.name());
                };
                Ok(vec![readable])
            }
            _ => plan_err!("{}(x) takes one time", self.name()),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(if self.part == Part::Date { DataType::Date32 } else { DataType::Int64 })
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match info.query_execution_start_time() {
            Some(now) if args.is_empty() => {
                let seconds = ScalarValue::Int64(Some(now.timestamp()));
                Ok(ExprSimplifyResult::Simplified(Expr::Literal(seconds, None)))
            }
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time] = args.args.as_slice() else {
            return exec_err!("the time of the statement is not known");
        };
        let is_scalar = matches!(time, ColumnarValue::Scalar(_));
        let micros = micros(&time.to_array(if is_scalar { 1 } else { args.number_rows })?)?;
        let part: ArrayRef = match self.part {
            Part::Micros => Arc::new(micros),
            Part::UnixTimestamp => Arc::new(micros.unary::<_, Int64Type>(|time| time.div_euclid(MICROS_PER_SECOND))),
            Part::Hour => {
                Arc::new(micros.unary::<_, Int64Type>(|time| time.div_euclid(MICROS_PER_HOUR).rem_euclid(24)))
            }
            // A day that no date can name becomes NULL.
            Part::Date => Arc::new(
                micros.iter().map(|time| i32::try_from(time?.div_euclid(MICROS_PER_DAY)).ok()).collect::<Date32Array>(),
            ),
        };
        if is_scalar {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&part, 0)?))
        } else {
            Ok(ColumnarValue::Array(part))
        }
    }
}

/// The type that a time of type `given` is read as, if it can be a time.
fn readable(given: &DataType) -> Option<DataType> {
    let timestamp = |zone: Option<Arc<str>>| Some(DataType::Timestamp(TimeUnit::Microsecond, zone));
    match given {
        DataType::Null => Some(DataType::Int64),
        integer if integer.is_integer() => Some(DataType::Int64),
        number if number.is_numeric() => Some(DataType::Float64),
        DataType::Timestamp(_, zone) => timestamp(zone.clone()),
        DataType::Date32 | DataType::Date64 => timestamp(None),
        text if text.is_string() => timestamp(None),
        _ => None,
    }
}

/// The microseconds of times of a [`readable`] type.
pub(super) fn micros(times: &ArrayRef) -> Result<Int64Array> {
    match times.data_type() {
        DataType::Int64 => Ok(times.as_primitive::<Int64Type>().unary(kalamdb_protocol::to_micros)),
        DataType::Float64 => Ok(times.as_primitive::<Float64Type>().unary_opt(float_micros)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>())
        }
        text if text.is_string() => {
            let numbers = cast(times, &DataType::Int64)?;
            let all = numbers.null_count() == times.null_count();
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let moment = DataType::Timestamp(TimeUnit::Microsecond, None);
            micros(&if all { numbers } else { cast_with_options(times, &moment, &strict)? })
        }
        other => {
            let Some(readable) = readable(other) else {
                return exec_err!("a {other} is no time");
            };
            micros(&cast(times, &readable)?)
        }
    }
}

/// As `to_micros`, keeping fractions of a second; nothing when it is no number or beyond all times.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn float_micros(given: f64) -> Option<i64> {
    // The bound keeps the product, and the rounded value itself, within an i64.
    const BOUND: f64 = 9.0e18;
    if given.is_nan() || given.abs() >= BOUND {
        return None;
    }
    // The factor that a whole number of that size is scaled by.
    let whole = given.trunc() as i64;
    let scale = if whole == 0 { MICROS_PER_SECOND } else { kalamdb_protocol::to_micros(whole) / whole };
    Some((given * scale as f64).round() as i64)
}
