//! Times in documents: RFC 3339 in text. For `#[serde(with = "care_protocol::rfc3339")]`: jiff's own reading brings all of its error
//! texts into the firmware, and a document that is refused needs one.

use jiff::Timestamp;
use serde::{Deserializer, Serializer, de};

/// Writes the time in UTC, with as many digits of its second as it has.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// Reads a time with any offset.
///
/// # Errors
/// A value that is no text, or no such time.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    deserializer.deserialize_str(Time)
}

struct Time;

impl de::Visitor<'_> for Time {
    type Value = Timestamp;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a time as in RFC 3339")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Document {
        #[serde(with = "super")]
        at: Timestamp,
    }

    #[test]
    fn a_time_is_read_as_it_was_written_and_anything_else_is_refused_in_words() {
        let document = Document { at: Timestamp::from_microsecond(1_767_225_600_250_000).unwrap() };
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(text, r#"{"at":"2026-01-01T00:00:00.25Z"}"#);
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
        let elsewhere = serde_json::from_str::<Document>(r#"{"at":"2026-01-01T01:00:00.25+01:00"}"#).unwrap();
        assert_eq!(elsewhere, document);
        for wrong in [r#"{"at":"yesterday"}"#, r#"{"at":1767225600}"#, r#"{"at":null}"#] {
            let error = serde_json::from_str::<Document>(wrong).unwrap_err().to_string();
            assert!(error.contains("a time as in RFC 3339"), "{error}");
        }
    }
}
