//! JSON of any shape in a request, counted while it is read.
//!
//! Invariant: a body's text never becomes more than [`MAX_VALUES`] values: each takes some ten times the two bytes that
//! it may have in the text.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Unexpected, Visitor},
};
use serde_json::{Map, Number, Value};

/// Values in one request, nested ones too: four for each parameter that a statement of PostgreSQL may have, and at most
/// some 25 MB of memory.
pub const MAX_VALUES: usize = 262_144;

/// Bytes of an array's element besides its text.
const ELEMENT_BYTES: usize = size_of::<Value>();

/// Bytes of an object's field besides its texts: name, value, and its part of the tree.
const FIELD_BYTES: usize = 2 * (size_of::<String>() + size_of::<Value>());

/// The memory that the value takes besides the texts in it.
#[must_use]
pub fn bytes_beside_text(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| ELEMENT_BYTES + bytes_beside_text(item)).sum(),
        Value::Object(fields) => fields.values().map(|field| FIELD_BYTES + bytes_beside_text(field)).sum(),
        _ => 0,
    }
}

/// Reads an array or object.
pub(crate) fn collection<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Counted { left: &Cell::new(MAX_VALUES), shape: Shape::Collection }.deserialize(deserializer)
}

/// Reads an object, or nothing from `null`.
pub(crate) fn optional_object<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    match (Counted { left: &Cell::new(MAX_VALUES), shape: Shape::Object }).deserialize(deserializer)? {
        Value::Object(fields) => Ok(Some(fields)),
        _ => Ok(None),
    }
}

/// The shape of a value that is allowed at some place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Any,
    Collection,
    Object,
}

/// A value, and how many more there may be.
#[derive(Clone, Copy)]
struct Counted<'a> {
    left: &'a Cell<usize>,
    shape: Shape,
}

impl Counted<'_> {
    /// The shape allowed within it.
    fn within(self) -> Self {
        Self { shape: Shape::Any, ..self }
    }

    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom(format_args!("there are more than {MAX_VALUES} values")))?);
        Ok(())
    }

    fn plain<E: Error>(&self, value: Value, unexpected: Unexpected<'_>) -> Result<Value, E> {
        if self.shape == Shape::Any { Ok(value) } else { Err(E::invalid_type(unexpected, self)) }
    }
}

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.shape {
            Shape::Any => "any JSON value",
            Shape::Collection => "an array or object",
            Shape::Object => "an object",
        })
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.plain(value.into(), Unexpected::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.plain(value.into(), Unexpected::Signed(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.plain(value.into(), Unexpected::Unsigned(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.plain(Number::from_f64(value).into(), Unexpected::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.plain(value.into(), Unexpected::Str(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        if self.shape == Shape::Any { Ok(Value::String(value)) } else { self.visit_str(&value) }
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        // A field that may be absent may be null, too.
        if self.shape == Shape::Collection {
            return Err(E::invalid_type(Unexpected::Unit, &self));
        }
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        if self.shape == Shape::Object {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.within())? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            values.insert(name, fields.next_value_seed(self.within())?);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Params, QueryRequest, SendMessageRequest};

    fn query(params: &str) -> Result<Option<Params>, String> {
        let body = format!(r#"{{"sql": "SELECT 1", "params": {params}}}"#);
        serde_json::from_str::<QueryRequest>(&body).map(|request| request.params).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_an_array_or_an_object() {
        let all = json!([1, -1, 1.5, "x", true, null, [1, ["y"]], {"a": {"b": null}}]);
        let Value::Array(values) = all.clone() else { unreachable!("it is one") };
        assert_eq!(query(&all.to_string()), Ok(Some(Params::Positional(values))));
        let Ok(Some(Params::Named(named))) = query(r#"{"a": 1, "b": [2]}"#) else { panic!("they are named") };
        assert_eq!((&named["a"], &named["b"]), (&json!(1), &json!([2])));
        assert_eq!(query("null"), Ok(None));
        for wrong in ["7", "\"x\"", "true"] {
            assert!(query(wrong).unwrap_err().contains("expected an array or object"), "{wrong}");
        }
    }

    #[test]
    fn metadata_is_an_object() {
        let send = |metadata: &str| {
            let body = format!(r#"{{"conversationId": "c", "content": "x", "metadata": {metadata}}}"#);
            serde_json::from_str::<SendMessageRequest>(&body).map(|message| message.metadata.map(Value::Object))
        };
        let nested = json!({"a": {"b": [1, null]}, "c": "d"});
        assert_eq!(send(&nested.to_string()).unwrap(), Some(nested));
        assert_eq!(send("null").unwrap(), None);
        for wrong in ["[1]", "\"{}\"", "1"] {
            assert!(send(wrong).unwrap_err().to_string().contains("expected an object"), "{wrong}");
        }
    }

    #[test]
    fn values_are_counted_wherever_they_stand() {
        let zeros = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        // The array itself is one.
        assert!(query(&zeros(MAX_VALUES - 1)).is_ok());
        for many in
            [zeros(MAX_VALUES), format!("[{}]", zeros(MAX_VALUES)), format!(r#"{{"a": {}}}"#, zeros(MAX_VALUES))]
        {
            assert!(query(&many).unwrap_err().contains("there are more than 262144 values"));
        }
    }

    #[test]
    fn what_values_take_is_known() {
        assert_eq!(bytes_beside_text(&json!("a long text")), 0);
        assert_eq!(bytes_beside_text(&json!([0, [0, 0]])), 4 * ELEMENT_BYTES);
        assert_eq!(bytes_beside_text(&json!({"a": [0]})), FIELD_BYTES + ELEMENT_BYTES);
    }
}
