//! A document's paths, fields, defaults and spellings, a line each; what is only said in words is left out.

use std::collections::BTreeMap;

use serde_json::Value;

/// Heading → lines. Paths are under the empty heading.
pub(super) type Facts = BTreeMap<String, BTreeMap<String, String>>;

/// Reads the form in which the facts of another document are kept.
pub(super) fn read(text: &str) -> Facts {
    let mut facts = Facts::new();
    let mut heading = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words = line.trim_start();
        let (name, rest) = words.split_once(' ').unwrap_or((words, ""));
        if line.starts_with("  ") {
            facts.entry(heading.clone()).or_default().insert(name.into(), rest.into());
        } else if let "GET" | "PUT" = name {
            let (path, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            facts.entry(String::new()).or_default().insert(format!("{name} {path}"), rest.into());
        } else {
            heading = name.into();
            let enumeration = facts.entry(heading.clone()).or_default();
            if !rest.is_empty() {
                enumeration.insert("(values)".into(), rest.into());
            }
        }
    }
    facts
}

/// The facts of a document.
pub(super) fn of(document: &Value) -> Facts {
    let mut facts = Facts::new();
    for (path, methods) in object(&document["paths"]) {
        for (method, operation) in object(methods) {
            let name = format!("{} {}", method.to_uppercase(), path.trim_start_matches('/'));
            facts.entry(String::new()).or_default().insert(name, path_facts(operation));
        }
    }
    for (name, schema) in object(&document["components"]["schemas"]) {
        let lines = facts.entry(name.clone()).or_default();
        if let Some(values) = spellings(schema) {
            lines.insert("(values)".into(), format!("string {values}"));
        }
        for (field, property) in object(&schema["properties"]) {
            let required =
                schema["required"].as_array().is_some_and(|all| all.contains(&field.clone().into()));
            lines.insert(field.clone(), field_facts(property, required));
        }
    }
    facts
}

fn path_facts(operation: &Value) -> String {
    let schema = |holder: &Value| type_of(&holder["content"]["application/json"]["schema"]);
    let body = match operation.get("requestBody") {
        Some(body) => schema(body),
        None => "-".into(),
    };
    let mut line = format!("{body} ->");
    for (code, response) in object(&operation["responses"]) {
        line += &format!(" {code}");
        if code == "200" && response.get("content").is_some() {
            line += &format!(":{}", schema(response));
        }
    }
    line
}

fn field_facts(property: &Value, required: bool) -> String {
    let mut line = type_of(property);
    match property.get("default") {
        // An object's or a list's default says no more than its parts do.
        None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => {}
        Some(default) => line += &format!(" = {default}"),
    }
    if required {
        line += " required";
    }
    line
}

fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or_default().into();
    }
    for wrapper in ["allOf", "anyOf", "oneOf"] {
        if let Some(first) = schema[wrapper].as_array().and_then(|all| all.first()) {
            return type_of(first);
        }
    }
    match schema["type"].as_str() {
        Some("array") => format!("[{}]", type_of(&schema["items"])),
        Some(name) => name.into(),
        None => "any".into(),
    }
}

/// The words that an enumeration has.
fn spellings(schema: &Value) -> Option<String> {
    let words = |schema: &Value| -> Option<Vec<String>> {
        Some(schema["enum"].as_array()?.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect())
    };
    let all = match schema["oneOf"].as_array() {
        Some(variants) => variants.iter().map(words).collect::<Option<Vec<_>>>()?.concat(),
        None => words(schema)?,
    };
    Some(all.join("|"))
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Every line that differs, ours after theirs.
pub(super) fn differences(theirs: &Facts, ours: &Facts) -> String {
    let mut text = String::new();
    for heading in theirs.keys().chain(ours.keys().filter(|name| !theirs.contains_key(*name))) {
        let (Some(theirs), Some(ours)) = (theirs.get(heading), ours.get(heading)) else {
            let whose = if theirs.contains_key(heading) { "theirs alone" } else { "ours alone" };
            text += &format!("{heading}: {whose}\n");
            continue;
        };
        for name in theirs.keys().chain(ours.keys().filter(|name| !theirs.contains_key(*name))) {
            let (their, our) = (theirs.get(name), ours.get(name));
            if their != our {
                let show = |line: Option<&String>| line.map_or("(none)".into(), |line| format!("`{line}`"));
                let of = if heading.is_empty() { String::new() } else { format!("{heading}.") };
                text += &format!("{of}{name}: {} -> {}\n", show(their), show(our));
            }
        }
    }
    text
}
