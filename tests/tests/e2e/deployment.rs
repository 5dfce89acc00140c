//! `--jail`: a monitor that root starts for one VM, with a user, a root and a cgroup of its own; and one that belongs to a user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use granule_tests::console::Console;
use granule_tests::folder::Folder;
use granule_tests::lab;
use granule_tests::monitor::Monitor;
use granule_tests::processes::Process;
use granule_tests::vm::MIB;
use serde_json::{Value, json};

use crate::guest;

const USER: u32 = 4711;
const GROUP: u32 = 4712;

fn users(process: &Process) -> (String, String, String) {
    let status = process.threads()[0].status.clone();
    let all = |line: &str| status[line].split_whitespace().collect::<Vec<_>>().join(" ");
    (all("Uid"), all("Gid"), all("Groups"))
}

fn cgroup(process: &Process) -> String {
    fs::read_to_string(format!("/proc/{}/cgroup", process.pid))
        .unwrap()
        .trim()
        .trim_start_matches("0::")
        .to_owned()
}

/// A body whose paths are those inside the root.
fn inside(monitor: &Monitor) -> Value {
    let mut body = guest().body(monitor);
    for (field, name) in [("kernel", "/kernel"), ("initramfs", "/initramfs")] {
        let path = body["payload"][field].as_str().unwrap();
        fs::copy(path, monitor.folder().path().join("vm").join(&name[1..])).unwrap();
        body["payload"][field] = name.into();
    }
    fs::File::create(monitor.folder().file("vm/disk")).unwrap().set_len(MIB).unwrap();
    chown(monitor.folder().file("vm/disk"), Some(USER), Some(GROUP)).unwrap();
    body["disks"] = json!([{"path": "/disk", "image_type": "Raw"}]);
    body["serial"]["file"] = "/console".into();
    body
}

#[test]
fn a_vm_has_a_user_a_root_and_a_cgroup_of_its_own() {
    let monitor = Monitor::spawn_with_fds(&[], |folder, group| {
        let jail =
            format!("id=vm,uid={USER},gid={GROUP},root={},cgroup={}", folder.path().display(), group.path());
        ["--jail", &jail, "--api-socket", "/api.sock", "--event-monitor", "path=/events"]
            .map(str::to_owned)
            .to_vec()
    });
    monitor.wait_ready();
    let mut outside = inside(&monitor);
    outside["payload"]["kernel"] = lab::kernel().display().to_string().into();
    for kernel in
        [lab::kernel().display().to_string(), "/../../../bin/busybox".into(), "/proc/1/root/init".into()]
    {
        outside["payload"]["kernel"] = kernel.clone().into();
        assert_eq!(monitor.send("vm.create", &outside).code, 204);
        let answer = monitor.put("vm.boot");
        assert_eq!(answer.code, 400, "{kernel}: {answer:?}");
        monitor.must("vm.delete");
    }
    assert_eq!(monitor.send("vm.create", &inside(&monitor)).code, 204);
    monitor.must("vm.boot");
    let mut console = Console::new(monitor.folder().path().join("vm/console"));
    console.wait_for("GRANULE init up", || monitor.alive());

    let processes = monitor.processes();
    assert_eq!(processes.len(), 4, "machine, control, blk, rng: {processes:?}");
    let ids = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    for process in &processes {
        let role = process.role();
        assert_eq!(users(process), (ids(USER), ids(GROUP), String::new()), "{role}");
        let own = cgroup(process);
        assert!(own.ends_with("/vm") && own == cgroup(&processes[0]), "{role} is in {own}");
        let root = format!("/proc/{}/root/", process.pid);
        let mut seen: Vec<String> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        seen.sort();
        let vms = ["api.sock", "console", "dev", "disk", "events", "initramfs", "kernel", "proc", "sys"];
        assert_eq!(seen, vms, "{role}");
        assert_eq!(process.threads()[0].status["CapEff"], "0000000000000000", "{role}");
    }
    let mode = fs::metadata(monitor.folder().file("vm")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(monitor.put("vmm.shutdown").code, 200);
    assert_eq!(monitor.finish().code(), Some(0));
}

#[test]
fn a_user_who_may_open_kvm_needs_no_root() {
    let kvm = "/dev/kvm";
    chown(kvm, None, Some(GROUP)).unwrap();
    fs::set_permissions(kvm, fs::Permissions::from_mode(0o660)).unwrap();
    let monitor = Monitor::spawn_with_fds(&[], |folder, _| {
        chown(folder.path(), Some(USER), Some(GROUP)).unwrap();
        let jail = format!("uid={USER},gid={GROUP}");
        vec!["--jail".to_owned(), jail, "--api-socket".to_owned(), folder.file("api.sock")]
    });
    monitor.wait_ready();
    assert_eq!(monitor.send("vm.create", &guest().body(&monitor)).code, 204);
    monitor.must("vm.boot");
    let mut console = Console::new(monitor.folder().path().join("console"));
    console.wait_for("GRANULE init up", || monitor.alive());
    for process in monitor.processes() {
        assert!(users(&process).0.starts_with(&USER.to_string()), "{process:?}");
    }
    monitor.shutdown();
}

#[test]
fn what_cannot_be_had_is_refused_with_the_reason() {
    let folder = Folder::new();
    fs::create_dir_all(folder.file("real/strange")).unwrap();
    chown(folder.file("real/strange"), Some(1), Some(1)).unwrap();
    symlink("real", folder.file("link")).unwrap();
    symlink("/etc", folder.file("real/planted")).unwrap();
    symlink("/etc", folder.file("real/dev")).unwrap();
    let at = |place: &str| format!("uid={USER},gid={GROUP},root={}", folder.file(place));
    for (jail, word) in [
        (format!("id=vm,{}", at("link")), "symbolic links"),
        (format!("id=planted,{}", at("real")), "symbolic links"),
        (format!("id=strange,{}", at("real")), "another user"),
        (format!("id=vm,{}", at("nowhere")), "No such file"),
        (format!("id=real,root={}", folder.path().display()), "symbolic links"),
        ("id=vm,cgroup=/tmp".to_owned(), "not a directory of cgroup2"),
        ("id=vm,cgroup=nowhere".to_owned(), "No such file"),
        ("id=..,root=/tmp".to_owned(), "letters"),
        (format!("uid={USER}"), "go together"),
    ] {
        let (status, _, errors) =
            granule_tests::monitor::run(&["--jail", &jail, "--api-socket", "/tmp/never"]);
        assert!(!status.success(), "{jail}");
        assert!(errors.contains("--jail") && errors.contains(word), "{jail}: {errors}");
        assert!(!std::path::Path::new("/tmp/never").exists());
    }
}
