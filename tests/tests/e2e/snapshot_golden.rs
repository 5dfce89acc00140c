//! A snapshot that an earlier version made: every later one restores it.
//!
//! `tests/golden/tiny-1.txt` is the directory as text; `scripts/golden-snapshot` made it, and makes the next when there is
//! another format. The emulated processor of another lab may be another: then its identity is put in the place of the
//! saved one, as no host restores a guest of another processor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use granule_snapshot::directory::{Description, OsDisk, Snapshot, Staging};
use granule_snapshot::layout::{Layout, PageSize};
use granule_snapshot::manifest::{FileSum, Manifest};
use granule_snapshot::memory::MemoryWriter;
use granule_tests::folder::Folder;
use granule_tests::golden;
use granule_tests::monitor::Monitor;
use granule_tests::vm::MIB;
use serde_json::{Map, Value, json};

use crate::on_demand;
use crate::snapshot::{edit_config, restore, snapshot, url};
use crate::tiny;

const LINE: usize = 64;

/// The directory as text; lines of zeros are left out.
fn pack(directory: &str) -> String {
    let mut text = String::new();
    for name in ["manifest.json", "config.json", "state.json", "pages", "tags", "memory"] {
        let bytes = fs::read(format!("{directory}/{name}")).unwrap();
        text += &format!("file {name} {}\n", bytes.len());
        let mut at = None;
        for (number, line) in bytes.chunks(LINE).enumerate() {
            if line.iter().all(|byte| *byte == 0) {
                continue;
            }
            if at != Some(number) {
                text += &format!("at {}\n", number * LINE);
            }
            text += &line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            text.push('\n');
            at = Some(number + 1);
        }
    }
    text
}

fn write_manifest(directory: &str, change: impl FnOnce(&mut Manifest)) {
    let path = format!("{directory}/manifest.json");
    let mut manifest = Manifest::decode(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.encode()).unwrap();
}

fn state(directory: &str) -> Value {
    serde_json::from_slice(&fs::read(format!("{directory}/state.json")).unwrap()).unwrap()
}

/// The registers of the vCPU.
fn registers(state: &mut Value) -> &mut Map<String, Value> {
    let components = state["components"].as_array_mut().unwrap();
    let vcpu = components.iter_mut().find(|component| component["kind"] == "vcpu").unwrap();
    vcpu["payload"]["registers"].as_object_mut().unwrap()
}

/// What a processor is, and not what it holds: system registers with op0 3 and CRn 0, the lengths of vectors, and what
/// firmware offers.
fn is_identity(id: &str) -> bool {
    let id = u64::from_str_radix(id, 16).unwrap();
    let kind = id >> 16 & 0xfff;
    kind == 0x13 && id & 0xc780 == 0xc000 || matches!(kind, 0x11 | 0x14 | 0x16) || id == 0x6060_0000_0015_ffff
}

/// Gives the saved vCPU the identity of this host's.
fn adopt_identity(directory: &str, here: &str) {
    let (mut saved, mut here) = (state(directory), state(here));
    let identity = |state: &mut Value| -> BTreeMap<String, Value> {
        let all = registers(state).iter().filter(|(id, _)| is_identity(id));
        all.map(|(id, value)| (id.clone(), value.clone())).collect()
    };
    let (theirs, ours) = (identity(&mut saved), identity(&mut here));
    if theirs == ours {
        return;
    }
    println!("the emulated processor is another than the one of the golden snapshot");
    registers(&mut saved).retain(|id, _| !is_identity(id));
    registers(&mut saved).extend(ours);
    let bytes = serde_json::to_vec(&saved).unwrap();
    fs::write(format!("{directory}/state.json"), &bytes).unwrap();
    write_manifest(directory, |manifest| manifest.state = FileSum::of(&bytes));
}

/// A snapshot like this one, of a host with pages of 16 KiB.
fn with_large_pages(like: &Snapshot, directory: &str) {
    let Manifest { id, creator, created, arch, mte, layout, .. } = like.manifest().clone();
    let layout = Layout::new(PageSize::K16, layout.regions().to_vec()).unwrap();
    let staging = Staging::create(OsDisk, directory.as_ref(), false).unwrap();
    let files = staging.create_memory_files(mte.is_some()).unwrap();
    let memory = MemoryWriter::new(files, layout.clone(), false).unwrap().finish().unwrap();
    let description = Description { id, parent: None, creator, created, arch, mte, layout };
    let (config, _) = like.config().unwrap();
    staging.commit(description, &config, &like.state_bytes().unwrap(), &memory).unwrap();
}

fn refused(monitor: &Monitor, directory: &str, reason: &str) {
    let answer = monitor.send("vm.restore", &json!({"source_url": url(directory)}));
    assert!(answer.code == 400 && answer.body.contains(reason), "{reason}: {answer:?}");
    assert_eq!(monitor.get("vm.info").code, 404, "{reason}");
}

#[test]
fn a_snapshot_of_an_earlier_version_is_restored_and_one_of_another_kind_is_refused() {
    let store = Folder::new();
    let (golden, fresh) = (store.file("golden"), store.file("fresh"));
    let (vm, mut session) = tiny::boot();
    tiny::writes(&mut session);
    vm.monitor.must("vm.pause");
    snapshot(&vm.monitor, &fresh);
    vm.monitor.must("vm.delete");
    if std::env::var_os("GRANULE_PRINT_GOLDEN").is_some() {
        edit_config(&fresh, |config| config["payload"]["kernel"] = "/golden/kernel".into());
        edit_config(&fresh, |config| config["serial"]["socket"] = "/golden/serial.sock".into());
        println!("--- golden\n{}--- end", pack(&fresh));
        return vm.monitor.shutdown();
    }
    golden::unpack(&golden);
    adopt_identity(&golden, &fresh);
    let whole = Snapshot::open(golden.as_ref()).unwrap();
    whole.memory().unwrap().verify().unwrap();

    let mut monitor = vm.monitor;
    for on_demand in [false, true] {
        let (vm, mut session) = match on_demand {
            false => restore(monitor, &golden, true),
            true => on_demand::restore(monitor, &golden),
        };
        tiny::is_right(&mut session);
        tiny::writes(&mut session);
        tiny::is_right(&mut session);
        tiny::catches(&mut session);
        vm.monitor.must("vm.delete");
        monitor = vm.monitor;
    }

    let manifest = fs::read(format!("{golden}/manifest.json")).unwrap();
    let of_another = |reason: &str, change: &dyn Fn(&mut Manifest)| {
        write_manifest(&golden, change);
        refused(&monitor, &golden, reason);
        fs::write(format!("{golden}/manifest.json"), &manifest).unwrap();
    };
    of_another("x86_64", &|manifest| manifest.arch = "x86_64".into());
    of_another("level", &|manifest| manifest.mte = manifest.mte.map(|level| 5 - level));
    of_another("without memory tagging", &|manifest| {
        (manifest.mte, manifest.tags) = (None, None);
    });
    let large = store.file("large");
    with_large_pages(&whole, &large);
    refused(&monitor, &large, "with pages of 16384 bytes, this host's have 4096");
    let config = fs::read(format!("{golden}/config.json")).unwrap();
    // As Kata Containers has a template: its memory is a file of the client's.
    let zone = json!({"id": "mem0", "size": 8 * MIB, "file": format!("{golden}/memory"), "shared": false});
    for (memory, mte, reason) in [
        (json!({"size": 0, "zones": [zone]}), true, "memory.zones[].file"),
        (json!({"size": 8 * MIB}), false, "with memory tagging, and the configuration has it off"),
    ] {
        edit_config(&golden, |config| {
            config["memory"] = memory;
            config["cpus"]["features"]["mte"] = mte.into();
        });
        refused(&monitor, &golden, reason);
        fs::write(format!("{golden}/config.json"), &config).unwrap();
    }
    let newer = String::from_utf8(manifest.clone()).unwrap();
    let newer = newer.replacen("{\"granule-snapshot\":1,", "{\"granule-snapshot\":2,", 1);
    fs::write(format!("{golden}/manifest.json"), newer).unwrap();
    refused(&monitor, &golden, "newer than 1");
    fs::write(format!("{golden}/manifest.json"), &manifest[..manifest.len() / 2]).unwrap();
    refused(&monitor, &golden, "manifest");
    fs::write(format!("{golden}/manifest.json"), &manifest).unwrap();
    // A page that is not as it was written is found while memory is restored.
    let memory = File::options().read(true).write(true).open(format!("{golden}/memory")).unwrap();
    let mut byte = [0];
    memory.read_exact_at(&mut byte, 0).unwrap();
    memory.write_all_at(&[byte[0] ^ 1], 0).unwrap();
    refused(&monitor, &golden, "damaged");
    memory.write_all_at(&byte, 0).unwrap();
    restore(monitor, &golden, false).0.monitor.shutdown();
}
