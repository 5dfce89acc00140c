//! Memory that is plugged into a guest that runs: it has tags as the memory of the boot has, it is saved with the rest, and
//! what is unplugged is the host's again.

use granule_tests::folder::Folder;
use granule_tests::monitor::{Monitor, run};
use granule_tests::vm::{MIB, Vm};
use serde_json::json;

use crate::balloon::{memory_kib, wait_actual};
use crate::guest;
use crate::on_demand;
use crate::serial::talk;
use crate::snapshot::{goes_on, kills, restore, url};

const KIB: u64 = 1024;

pub fn resize(vm: &Vm, bytes: u64) {
    let resized = vm.monitor.send("vm.resize", &json!({"desired_ram": bytes}));
    assert_eq!(resized.code, 204, "{resized:?}");
}

pub fn plugged_pages_hold_tags(session: &mut granule_tests::session::Session) {
    let seen = session.check("memory-tags");
    assert!(seen["plugged_pages"].as_u64().unwrap() > 0, "{seen}");
    assert_eq!(seen["wrong"], 0, "{seen}");
}

/// A snapshot, a diff if it has a parent, of a guest that runs or stands still.
fn save(vm: &Vm, path: &str, parent: Option<&str>, live: bool) {
    let mut body = json!({"destination_url": url(path), "live": live});
    if let Some(parent) = parent {
        body["parent"] = url(parent).into();
    }
    let answer = vm.monitor.send("vm.snapshot", &body);
    assert_eq!(answer.code, 204, "{answer:?}; {}", vm.monitor.errors());
}

#[test]
fn memory_is_plugged_with_tags_saved_with_them_and_unplugged() {
    // What is online as movable can always be unplugged.
    let memory = json!({"size": 256 * MIB, "hotplug_method": "VirtioMem", "hotplug_size": 256 * MIB});
    let (vm, mut session) = talk(&guest().set("/memory", memory).word("memhp_default_state=online_movable"));
    let total = session.check("memory")["total_kib"].as_u64().unwrap();
    assert_eq!(vm.monitor.info()["memory_actual_size"], 256 * MIB);
    let store = Folder::new();
    let [none, plugged, unplugged] = ["none", "plugged", "unplugged"].map(|name| store.file(name));
    save(&vm, &none, None, true);
    resize(&vm, 512 * MIB);
    wait_actual(&vm, 512 * MIB);
    session.check(&format!("memory:more:{}", total + 240 * KIB));
    plugged_pages_hold_tags(&mut session);
    session.say("keep 1");
    goes_on(&mut session);

    // Whoever serves it next knows what is plugged.
    vm.monitor.process("device mem").kill();
    vm.monitor.events().wait_for("virtio-device:restarted");
    wait_actual(&vm, 512 * MIB);

    vm.monitor.must("vm.pause");
    // What has been plugged since is in the diff.
    save(&vm, &plugged, Some(&none), false);
    vm.monitor.must("vm.delete");
    vm.monitor.shutdown();
    let (vm, mut session) = restore(Monitor::start(), &plugged, true);
    goes_on(&mut session);
    wait_actual(&vm, 512 * MIB);
    plugged_pages_hold_tags(&mut session);

    // Pages in use move, with their tags.
    let before = memory_kib(&vm);
    resize(&vm, 256 * MIB);
    wait_actual(&vm, 256 * MIB);
    session.check(&format!("memory:less:{}", total + 16 * KIB));
    assert!(memory_kib(&vm) < before, "{before} KiB, then {} KiB", memory_kib(&vm));
    goes_on(&mut session);

    // What has been unplugged since is in no diff, and comes again without what it held.
    save(&vm, &unplugged, Some(&plugged), true);
    vm.monitor.must("vm.delete");
    let (status, told, errors) = run(&["snapshot", "verify", &unplugged]);
    assert!(status.success(), "{told}{errors}");
    let (vm, mut session) = on_demand::restore(vm.monitor, &unplugged);
    goes_on(&mut session);
    wait_actual(&vm, 256 * MIB);
    on_demand::complete(&vm.monitor);
    resize(&vm, 512 * MIB);
    wait_actual(&vm, 512 * MIB);
    session.check(&format!("memory:more:{}", total + 240 * KIB));
    plugged_pages_hold_tags(&mut session);
    goes_on(&mut session);
    kills(&mut session);
    vm.monitor.shutdown();
}
