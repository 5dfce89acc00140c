//! Bad input: each gets its code and a chain of causes that names what is wrong; the process lives on, and the next
//! good request works.

use std::fs;

use granule_tests::client::Response;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::vm::{Guest, MIB, Vm};
use serde_json::{Value, json};

use crate::guest;

/// Asserts code and a cause that contains `word`.
fn is_refused(answer: &Response, code: u16, word: &str) {
    assert_eq!(answer.code, code, "{answer:?}");
    let causes = answer.causes();
    assert!(causes.iter().any(|cause| cause.contains(word)), "no cause names {word:?}: {causes:?}");
}

/// Creates the guest, and boots it if it can be created; one of both must be refused. Nothing stays.
fn cannot_boot(monitor: &Monitor, guest: &Guest, word: &str) {
    let created = monitor.send("vm.create", &guest.body(monitor));
    if created.code != 204 {
        is_refused(&created, 400, word);
        assert_eq!(monitor.get("vm.info").code, 404, "a refused configuration is not kept");
        return;
    }
    is_refused(&monitor.put("vm.boot"), 400, word);
    assert_eq!(monitor.state(), "Created");
    let left: Vec<_> = monitor.processes().iter().map(granule_tests::processes::Process::role).collect();
    assert!(!left.iter().any(|role| role.starts_with("device")), "left behind: {left:?}");
    monitor.must("vm.delete");
}

/// A good guest boots and powers off in the very same process.
fn still_works(monitor: Monitor) {
    assert_eq!(monitor.send("vm.create", &guest().word("granule.then=poweroff").body(&monitor)).code, 204);
    monitor.must("vm.boot");
    assert_eq!(monitor.finish().code(), Some(0));
}

#[test]
fn a_body_that_is_no_json_is_refused_with_the_place() {
    let monitor = Monitor::start();
    let bodies = [
        "{",
        "{1}",
        "[]",
        "\"x\"",
        "null",
        "{\"cpus\":}",
        "{\"payload\":{}}}",
        "\u{1}\u{2}",
        "{\"payload\":\"ü",
    ];
    for body in bodies {
        let answer = monitor.client().call("PUT", "/api/v1/vm.create", Some(body)).unwrap();
        is_refused(&answer, 400, "");
        assert_eq!(monitor.get("vm.info").code, 404, "{body}");
    }
    let deep = "[".repeat(100_000);
    let answer = monitor.client().call("PUT", "/api/v1/vm.create", Some(&deep)).unwrap();
    is_refused(&answer, 400, "");
    still_works(monitor);
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let monitor = Monitor::start();
    let wrong = [
        ("/cpus/boot_vcpus", json!("two"), "boot_vcpus"),
        ("/cpus/boot_vcpus", json!(-1), "boot_vcpus"),
        ("/cpus/boot_vcpus", json!(1.5), "boot_vcpus"),
        ("/cpus/features/mte", json!("perhaps"), "mte"),
        ("/memory/size", json!("1G"), "size"),
        ("/memory/size", json!(1e300), "size"),
        ("/serial/mode", json!("Loud"), "mode"),
        ("/payload/kernel", json!(7), "kernel"),
    ];
    for (pointer, value, name) in wrong {
        let answer = monitor.send("vm.create", &guest().set(pointer, value).body(&monitor));
        is_refused(&answer, 400, name);
    }
    still_works(monitor);
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let monitor = Monitor::start();
    for count in [0, 33, 1000, 4_000_000_000_u32] {
        cannot_boot(&monitor, &guest().vcpus(count), "cpus.");
    }
    cannot_boot(&monitor, &guest().set("/cpus/boot_vcpus", 2), "cpus.boot_vcpus");
    for size in [0, 1, 4095, 256 * MIB + 1, 1 << 40, u64::MAX] {
        cannot_boot(&monitor, &guest().set("/memory/size", size), "memory.size");
    }
    cannot_boot(&monitor, &guest().word(&"x".repeat(5000)), "payload.cmdline");
    cannot_boot(
        &monitor,
        &guest().set("/platform", json!({"num_pci_segments": 1000})),
        "platform.num_pci_segments",
    );
    still_works(monitor);
}

#[test]
fn devices_that_cannot_be_had_are_refused_by_name() {
    let monitor = Monitor::start();
    let folder = Folder::new();
    let image = |name: &str, length: u64| {
        fs::File::create(folder.path().join(name)).unwrap().set_len(length).unwrap();
        folder.file(name)
    };
    let (disk, empty, odd) = (image("disk", MIB), image("empty", 0), image("odd", 2 * MIB + 512));
    let locked = image("locked", 2 * MIB);
    let holder = fs::File::options().read(true).write(true).open(&locked).unwrap();
    rustix::fs::fcntl_lock(&holder, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let raw = |path: &str| json!({"path": path, "image_type": "Raw"});
    let named = json!({"path": disk, "image_type": "Raw", "id": "twice"});
    let in_group = json!({"path": disk, "image_type": "Raw", "rate_limit_group": "none"});
    for (key, value, field) in [
        ("/disks", json!([raw(&folder.file("missing"))]), "disks[0].path"),
        ("/disks", json!([raw(&empty)]), "disks[0].path"),
        ("/disks", json!([raw(&locked)]), "disks[0].path"),
        ("/disks", json!([raw(&disk), in_group]), "disks[1].rate_limit_group"),
        ("/pmem", json!([{"file": folder.file("missing")}]), "pmem[0].file"),
        ("/pmem", json!([{"file": empty}]), "pmem[0].file"),
        ("/pmem", json!([{"file": locked}]), "pmem[0].file"),
        ("/pmem", json!([{"file": odd}]), "pmem[0].file"),
        ("/net", json!([{"tap": "lo"}]), "net[0].tap"),
        ("/net", json!([{"fds": [77]}]), "net[0].fds"),
        ("/vsock", json!({"cid": 2, "socket": folder.file("v.sock")}), "vsock.cid"),
    ] {
        println!("{key}: {value}");
        cannot_boot(&monitor, &guest().set(key, value), field);
    }
    let twice = guest().set("/disks", json!([named.clone(), named]));
    is_refused(&monitor.send("vm.create", &twice.body(&monitor)), 409, "disks[1].id");
    still_works(monitor);
}

#[test]
fn a_kernel_that_is_none_is_refused_by_name() {
    let monitor = Monitor::start();
    let folder = Folder::new();
    let path = folder.file("kernel");
    let image = fs::read(granule_tests::lab::kernel()).unwrap();
    let contents: [(&str, Vec<u8>); 5] = [
        ("empty", vec![]),
        ("short", image[..40].to_vec()),
        ("zeros", vec![0; 1 << 20]),
        ("an ELF program", fs::read("/proc/self/exe").unwrap()[..4096].to_vec()),
        ("compressed", [&[0x1f, 0x8b, 8][..], &[0; 8192]].concat()),
    ];
    for (what, content) in contents {
        fs::write(&path, content).unwrap();
        println!("a kernel that is {what}");
        cannot_boot(&monitor, &guest().set("/payload/kernel", path.clone()), "payload.kernel");
    }
    // A file that is cut off behind its header looks like a kernel with much to zero, and cannot be told.
    // A header that claims more than any memory holds: image_size is the 64-bit word at 16.
    let mut vast = image[..4096].to_vec();
    vast[16..24].fill(0x7f);
    fs::write(&path, vast).unwrap();
    cannot_boot(&monitor, &guest().set("/payload/kernel", path), "payload.kernel");
    still_works(monitor);
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let monitor = Monitor::start();
    let folder = Folder::new();
    let nowhere = folder.file("nowhere/file");
    let here = folder.path().display().to_string();
    for kernel in [&nowhere, &here, "", "/dev/zero"] {
        cannot_boot(&monitor, &guest().set("/payload/kernel", kernel), "payload.kernel");
    }
    for source in [&nowhere, &here] {
        cannot_boot(&monitor, &guest().set("/rng/src", source.as_str()), "rng.src");
    }
    for file in [&nowhere, &here] {
        cannot_boot(&monitor, &guest().set("/serial", json!({"mode": "File", "file": file})), "serial.file");
    }
    cannot_boot(
        &monitor,
        &guest().set("/serial", json!({"mode": "Socket", "socket": nowhere})),
        "serial.socket",
    );
    let mut without = guest().body(&monitor);
    without["payload"] = json!({});
    is_refused(&monitor.send("vm.create", &without), 400, "payload.kernel");
    let mut initramfs = guest().body(&monitor);
    for path in [&nowhere, &here] {
        initramfs["payload"]["initramfs"] = path.as_str().into();
        assert_eq!(monitor.send("vm.create", &initramfs).code, 204);
        is_refused(&monitor.put("vm.boot"), 400, "payload.initramfs");
        monitor.must("vm.delete");
    }
    still_works(monitor);
}

#[test]
fn an_initramfs_that_does_not_fit_is_refused() {
    let monitor = Monitor::start();
    let folder = Folder::new();
    let path = folder.file("vast");
    fs::File::create(&path).unwrap().set_len(8 << 30).unwrap();
    let mut body = guest().body(&monitor);
    body["payload"]["initramfs"] = path.into();
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    is_refused(&monitor.put("vm.boot"), 400, "payload.initramfs");
    monitor.must("vm.delete");
    still_works(monitor);
}

#[test]
fn unknown_fields_and_nulls_are_passed_over() {
    let monitor = Monitor::start();
    let mut body = guest().word("granule.then=poweroff").body(&monitor);
    body["platform"] = json!({"num_pci_segments": 1, "tdx": false, "sev_snp": false});
    body["cpus"]["kvm_hyperv"] = json!(false);
    body["cpus"]["max_phys_bits"] = json!(46);
    body["balloon"] = Value::Null;
    body["sgx_epc"] = json!([]);
    body["of_tomorrow"] = json!({"a": [1, {"b": null}]});
    assert_eq!(monitor.send("vm.create", &body).code, 204);
    assert_eq!(monitor.info()["config"]["cpus"]["max_phys_bits"], 46, "it is echoed though KVM has less");
    monitor.must("vm.boot");
    assert_eq!(monitor.finish().code(), Some(0));
}

#[test]
fn a_second_create_leaves_the_first_guest_as_it_is() {
    let vm = Vm::boot(&guest());
    let other = guest().vcpus(3).body(&vm.monitor);
    is_refused(&vm.monitor.send("vm.create", &other), 409, "already created");
    assert_eq!(vm.monitor.info()["config"]["cpus"]["boot_vcpus"], 1);
    assert_eq!(vm.monitor.state(), "Running");
    vm.monitor.shutdown();
}
