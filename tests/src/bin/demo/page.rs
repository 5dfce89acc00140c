//! How the report looks.

use std::io::Write;
use std::sync::LazyLock;

use serde_json::Value;

/// Where the second column begins.
const COLUMN: usize = 24;

/// `--bold` for a terminal; the lab's own end is always a pipe.
static BOLD: LazyLock<bool> = LazyLock::new(|| std::env::args().any(|argument| argument == "--bold"));

/// A heading, and beside it what a person would type.
pub fn chapter(title: &str, command: &str) {
    let title = if *BOLD { format!("\x1b[1m{title}\x1b[0m") } else { title.to_owned() };
    let note = if command.is_empty() { String::new() } else { format!("   ({command})") };
    out(&format!("\n{title}{note}"));
}

/// A line as it is.
pub fn line(text: &str) {
    out(&format!("  {text}"));
}

/// What, and what was found.
pub fn row(what: &str, found: &str) {
    out(&format!("  {what:<COLUMN$} {found}"));
}

/// A call of the API, as curl would make it.
pub fn call(method: &str, endpoint: &str, body: bool) {
    let method = if method == "GET" { String::new() } else { format!(" -X {method}") };
    let body = if body { " -d @vm.json" } else { "" };
    out(&format!("  $ curl --unix-socket api.sock{method}{body} http://localhost/api/v1/{endpoint}"));
}

/// That it was done, and what came of it.
pub fn answer(news: &str) {
    out(format!("    done {news}").trim_end());
}

/// A configuration, one line for each of its parts.
pub fn config(name: &str, body: &Value) {
    let mut lead = format!("  {name}: {{");
    let last = body.as_object().map_or(0, |parts| parts.len() - 1);
    for (number, (key, value)) in body.as_object().into_iter().flatten().enumerate() {
        let end = if number == last { "}" } else { "," };
        out(&format!("{lead}\"{key}\": {value}{end}"));
        lead = " ".repeat(lead.len());
    }
}

/// The last line.
pub fn end(text: &str) {
    out(&format!("\n{text}"));
}

/// What went wrong.
pub fn failure(text: &str) {
    let _ = std::io::stdout().flush();
    eprintln!("\ndemo: {text}");
}

fn out(text: &str) {
    // A reader that has gone away needs no report.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
