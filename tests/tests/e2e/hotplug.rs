//! Devices that come and go while the guest runs, as a guest by device tree sees them: behind PCI Express root ports.

use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use serde_json::{Value, json};

use crate::disks::{Images, disk, with};
use crate::guest;
use crate::serial::{join, talk};

#[test]
fn the_guest_finds_empty_slots_on_every_segment_and_its_driver_watches_them() {
    let guest = guest().set("/platform", json!({"num_pci_segments": 2})).word("granule.run=pci");
    let mut vm = Vm::boot(&guest);
    vm.wait_up();
    let pci = vm.check("pci");
    let ports = functions(&pci, "1b36:000c");
    assert_eq!(ports.len(), 10, "{pci}");
    for port in &ports {
        assert_eq!(port["driver"], "pcieport", "{port}");
        assert_eq!(port["vectors"], 1, "its slot has an interrupt: {port}");
    }
    let first =
        |segment: &str| ports.iter().find(|p| p["bdf"].as_str().unwrap().starts_with(segment)).unwrap();
    assert_eq!(first("0000:")["bdf"], "0000:00:1f.0");
    assert_eq!(first("0001:")["bdf"], "0001:00:1f.0");
    let slots = pci["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 10, "{pci}");
    assert!(slots.iter().all(|slot| slot["adapter"] == "0"), "{slots:?}");
    assert!(slots.iter().any(|slot| slot["address"] == "0000:08:00"), "{slots:?}");
    assert!(slots.iter().any(|slot| slot["address"] == "0001:02:00"), "{slots:?}");
    vm.monitor.shutdown();
}

#[test]
fn a_disk_comes_works_and_goes_and_comes_again() {
    let images = Images::new();
    let image = images.filled("image", 1, 4 * MIB);
    let (vm, mut session) = talk(&guest());
    assert_eq!(add(&vm, &disk(&image)), json!({"id": "_disk0", "bdf": "0000:01:00.0"}));
    let info = vm.monitor.info();
    assert_eq!(info["config"]["disks"][0]["id"], "_disk0");
    assert_eq!(info["device_tree"]["_virtio-pci-_disk0"]["pci_bdf"], "0000:01:00.0");
    wait_disks(&mut session, &["vda"]);
    assert_eq!(session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
    assert_eq!(session.check(&format!("disk:write:vda:2:0:{MIB}"))["written"], MIB);

    remove(&vm, "_disk0");
    assert_eq!(vm.monitor.info()["config"]["disks"], Value::Null, "it is no more part of the configuration");
    remove(&vm, "_disk0");
    wait_removed(&vm, "_disk0");
    wait_disks(&mut session, &[]);
    assert_eq!(vm.monitor.info()["device_tree"].as_object().unwrap().len(), 2, "the entropy device is left");
    assert!(vm.monitor.processes().iter().all(|process| process.role() != "device blk"));
    assert_eq!((images.wrong("image", 2, 0, MIB), images.wrong("image", 1, MIB, 3 * MIB)), (0, 0));
    let gone = vm.monitor.send("vm.remove-device", &json!({"id": "_disk0"}));
    assert_eq!(gone.code, 404, "{gone:?}");

    assert_eq!(add(&vm, &disk(&image)), json!({"id": "_disk1", "bdf": "0000:01:00.0"}));
    wait_disks(&mut session, &["vda"]);
    assert_eq!(session.check(&format!("disk:read:vda:2:0:{MIB}"))["wrong"], 0);
    vm.monitor.shutdown();
}

#[test]
fn a_port_resets_what_is_behind_it_with_the_interrupt_that_waits() {
    let images = Images::new();
    let image = images.filled("image", 1, 4 * MIB);
    let (vm, mut session) = talk(&guest());
    let bdf = add(&vm, &disk(&image))["bdf"].as_str().unwrap().to_owned();
    wait_disks(&mut session, &["vda"]);
    let seen = session.check(&format!("hostile:bus-reset:{bdf}"));
    assert_eq!(
        (&seen["raised"], &seen["before"]),
        (&true.into(), &json!({"status": 15, "pending": 1})),
        "{seen}"
    );
    assert_eq!(seen["after"], json!({"status": 0, "pending": 0}));
    // Its driver has it again.
    wait_disks(&mut session, &["vda"]);
    assert_eq!(session.check(&format!("disk:read:vda:1:0:{}", 4 * MIB))["wrong"], 0);
    vm.monitor.shutdown();
}

#[test]
fn five_in_a_row_have_a_slot_each() {
    let images = Images::new();
    let (vm, mut session) = talk(&guest().vcpus(2));
    for number in 1..=5_u64 {
        let image = images.filled(&number.to_string(), number, number * MIB);
        assert_eq!(add(&vm, &disk(&image))["bdf"], format!("0000:0{number}:00.0"));
    }
    let list = wait_disks(&mut session, &["vda", "vdb", "vdc", "vdd", "vde"]);
    let mut sizes: Vec<_> = list.as_array().unwrap().iter().map(|d| d["sectors"].as_u64().unwrap()).collect();
    // Each port has a thread of its own in the guest: the names come in no order.
    sizes.sort_unstable();
    assert_eq!(sizes, [2048, 4096, 6144, 8192, 10240]);
    vm.monitor.shutdown();
}

#[test]
fn a_reset_of_the_guest_keeps_what_was_added_and_forgets_what_was_removed() {
    let images = Images::new();
    let [kept, removed] =
        [("kept", 2), ("removed", 3)].map(|(name, size)| images.filled(name, size, size * MIB));
    let (vm, mut session) = talk(&guest().set("/platform", json!({"num_pci_segments": 2})));
    assert_eq!(add(&vm, &with(disk(&removed), &json!({"id": "leaves"})))["id"], "leaves");
    let stays = with(disk(&kept), &json!({"id": "stays", "pci_segment": 1}));
    assert_eq!(add(&vm, &stays), json!({"id": "stays", "bdf": "0001:01:00.0"}));
    wait_disks(&mut session, &["vda", "vdb"]);
    remove(&vm, "leaves");
    session.say("reboot");
    // The port's socket is made anew with the machine.
    vm.monitor.events().wait_for("vm:rebooted");
    let mut session = join(&vm);
    session.line("GRANULE serving");
    wait_disks(&mut session, &["vda"]);
    assert_eq!(session.check(&format!("disk:read:vda:2:0:{}", 2 * MIB))["wrong"], 0);
    assert_eq!(vm.monitor.info()["device_tree"]["_virtio-pci-stays"]["pci_bdf"], "0001:00:01.0");
    assert!(!vm.monitor.info().to_string().contains("leaves"));
    vm.monitor.shutdown();
}

#[test]
fn a_paused_guest_finds_out_when_it_goes_on() {
    let images = Images::new();
    let (vm, mut session) = talk(&guest());
    vm.monitor.must("vm.pause");
    assert_eq!(add(&vm, &disk(&images.empty("image", MIB)))["id"], "_disk0");
    assert_eq!(vm.monitor.state(), "Paused");
    vm.monitor.must("vm.resume");
    wait_disks(&mut session, &["vda"]);
    vm.monitor.must("vm.pause");
    remove(&vm, "_disk0");
    vm.monitor.must("vm.resume");
    wait_removed(&vm, "_disk0");
    vm.monitor.shutdown();
}

#[test]
fn what_cannot_be_added_or_removed_leaves_everything_as_it_was() {
    let images = Images::new();
    let [cold, a, b, c] = ["cold", "a", "b", "c"].map(|name| images.empty(name, MIB));
    let two = guest().set("/platform", json!({"num_pci_segments": 2}));
    let (vm, mut session) = talk(&two.set("/disks", vec![with(disk(&cold), &json!({"id": "cold"}))]));
    for image in [&a, &b] {
        add(&vm, &with(disk(image), &json!({"pci_segment": 1})));
    }
    let before = vm.monitor.info();
    let refused: [(&str, Value, u16, &str); 8] = [
        ("vm.add-disk", with(disk(&c), &json!({"id": "cold"})), 409, "disks[3].id"),
        ("vm.add-disk", with(disk(&c), &json!({"pci_segment": 2})), 400, "disks[3].pci_segment"),
        ("vm.add-disk", with(disk(&c), &json!({"pci_segment": 1})), 400, "slots of PCI segment 1 are taken"),
        ("vm.add-disk", with(disk(&c), &json!({"pci_device_id": 4})), 400, "pci_device_id"),
        ("vm.add-disk", disk("/nowhere"), 400, "/nowhere"),
        ("vm.add-disk", disk(&a), 400, "path"),
        ("vm.remove-device", json!({"id": "cold"}), 400, "root bus"),
        ("vm.remove-device", json!({"id": "nobody"}), 404, "nobody"),
    ];
    for (call, body, code, why) in refused {
        let answer = vm.monitor.send(call, &body);
        assert_eq!(answer.code, code, "{call} {body}: {answer:?}");
        assert!(answer.causes().iter().any(|cause| cause.contains(why)), "{call} {body}: {answer:?}");
    }
    assert_eq!(vm.monitor.info(), before);
    let served = vm.monitor.processes().iter().filter(|process| process.role() == "device blk").count();
    assert_eq!(served, 3, "{:?}", vm.monitor.processes());
    wait_disks(&mut session, &["vda", "vdb", "vdc"]);
    vm.monitor.shutdown();
}

#[test]
fn before_boot_the_configuration_changes_and_nothing_else() {
    let images = Images::new();
    let [a, b] = ["a", "b"].map(|name| images.empty(name, MIB));
    let mut vm = Vm::create(&guest().word("granule.run=disk:list"));
    for (image, id) in [(&a, "a"), (&b, "b")] {
        let answer = vm.monitor.send("vm.add-disk", &with(disk(image), &json!({"id": id})));
        assert_eq!((answer.code, &*answer.body), (204, ""), "{answer:?}");
    }
    let again = vm.monitor.send("vm.add-disk", &with(disk(&a), &json!({"id": "a"})));
    assert_eq!(again.code, 409, "{again:?}");
    remove(&vm, "a");
    assert_eq!(vm.monitor.send("vm.remove-device", &json!({"id": "a"})).code, 404);
    assert_eq!(vm.monitor.processes().len(), 2, "nothing is started");
    vm.monitor.must("vm.boot");
    assert_eq!(vm.check("disk:list").as_array().unwrap().len(), 1);
    assert_eq!(vm.monitor.info()["device_tree"]["_virtio-pci-b"]["pci_bdf"], "0000:00:01.0");
    vm.monitor.shutdown();
}

/// Adds a disk to a guest that runs, and answers what it became.
pub fn add(vm: &Vm, disk: &Value) -> Value {
    let answer = vm.monitor.send("vm.add-disk", disk);
    assert_eq!(answer.code, 200, "{answer:?}; {}", vm.monitor.errors());
    answer.json()
}

pub fn remove(vm: &Vm, id: &str) {
    let answer = vm.monitor.send("vm.remove-device", &json!({"id": id}));
    assert_eq!(answer.code, 204, "{answer:?}; {}", vm.monitor.errors());
}

/// Waits until the guest has let go: Linux takes five seconds to think it over.
pub fn wait_removed(vm: &Vm, id: &str) {
    wait_event(vm, "removed", id, 1);
}

/// Waits until a device has had so many events of this name.
pub fn wait_event(vm: &Vm, name: &str, id: &str, count: usize) {
    let told = || {
        let events = vm.monitor.events().all();
        let all = events.iter().filter(|e| e.source == "virtio-device" && e.event == name);
        (all.filter(|e| e.properties["id"] == id).count() >= count).then_some(())
    };
    if wait::until(wait::LONG, told).is_none() {
        panic!("{id} is not {name}: {:?}; {}", vm.monitor.events().all(), vm.monitor.doing());
    }
}

/// Waits until the guest has these disks, and answers what it says of them.
pub fn wait_disks(session: &mut Session, wanted: &[&str]) -> Value {
    let mut last = Value::Null;
    let found = wait::until(wait::LONG, || {
        last = session.check("disk:list");
        let names: Vec<_> = last.as_array()?.iter().filter_map(|disk| disk["name"].as_str()).collect();
        (names == wanted).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("the guest does not have {wanted:?}, but {last}"))
}

/// The functions with this vendor and device id.
fn functions(pci: &Value, id: &str) -> Vec<Value> {
    pci["devices"].as_array().unwrap().iter().filter(|d| d["id"] == id).cloned().collect()
}
