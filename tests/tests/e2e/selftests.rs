//! The kernel's own MTE selftests: the guest must give the results that the host gives.

use std::process::Command;

use granule_tests::lab;
use granule_tests::vm::{MIB, Vm};
use serde_json::Value;

use crate::{INIT, guest};

#[test]
fn the_kernels_selftests_pass_in_the_guest_as_on_the_host() {
    let host = on_this_host();
    let run = guest().vcpus(2).set("/memory/size", 512 * MIB).with_selftests();
    let mut vm = Vm::up(&run.word("granule.run=selftests").word("granule.then=idle"));
    for program in host.as_object().unwrap().keys() {
        vm.line(&format!("GRANULE selftest {program} ran"));
    }
    let inside = vm.check("selftests");
    vm.monitor.shutdown();
    let (host, inside) = (host.as_object().unwrap(), inside.as_object().unwrap());
    assert!(host.len() >= 7, "the kernel has seven programs of MTE selftests and more: {:?}", host.keys());
    assert_eq!(host.keys().collect::<Vec<_>>(), inside.keys().collect::<Vec<_>>());
    for (program, result) in host {
        assert_eq!(&inside[program], result, "{program}");
    }
    let passed = count(inside, "ok");
    assert!(passed > 100, "{passed} tests passed in the guest");
    println!(
        "{passed} passed, {} failed, {} skipped, the same on host and guest",
        count(inside, "not ok"),
        count(inside, "skip")
    );
}

/// The same check, by the same program.
fn on_this_host() -> Value {
    let folder = granule_tests::folder::Folder::new();
    let program = folder.file("guest-init");
    granule_tests::initramfs::write_program(&program, &INIT).unwrap();
    let what = format!("selftests:{}", lab::selftests().display());
    let output = Command::new(&program).args(["check", &what]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("GRANULE ok {what} ")));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))))
        .unwrap()
}

fn count(programs: &serde_json::Map<String, Value>, verdict: &str) -> usize {
    let tests = programs.values().filter_map(|p| p["tests"].as_array()).flatten();
    tests.filter(|test| test[0] == verdict).count()
}
