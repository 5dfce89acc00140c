//! The table for people and the file for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::run::{Api, Whole};

/// All that was measured of one contender.
#[derive(Default)]
pub struct Entry {
    pub name: String,
    pub stub: Vec<Whole>,
    pub linux: Vec<Whole>,
    pub api: Vec<Api>,
    /// KiB by role.
    pub memory: BTreeMap<String, u64>,
}

/// All contenders, in the order in which they ran.
#[derive(Default)]
pub struct Report {
    pub entries: Vec<Entry>,
}

type Column = fn(&Entry) -> Vec<f64>;
type ApiColumn = fn(&Api) -> f64;

const ROWS: [(&str, Column); 8] = [
    ("start → the guest's first instructions", |e| each(&e.stub, |r| r.mark)),
    ("start → the guest's /init", |e| each(&e.linux, |r| r.mark)),
    ("of that the guest kernel's own boot", |e| {
        each(&e.linux, |r| r.mark - best(&each(&e.stub, |s| s.mark)).unwrap_or_default())
    }),
    ("start → end, guest powers off in /init", |e| each(&e.linux, |r| r.end)),
    ("start → end, guest powers off at once", |e| each(&e.stub, |r| r.end)),
    ("/init powers off → end", |e| each(&e.linux, |r| r.end - r.mark)),
    ("CPU outside the guest, whole boot", |e| each(&e.linux, |r| r.cpu)),
    ("CPU outside the guest, guest powers off at once", |e| each(&e.stub, |r| r.cpu)),
];

const API_ROWS: [(&str, ApiColumn); 4] = [
    ("start → API socket accepts", |a| a.connected),
    ("start → vmm.ping answered", |a| a.pinged),
    ("start → vm.create answered", |a| a.created),
    ("start → vm.boot answered", |a| a.booted),
];

impl Report {
    /// Writes the tables to standard output, as Markdown.
    pub fn print(&self) {
        let names: Vec<&str> = self.entries.iter().map(|e| e.name.as_str()).collect();
        println!("Milliseconds, the best first and all runs behind it.\n");
        head("", &names);
        for (what, column) in ROWS {
            line(what, self.entries.iter().map(|e| cell(&column(e))));
        }
        for (what, of) in API_ROWS {
            line(what, self.entries.iter().map(|e| cell(&each(&e.api, of))));
        }
        println!("\nKiB besides guest memory (PSS) while the guest idles.\n");
        head("", &names);
        let roles: BTreeSet<&String> = self.entries.iter().flat_map(|e| e.memory.keys()).collect();
        for role in roles {
            line(role, self.entries.iter().map(|e| e.memory.get(role).map_or("".to_owned(), u64::to_string)));
        }
        let all = |e: &Entry| e.memory.values().sum::<u64>();
        line("all", self.entries.iter().map(|e| all(e).to_string()));
    }

    /// Writes all runs as JSON.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let entries: Vec<Value> = self.entries.iter().map(Entry::json).collect();
        let text = format!("{:#}\n", json!({"unit": "ms", "memory_unit": "KiB", "entries": entries}));
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Entry {
    fn json(&self) -> Value {
        let whole = |runs: &[Whole]| -> Vec<Value> {
            runs.iter().map(|r| json!({"mark": r.mark, "end": r.end, "cpu": r.cpu})).collect()
        };
        let api: Vec<Value> = self
            .api
            .iter()
            .map(|a| {
                json!({"connected": a.connected, "pinged": a.pinged, "created": a.created, "booted": a.booted})
            })
            .collect();
        json!({
            "name": self.name, "stub": whole(&self.stub), "linux": whole(&self.linux), "api": api,
            "memory": self.memory,
        })
    }
}

fn each<T>(runs: &[T], of: impl Fn(&T) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}

fn best(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

fn cell(values: &[f64]) -> String {
    let all: Vec<String> = values.iter().map(|v| format!("{v:.1}")).collect();
    best(values).map_or(String::new(), |best| format!("**{best:.1}** ({})", all.join(", ")))
}

pub fn head(first: &str, names: &[&str]) {
    line(first, names.iter().map(|name| (*name).to_owned()));
    line("---", names.iter().map(|_| "---".to_owned()));
}

pub fn line(first: &str, cells: impl Iterator<Item = String>) {
    println!("| {first} | {} |", cells.collect::<Vec<_>>().join(" | "));
}
