//! The document as JSON.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::paths::{PATHS, Path};
use crate::call::{ENDPOINTS, Method};

/// The whole document.
pub(super) fn document() -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = PATHS.iter().find(|path| path.name == endpoint.name);
        let path = path.unwrap_or_else(|| panic!("{} is not in the table of paths", endpoint.name));
        let method = match endpoint.method {
            Method::Get => "get",
            Method::Put => "put",
        };
        paths.insert(format!("/{}", path.name), json!({ method: operation(path, &mut generator) }));
    }
    let mut schemas = generator.take_definitions(true);
    schemas.values_mut().for_each(bound);
    // It is made up anew for each interface.
    if let Some(mac) = schemas.get_mut("NetConfig").and_then(|net| net["properties"]["mac"].as_object_mut()) {
        mac.remove("default");
    }
    schemas.insert("Causes".into(), causes());
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Granule",
            "description": "Drives one microVM over a Unix socket, as Cloud Hypervisor's API does, with memory tagging.",
            "license": { "name": "Apache-2.0" },
            "version": crate::COMPAT_VERSION,
        },
        "servers": [{ "url": "http://localhost/api/v1" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// Says of every number of 32 or 64 bits that it has an upper bound, as schemars does of the smaller ones.
fn bound(schema: &mut Value) {
    let maximum = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64" | "uint") => Some(u64::MAX),
        _ => None,
    };
    match schema {
        Value::Object(fields) => {
            if let Some(maximum) = maximum {
                fields.entry("maximum").or_insert(maximum.into());
            }
            fields.values_mut().for_each(bound);
        }
        Value::Array(items) => items.iter_mut().for_each(bound),
        _ => {}
    }
}

fn operation(path: &Path, generator: &mut schemars::SchemaGenerator) -> Value {
    let mut responses = Map::new();
    if let Some(answer) = path.answer {
        responses
            .insert("200".into(), json!({ "description": "Done", "content": content(answer(generator)) }));
    }
    for code in path.codes {
        let response = match code {
            200 | 204 => json!({ "description": "Done" }),
            _ => {
                json!({ "description": refusal(*code), "content": content(json!({ "$ref": "#/components/schemas/Causes" })) })
            }
        };
        responses.insert(code.to_string(), response);
    }
    let mut operation =
        json!({ "summary": path.summary, "operationId": operation_id(path.name), "responses": responses });
    if let Some(body) = path.body {
        operation["requestBody"] = json!({ "required": true, "content": content(body(generator)) });
    }
    operation
}

fn content(schema: impl Into<Value>) -> Value {
    json!({ "application/json": { "schema": schema.into() } })
}

fn refusal(code: u16) -> &'static str {
    match code {
        400 => "The request is at fault",
        404 => "There is no VM, or no such device",
        405 => "Not in this state of the VM",
        409 => "There is one already",
        429 => "Not now",
        _ => "It should have worked",
    }
}

fn operation_id(name: &str) -> String {
    let words = name.split(['.', '-']).enumerate();
    words
        .map(|(index, word)| if index == 0 { word.into() } else { word[..1].to_uppercase() + &word[1..] })
        .collect()
}

fn causes() -> Value {
    json!({
        "description": "Why a request was refused: each entry is the cause of the one before.",
        "type": "array",
        "items": { "type": "string" },
    })
}
