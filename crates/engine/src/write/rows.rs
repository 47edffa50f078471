//! The rows that a write's SELECT came to, as values of the columns they are meant for.
//!
//! Invariant: a value that does not fit its column is an error, never silently another value.

use std::{str::FromStr, sync::Arc};

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit},
    error::ArrowError,
    util::display::FormatOptions,
};
use kalamdb_protocol::{ColumnType, ConversationId, ConversationType, MsgId, Table, UserId, to_micros};
use kalamdb_store::{ConversationKey, Place};

use super::invalid;
use crate::{Error, Result, sql::Schema};

/// Named columns of rows, each of the type it is meant for.
pub(super) struct TypedRows {
    names: Vec<String>,
    batches: Vec<Vec<ArrayRef>>,
}

/// A row, by the names of its columns.
#[derive(Clone, Copy)]
pub(super) struct TypedRow<'a> {
    names: &'a [String],
    columns: &'a [ArrayRef],
    at: usize,
}

/// The value of the hidden column `_segment` for a copy that lies in RocksDB; for others it is the segment's number.
const HOT: i64 = -1;
/// The hidden column that rows of deleted messages have besides: the commit that deleted them from their segment.
const DELETION: &str = "_deletion";

impl TypedRows {
    /// Gives the columns of each batch, in order, these names, and the types that `kind` says.
    pub(super) fn new<'a>(
        names: Vec<String>,
        batches: impl IntoIterator<Item = &'a [ArrayRef]>,
        kind: impl Fn(&str) -> ColumnType,
    ) -> Result<Self> {
        let in_types = |columns: &'a [ArrayRef]| {
            names.iter().zip(columns).map(|(name, column)| converted(name, column, kind(name))).collect()
        };
        let batches = batches.into_iter().map(in_types).collect::<Result<_>>()?;
        Ok(Self { names, batches })
    }

    /// Converts the times of those columns of which `is_given` to microseconds.
    pub(super) fn in_micros(mut self, is_given: impl Fn(usize, &str) -> bool) -> Self {
        let (names, batches) = (&self.names, &mut self.batches);
        for columns in batches {
            for (at, (column, name)) in columns.iter_mut().zip(names).enumerate() {
                if is_given(at, name) {
                    *column = Arc::new(column.as_primitive::<Int64Type>().unary::<_, Int64Type>(to_micros));
                }
            }
        }
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = TypedRow<'_>> {
        self.batches.iter().flat_map(move |columns| {
            let rows = columns.first().map_or(0, Array::len);
            (0..rows).map(move |at| TypedRow { names: &self.names, columns, at })
        })
    }
}

/// The type of a column of the table, or of a hidden one.
pub(super) fn kind_in(table: &Table, name: &str) -> ColumnType {
    match table.columns.iter().find(|column| column.name == name) {
        Some(column) => column.kind,
        None if name.starts_with('_') => ColumnType::BigInt,
        None => ColumnType::Text,
    }
}

fn converted(name: &str, column: &ArrayRef, kind: ColumnType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let cast = |column: &ArrayRef, to: &DataType| cast_with_options(column, to, &options);
    let result = match (kind, column.data_type()) {
        (ColumnType::Text | ColumnType::Json, from) if from.is_nested() || from.is_temporal() => {
            return Err(invalid(format!("{name} takes text; CAST the value to VARCHAR.")));
        }
        (ColumnType::Text | ColumnType::Json, _) => cast(column, &DataType::Utf8),
        (_, DataType::Timestamp(_, zone)) => cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
            .and_then(|column| cast(&column, &DataType::Int64)),
        (_, DataType::Date32 | DataType::Date64) => cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))
            .and_then(|column| cast(&column, &DataType::Int64)),
        (_, DataType::Float16 | DataType::Float32 | DataType::Float64) => cast(column, &DataType::Float64)
            .and_then(|column| whole(&column))
            .and_then(|column| cast(&column, &DataType::Int64)),
        (_, DataType::Boolean) => return Err(not_a_number(name)),
        _ => cast(column, &DataType::Int64),
    };
    result.map_err(|_| {
        if matches!(kind, ColumnType::Text | ColumnType::Json) { not_text(name) } else { not_a_number(name) }
    })
}

fn whole(column: &ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    let numbers = column.as_primitive::<Float64Type>();
    if numbers.iter().flatten().all(|number| number.fract() == 0.0) {
        Ok(column.clone())
    } else {
        Err(ArrowError::CastError(String::new()))
    }
}

fn not_a_number(name: &str) -> Error {
    invalid(format!("{name} takes a whole number that fits 64 bits."))
}

fn not_text(name: &str) -> Error {
    invalid(format!("{name} takes text."))
}

impl<'a> TypedRow<'a> {
    fn column(&self, name: &str) -> Option<&'a ArrayRef> {
        let at = self.names.iter().position(|known| known == name)?;
        self.columns.get(at).filter(|column| !column.is_null(self.at))
    }

    /// A number; `None` for NULL and for a column that is not there.
    pub(super) fn int(&self, name: &str) -> Option<i64> {
        self.column(name).map(|column| column.as_primitive::<Int64Type>().value(self.at))
    }

    /// A text; `None` for NULL and for a column that is not there.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.column(name).map(|column| column.as_string::<i32>().value(self.at))
    }

    /// The text of a column, owned.
    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// A number that must be there.
    pub(super) fn need_int(&self, name: &str) -> Result<i64> {
        self.int(name).ok_or_else(|| needed(name))
    }

    /// A text that must be there.
    pub(super) fn need_text(&self, name: &str) -> Result<&'a str> {
        self.text(name).ok_or_else(|| needed(name))
    }

    /// A row's version.
    pub(super) fn version(&self) -> Result<u64> {
        self.number("_version")
    }

    /// A user id; `None` for NULL.
    pub(super) fn user(&self, name: &str) -> Result<Option<UserId>> {
        self.id(name)
    }

    /// A user or conversation id, an enum's name: whatever can be parsed; `None` for NULL.
    fn id<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        self.text(name).map(|text| text.parse().map_err(|error| invalid(format!("{name}: {error}.")))).transpose()
    }

    /// A conversation id that must be there.
    pub(super) fn conversation_id(&self) -> Result<ConversationId> {
        self.id("conversationId")?.ok_or_else(|| needed("conversationId"))
    }

    /// A conversation's type; `None` for NULL.
    pub(super) fn conversation_type(&self) -> Result<Option<ConversationType>> {
        self.text("conversationType")
            .map(|text| {
                ConversationType::parse(text).ok_or_else(|| invalid("conversationType must be 'ai' or 'group'."))
            })
            .transpose()
    }

    /// The key of a row's conversation.
    pub(super) fn conversation(&self) -> Result<ConversationKey> {
        let kind = self.conversation_type()?.ok_or_else(|| needed("conversationType"))?;
        Ok(ConversationKey { id: self.conversation_id()?, kind })
    }

    /// A message's id and where this copy of it lies.
    pub(super) fn place(&self) -> Result<(MsgId, Place)> {
        let trashed = self.names.iter().any(|name| name == DELETION);
        let place = if self.need_int("_segment")? == HOT {
            let version = self.version()?;
            if trashed { Place::TrashedHot { version } } else { Place::Hot { version } }
        } else {
            let (segment, position) = (self.number("_segment")?, self.number("_position")?);
            if trashed {
                Place::TrashedCold { deletion: self.number(DELETION)?, segment, position }
            } else {
                Place::Cold { segment, position }
            }
        };
        Ok((self.need_int("msgId")?, place))
    }

    /// A number that must be there and fit.
    fn number<T: TryFrom<i64>>(&self, name: &str) -> Result<T> {
        T::try_from(self.need_int(name)?).map_err(|_| needed(name))
    }
}

/// The owner of the schema that a row belongs to.
pub(super) fn owner_of(schema: &Schema, row: &TypedRow<'_>) -> Result<UserId> {
    match schema {
        Schema::Owner(owner) => Ok(owner.clone()),
        Schema::All => row.user("owner")?.ok_or_else(|| invalid("owner says whose row it is; give it a value.")),
    }
}

fn needed(name: &str) -> Error {
    invalid(format!("{name} is needed; give it a value."))
}
