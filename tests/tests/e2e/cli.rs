//! The command line: the same VM from flags, the version, the small commands, and what is refused.

use std::process::Stdio;

use granule_tests::console::Console;
use granule_tests::monitor::{Monitor, run};
use granule_tests::vm::Vm;
use rustix::process::Signal;

use crate::guest;

#[test]
fn the_version_has_the_shape_that_libvirt_parses() {
    for flag in ["--version", "-V"] {
        let (status, output, _) = run(&[flag]);
        assert_eq!(status.code(), Some(0));
        let first = output.lines().next().unwrap_or_default();
        let version =
            first.rsplit_once(" v").map(|(_, v)| v.split('.').map(str::parse::<u32>).collect::<Vec<_>>());
        assert!(version.is_some_and(|v| v.len() >= 2 && v.iter().all(Result::is_ok)), "{first:?}");
    }
}

#[test]
fn help_names_the_flags() {
    let (status, output, _) = run(&["--help"]);
    assert_eq!(status.code(), Some(0));
    for flag in [
        "--api-socket",
        "--kernel",
        "--initramfs",
        "--cmdline",
        "--cpus",
        "--memory",
        "--serial",
        "--console",
        "--rng",
        "--event-monitor",
        "--seccomp",
    ] {
        assert!(output.contains(flag), "{flag} is not in {output}");
    }
}

#[test]
fn a_guest_boots_straight_from_flags() {
    let monitor = Monitor::spawn(Stdio::null(), |folder| {
        let serial = format!("file={}", folder.file("console"));
        let mut flags =
            guest().word("granule.run=mte,rng").word("granule.then=poweroff").flags(folder, &serial);
        flags.extend(["--rng", "src=/dev/urandom"].map(str::to_owned));
        flags
    });
    let mut console = Console::new(monitor.folder().path().join("console"));
    let mte = console.check("mte", || monitor.alive());
    assert_eq!(mte["present"], true, "mte=on was said");
    // The guest may power off, and the monitor end, before this is read.
    let status = monitor.wait();
    assert_eq!(console.check("rng", || Ok(()))["current"], "virtio_rng.0");
    assert_eq!(status.code(), Some(0), "{}", monitor.errors());
}

#[test]
fn a_guest_from_flags_can_be_driven_over_the_api_too() {
    let monitor = Monitor::spawn(Stdio::null(), |folder| {
        let mut flags = guest().flags(folder, "null");
        flags.extend(["--api-socket".to_owned(), format!("path={}", folder.file("api.sock"))]);
        flags
    });
    monitor.wait_ready();
    let running = granule_tests::wait::until(granule_tests::wait::LONG, || {
        let answer = monitor.get("vm.info");
        (answer.code == 200 && answer.json()["state"] == "Running").then_some(())
    });
    assert!(running.is_some(), "{}", monitor.doing());
    monitor.must("vm.pause");
    monitor.shutdown();
}

#[test]
fn interrupt_ends_a_guest_from_flags() {
    let monitor = Monitor::spawn(Stdio::null(), |folder| {
        let serial = format!("file={}", folder.file("console"));
        guest().flags(folder, &serial)
    });
    let mut console = Console::new(monitor.folder().path().join("console"));
    console.wait_for("GRANULE init up", || monitor.alive());
    monitor.signal(Signal::INT);
    assert_eq!(monitor.finish().code(), Some(0));
}

#[test]
fn flags_that_are_wrong_are_refused_before_anything_starts() {
    let wrong: [&[&str]; 8] = [
        &["--nonsense"],
        &["--cpus", "boot=many", "--kernel", "/k"],
        &["--cpus", "boots=2", "--kernel", "/k"],
        &["--memory", "size=lots", "--kernel", "/k"],
        &["--serial", "loud", "--kernel", "/k"],
        &["--api-socket"],
        &["--event-monitor", "nowhere"],
        &["--mte", "maybe"],
    ];
    for args in wrong {
        let (status, _, errors) = run(args);
        assert!(!status.success(), "{args:?} was taken");
        assert!(status.code().is_some(), "{args:?}: {status}");
        assert!(!errors.trim().is_empty(), "{args:?} was refused without a word");
    }
}

#[test]
fn a_kernel_that_is_missing_is_named_and_ends_the_monitor() {
    let (status, _, errors) = run(&["--kernel", "/no/such/kernel", "--memory", "size=256M"]);
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(errors.contains("/no/such/kernel"), "{errors}");
}

#[test]
fn a_socket_that_is_in_use_is_refused() {
    let monitor = Monitor::start();
    let path = monitor.socket().display().to_string();
    let (status, _, errors) = run(&["--api-socket", &path]);
    assert!(!status.success());
    assert!(errors.contains("api.sock") || errors.contains("--api-socket"), "{errors}");
    assert_eq!(monitor.get("vmm.ping").code, 200, "the first one is unharmed");
    monitor.shutdown();
}

#[test]
fn probe_tells_what_the_host_can_do() {
    let (status, output, errors) = run(&["probe", "--json"]);
    assert_eq!(status.code(), Some(0), "{errors}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}"));
    assert_eq!((&report["kvm"]["mte"]["level"], report["host"].is_object()), (&3.into(), true), "{report}");
    let (status, table, _) = run(&["probe"]);
    assert_eq!(status.code(), Some(0));
    for word in ["KVM", "memory tagging", "userfaultfd", "restore on demand        yes", "landlock", "SVE"] {
        assert!(table.to_lowercase().contains(&word.to_lowercase()), "{word} is not in {table}");
    }
}

#[test]
fn ctl_drives_a_running_monitor() {
    let vm = Vm::create(&guest());
    let socket = vm.monitor.socket().display().to_string();
    let ctl = |words: &[&str]| run(&[&["ctl", "--api-socket", &socket], words].concat());
    let (status, output, errors) = ctl(&["ping"]);
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(output.contains("version"), "{output}");
    for (command, state) in
        [("boot", "Running"), ("pause", "Paused"), ("resume", "Running"), ("shutdown", "Created")]
    {
        let (status, _, errors) = ctl(&[command]);
        assert_eq!(status.code(), Some(0), "{command}: {errors}");
        assert_eq!(vm.monitor.state(), state, "after {command}");
    }
    let (status, _, errors) = ctl(&["pause"]);
    assert!(!status.success());
    assert!(errors.contains("not booted"), "{errors}");
    let (status, output, _) = ctl(&["info"]);
    assert_eq!(status.code(), Some(0));
    assert!(output.contains("\"Created\""), "{output}");
    vm.monitor.shutdown();
}

#[test]
fn a_snapshot_is_restored_from_the_command_line() {
    let (vm, mut session) = crate::serial::talk(&guest());
    session.say("echo before");
    session.line("GRANULE echo before");
    vm.monitor.must("vm.pause");
    let store = granule_tests::folder::Folder::new();
    let path = store.file("one");
    crate::snapshot::snapshot(&vm.monitor, &path);
    vm.monitor.shutdown();
    for mode in ["copy", "ondemand"] {
        let monitor = Monitor::spawn(Stdio::null(), |folder| {
            let file = format!("{path}/config.json");
            let mut config: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            config["serial"]["socket"] = folder.file("serial.sock").into();
            std::fs::write(&file, config.to_string()).unwrap();
            let restore = format!("source_url=file://{path},resume=on,memory_restore_mode={mode}");
            ["--api-socket", &folder.file("api.sock"), "--restore", &restore].map(str::to_owned).to_vec()
        });
        monitor.wait_ready();
        let running = granule_tests::wait::until(granule_tests::wait::LONG, || {
            let answer = monitor.get("vm.info");
            (answer.code == 200 && answer.json()["state"] == "Running").then_some(())
        });
        assert!(running.is_some(), "{mode}: {}", monitor.doing());
        let console = Console::new(monitor.folder().path().join("console"));
        let vm = Vm { monitor, console };
        let mut session = crate::serial::join(&vm);
        session.say("echo after");
        session.line("GRANULE echo after");
        vm.monitor.shutdown();
    }
    let (status, _, errors) = run(&["--restore", "source_url=file:///no/such/place"]);
    assert!(!status.success());
    assert!(errors.contains("/no/such/place"), "{errors}");
}
