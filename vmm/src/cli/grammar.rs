//! The grammar of an option: `key=value,key=[a,b],key=on`.
//!
//! Commas inside brackets or double quotes belong to the value. Every error names the option and the key.

use serde_json::{Map, Value};

use super::keys::{Keys, Kind};

/// An option that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {fault}")]
pub struct OptionError {
    option: String,
    fault: String,
}

impl OptionError {
    pub(super) fn new(option: &str, fault: impl Into<String>) -> Self {
        Self { option: option.to_owned(), fault: fault.into() }
    }
}

/// Reads an option's text into the JSON that the API takes for it.
pub(super) fn read(option: &str, text: &str, keys: Keys) -> Result<Value, OptionError> {
    let mut object = Value::Object(Map::new());
    let mut seen = Vec::new();
    for part in split(text, ',').map_err(|fault| OptionError::new(option, fault))? {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let Some(key) = keys.iter().copied().flatten().find(|key| key.name == name) else {
            let known: Vec<&str> = keys.iter().copied().flatten().map(|key| key.name).collect();
            return Err(OptionError::new(
                option,
                format!("`{name}` is not one of its keys ({})", known.join(", ")),
            ));
        };
        if seen.contains(&name) {
            return Err(OptionError::new(option, format!("{name}: given twice")));
        }
        seen.push(name);
        let value = self::value(key.kind, value)
            .map_err(|fault| OptionError::new(option, format!("{name}: {fault}")))?;
        put(&mut object, key.field, value);
    }
    Ok(object)
}

/// Reads an option into one of the API's types, which fills in what was not said.
pub(super) fn read_as<T: serde::de::DeserializeOwned>(
    option: &str,
    text: &str,
    keys: Keys,
) -> Result<T, OptionError> {
    typed(option, read(option, text, keys)?)
}

/// Makes one of the API's types of an option's JSON.
pub(super) fn typed<T: serde::de::DeserializeOwned>(option: &str, value: Value) -> Result<T, OptionError> {
    granule_api::json::from_value(value).map_err(|error| OptionError::new(option, error.to_string()))
}

/// Puts a value at a path such as `rate_limiter_config.ops.size`.
fn put(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[step];
    }
    *at = value;
}

/// Splits at a separator that is in no brackets and no quotes.
pub(super) fn split(text: &str, separator: char) -> Result<Vec<&str>, String> {
    let (mut depth, mut quoted, mut start) = (0usize, false, 0);
    let mut parts = Vec::new();
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '[' => depth += 1,
            ']' => depth = depth.checked_sub(1).ok_or_else(|| format!("`]` without `[` in `{text}`"))?,
            _ if character == separator && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + separator.len_utf8();
            }
            _ => {}
        }
    }
    if quoted || depth > 0 {
        return Err(format!("`{}` without its end in `{text}`", if quoted { '"' } else { '[' }));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn unquoted(text: &str) -> String {
    text.chars().filter(|&character| character != '"').collect()
}

/// Reads one value. Quotes keep commas and brackets in a text and are no part of it.
fn value(kind: Kind, quoted: &str) -> Result<Value, String> {
    let text = unquoted(quoted);
    match kind {
        Kind::Text if text.is_empty() => Err("a value is missing".into()),
        Kind::Text => Ok(text.into()),
        Kind::Toggle => toggle(&text).map(Value::from),
        Kind::Number => number(&text).map(Value::from),
        Kind::Size => size(&text).map(Value::from),
        Kind::Numbers => numbers(&text).map(Value::from),
        Kind::Texts => Ok(list(quoted)?.into_iter().map(unquoted).collect()),
        Kind::Word(words) => words
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(&text))
            .map(|&(_, spelled)| spelled.into())
            .ok_or_else(|| {
                let known: Vec<&str> = words.iter().map(|&(word, _)| word).collect();
                format!("`{text}` is not one of {}", known.join(", "))
            }),
        Kind::Tagging => match text.as_str() {
            "auto" => Ok("auto".into()),
            _ => toggle(&text).map(Value::from).map_err(|_| format!("`{text}` is not on, off or auto")),
        },
        Kind::Topology => topology(&text),
        Kind::Features => features(&text),
        Kind::Pairs { left, right, many } => pairs(&text, left, right, many),
    }
}

fn toggle(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        // A key alone switches on.
        "" | "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("`{text}` is not on or off")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a number"))
}

/// A number of bytes, with K, M, G or T for their 1024-fold and so on.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let bytes = number(digits).map_err(|_| format!("`{text}` is not a size such as 512M"))?;
    bytes.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than there can be"))
}

/// The items of `[a,b]`; brackets may be left out around a single one.
fn list(text: &str) -> Result<Vec<&str>, String> {
    match text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => split(inner, ','),
        None if text.is_empty() => Err("a value is missing".into()),
        None => Ok(vec![text]),
    }
}

/// The most numbers that a range may stand for: as many as a list of the API takes.
const MAX_RANGE: u64 = granule_api::config::MAX_LIST as u64;

/// Numbers and ranges: `[0,2-4]`.
fn numbers(text: &str) -> Result<Vec<u64>, String> {
    let mut numbers = Vec::new();
    for item in list(text)? {
        match item.split_once('-') {
            None => numbers.push(number(item)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first || last - first >= MAX_RANGE {
                    return Err(format!("`{item}` is not a range of at most {MAX_RANGE} numbers"));
                }
                numbers.extend(first..=last);
            }
        }
    }
    Ok(numbers)
}

/// `threads:cores:dies:packages`.
fn topology(text: &str) -> Result<Value, String> {
    let parts: Result<Vec<u64>, String> = text.split(':').map(number).collect();
    match parts?.as_slice() {
        [threads, cores, dies, packages] => Ok(serde_json::json!({
            "threads_per_core": threads, "cores_per_die": cores, "dies_per_package": dies, "packages": packages,
        })),
        _ => Err(format!("`{text}` is not threads:cores:dies:packages")),
    }
}

fn features(text: &str) -> Result<Value, String> {
    match text {
        "amx" => Ok(serde_json::json!(true)),
        _ => Err(format!("`{text}` is not a CPU feature; memory tagging is the key mte")),
    }
}

/// `[a@b,c@d]`.
fn pairs(text: &str, left: &str, right: &str, many: bool) -> Result<Value, String> {
    let mut objects = Vec::new();
    for item in list(text)? {
        let (first, second) =
            item.split_once('@').ok_or_else(|| format!("`{item}` is not {left}@{right}"))?;
        // Everything but a device's name is a number.
        let first = if left == "id" { Value::from(first) } else { Value::from(number(first)?) };
        let second = if many { Value::from(numbers(second)?) } else { Value::from(number(second)?) };
        objects.push(serde_json::json!({ left: first, right: second }));
    }
    Ok(Value::Array(objects))
}
