//! Cells of every kind.

use std::sync::Arc;

use datafusion::arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float32Array, Int16Array, Int64Array, LargeStringArray,
        ListArray, NullArray, StringArray, UInt64Array, UnionArray,
    },
    buffer::ScalarBuffer,
    datatypes::{DataType, Field, Int32Type, UnionFields},
};

use super::cells::{Cells, type_name};

fn shown(array: impl datafusion::arrow::array::Array + 'static) -> (String, Vec<String>) {
    let array: ArrayRef = Arc::new(array);
    let cells = Cells::new(&array).unwrap();
    let json = |row| {
        let mut out = vec![];
        cells.write_json(row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    (type_name(array.data_type()), (0..array.len()).map(json).collect())
}

fn is(array: impl datafusion::arrow::array::Array + 'static, name: &str, values: &[&str]) {
    assert_eq!(shown(array), (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect()));
}

#[test]
fn numbers_stay_numbers() {
    is(Int64Array::from(vec![Some(i64::MIN), None]), "BIGINT", &["-9223372036854775808", "null"]);
    is(Int16Array::from(vec![7]), "SMALLINT", &["7"]);
    is(UInt64Array::from(vec![u64::MAX]), "BIGINT", &["18446744073709551615"]);
    is(Float32Array::from(vec![0.5, f32::NAN, f32::INFINITY]), "REAL", &["0.5", "null", "null"]);
    is(BooleanArray::from(vec![Some(true), None]), "BOOLEAN", &["true", "null"]);
    is(NullArray::new(1), "NULL", &["null"]);
}

#[test]
fn texts_are_escaped_once() {
    is(StringArray::from(vec!["a\"\\\n\u{1}é"]), "VARCHAR", &[r#""a\"\\\n\u0001é""#]);
    is(LargeStringArray::from(vec![""]), "VARCHAR", &["\"\""]);
    is(DictionaryArray::<Int32Type>::from_iter(["x", "y", "x"]), "VARCHAR", &["\"x\"", "\"y\"", "\"x\""]);
    is(BinaryArray::from(vec![b"\x00\xff".as_slice()]), "VARBINARY", &["\"00ff\""]);
}

#[test]
fn lists_are_lists() {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    is(lists, "INTEGER[]", &["[1,null]", "null", "[]"]);
}

#[test]
fn json_of_a_union_is_json() {
    let fields = UnionFields::try_new(
        [0, 1],
        [Field::new("str", DataType::Utf8, true), Field::new("object", DataType::Utf8, true)],
    )
    .unwrap();
    let children: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("{}"), None, None, None])),
        Arc::new(StringArray::from(vec![None, Some("{\"a\":\n1}"), Some("{broken"), None])),
    ];
    let union = UnionArray::try_new(fields, ScalarBuffer::from(vec![0_i8, 1, 1, 1]), None, children).unwrap();
    is(union, "JSON", &["\"{}\"", "{\"a\": 1}", "\"{broken\"", "null"]);
}
