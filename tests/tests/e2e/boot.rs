//! What guests see of the machine. Each kind of guest is booted once; the tests read its report.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use granule_tests::vm::{Guest, MIB, Vm};
use serde_json::{Value, json};

use crate::guest;

const CHECKS: [&str; 6] = ["mte", "heap", "cpus", "pci", "rng", "clock"];

/// What a guest said, and what `vm.info` said while it ran.
struct Report {
    boot: Value,
    checks: BTreeMap<&'static str, Value>,
    info: Value,
    threads: Vec<String>,
}

impl Report {
    fn of(guest: &Guest) -> Self {
        let run = format!("granule.run={}", CHECKS.join(","));
        let mut vm = Vm::boot(&guest.clone().word(&run));
        let boot = vm.wait_up();
        let checks = CHECKS.map(|name| (name, vm.check(name)));
        let (info, machine) = (vm.monitor.info(), vm.monitor.process("machine"));
        assert_eq!(machine.pid, vm.monitor.pid(), "vCPU threads belong to the process that was started");
        let threads = machine.threads().into_iter().map(|t| t.name).collect();
        vm.monitor.shutdown();
        Self { boot, checks: BTreeMap::from(checks), info, threads }
    }
}

static ONE: LazyLock<Report> = LazyLock::new(|| Report::of(&guest()));
static FOUR: LazyLock<Report> = LazyLock::new(|| {
    let segments = guest().vcpus(4).set("/platform", json!({"num_pci_segments": 2}));
    Report::of(&segments.mte("auto").set("/memory/size", 512 * MIB))
});
static UNTAGGED: LazyLock<Report> = LazyLock::new(|| Report::of(&guest().mte(false)));

fn tagged() -> [&'static Report; 2] {
    [&ONE, &FOUR]
}

fn all() -> [&'static Report; 3] {
    [&ONE, &FOUR, &UNTAGGED]
}

#[test]
fn tags_that_a_guest_sets_are_the_tags_it_reads() {
    for report in tagged() {
        let mte = &report.checks["mte"];
        assert_eq!((&mte["present"], &mte["level"]), (&json!(true), &json!(3)), "{mte}");
        for kind in ["anonymous", "shared"] {
            let held = json!({"granules": 262_144, "fresh_tagged": 0, "wrong_tags": 0, "wrong_data": 0, "cleared": 262_144});
            assert_eq!(mte[kind], held, "{kind} memory");
        }
        assert_eq!(
            (&mte["drawn"], &mte["drew_excluded"]),
            (&json!(15), &json!(false)),
            "IRG draws all but tag 0: {mte}"
        );
    }
}

#[test]
fn a_wrong_tag_kills_a_guests_program_with_segv_mteserr() {
    for report in tagged() {
        let killed = json!({"signal": 11, "si_code": 9});
        let expected = json!({"wrong-load": killed, "wrong-store": killed, "wrong-shared-store": killed});
        assert_eq!(report.checks["mte"]["victims"], expected);
    }
}

#[test]
fn an_unmodified_program_runs_on_a_tagged_heap() {
    for report in tagged() {
        let run = &report.checks["heap"]["tagged"];
        assert_eq!((&run["result"], &run["signal"]), (&json!("200 19900"), &Value::Null), "{run}");
        assert_ne!(run["tagged_mappings"], "0", "the heap was not tagged: {run}");
    }
}

#[test]
fn a_broken_program_is_caught_on_a_tagged_heap_only() {
    for report in tagged() {
        let heap = &report.checks["heap"];
        for victim in ["heap-overflow", "heap-underflow", "heap-overread", "heap-use-after-free"] {
            assert_eq!(
                heap["victims_tagged"][victim],
                json!({"signal": 11, "si_code": 9}),
                "{victim}: {heap}"
            );
            assert_eq!(heap["victims_plain"][victim], json!({"survived": true}), "{victim}: {heap}");
        }
    }
}

#[test]
fn a_guest_without_tags_has_none_and_cannot_make_any() {
    let report = &*UNTAGGED;
    assert_eq!(report.checks["mte"], json!({"present": false, "prot_mte": false, "tag_checks": false}));
    assert_eq!(report.checks["heap"]["tagged"]["tagged_mappings"], "0");
    let mte = &report.info["mte"];
    assert_eq!((&mte["requested"], &mte["enabled"]), (&json!(false), &json!(false)), "{mte}");
}

#[test]
fn vm_info_tells_what_became_of_the_request_for_tags() {
    let expected = |requested: Value| json!({"requested": requested, "enabled": true, "level": 3});
    assert_eq!(ONE.info["mte"], expected(json!(true)));
    assert_eq!(FOUR.info["mte"], expected(json!("auto")));
}

#[test]
fn all_processors_are_online_with_their_features() {
    for (report, online) in all().into_iter().zip(["0", "0-3", "0"]) {
        let cpus = &report.checks["cpus"];
        assert_eq!((&cpus["online"], &cpus["possible"]), (&json!(online), &json!(online)));
        assert_eq!((&cpus["sve"], &cpus["pauth"]), (&json!(true), &json!(true)), "{cpus}");
        assert_eq!(cpus["clocksource"], "arch_sys_counter");
        assert_eq!(cpus["warnings"], json!([]), "the guest's kernel complains");
    }
}

#[test]
fn the_cycle_counter_counts() {
    for report in all() {
        let cpus = &report.checks["cpus"];
        assert!(cpus["pmu"].as_str().is_some_and(|name| name.starts_with("armv8_pmuv3")), "{cpus}");
        assert!(cpus["cycles"].as_u64().is_some_and(|n| n > 0), "{}", cpus["cycles"]);
    }
}

#[test]
fn firmware_and_interrupt_controller_are_what_the_device_tree_says() {
    for report in all() {
        let cpus = &report.checks["cpus"];
        let has = |name: &str, text: &str| {
            assert!(cpus[name].as_str().is_some_and(|l| l.contains(text)), "{name}: {cpus}");
        };
        has("psci", "psci: PSCIv1.");
        has("gic", "GICv3:");
        has("its", "ITS@0x0000000008080000");
        has("timer", "cp15 timer");
    }
}

#[test]
fn memory_is_as_large_as_asked_for() {
    for (report, mib) in all().into_iter().zip([256, 512, 256]) {
        let kib = report.boot["memory_kib"].as_u64().unwrap();
        // The kernel's own image and tables are not in MemTotal.
        assert!((mib * 1024 - 64 * 1024..=mib * 1024).contains(&kib), "{kib} KiB of {mib} MiB");
        assert_eq!(report.info["memory_actual_size"], mib * MIB);
    }
}

#[test]
fn the_host_bridge_is_where_katas_agent_looks() {
    for report in all() {
        let bridges = report.checks["pci"]["bridges"].as_array().unwrap();
        let of_agent: Vec<_> = bridges.iter().filter(|b| b.as_str().unwrap().ends_with(".pcie")).collect();
        assert_eq!(of_agent.len(), 1, "segment 0 alone is a .pcie: {bridges:?}");
        let path = report.checks["pci"]["devices"][0]["path"].as_str().unwrap();
        let start = format!("/sys/devices/platform/{}/pci0000:00/0000:00:", of_agent[0].as_str().unwrap());
        assert!(path.starts_with(&start), "{path} does not start with {start}");
    }
    assert_eq!(FOUR.checks["pci"]["bridges"].as_array().unwrap().len(), 2, "two segments were asked for");
}

#[test]
fn the_entropy_device_is_modern_virtio_with_its_own_vectors() {
    for report in all() {
        let pci = &report.checks["pci"];
        let functions: Vec<_> =
            pci["devices"].as_array().unwrap().iter().filter(|d| d["id"] == "1af4:1044").collect();
        assert_eq!(functions.len(), 1, "{pci}");
        assert_eq!(functions[0]["driver"], "virtio-pci", "{pci}");
        assert!(
            functions[0]["vectors"].as_u64().unwrap() >= 2,
            "MSI-X: one vector for the queue, one for changes: {pci}"
        );
        let device = &pci["virtio"][0];
        assert_eq!((&device["device"], &device["driver"]), (&json!("0x0004"), &json!("virtio_rng")), "{pci}");
        assert!(device["features"].as_array().unwrap().contains(&json!(32)), "VERSION_1: {device}");
    }
}

#[test]
fn the_entropy_device_gives_entropy_by_interrupts_of_the_its() {
    for report in all() {
        let rng = &report.checks["rng"];
        assert_eq!((&rng["current"], &rng["bytes"]), (&json!("virtio_rng.0"), &json!(8192)), "{rng}");
        assert_eq!((&rng["distinct"], &rng["repeats"]), (&json!(256), &json!(false)), "{rng}");
        let interrupts = report.checks["cpus"]["interrupts"].as_object().unwrap();
        let queue =
            interrupts.iter().find(|(name, _)| name.starts_with("ITS-") && name.contains("virtio0-input"));
        assert!(queue.is_some_and(|(_, count)| count.as_u64() > Some(0)), "{interrupts:?}");
    }
}

#[test]
fn the_clock_tells_the_hosts_time() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for report in all() {
        let clock = &report.checks["clock"];
        assert!(clock["name"].as_str().unwrap().contains("pl031"), "{clock}");
        for source in ["rtc", "system"] {
            let seconds = clock[source].as_u64().unwrap();
            assert!(
                (now - 900..=now + 5).contains(&seconds),
                "{source} is {seconds}, the host's clock {now}"
            );
        }
    }
}

#[test]
fn vcpu_threads_bear_the_names_that_runtimes_look_for() {
    for (report, count) in all().into_iter().zip([1, 4, 1]) {
        let mut vcpus: Vec<_> =
            report.threads.iter().filter(|name| name.starts_with("vcpu")).cloned().collect();
        vcpus.sort();
        let expected: Vec<_> = (0..count).map(|n| format!("vcpu{n}")).collect();
        assert_eq!(vcpus, expected, "of {:?}", report.threads);
    }
}

#[test]
fn vm_info_shows_the_devices_and_where_the_guest_finds_them() {
    for report in all() {
        let tree = report.info["device_tree"].as_object().unwrap();
        let parent = tree.values().find(|node| node["pci_bdf"].is_string()).expect("a device behind PCI");
        let child = parent["children"][0].as_str().unwrap();
        assert_eq!(tree[child]["id"], child);
        let functions = report.checks["pci"]["devices"].as_array().unwrap();
        assert!(
            functions.iter().any(|f| f["bdf"] == parent["pci_bdf"]),
            "{parent} is not in the guest: {functions:?}"
        );
    }
}
