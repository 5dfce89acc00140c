//! `GET /metrics`: the machine in the exposition format of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

use granule_api::types::VmCounters;

use super::admission::Lifecycle;
use super::children::Children;
use super::transfer::Save;
use super::transfer::on_demand::Fill;
use super::vm::Vm;

/// The snapshots that this monitor has made, together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Saves {
    snapshots: u64,
    dirty_pages: u64,
    memory_bytes: u64,
    tag_bytes: u64,
}

impl Saves {
    /// Counts one more.
    pub fn count(&mut self, save: &Save) {
        self.snapshots += 1;
        self.dirty_pages += save.dirty_pages();
        if let Some(memory) = &save.memory {
            self.memory_bytes += memory.memory_size + memory.pages.0;
            self.tag_bytes += memory.tags.map_or(0, |(bytes, _)| bytes);
        }
    }

    fn families(self) -> [(&'static str, &'static str, u64); 4] {
        [
            ("granule_snapshots_total", "Snapshots made", self.snapshots),
            (
                "granule_snapshot_dirty_pages_total",
                "Pages that were copied again, since the guest or a device had written to them meanwhile",
                self.dirty_pages,
            ),
            (
                "granule_snapshot_memory_bytes_total",
                "Bytes of snapshots that are data of memory",
                self.memory_bytes,
            ),
            (
                "granule_snapshot_tag_bytes_total",
                "Bytes of snapshots that are tags of memory",
                self.tag_bytes,
            ),
        ]
    }
}

/// What the driver knows, at one moment.
#[derive(Debug)]
pub struct Known {
    state: Lifecycle,
    tags: bool,
    boots: u64,
    /// Pages looked at, of all, and those that were waited for, of a guest that was restored on demand.
    placed: Option<[u64; 3]>,
    saves: Saves,
    phases_us: Vec<(String, u64)>,
    /// Role or device, process.
    processes: Vec<(String, u32)>,
    /// Device, how often its process was started anew.
    restarts: Vec<(String, u32)>,
}

impl Known {
    /// Takes note of all of it.
    pub fn of(vm: &Vm, children: &Children, boots: u64, fill: Option<&Fill>, saves: Saves) -> Self {
        let live = match vm {
            Vm::Live(_, live) => Some(live),
            _ => None,
        };
        let own = rustix::process::getpid();
        let mut processes = vec![("control".to_owned(), own.as_raw_nonzero().get().unsigned_abs())];
        if let Some(parent) = rustix::process::getppid() {
            processes.push(("machine".into(), parent.as_raw_nonzero().get().unsigned_abs()));
        }
        processes.extend(children.pids().map(|(id, pid)| (id.to_owned(), pid)));
        let generation = |id: &str| children.generation(id).unwrap_or(1);
        Self {
            state: vm.lifecycle(),
            tags: live.is_some_and(|live| live.report.mte.enabled),
            boots,
            placed: fill.map(|fill| [fill.done, fill.of, fill.faults]),
            saves,
            phases_us: live.map(|live| live.report.phases_us.clone()).unwrap_or_default(),
            processes,
            restarts: children.pids().map(|(id, _)| (id.to_owned(), generation(id) - 1)).collect(),
        }
    }

    /// The text, with what the device processes have counted.
    pub fn text(&self, counters: &VmCounters, exits: &BTreeMap<String, u64>) -> String {
        let mut page = Page::default();
        let states = [
            ("absent", Lifecycle::Absent),
            ("created", Lifecycle::Created),
            ("running", Lifecycle::Running),
            ("paused", Lifecycle::Paused),
        ];
        page.family("granule_vm_state", "gauge", "State of the machine: 1 for the one that it is in");
        for (name, state) in states {
            page.sample("granule_vm_state", &[("state", name)], (state == self.state).into());
        }
        page.family("granule_vm_tagged", "gauge", "Whether the guest that runs has memory tags");
        page.sample("granule_vm_tagged", &[], self.tags.into());
        page.family("granule_boots_total", "counter", "Guests booted");
        page.sample("granule_boots_total", &[], self.boots);
        for (name, help, value) in self.saves.families() {
            page.family(name, "counter", help);
            page.sample(name, &[], value);
        }
        if let Some([done, of, faults]) = self.placed {
            let families = [
                ("granule_restore_pages", "gauge", "Pages of the guest that was restored on demand", of),
                ("granule_restore_pages_done", "gauge", "Those that are in place", done),
                ("granule_restore_faults_total", "counter", "Those that somebody waited for", faults),
            ];
            for (name, kind, help, value) in families {
                page.family(name, kind, help);
                page.sample(name, &[], value);
            }
        }
        if !exits.is_empty() {
            let help = "How often vCPUs came back from the guest to the monitor";
            page.family("granule_vcpu_exits_total", "counter", help);
            for (reason, count) in exits {
                page.sample("granule_vcpu_exits_total", &[("reason", reason)], *count);
            }
        }
        page.family("granule_boot_phase_microseconds", "gauge", "Time that each phase of the last boot took");
        for (phase, micros) in &self.phases_us {
            page.sample("granule_boot_phase_microseconds", &[("phase", phase)], *micros);
        }
        page.family(
            "granule_process_resident_bytes",
            "gauge",
            "Memory of each process, guest memory that it touched included",
        );
        for (role, pid) in &self.processes {
            if let Some(bytes) = resident(*pid) {
                page.sample("granule_process_resident_bytes", &[("process", role)], bytes);
            }
        }
        page.family(
            "granule_device_restarts_total",
            "counter",
            "How often a device's process was started anew",
        );
        for (id, restarts) in &self.restarts {
            page.sample("granule_device_restarts_total", &[("device", id)], (*restarts).into());
        }
        page.family("granule_device", "untyped", "What the process of a device has counted since it began");
        for (id, counted) in counters {
            for (name, value) in counted {
                page.sample("granule_device", &[("device", id), ("counter", name)], *value);
            }
        }
        page.0
    }
}

/// Bytes of a process that are in memory.
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // A string takes all that is written to it.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// A label's value: ids are the client's to choose.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_line_for_each_thing_and_escapes_what_clients_have_named() {
        let known = Known {
            state: Lifecycle::Paused,
            tags: true,
            boots: 2,
            placed: Some([1, 4, 2]),
            saves: Saves { snapshots: 3, dirty_pages: 12, memory_bytes: 8192, tag_bytes: 40 },
            phases_us: vec![("memory".into(), 7)],
            processes: vec![("control".into(), std::process::id()), ("gone".into(), 0)],
            restarts: vec![("a\"b\\\n".into(), 3)],
        };
        let counters = VmCounters::from([("_disk0".into(), [("read_ops".into(), 5)].into())]);
        let exits = BTreeMap::from([("mmio_read".to_owned(), 9)]);
        let text = known.text(&counters, &exits);
        for line in [
            "granule_vm_state{state=\"running\"} 0",
            "granule_vm_state{state=\"paused\"} 1",
            "granule_vm_tagged 1",
            "granule_vcpu_exits_total{reason=\"mmio_read\"} 9",
            "granule_boots_total 2",
            "granule_snapshots_total 3",
            "granule_snapshot_dirty_pages_total 12",
            "granule_snapshot_memory_bytes_total 8192",
            "granule_snapshot_tag_bytes_total 40",
            "granule_restore_pages_done 1",
            "granule_restore_faults_total 2",
            "granule_boot_phase_microseconds{phase=\"memory\"} 7",
            "granule_device_restarts_total{device=\"a\\\"b\\\\\\n\"} 3",
            "granule_device{device=\"_disk0\",counter=\"read_ops\"} 5",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("granule_process_resident_bytes{process=\"control\"} "));
        assert!(!text.contains("gone"));
    }
}
