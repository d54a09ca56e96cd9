//! Strict JSON (`docs/protocol.md#encoding`): no duplicate keys, depth at most 8, integers without fraction or
//! exponent. Other numbers are allowed only in fields that this crate does not read.
//!
//! serde_json parses; this module rejects what serde_json would accept, and returns fields by name, or the reject for a
//! field that is missing, of the wrong type or out of range. Every reader of this crate uses it.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::Reject;

const MAX_DEPTH: u8 = 8;

/// A JSON value that was read strictly.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    /// A number with a fraction, an exponent or more than 64 bits. Only an unknown field may hold one.
    OtherNumber,
    String(String),
    Array(Vec<Value>),
    Object(Object),
}

/// An object whose keys are unique.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object(BTreeMap<String, Value>);

/// Reads one JSON object. Anything after it is an error.
pub(crate) fn object(bytes: &[u8]) -> Result<Object, Reject> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|e| Reject::BadForm(e.to_string()))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Reject::BadForm("not a JSON object".into())),
    }
}

impl Object {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Every field with its value as text, for people; those of objects as `lease.not_after`.
    pub(crate) fn fields(&self, within: &str, into: &mut Vec<(String, String)>) {
        for (name, value) in &self.0 {
            match value {
                Value::Object(object) => object.fields(&format!("{within}{name}."), into),
                value => into.push((format!("{within}{name}"), value.to_text())),
            }
        }
    }

    pub(crate) fn optional(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(crate) fn string(&self, name: &str) -> Result<&str, Reject> {
        self.required(name)?.as_string(name)
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<bool, Reject> {
        match self.required(name)? {
            Value::Bool(value) => Ok(*value),
            _ => Err(mistyped(name, "true or false")),
        }
    }

    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64, Reject> {
        let Value::Integer(value) = self.required(name)? else {
            return Err(mistyped(name, "an integer"));
        };
        u64::try_from(*value)
            .ok()
            .filter(|value| range.contains(value))
            .ok_or_else(|| Reject::OutOfRange(format!("{name} = {value} is not in {range:?}")))
    }

    pub(crate) fn object(&self, name: &str) -> Result<&Object, Reject> {
        self.required(name)?.as_object(name)
    }

    pub(crate) fn array(&self, name: &str) -> Result<&[Value], Reject> {
        match self.required(name)? {
            Value::Array(items) => Ok(items),
            _ => Err(mistyped(name, "an array")),
        }
    }

    fn required(&self, name: &str) -> Result<&Value, Reject> {
        self.0.get(name).ok_or_else(|| Reject::BadForm(format!("{name} is missing")))
    }
}

impl Value {
    fn to_text(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::OtherNumber => "no integer".to_owned(),
            Self::String(value) => value.clone(),
            Self::Array(items) => items.iter().map(Self::to_text).collect::<Vec<_>>().join(", "),
            Self::Object(_) => "an object".to_owned(),
        }
    }

    pub(crate) fn as_string(&self, name: &str) -> Result<&str, Reject> {
        match self {
            Self::String(value) => Ok(value),
            _ => Err(mistyped(name, "a string")),
        }
    }

    pub(crate) fn as_object(&self, name: &str) -> Result<&Object, Reject> {
        match self {
            Self::Object(value) => Ok(value),
            _ => Err(mistyped(name, "an object")),
        }
    }
}

fn mistyped(name: &str, wanted: &str) -> Reject {
    Reject::BadForm(format!("{name} must be {wanted}"))
}

#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH {
            return Err(E::custom("nested deeper than 8"));
        }
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = BTreeMap::new();
        while let Some(name) = entries.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format_args!("duplicate key {name:?}")));
            }
            object.insert(name, entries.next_value_seed(inner)?);
        }
        Ok(Value::Object(Object(object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_serde_json_would_let_pass() {
        for bad in
            [r#"{"a":1,"a":2}"#, r#"{"x":{"a":1,"a":2}}"#, r#"{"a":[[[[[[[[1]]]]]]]]}"#, r#"{"a":1} x"#, r#"[1]"#, "{\"a\":\"\u{1}\"}"]
        {
            assert!(matches!(object(bad.as_bytes()), Err(Reject::BadForm(_))), "{bad}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
        assert!(object(r#"{"a":[[[[[[[1]]]]]]]}"#.as_bytes()).is_ok(), "depth 8 is allowed");
    }

    #[test]
    fn an_integer_has_neither_fraction_nor_exponent_and_an_unknown_field_may_be_any_number() {
        for number in ["1.0", "1e3", "-0", "99999999999999999999", "0.5"] {
            let object = object(format!(r#"{{"a":{number},"b":1}}"#).as_bytes()).unwrap();
            assert!(matches!(object.integer("a", 0..=u64::MAX), Err(Reject::BadForm(_))), "{number}");
            assert_eq!(object.integer("b", 0..=1), Ok(1));
        }
    }

    #[test]
    fn null_is_never_a_value_of_a_known_field() {
        let object = object(br#"{"a":null}"#).unwrap();
        assert!(object.string("a").is_err() && object.boolean("a").is_err() && object.integer("a", 0..=1).is_err());
    }
}
