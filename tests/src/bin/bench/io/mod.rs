//! Throughput of disk, network and socket: `bench io`.
//!
//! ```text
//!   guest (this program as /init) ── reads and writes /dev/vda ──────────────────► image in the host's memory
//!        │                         └─ TCP over a tap, vsock ──► `peer` on the host
//!        └─ "BENCH row amount nanoseconds" on the console, each row as often as there are rounds, then "BENCH-END"
//! ```
//! The guest's clock measures: under `--icount` it counts instructions of all processors together, the monitor's and the
//! host kernel's included. A row's figure is the best of its rounds.

pub mod guest;
mod peer;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::Options;
use crate::contender::{Contender, IoMaterial};
use crate::report::{head, line};
use crate::run;

/// Where the other end of network and socket listens.
pub const PORT: u32 = 7001;
/// The tap's end of the network, and the guest's.
pub const HOST: &str = "10.9.60.1";
pub const GUEST: &str = "10.9.60.2";
/// The guest's context.
pub const CID: u32 = 3;
/// Bytes of the disk.
pub const DISK: u64 = 64 << 20;

const MIB: f64 = (1 << 20) as f64;

/// What one contender came to: figures by row, KiB by process.
struct Entry {
    name: String,
    figures: BTreeMap<String, Vec<f64>>,
    memory: BTreeMap<String, u64>,
}

/// Runs every contender whose name holds `only`, of the rows those whose name holds `rows`.
pub fn run(options: &Options) -> Result<(), String> {
    let Options { runs, only, rows, json, .. } = options;
    let material = IoMaterial::prepare()?;
    peer::listen(&material.socket()).map_err(|e| format!("the other end: {e}"))?;
    let mut entries = Vec::new();
    for contender in Contender::all_io(&material.material)?.iter().filter(|c| c.name.contains(only.as_str()))
    {
        eprintln!("bench: {}", contender.name);
        let command = contender.io_command(&material, *runs, rows);
        let (said, memory) =
            run::observe(command, guest::END).map_err(|e| format!("{}: {e}", contender.name))?;
        material.clear();
        let figures = figures(&said).map_err(|e| format!("{}: {e}", contender.name))?;
        entries.push(Entry { name: contender.name.clone(), figures, memory });
    }
    print(&entries, rows);
    json.as_deref().map_or(Ok(()), |file| write(&entries, file))
}

/// What each row came to in each round: MiB or requests per second.
fn figures(said: &str) -> Result<BTreeMap<String, Vec<f64>>, String> {
    let mut figures = BTreeMap::<String, Vec<f64>>::new();
    for line in said.lines().filter_map(|line| line.trim().strip_prefix(guest::ROW)) {
        if let Some(why) = line.strip_prefix("failed ") {
            return Err(why.to_owned());
        }
        let words: Vec<&str> = line.rsplitn(3, ' ').collect();
        let &[nanoseconds, amount, row] = &words[..] else { continue };
        let number = |word: &str| word.parse::<f64>().map_err(|e| format!("{e} in {line:?}"));
        let unit = if row.ends_with("MiB/s") { MIB } else { 1.0 };
        let figure = number(amount)? / unit / (number(nanoseconds)? / 1e9);
        figures.entry(row.to_owned()).or_default().push(figure);
    }
    Ok(figures)
}

fn print(entries: &[Entry], rows: &str) {
    let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    println!("Per second of instructions, the best round first and all rounds behind it.\n");
    head("", &names);
    for row in guest::ROWS.iter().map(|row| row.name).filter(|name| name.contains(rows)) {
        line(row, entries.iter().map(|entry| entry.figures.get(row).map_or(String::new(), |all| cell(all))));
    }
    println!("\nKiB besides guest memory (PSS) afterwards.\n");
    head("", &names);
    let roles: std::collections::BTreeSet<&String> = entries.iter().flat_map(|e| e.memory.keys()).collect();
    for role in roles {
        line(role, entries.iter().map(|e| e.memory.get(role).map_or(String::new(), u64::to_string)));
    }
}

fn cell(figures: &[f64]) -> String {
    let best = figures.iter().copied().fold(0.0, f64::max);
    let all: Vec<String> = figures.iter().map(|figure| format!("{figure:.0}")).collect();
    format!("**{best:.0}** ({})", all.join(", "))
}

fn write(entries: &[Entry], file: &Path) -> Result<(), String> {
    let entries: Vec<_> =
        entries.iter().map(|e| json!({"name": e.name, "figures": e.figures, "memory": e.memory})).collect();
    let text = format!("{:#}\n", json!({"memory_unit": "KiB", "entries": entries}));
    std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn a_row_is_an_amount_in_its_unit_per_second() {
        let said = "x\r\nBENCH disk, MiB/s 2097152 500000000\r\nBENCH requests/s 10 1000000000\nBENCH requests/s 30 1000000000\n";
        let figures = figures(said).unwrap();
        assert_eq!(figures["disk, MiB/s"], [4.0]);
        assert_eq!(figures["requests/s"], [10.0, 30.0]);
    }

    #[test]
    fn what_the_guest_could_not_do_is_an_error() {
        assert_eq!(figures("BENCH failed /dev/vda: no such file\n").unwrap_err(), "/dev/vda: no such file");
    }
}
