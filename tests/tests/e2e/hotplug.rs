//! Devices that come and go while the guest runs, as a guest by device tree sees them: behind PCI Express root ports.

use granule_tests::vm::Vm;
use serde_json::{Value, json};

use crate::guest;

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

/// The functions with this vendor and device id.
fn functions(pci: &Value, id: &str) -> Vec<Value> {
    pci["devices"].as_array().unwrap().iter().filter(|d| d["id"] == id).cloned().collect()
}
