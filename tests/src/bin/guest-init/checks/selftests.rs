//! The kernel's own MTE selftests (tools/testing/selftests/arm64/mte), run as they are.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::{Seen, names};
use crate::say;

/// Runs every program of the folder and tells what its TAP lines said.
pub fn run(folder: &str) -> Seen {
    let mut programs = Map::new();
    for name in names(folder) {
        let path = format!("{folder}/{name}");
        if is_program(Path::new(&path)) {
            programs.insert(name.clone(), run_one(&path)?);
            // Some take minutes in emulation: a sign of life for who waits.
            say(&format!("selftest {name} ran"));
        }
    }
    if programs.is_empty() { Err(format!("no program in {folder}")) } else { Ok(Value::Object(programs)) }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn run_one(path: &str) -> Seen {
    let mut command = Command::new(path);
    // The selftests look for files and /proc/self by their own working folder.
    command.current_dir("/tmp").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("{path}: {e}"))?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.as_mut() {
        stdout.read_to_end(&mut output).map_err(|e| format!("{path}: {e}"))?;
    }
    let status = child.wait().map_err(|e| format!("{path}: {e}"))?;
    Ok(json!({"status": status.to_string(), "tests": tap(&String::from_utf8_lossy(&output))}))
}

/// `ok 3 Check …` becomes `["ok", "Check …"]`, in order; everything that is not a result is passed over.
fn tap(text: &str) -> Value {
    let results = text.lines().filter_map(|line| {
        let (verdict, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => ("not ok", rest),
            None => ("ok", line.strip_prefix("ok ")?),
        };
        let name = rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches([' ', '-']);
        let verdict = if verdict == "ok" && name.contains("# SKIP") { "skip" } else { verdict };
        Some(json!([verdict, name]))
    });
    Value::Array(results.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_lines_are_told_apart() {
        let text = "TAP version 13\n1..3\nok 1 Check buffer, private\nnot ok 2 Check ksm\nok 3 # SKIP MTE not supported\n# done\n";
        let expected = json!([
            ["ok", "Check buffer, private"],
            ["not ok", "Check ksm"],
            ["skip", "# SKIP MTE not supported"]
        ]);
        assert_eq!(tap(text), expected);
    }
}
