//! The jail as the kernel tells it, and as an intruder in each thread would meet it.

use granule_tests::inject::{Attempt, Verdict, attempt};
use granule_tests::processes::{Process, Thread};
use granule_tests::vm::Vm;

use crate::guest;

const SIGSYS: i32 = 31;

#[test]
fn every_thread_of_every_process_is_confined() {
    let vm = Vm::up(&guest().vcpus(2));
    for process in vm.monitor.processes() {
        for thread in process.threads() {
            let status = |name: &str| thread.status.get(name).map_or("", String::as_str);
            let who = format!("thread {} of the {}", thread.name, process.role());
            assert_eq!(status("NoNewPrivs"), "1", "{who}");
            assert_eq!(status("Seccomp"), "2", "{who} has no filter");
            // control has its parent's filter and one of its own, a thread that does one thing one for that.
            let own = ["vcpu", "serial", "deadline"].iter().any(|name| thread.name.starts_with(name));
            if process.role() == "machine" {
                assert_eq!(status("Seccomp_filters"), if own { "2" } else { "1" }, "{who}");
            }
        }
    }
    vm.monitor.shutdown();
}

/// What a process has in common with the lab's host, or has not.
fn namespaces(process: &Process) -> Vec<(&'static str, bool)> {
    let of = |pid: i32, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let names = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];
    names.map(|name| (name, of(process.pid, name) == of(1, name))).to_vec()
}

#[test]
fn a_device_process_has_no_namespace_user_or_root_of_the_host() {
    let vm = Vm::up(&guest());
    for process in vm.monitor.processes() {
        let status = process.threads()[0].status.clone();
        let device = process.role().starts_with("device");
        for (name, hosts) in namespaces(&process) {
            assert_eq!(hosts, !device, "{}: {name} namespace", process.role());
        }
        let user = if device { "65534" } else { "0" };
        for line in ["Uid", "Gid"] {
            assert!(status[line].split_whitespace().all(|id| id == user), "{}: {status:?}", process.role());
        }
        if device {
            assert_eq!(status["NSpid"].split_whitespace().last(), Some("1"), "{status:?}");
            let root = std::fs::read_dir(format!("/proc/{}/root/", process.pid)).unwrap();
            assert_eq!(root.count(), 0, "{} sees files", process.role());
        }
    }
    vm.monitor.shutdown();
}

#[test]
fn machine_is_confined_before_there_is_a_guest() {
    let monitor = granule_tests::monitor::Monitor::start();
    monitor.wait_probed();
    for thread in monitor.process("machine").threads() {
        assert_eq!(thread.status["Seccomp"], "2", "thread {}", thread.name);
    }
    monitor.shutdown();
}

#[test]
fn vm_info_tells_how_each_process_is_confined() {
    let vm = Vm::boot(&guest());
    let info = vm.monitor.info();
    let told = info["jail"]["processes"].as_array().unwrap_or_else(|| panic!("{info}"));
    for process in vm.monitor.processes() {
        let entry = told
            .iter()
            .find(|e| e["pid"] == process.pid)
            .unwrap_or_else(|| panic!("{process:?} is not in {told:?}"));
        assert_eq!(entry["seccomp"], "kill", "{entry}");
        assert!(entry["missing"].is_null(), "the lab's host has everything: {entry}");
    }
    vm.monitor.shutdown();
}

#[test]
fn machine_and_devices_hold_no_descriptor_of_a_path_but_those_given() {
    let vm = Vm::up(&guest());
    let folder = vm.monitor.folder().path().display().to_string();
    let given = ["/dev/null", "/dev/urandom", "/memfd:", "anon_inode:", "socket:[", "pipe:["];
    let own = ["stdout", "stderr", "console"].map(|name| format!("{folder}/{name}"));
    for process in vm.monitor.processes().iter().filter(|p| p.role() != "control") {
        for (number, what) in process.descriptors() {
            let fine =
                given.iter().any(|g| what.starts_with(g)) || own.contains(&what) || is_kvm(process, &what);
            assert!(fine, "{}: descriptor {number} is {what}", process.role());
        }
    }
    vm.monitor.shutdown();
}

fn is_kvm(process: &Process, what: &str) -> bool {
    process.role() == "machine" && what == "/dev/kvm"
}

#[test]
fn no_process_maps_guest_memory_with_tags_or_anything_as_writable_code() {
    let vm = Vm::up(&guest());
    for process in vm.monitor.processes() {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", process.pid)).unwrap();
        for line in smaps.lines() {
            let flags = line.strip_prefix("VmFlags:").unwrap_or_default();
            assert!(!flags.split(' ').any(|f| f == "mt"), "{} has a PROT_MTE mapping", process.role());
            let writable_code = line.split(' ').nth(1).is_some_and(|p| p.len() == 4 && p.starts_with("rwx"));
            assert!(!writable_code, "{}: {line}", process.role());
        }
    }
    vm.monitor.shutdown();
}

#[test]
fn tagged_guest_memory_is_shared_and_never_in_huge_pages() {
    let vm = Vm::up(&guest());
    let mut mappers = Vec::new();
    for process in vm.monitor.processes() {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", process.pid)).unwrap();
        // prctl(PR_SET_THP_DISABLE) holds for the whole process, madvise for one mapping.
        let never = process.threads()[0].status["THP_enabled"] == "0";
        let mut in_memory = false;
        for line in smaps.lines() {
            let head: Vec<&str> = line.split_whitespace().collect();
            if head.first().is_some_and(|w| w.contains('-') && !w.contains(':')) {
                in_memory = line.contains("/memfd:") && size(head[0]) >= 64 << 20;
                if in_memory {
                    assert!(head[1].ends_with('s'), "{}: {line}", process.role());
                    mappers.push(process.role());
                }
            } else if let (true, Some(flags)) = (in_memory, line.strip_prefix("VmFlags:")) {
                assert!(
                    never || flags.split(' ').any(|f| f == "nh"),
                    "{} may get huge pages:{flags}",
                    process.role()
                );
            }
        }
    }
    mappers.sort();
    mappers.dedup();
    assert_eq!(mappers, ["device rng", "machine"], "those that map guest memory; control never does");
    vm.monitor.shutdown();
}

fn size(range: &str) -> u64 {
    let (start, end) = range.split_once('-').unwrap();
    u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(start, 16).unwrap()
}

/// What the issue names: open, socket, execve, ptrace, and memory that is code or has tags.
fn attempts() -> Vec<Attempt> {
    const HERE: u64 = (-100_i64).cast_unsigned();
    const NO_FD: u64 = u64::MAX;
    let call = |name, number, args, text| Attempt { name, number, args, text };
    vec![
        call("open a file", 56, [HERE, 0, 0, 0, 0, 0], Some((1, "/etc/passwd"))),
        call("make a socket", 198, [2, 1, 0, 0, 0, 0], None),
        call("execute a program", 221, [0; 6], Some((0, "/bin/busybox"))),
        call("trace a process", 117, [0x4206, 1, 0, 0, 0, 0], None),
        call("map code", 222, [0, 4096, 1 | 4, 0x22, NO_FD, 0], None),
        call("make code of data", 226, [0x10_0000, 4096, 1 | 4, 0, 0, 0], None),
        call("map tags", 222, [0, 4096, 1 | 2 | 0x20, 0x22, NO_FD, 0], None),
        call("make tags of data", 226, [0x10_0000, 4096, 1 | 2 | 0x20, 0, 0, 0], None),
    ]
}

/// Lets the thread try everything, each time in a new VM, and demands that seccomp kills it.
fn all_are_refused(role: &str, thread: impl Fn(&Thread) -> bool, attempts: &[Attempt]) {
    for call in attempts {
        let vm = Vm::boot(&guest());
        let process = vm.monitor.process(role);
        let threads = process.threads();
        let tid =
            threads.iter().find(|&t| thread(t)).unwrap_or_else(|| panic!("{role} has only {threads:?}")).tid;
        let verdict =
            attempt(tid, call).unwrap_or_else(|e| panic!("{role} could not be made to {}: {e}", call.name));
        assert_eq!(verdict, Verdict::Killed(SIGSYS), "{role}, thread {tid}, tried to {}", call.name);
    }
}

#[test]
fn a_vcpu_thread_that_is_taken_over_can_do_nothing() {
    all_are_refused("machine", |t| t.name == "vcpu0", &attempts());
}

#[test]
fn machines_first_thread_can_do_nothing() {
    all_are_refused("machine", |t| !t.name.starts_with("vcpu"), &attempts());
}

#[test]
fn a_device_that_is_taken_over_can_do_nothing() {
    all_are_refused("device rng", |t| t.name != "none", &attempts());
}

#[test]
fn control_can_trace_nobody_and_gives_no_memory_tags() {
    // It may map memory with tags, for the mover inherits its filter; it never has the guest's (seccomp/src/rules/control.rs).
    let refused = ["trace a process", "make tags of data"];
    let attempts: Vec<_> = attempts().into_iter().filter(|a| refused.contains(&a.name)).collect();
    all_are_refused("control", |t| t.name != "none", &attempts);
}

#[test]
fn a_tunable_that_tags_heaps_does_not_reach_our_processes() {
    let monitor = granule_tests::monitor::Monitor::spawn_with_env(
        &[("GLIBC_TUNABLES", "glibc.mem.tagging=3")],
        |folder| vec!["--api-socket".to_owned(), folder.file("api.sock")],
    );
    monitor.wait_ready();
    let body = guest().body(&monitor);
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    monitor.must("vm.boot");
    for process in monitor.processes().iter().filter(|p| p.role() != "machine") {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("GLIBC_TUNABLES"), "{}", process.role());
    }
    monitor.shutdown();
}
