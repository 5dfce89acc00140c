//! Snapshots and restores: `bench snapshot`.
//!
//! ```text
//!   guest fills its memory, and gives signs of life
//!      pause ─► full snapshot ─► the same again, compared with it ─► resume ─► live snapshot ─► killed
//!      a new process ─► restore, Copy and OnDemand ─► answered ─► the guest's next sign of life ─► memory complete
//!      ten new processes, OnDemand ─► each stopped at its guest's first sign of life ─► their memory
//! ```
//! All is from the host's clock, which under `--icount` counts instructions of all processors together; so what a guest
//! that runs does beside a live snapshot or a restore is counted as well.

mod granule;
pub mod guest;
mod process;
mod qemu;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::contender::{Contender, Material};
use crate::report::{head, line};
use guest::Kind;

/// A guest that is saved.
pub struct Subject {
    kind: Kind,
    memory_mib: u64,
    /// Filled in this kind.
    mib: u64,
    /// Filled besides, without tags.
    plain_mib: u64,
}

impl Subject {
    /// What its guest is told to do, on its kernel's command line.
    fn cmdline(&self) -> String {
        let word = guest::word(self.kind, self.mib, self.plain_mib);
        format!("console=ttyAMA0 quiet panic=-1 -- {word}")
    }
}

/// Says how far it has come.
fn step(what: &str) {
    eprintln!("bench:   {what}");
}

/// All that was measured of one guest, by name, in order of the runs.
#[derive(Default)]
pub struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    fn best(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.iter().copied().min_by(f64::total_cmp)
    }

    fn mean(&self, name: &str) -> Option<f64> {
        let all = self.0.get(name)?;
        Some(all.iter().sum::<f64>() / all.len() as f64)
    }
}

/// One column of the tables.
struct Entry {
    name: String,
    kind: Kind,
    memory_mib: u64,
    figures: Figures,
}

/// MiB that a guest of the smallest size fills.
const FILL: u64 = 96;

/// Runs all of it; `quick` has one guest with tags and one without.
pub fn run(runs: usize, only: &str, quick: bool, file: Option<&Path>) -> Result<(), String> {
    let material = Material::prepare()?;
    let contenders = Contender::all(&material)?;
    let contenders = contenders.iter().filter(|contender| contender.name.contains(only));
    let mut entries = Vec::new();
    for contender in contenders.filter(|contender| !(quick && contender.is_qemu())) {
        for subject in subjects(contender, quick) {
            let name = format!("{}, {} MiB, {}", contender.name, subject.memory_mib, subject.kind.name());
            eprintln!("bench: {name}");
            let of = |why| format!("{name}: {why}");
            let mut figures = if contender.is_qemu() {
                qemu::measure(contender, &material, &subject, runs).map_err(of)?
            } else {
                granule::measure(contender, &material, &subject, runs).map_err(of)?
            };
            if contender.has_api && subject.kind == Kind::Heap && subject.memory_mib <= 1024 && !quick {
                figures.0.extend(granule::clones(contender, &material).map_err(of)?.0);
            }
            // At once: the rest may be cut short.
            eprintln!("bench: {}", json!(figures.0));
            let Subject { kind, memory_mib, .. } = subject;
            entries.push(Entry { name: contender.name.clone(), kind, memory_mib, figures });
        }
    }
    print(&entries);
    file.map_or(Ok(()), |file| write(&entries, file))
}

/// Each kind of tags in the smallest guest, with tags and without, and a heap in larger ones, which have more plain pages and
/// much that was never touched.
fn subjects(contender: &Contender, quick: bool) -> Vec<Subject> {
    let small =
        |kind| Subject { kind, memory_mib: 256, mib: if quick { FILL / 4 } else { FILL }, plain_mib: 0 };
    let large = |memory_mib, plain_mib| Subject { kind: Kind::Heap, memory_mib, mib: FILL, plain_mib };
    let kinds: &[Kind] = match (quick, contender.has_api, contender.is_qemu()) {
        (true, ..) | (_, _, true) => &[Kind::Heap],
        (_, true, _) => &Kind::ALL,
        _ => &[Kind::Plain, Kind::Heap, Kind::Random],
    };
    let mut all: Vec<Subject> = kinds.iter().map(|kind| small(*kind)).collect();
    if !quick && (contender.has_api || contender.is_qemu()) {
        all.extend([large(1024, FILL), large(4096, 3 * FILL)]);
    }
    all
}

const TIMES: [(&str, &str); 14] = [
    ("full snapshot, guest paused", "full"),
    ("the same compared with a parent, nothing changed", "compared"),
    ("live snapshot, until answered", "live"),
    ("of that the guest stood still", "pause"),
    ("rounds of the live snapshot", "rounds"),
    ("pages of its last round", "last pages"),
    ("start → Copy restored and resumed", "copy answered"),
    ("start → Copy, the guest's sign of life", "copy alive"),
    ("start → OnDemand restored and resumed", "demand answered"),
    ("start → OnDemand, the guest's sign of life", "demand alive"),
    ("start → OnDemand, memory complete", "demand complete"),
    ("start → sign of life of a clone among ten", "clone alive"),
    ("MiB of guest memory of a clone at its sign of life", "clone guest MiB"),
    ("MiB of a clone's processes besides", "clone processes MiB"),
];

const PAGES: [(&str, &str); 4] =
    [("without tags", "untagged"), ("of one tag", "uniform"), ("runs", "runs"), ("packed", "packed")];

fn print(entries: &[Entry]) {
    println!("Milliseconds, the best of all runs.\n");
    let names: Vec<String> =
        entries.iter().map(|e| format!("{}, {} MiB, {}", e.name, e.memory_mib, e.kind.name())).collect();
    head("", &names.iter().map(String::as_str).collect::<Vec<_>>());
    for (what, name) in TIMES {
        let figure =
            |e: &Entry| if name.starts_with("clone") { e.figures.mean(name) } else { e.figures.best(name) };
        line(what, entries.iter().map(|e| figure(e).map_or(String::new(), |ms| format!("{ms:.1}"))));
    }
    println!("\nPages, and bytes that their tags take on average.\n");
    head("", &names.iter().map(String::as_str).collect::<Vec<_>>());
    line("pages with data", entries.iter().map(|e| count(e, "raw pages")));
    for (what, kind) in PAGES {
        line(what, entries.iter().map(|e| page_cell(e, kind)));
    }
    line("the file of tags, bytes", entries.iter().map(|e| count(e, "tags file")));
}

fn count(entry: &Entry, name: &str) -> String {
    entry.figures.best(name).map_or(String::new(), |count| format!("{count:.0}"))
}

fn page_cell(entry: &Entry, kind: &str) -> String {
    let of = |what: &str| entry.figures.best(&format!("{kind} {what}"));
    match (of("pages"), of("bytes")) {
        (Some(pages), Some(bytes)) if pages > 0.0 => format!("{pages:.0}: {:.2}", bytes / pages),
        _ => String::new(),
    }
}

fn write(entries: &[Entry], file: &Path) -> Result<(), String> {
    let entries: Vec<_> = entries
        .iter()
        .map(|e| json!({"name": e.name, "kind": e.kind.name(), "memory_mib": e.memory_mib, "figures": e.figures.0}))
        .collect();
    let text = format!("{:#}\n", json!({"unit": "ms", "entries": entries}));
    std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
}
