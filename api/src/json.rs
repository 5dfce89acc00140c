//! JSON as this API speaks it: errors that name the field, answers in pure ASCII.

use std::fmt::Write;

mod strict;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use strict::Strict;

/// The text is not the JSON that was expected; says at which field and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

/// Reads a whole JSON document. Unknown keys are ignored; text after the document is an error, and so is an array where an object
/// is expected: serde would take its items for the object's values in their order.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(Strict(&mut reader)).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        // A syntax error is at a line and column, not at a field; but that is what serde_json takes a number for, too, where one
        // of a few words belongs.
        let of_field = path != "." && (cause.is_data() || serde_json::from_slice::<IgnoredAny>(text).is_ok());
        JsonError(if of_field { format!("{path}: {cause}") } else { cause.to_string() })
    })?;
    reader.end().map_err(|error| JsonError(error.to_string()))?;
    Ok(value)
}

/// Reads a value that is JSON already.
pub fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, JsonError> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        JsonError(if path == "." { cause.to_string() } else { format!("{path}: {cause}") })
    })
}

/// Writes a document in which every character beyond ASCII is escaped.
///
/// Some clients read an answer in pieces of 256 bytes and take each for UTF-8 of its own.
///
/// # Errors
/// Only where the value itself refuses, such as a path that is not UTF-8 or a map whose keys are not text.
pub fn write<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JsonError> {
    let text = serde_json::to_string(value).map_err(|error| JsonError(error.to_string()))?;
    Ok(ascii(&text).into_bytes())
}

/// Escapes what is not ASCII. In a JSON document such characters stand in strings only, so this keeps its meaning.
pub fn ascii(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for character in document.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VmConfig;

    #[test]
    fn an_error_names_the_field_by_its_path() {
        let error = parse::<VmConfig>(br#"{"disks":[{},{"num_queues":-1}]}"#).unwrap_err().to_string();
        assert!(
            error.starts_with("disks[1].num_queues: invalid value: integer `-1`, expected usize"),
            "{error}"
        );
    }

    #[test]
    fn an_array_is_no_object() {
        for (body, path) in [
            (r#" [null, null]"#, ""),
            (r#"{"cpus":[1,2]}"#, "cpus: "),
            (r#"{"disks":[{},[]]}"#, "disks[1]: "),
            (
                r#"{"disks":[{"rate_limiter_config":{"bandwidth":[1,1,1]}}]}"#,
                "disks[0].rate_limiter_config.bandwidth: ",
            ),
            (r#"{"platform":[2]}"#, "platform: "),
        ] {
            let error = parse::<VmConfig>(body.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{path}invalid type: array, expected an object")),
                "{body}: {error}"
            );
            let value = serde_json::from_str(body).unwrap();
            assert!(from_value::<VmConfig>(value).is_err(), "{body}");
        }
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let error = parse::<VmConfig>(b"{1}").unwrap_err().to_string();
        assert_eq!(error, "key must be a string at line 1 column 2");
    }

    #[test]
    fn text_after_the_document_is_an_error() {
        let error = parse::<VmConfig>(b"{} {}").unwrap_err().to_string();
        assert_eq!(error, "trailing characters at line 1 column 4");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_an_error() {
        let error = parse::<VmConfig>(b"{\"payload\":{\"kernel\":\"\xff\"}}").unwrap_err().to_string();
        assert!(error.contains("invalid unicode code point"), "{error}");
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        assert!(parse::<VmConfig>(&b"[".repeat(1 << 20)).is_err());
        assert!(parse::<VmConfig>(&br#"{"a":"#.repeat(1 << 18)).is_err());
    }

    #[test]
    fn answers_are_ascii_and_mean_the_same() {
        let text = "grün 🦀 \u{7f} \"q\" \n";
        let written = write(text).unwrap();
        assert!(written.is_ascii());
        assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), text);
    }
}
