//! Every field of every body, made wrong in every way, on a monitor without and with a VM. What is right and wrong is read off the API's
//! own document: a field of the wrong type is refused by its name, nothing is the server's fault, and what is refused changes nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too: a panic is how they fail")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use granule_tests::client::{Client, Response};
use granule_tests::wait;
use serde_json::{Map, Value, json};

/// The document, which a test of its own holds against the types.
const DOCUMENT: &str = include_str!("../../api/openapi.yaml");
/// Schemas that contain themselves would end here; none does.
const DEPTH: usize = 8;

struct Monitor {
    child: Child,
    folder: PathBuf,
    client: Client,
}

impl Monitor {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("granule-bodies-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let child =
            Command::new(env!("CARGO_BIN_EXE_granule")).arg("--api-socket").arg(&socket).spawn().unwrap();
        let client =
            wait::until(Duration::from_secs(60), || Client::connect(&socket).ok()).expect("it listens");
        Self { child, folder, client }
    }

    fn ask(&mut self, method: &str, name: &str, body: Option<&[u8]>) -> Response {
        let mut request = format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(body) = body {
            write!(request, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        let bytes = [request.as_bytes(), b"\r\n", body.unwrap_or_default()].concat();
        self.client.send(&bytes).unwrap();
        self.client.receive().unwrap_or_else(|error| {
            panic!("{name}: {error} after {}", String::from_utf8_lossy(body.unwrap_or_default()))
        })
    }

    fn info(&mut self) -> Response {
        self.ask("GET", "vm.info", None)
    }

    /// A VM anew, or none.
    fn reset(&mut self, created: bool) {
        assert_eq!(self.ask("PUT", "vm.delete", None).code, 204);
        if created {
            let body = json!({"payload": {"kernel": "/k"}, "memory": {"size": 1 << 28}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1}});
            assert_eq!(self.ask("PUT", "vm.create", Some(body.to_string().as_bytes())).code, 204);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Both may be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn document() -> Value {
    serde_yaml_ng::from_str(DOCUMENT).unwrap()
}

/// The schema behind references and wrappers.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(document, document.pointer(reference.trim_start_matches('#')).unwrap());
    }
    for wrapper in ["allOf", "anyOf", "oneOf"] {
        if let Some(first) = schema[wrapper].as_array().and_then(|all| all.first()) {
            return if first["enum"].is_array() { schema } else { resolved(document, first) };
        }
    }
    schema
}

/// A value that a schema allows, with every field.
fn whole(document: &Value, schema: &Value, name: &str, depth: usize) -> Value {
    let schema = resolved(document, schema);
    if let Some(word) = schema["enum"][0].as_str().or(schema["oneOf"][0]["enum"][0].as_str()) {
        return word.into();
    }
    match schema["type"].as_str() {
        Some("object") if depth < DEPTH => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields
                .map(|(name, field)| (name.clone(), whole(document, field, name, depth + 1)))
                .collect::<Map<_, _>>()
                .into()
        }
        Some("array") => json!([whole(document, &schema["items"], name, depth + 1)]),
        Some("integer") => schema["minimum"].as_u64().unwrap_or(1).max(1).into(),
        Some("number") => 1.into(),
        Some("boolean") => false.into(),
        Some("string") => match name {
            "mac" | "host_mac" => "02:00:ca:fe:00:01".into(),
            "ip" | "mask" => "255.255.255.0".into(),
            _ => "x".into(),
        },
        _ => Value::Null,
    }
}

/// What a place in a body is made.
struct Wrong {
    /// The last name on the way to it.
    field: String,
    body: Vec<u8>,
    /// The type is another: it must be refused, by its name.
    fatal: bool,
}

/// Every place in a value: its JSON pointer, the name of its field.
fn places(value: &Value, at: &str, name: &str, all: &mut Vec<(String, String)>) {
    all.push((at.to_owned(), name.to_owned()));
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                places(value, &format!("{at}/{field}"), field, all);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, &format!("{at}/{index}"), name, all);
            }
        }
        _ => {}
    }
}

/// Values of another type, and those of the same type that mean trouble.
fn instead_of(value: &Value, folder: &Path) -> (Vec<Value>, Vec<Value>) {
    let path = |name: &str| Value::from(folder.join(name).display().to_string());
    match value {
        Value::Bool(_) => (vec![json!("yes"), json!(1), json!([]), json!({})], vec![json!(true)]),
        Value::Number(_) => (
            vec![json!("many"), json!(1e300), json!([1]), json!({}), json!(true)],
            vec![json!(0), json!(u64::MAX), json!(i64::MAX), json!(-1), json!(1.5)],
        ),
        Value::String(_) => (
            vec![json!(7), json!([]), json!({})],
            vec![
                json!(""),
                json!("../../../etc/passwd"),
                json!("\u{0}"),
                json!("ü\n\u{7f}"),
                json!("x".repeat(5000)),
                path("link"),
                path("fifo"),
                path("loop"),
                path(""),
            ],
        ),
        Value::Array(_) => (vec![json!("list"), json!(1), json!({})], vec![json!([])]),
        Value::Object(_) => {
            (vec![json!("object"), json!(1), json!([]), json!([[]]), json!(false)], vec![json!({})])
        }
        Value::Null => (vec![], vec![]),
    }
}

/// The body with each place made wrong.
fn all_wrong(whole: &Value, folder: &Path) -> Vec<Wrong> {
    let mut all = Vec::new();
    places(whole, "", "", &mut all);
    let mut wrongs = Vec::new();
    for (pointer, field) in all {
        let (others, doubtful) = instead_of(whole.pointer(&pointer).unwrap(), folder);
        for (fatal, value) in
            others.into_iter().map(|v| (true, v)).chain(doubtful.into_iter().map(|v| (false, v)))
        {
            let mut body = whole.clone();
            *body.pointer_mut(&pointer).unwrap() = value;
            wrongs.push(Wrong { field: field.clone(), body: body.to_string().into_bytes(), fatal });
        }
        if let Some((parent, name)) =
            pointer.rsplit_once('/').filter(|(_, name)| name.parse::<u32>().is_err())
        {
            // The same field twice, and one that is not UTF-8.
            let object = whole.pointer(parent).unwrap().to_string();
            let twice = format!("{{\"{name}\":{},{}", whole.pointer(&pointer).unwrap(), &object[1..]);
            let text = whole.to_string().replacen(&object, &twice, 1);
            wrongs.push(Wrong { field: field.clone(), body: text.into_bytes(), fatal: true });
            let mut body = whole.clone();
            *body.pointer_mut(&pointer).unwrap() = "@@".into();
            let mut bytes = body.to_string().into_bytes();
            let at = bytes.windows(2).position(|window| window == b"@@").unwrap();
            bytes[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
            wrongs.push(Wrong { field: String::new(), body: bytes, fatal: true });
        }
    }
    wrongs
}

/// Sends all that is wrong to every endpoint with a body; answers how much that was, and what was not as it must be.
fn hurt(monitor: &mut Monitor, created: bool) -> (usize, Vec<String>) {
    let document = document();
    let folder = monitor.folder.clone();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("loop", folder.join("loop")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("fifo"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    let (mut sent, mut faults) = (0, Vec::new());
    for (path, operations) in document["paths"].as_object().unwrap() {
        let name = path.trim_start_matches('/');
        let operation = &operations["put"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        monitor.reset(created);
        let mut before = monitor.info();
        for wrong in all_wrong(&whole(&document, schema, "", 0), &folder) {
            let answer = monitor.ask("PUT", name, Some(&wrong.body));
            sent += 1;
            let refused = answer.code >= 300;
            let told = if refused { answer.causes().join(": ") } else { String::new() };
            // By whose fault it is not is for the kernel to say only where a host lacks something.
            let documented =
                operation["responses"].get(answer.code.to_string()).is_some() && answer.code != 500;
            let by_name = !wrong.fatal || (answer.code == 400 && told.contains(&wrong.field));
            if !documented || !by_name {
                let body = String::from_utf8_lossy(&wrong.body).into_owned();
                faults.push(format!(
                    "{name} {} {told} for {}: {}",
                    answer.code,
                    wrong.field,
                    &body[..body.len().min(300)]
                ));
            }
            if refused {
                let after = monitor.info();
                if after != before {
                    faults.push(format!("{name}: refused, and yet {after:?}"));
                }
            } else {
                monitor.reset(created);
                before = monitor.info();
            }
        }
    }
    (sent, faults)
}

fn holds(created: bool) {
    let mut monitor = Monitor::start(if created { "created" } else { "absent" });
    let (sent, faults) = hurt(&mut monitor, created);
    println!("{sent} bodies");
    assert!(sent > 3000, "{sent}: the document has lost something");
    assert!(
        faults.is_empty(),
        "{} of {sent}, the first:\n{}",
        faults.len(),
        faults[..faults.len().min(20)].join("\n")
    );
    assert_eq!(monitor.ask("GET", "vmm.ping", None).code, 200);
}

#[test]
fn no_wrong_body_does_anything_where_there_is_no_vm() {
    holds(false);
}

#[test]
fn no_wrong_body_changes_a_vm_that_is_there() {
    holds(true);
}
