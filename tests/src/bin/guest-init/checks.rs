//! The checks by name; each returns what it saw, or why it could not look.

pub mod balloon;
pub mod clock;
pub mod console;
pub mod cpus;
pub mod disk;
pub mod fs;
pub mod heap;
pub mod meminfo;
pub mod memory;
pub mod mte;
pub mod nic;
pub mod pci;
pub mod pmem;
pub mod power;
pub mod rng;
pub mod selftests;
pub mod watchdog;

use std::process::Command;

use serde_json::{Value, json};

use crate::{hostile, say};

/// What a check hands back.
pub type Seen = Result<Value, String>;

/// Runs one check and prints its line; false if it failed.
pub fn report(name: &str) -> bool {
    let seen = match name {
        "balloon" => balloon::look(),
        "boot" => Ok(boot()),
        "clock" => clock::look(),
        "cpus" => cpus::look(),
        "heap" => heap::look(),
        "memory" => memory::look(),
        "memory-tags" => memory::tags(),
        "mte" => mte::look(),
        "pci" => pci::look(),
        "rng" => rng::look(),
        "selftests" => selftests::run("/selftests"),
        "watchdog" => watchdog::ping_once(),
        "window" => console::window(),
        other => match other.split_once(':') {
            Some(("selftests", folder)) => selftests::run(folder),
            Some(("fs", tag)) => fs::read(tag),
            Some(("fs-write", tag)) => fs::write(tag),
            Some(("fs-hold", tag)) => fs::hold(tag),
            Some(("fs-held", process)) => fs::held(process),
            Some(("flood", path)) => console::write(path, console::FLOOD),
            Some(("stream", path)) => console::write(path, console::STREAM),
            Some(("disk", words)) => disk::look(words),
            Some(("pmem", words)) => pmem::look(words),
            Some(("hostile", words)) => hostile::look(words),
            Some(("balloon", words)) => meminfo::wait("MemFree", words),
            Some(("memory", words)) => meminfo::wait("MemTotal", words),
            Some(("nic", name)) => nic::look(name),
            _ => Err("no check of this name".to_owned()),
        },
    };
    match seen {
        Ok(value) => say(&format!("ok {name} {value}")),
        Err(reason) => {
            say(&format!("fail {name} {reason}"));
            return false;
        }
    }
    true
}

/// As [`report`], in a process of its own: a check that dies is a line for the harness, not the end of PID 1.
pub fn report_apart(name: &str) {
    match Command::new("/proc/self/exe").args(["check", name]).status() {
        Ok(status) if status.code().is_some() => {}
        Ok(status) => say(&format!("fail {name} {status}")),
        Err(error) => say(&format!("fail {name} {error}")),
    }
}

/// What every boot tells: kernel, memory, seconds since the kernel started, command line.
pub fn boot() -> Value {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let uptime = read("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or_default();
    let cmdline = read("/proc/cmdline").unwrap_or_default();
    let boot_id = read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    json!({"kernel": release, "uptime": uptime, "memory_kib": memory_kib(), "cmdline": cmdline, "boot_id": boot_id})
}

fn memory_kib() -> Option<u64> {
    let text = read("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A whole small file without the white space around it; the error names the file.
fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|e| format!("{path}: {e}"))
}

/// Names in a folder, sorted; none if the folder is missing.
fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
