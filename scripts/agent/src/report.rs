//! What every process in the lab is doing: the answer to "what hangs?".

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// One line for each thread of each process that is not a kernel thread, read from `proc` (normally `/proc`);
/// under a thread in uninterruptible sleep, its kernel stack.
pub fn processes(proc: &Path) -> String {
    let mut report = String::from("    pid     tid S wchan                    thread           command\n");
    for pid in numbered(proc) {
        let process = proc.join(pid.to_string());
        let command = text(&process.join("cmdline")).replace('\0', " ");
        if command.is_empty() {
            continue;
        }
        for tid in numbered(&process.join("task")) {
            let thread = process.join("task").join(tid.to_string());
            let state = state(&text(&thread.join("stat")));
            let (wchan, name) = (text(&thread.join("wchan")), text(&thread.join("comm")));
            let _ = writeln!(report, "{pid:7} {tid:7} {state} {wchan:24} {:16} {command}", name.trim_end());
            if state == 'D' {
                report.push_str(&text(&thread.join("stack")));
            }
        }
    }
    report
}

fn numbered(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// A process may end while it is being looked at, so what cannot be read is empty.
fn text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The state letter stands after the last parenthesis, because a thread's name may hold any of the others.
fn state(stat: &str) -> char {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_found_behind_a_name_with_parentheses() {
        assert_eq!(state("12 (a) Z (b) S 1 12"), 'S');
        assert_eq!(state("gone"), '?');
    }

    #[test]
    fn this_test_is_in_the_report() {
        let report = processes(Path::new("/proc"));
        assert!(report.lines().any(|line| line.trim_start().starts_with(&std::process::id().to_string())));
    }
}
