//! Arrow values as JSON and as text, cell by cell, without a tree of values in between.
//!
//! Invariant: numbers stay numbers, what JSON has no number for becomes `null`, and everything that has no JSON
//! of its own becomes the text that a person would write.

use std::{io::Write, sync::Arc};

use datafusion::arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, StringViewArray, StructArray,
        UInt64Array, UnionArray,
    },
    compute::cast,
    datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::value::RawValue;

/// A column of a batch, ready to be written.
pub(super) enum Cells {
    Null,
    Bool(BooleanArray),
    Int(Int64Array),
    Unsigned(UInt64Array),
    Float(Float64Array),
    Text(StringViewArray),
    List(ListArray, Box<Cells>),
    Struct(StructArray, Vec<(String, Cells)>),
    /// By type id: whether the texts are JSON already, and the values.
    Union(UnionArray, Vec<(i8, bool, Cells)>),
}

/// The SQL name of a type.
pub(super) fn type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 | DataType::UInt8 => "TINYINT",
        DataType::Int16 | DataType::UInt16 => "SMALLINT",
        DataType::Int32 | DataType::UInt32 => "INTEGER",
        DataType::Int64 | DataType::UInt64 => "BIGINT",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "VARBINARY",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Duration(_) | DataType::Interval(_) => "INTERVAL",
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => return format!("DECIMAL({precision},{scale})"),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => return format!("{}[]", type_name(item.data_type())),
        DataType::Struct(_) => "STRUCT",
        DataType::Map(..) => "MAP",
        // The union that `->` and json_get answer.
        DataType::Union(..) => "JSON",
        DataType::Dictionary(_, value) => return type_name(value),
        DataType::RunEndEncoded(_, value) => return type_name(value.data_type()),
    };
    name.to_owned()
}

impl Cells {
    pub fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        let as_type = |data_type: &DataType| cast(array, data_type);
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            kind if kind.is_integer() && *kind != DataType::UInt64 => {
                Self::Int(as_type(&DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            DataType::UInt64 => Self::Unsigned(array.as_primitive::<UInt64Type>().clone()),
            kind if kind.is_floating() => {
                Self::Float(as_type(&DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Self::Text(as_type(&DataType::Utf8View)?.as_string_view().clone())
            }
            DataType::Dictionary(_, value) => return Self::new(&as_type(value)?),
            DataType::RunEndEncoded(_, value) => return Self::new(&as_type(value.data_type())?),
            DataType::List(_) => {
                let lists = array.as_list::<i32>().clone();
                let values = Self::new(lists.values())?;
                Self::List(lists, Box::new(values))
            }
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::ListView(item) => {
                return Self::new(&as_type(&DataType::List(Arc::clone(item)))?);
            }
            DataType::Struct(fields) => {
                let structs = array.as_struct().clone();
                let named = |(field, column): (&Arc<Field>, &ArrayRef)| Ok((field.name().clone(), Self::new(column)?));
                let members = fields.iter().zip(structs.columns()).map(named).collect::<Result<_, ArrowError>>()?;
                Self::Struct(structs, members)
            }
            DataType::Union(fields, _) => {
                let union = array.as_union().clone();
                // datafusion-functions-json keeps nested JSON as text, under these names.
                let member = |(id, field): (i8, &Arc<Field>)| {
                    let is_json = matches!(field.name().as_str(), "array" | "object");
                    Ok((id, is_json, Self::new(union.child(id))?))
                };
                let members = fields.iter().map(member).collect::<Result<_, ArrowError>>()?;
                Self::Union(union, members)
            }
            _ => Self::Text(shown(array)?),
        })
    }

    /// Whether there is no value in that row.
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(array) => array.is_null(row),
            Self::Int(array) => array.is_null(row),
            Self::Unsigned(array) => array.is_null(row),
            Self::Float(array) => array.is_null(row) || !array.value(row).is_finite(),
            Self::Text(array) => array.is_null(row),
            Self::List(array, _) => array.is_null(row),
            Self::Struct(array, _) => array.is_null(row),
            Self::Union(union, members) => {
                member(union, members, row).is_none_or(|(_, cells, place)| cells.is_null(place))
            }
        }
    }

    /// The text of that row, if it is one: it needs quotes in JSON and none in CSV.
    pub fn text(&self, row: usize) -> Option<&str> {
        match self {
            Self::Text(array) if array.is_valid(row) => Some(array.value(row)),
            _ => None,
        }
    }

    /// Appends that row's value as JSON.
    pub fn write_json(&self, row: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
        if self.is_null(row) {
            return out.write_all(b"null");
        }
        match self {
            Self::Null => out.write_all(b"null"),
            Self::Bool(array) => write!(out, "{}", array.value(row)),
            Self::Int(array) => Ok(serde_json::to_writer(out, &array.value(row))?),
            Self::Unsigned(array) => Ok(serde_json::to_writer(out, &array.value(row))?),
            Self::Float(array) => Ok(serde_json::to_writer(out, &array.value(row))?),
            Self::Text(array) => write_text(array.value(row), out),
            Self::List(lists, values) => {
                let (from, to) = (lists.value_offsets()[row], lists.value_offsets()[row + 1]);
                // Offsets are never negative: Arrow checks them when the list is made.
                let items = from.unsigned_abs() as usize..to.unsigned_abs() as usize;
                write_joined(out, [b"[", b"]"], items, |item, out| values.write_json(item, out))
            }
            Self::Struct(_, members) => write_joined(out, [b"{", b"}"], members, |(name, cells), out| {
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                cells.write_json(row, out)
            }),
            Self::Union(union, members) => match member(union, members, row) {
                Some((true, cells, place)) => write_raw(cells.text(place).unwrap_or("null"), out),
                Some((false, cells, place)) => cells.write_json(place, out),
                None => out.write_all(b"null"),
            },
        }
    }
}

/// The union's value in that row: whether it is JSON text, and where it is.
fn member<'a>(union: &UnionArray, members: &'a [(i8, bool, Cells)], row: usize) -> Option<(bool, &'a Cells, usize)> {
    let id = union.type_id(row);
    let (_, is_json, cells) = members.iter().find(|(other, ..)| *other == id)?;
    Some((*is_json, cells, union.value_offset(row)))
}

/// Bytes of a text that are looked at together.
const RUN_BYTES: usize = 64;

/// A text in quotes. Most hold nothing that JSON writes otherwise, and to find that out is quicker than to write byte by
/// byte.
fn write_text(text: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    // In runs, each looked at as a whole, so that the compiler takes many bytes at a time.
    let is_plain = |run: &[u8]| {
        let is_special = |byte: &u8| u8::from(*byte < b' ') | u8::from(*byte == b'"') | u8::from(*byte == b'\\');
        run.iter().fold(0, |special, byte| special | is_special(byte)) == 0
    };
    if !text.as_bytes().chunks(RUN_BYTES).all(is_plain) {
        return Ok(serde_json::to_writer(out, text)?);
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

/// JSON text as it is, on one line; text that is none after all becomes a string.
fn write_raw(text: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return Ok(serde_json::to_writer(out, text)?);
    }
    // Inside of its strings there is no line break, so this changes white space only.
    out.extend(text.bytes().map(|byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte }));
    Ok(())
}

/// Appends the items with commas between them.
pub(super) fn write_joined<T>(
    out: &mut Vec<u8>,
    [open, close]: [&[u8]; 2],
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(T, &mut Vec<u8>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    out.extend_from_slice(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out)?;
    }
    out.extend_from_slice(close);
    Ok(())
}

/// The values as Arrow shows them: dates, times, decimals, intervals, binary as hexadecimal.
fn shown(array: &ArrayRef) -> Result<StringViewArray, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    let value = |row| array.is_valid(row).then(|| formatter.value(row).try_to_string()).transpose();
    let values = (0..array.len()).map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(values.into_iter().collect())
}
