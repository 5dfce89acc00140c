//! Every fault that a configuration can have, and what is said about it.

use super::{Hotplug, Limits, Output, check};
use crate::config::{MteRequest, VmConfig};
use crate::json;

const LIMITS: Limits = Limits {
    max_vcpus: 32,
    host_memory: 8 << 30,
    page_size: 4096,
    ipa_bits: 40,
    ram_start: 0x4000_0000,
    max_pci_segments: 16,
    mte_default: MteRequest::Auto,
};

fn parsed(body: &str) -> VmConfig {
    json::parse(body.as_bytes()).unwrap()
}

fn refusal(body: &str) -> String {
    check(&parsed(body), &LIMITS).unwrap_err().to_string()
}

/// A body with a kernel and one more member.
fn with(member: &str) -> String {
    format!(r#"{{"payload":{{"kernel":"/k"}},{member}}}"#)
}

fn cpus(boot: u32, max: u32) -> String {
    with(&format!(r#""cpus":{{"boot_vcpus":{boot},"max_vcpus":{max}}}"#))
}

#[test]
fn a_kernel_alone_is_enough() {
    let checked = check(&parsed(r#"{"payload":{"kernel":"k"}}"#), &LIMITS).unwrap();
    assert_eq!((checked.cpus.boot, checked.cpus.max, checked.memory.size), (1, 1, 512 << 20));
    assert_eq!(checked.cpus.phys_bits, 40, "clamped to what the host has");
    assert_eq!((checked.serial, checked.console), (Output::Null, Output::Off));
    assert_eq!(checked.rng.source, std::path::Path::new("/dev/urandom"));
    assert_eq!(checked.pci_segments, 1);
}

#[test]
fn numbers_of_vcpus_are_bounded() {
    assert_eq!(refusal(&cpus(0, 1)), "cpus.boot_vcpus: 0 is not in 1..=32");
    assert_eq!(refusal(&cpus(1000, 1000)), "cpus.boot_vcpus: 1000 is not in 1..=32");
    assert_eq!(refusal(&cpus(1, 33)), "cpus.max_vcpus: 33 is not in 1..=32");
    assert_eq!(refusal(&cpus(4, 2)), "cpus.boot_vcpus: 4 is more than cpus.max_vcpus, 2");
    assert!(check(&parsed(&cpus(32, 32)), &LIMITS).is_ok());
}

#[test]
fn a_topology_is_of_all_vcpus() {
    let body = |threads, cores| {
        with(&format!(
            r#""cpus":{{"boot_vcpus":1,"max_vcpus":4,"topology":{{"threads_per_core":{threads},
            "cores_per_die":{cores},"dies_per_package":1,"packages":1}}}}"#
        ))
    };
    assert!(check(&parsed(&body(1, 4)), &LIMITS).is_ok());
    assert_eq!(refusal(&body(2, 4)), "cpus.topology: 2 × 4 × 1 × 1 is not cpus.max_vcpus, 4");
    assert_eq!(refusal(&body(0, 4)), "cpus.topology: 0 × 4 × 1 × 1 is not cpus.max_vcpus, 4");
    assert!(refusal(&body(65535, 65535)).starts_with("cpus.topology: "));
}

#[test]
fn sizes_of_memory_are_bounded() {
    let of = |size: u64| refusal(&with(&format!(r#""memory":{{"size":{size}}}"#)));
    assert_eq!(of(0), "memory.size: 0 is not in 4096..=8589934592");
    assert_eq!(of(1), "memory.size: 1 is not a multiple of the page size, 4096");
    assert_eq!(of(9 << 30), "memory.size: 9663676416 bytes are more than the host has (8589934592 bytes)");
    let limits = Limits { host_memory: u64::MAX, ..LIMITS };
    let huge = parsed(&with(&format!(r#""memory":{{"size":{}}}"#, 1u64 << 40)));
    assert_eq!(
        check(&huge, &limits).unwrap_err().to_string(),
        "memory.size: 1099511627776 bytes are more than the guest's address space has room for (1098437885952 bytes)"
    );
    let most = parsed(&with(&format!(r#""memory":{{"size":{}}}"#, u64::MAX - 4095)));
    assert!(check(&most, &limits).is_err());
}

#[test]
fn a_kernel_must_be_named() {
    assert_eq!(refusal("{}"), "payload.kernel: missing: give the path of an arm64 Image");
    assert_eq!(refusal(r#"{"payload":{"kernel":""}}"#), "payload.kernel: empty");
    assert_eq!(refusal(r#"{"payload":{"kernel":"a\u0000b"}}"#), "payload.kernel: holds a NUL byte");
    assert_eq!(
        refusal(r#"{"payload":{"firmware":"/f"}}"#),
        "payload.firmware: firmware is not supported; give a kernel"
    );
    assert_eq!(refusal(r#"{"payload":{"kernel":"/k","initramfs":""}}"#), "payload.initramfs: empty");
}

#[test]
fn a_command_line_is_no_longer_than_the_kernel_reads() {
    let body =
        |length: usize| format!(r#"{{"payload":{{"kernel":"/k","cmdline":"{}"}}}}"#, "a".repeat(length));
    assert!(check(&parsed(&body(2047)), &LIMITS).is_ok());
    assert_eq!(refusal(&body(2048)), "payload.cmdline: 2048 bytes long, an arm64 kernel takes 2047");
}

#[test]
fn outputs_need_what_their_mode_says() {
    assert_eq!(refusal(&with(r#""serial":{"mode":"File"}"#)), "serial.file: missing: mode File needs it");
    assert_eq!(
        refusal(&with(r#""serial":{"mode":"Socket"}"#)),
        "serial.socket: missing: mode Socket needs it"
    );
    let long = format!(r#""serial":{{"mode":"Socket","socket":"/{}"}}"#, "s".repeat(107));
    assert_eq!(refusal(&with(&long)), "serial.socket: 108 bytes long, a socket address takes 107");
    let both = with(r#""console":{"mode":"Tty"},"serial":{"mode":"Tty"}"#);
    assert!(refusal(&both).starts_with("console.mode: the serial line has the terminal already"));
    for mode in ["Off", "Null", "Tty", "Pty"] {
        assert!(check(&parsed(&with(&format!(r#""console":{{"mode":"{mode}"}}"#))), &LIMITS).is_ok());
    }
}

#[test]
fn what_is_not_built_is_refused_by_name_unless_its_list_is_empty() {
    for (field, member) in [
        ("devices", r#""devices":[{"path":"/sys"}]"#),
        ("iommu", r#""iommu":true"#),
        ("platform.tdx", r#""platform":{"tdx":true}"#),
        ("memory.hugepages", r#""memory":{"size":4096,"hugepages":true}"#),
        ("memory.zones[].file", r#""memory":{"size":0,"zones":[{"id":"a","size":4096,"file":"/a"}]}"#),
        ("memory.zones", r#""memory":{"size":0,"zones":[{"id":"a","size":4096}]}"#),
    ] {
        assert!(refusal(&with(member)).starts_with(&format!("{field}: ")), "{}", refusal(&with(member)));
    }
    let empty = with(r#""disks":[],"net":[],"fs":[],"pmem":[],"devices":[],"vdpa":[],"numa":null"#);
    assert!(check(&parsed(&empty), &LIMITS).is_ok());
}

#[test]
fn disks_are_checked_field_by_field() {
    let disk = |members: &str| with(&format!(r#""disks":[{{"path":"/a"}},{{{members}}}]"#));
    let of = |members: &str| refusal(&disk(members));
    assert!(of("").starts_with("disks[1].path: missing"));
    assert!(of(r#""vhost_user":true"#).starts_with("disks[1].vhost_socket: missing"));
    assert!(of(r#""vhost_socket":"/s""#).starts_with("disks[1].vhost_socket: "));
    assert!(of(r#""path":"/d","vhost_user":true,"vhost_socket":"/s""#).starts_with("disks[1].path: "));
    let outside = check(&parsed(&disk(r#""vhost_user":true,"vhost_socket":"/s""#)), &LIMITS).unwrap();
    assert_eq!(outside.disks[1].served_at.as_deref(), Some(std::path::Path::new("/s")));
    assert_eq!(of(r#""path":"""#), "disks[1].path: empty");
    assert_eq!(of(r#""path":"/d","num_queues":0"#), "disks[1].num_queues: 0 is not in 1..=16");
    assert_eq!(of(r#""path":"/d","num_queues":17"#), "disks[1].num_queues: 17 is not in 1..=16");
    assert_eq!(of(r#""path":"/d","queue_size":2"#), "disks[1].queue_size: 2 is not in 4..=32768");
    assert_eq!(of(r#""path":"/d","queue_size":100"#), "disks[1].queue_size: 100 is not a power of two");
    assert_eq!(of(r#""path":"/d","pci_segment":1"#), "disks[1].pci_segment: 1 is not in 0..=0");
    let long = format!(r#""path":"/d","serial":"{}""#, "s".repeat(21));
    assert_eq!(of(&long), "disks[1].serial: 21 bytes long, a virtio disk takes 20");
    for (key, value) in [("image_type", "\"Vhdx\""), ("iommu", "true")] {
        assert!(of(&format!(r#""path":"/d","{key}":{value}"#)).starts_with(&format!("disks[1].{key}: ")));
    }
    let checked = check(&parsed(&disk(r#""path":"/d","readonly":true,"num_queues":4"#)), &LIMITS).unwrap();
    let [first, second] = &checked.disks[..] else { panic!("{:?}", checked.disks) };
    assert_eq!((first.queues, first.queue_size, first.readonly, first.sparse), (1, 128, false, true));
    assert_eq!((second.queues, second.readonly, second.path.to_str()), (4, true, Some("/d")));
}

#[test]
fn disks_share_the_limits_of_a_group_that_there_is() {
    let in_group = |groups: &str, disk: &str| {
        with(&format!(r#""rate_limit_groups":[{groups}],"disks":[{{"path":"/a"}},{{"path":"/b"{disk}}}]"#))
    };
    let of = |groups: &str, disk: &str| refusal(&in_group(groups, disk));
    let limit = r#""rate_limiter_config":{"ops":{"size":5,"refill_time":100}}"#;
    let group = |id: &str| format!(r#"{{"id":"{id}",{limit}}}"#);
    let one = group("g");
    assert_eq!(of(&group(""), ""), "rate_limit_groups[0].id: empty");
    let twice = of(&format!("{one},{one}"), "");
    assert_eq!(twice, "rate_limit_groups[1].id: `g` is the name of rate_limit_groups[0].id, too");
    let none = of(r#"{"id":"g","rate_limiter_config":{}}"#, "");
    assert!(none.starts_with("rate_limit_groups[0].rate_limiter_config: missing: "), "{none}");
    let unknown = of(&one, r#","rate_limit_group":"h""#);
    assert_eq!(unknown, "disks[1].rate_limit_group: there is no group `h` in rate_limit_groups");
    let both = of(&one, &format!(r#","rate_limit_group":"g",{limit}"#));
    assert!(both.starts_with("disks[1].rate_limit_group: "), "{both}");
    let outside = r#"{"vhost_user":true,"vhost_socket":"/s","rate_limit_group":"g"}"#;
    let outside = refusal(&with(&format!(r#""rate_limit_groups":[{one}],"disks":[{outside}]"#)));
    assert!(outside.starts_with("disks[0].rate_limit_group: "), "{outside}");
    let checked = check(&parsed(&in_group(&one, r#","rate_limit_group":"g""#)), &LIMITS).unwrap();
    assert_eq!((checked.disks[0].group.as_deref(), checked.disks[1].group.as_deref()), (None, Some("g")));
    assert_eq!(checked.disks[1].limits.ops.map(|bucket| bucket.size), Some(5));
}

#[test]
fn persistent_memory_is_an_image_that_one_may_write_to_or_not() {
    let of = |member: &str| refusal(&with(&format!(r#""pmem":[{{"file":"/a"}},{{{member}}}]"#)));
    assert_eq!(of(r#""file":"""#), "pmem[1].file: empty");
    assert!(of(r#""file":"/b","iommu":true"#).starts_with("pmem[1].iommu: "));
    assert!(
        of(r#""file":"/b","readonly":true,"discard_writes":true"#).starts_with("pmem[1].discard_writes: ")
    );
    assert_eq!(of(r#""file":"/b","pci_segment":1"#), "pmem[1].pci_segment: 1 is not in 0..=0");
    let many = format!(r#""pmem":[{}]"#, [r#"{"file":"/a"}"#; 8].join(","));
    assert_eq!(refusal(&with(&many)), "pmem: 8 is not in 0..=7");
    let good = with(r#""pmem":[{"file":"/a","size":2097152,"readonly":true}]"#);
    let checked = check(&parsed(&good), &LIMITS).unwrap();
    assert_eq!((checked.pmem[0].size, checked.pmem[0].read_only), (Some(2 << 20), true));
}

#[test]
fn pluggable_memory_is_whole_blocks_that_the_host_has() {
    let memory = |more: &str| with(&format!(r#""memory":{{"size":1073741824,{more}}}"#));
    let mem = |size: u64, plugged: u64| {
        memory(&format!(r#""hotplug_method":"VirtioMem","hotplug_size":{size},"hotplugged_size":{plugged}"#))
    };
    assert_eq!(refusal(&mem(4096, 0)), "memory.hotplug_size: 4096 is not a multiple of 2 MiB");
    assert_eq!(refusal(&mem(4 << 20, 1)), "memory.hotplugged_size: 1 is not a multiple of 2 MiB");
    assert_eq!(
        refusal(&mem(9 << 30, 0)),
        "memory.hotplug_size: 9663676416 bytes are more than the host has (8589934592 bytes)"
    );
    assert_eq!(
        refusal(&mem(2 << 20, 4 << 20)),
        "memory.hotplugged_size: 4194304 bytes are more than memory.hotplug_size (2097152 bytes)"
    );
    let hotplug = |body: &str| check(&parsed(body), &LIMITS).unwrap().memory.hotplug;
    assert_eq!(hotplug(&mem(0, 0)), None);
    assert_eq!(hotplug(&mem(4 << 20, 2 << 20)), Some(Hotplug { size: 4 << 20, plugged: 2 << 20 }));
    // What clients send idly is taken as far as it goes.
    let idle = |size: u64| hotplug(&memory(&format!(r#""hotplug_size":{size}"#))).map(|hotplug| hotplug.size);
    assert_eq!(idle(4095), None);
    assert_eq!(idle((1 << 30) + 1), Some(1 << 30));
    assert_eq!(idle(u64::MAX), Some(8 << 30));
}

#[test]
fn a_balloon_is_no_larger_than_memory() {
    let of = |member: &str| with(&format!(r#""memory":{{"size":1048576}},"balloon":{{{member}}}"#));
    let more = refusal(&of(r#""size":1048577"#));
    assert!(more.starts_with("balloon.size: 1048577 bytes are more than memory.size"), "{more}");
    assert!(refusal(&of(r#""size":0,"iommu":true"#)).starts_with("balloon.iommu: "));
    let checked = check(&parsed(&of(r#""size":1048576,"free_page_reporting":true"#)), &LIMITS).unwrap();
    assert!(checked.balloon.is_some_and(|balloon| balloon.free_page_reporting && balloon.size == 1 << 20));
}

#[test]
fn places_are_on_buses_that_are_there() {
    let of = |member: &str| refusal(&with(member));
    assert_eq!(of(r#""platform":{"num_pci_segments":0}"#), "platform.num_pci_segments: 0 is not in 1..=16");
    assert_eq!(of(r#""rng":{"pci_segment":1}"#), "rng.pci_segment: 1 is not in 0..=0");
    assert_eq!(of(r#""rng":{"pci_device_id":32}"#), "rng.pci_device_id: 32 is not in 1..=31");
    let fits = with(r#""rng":{"pci_segment":1,"pci_device_id":31},"platform":{"num_pci_segments":2}"#);
    assert_eq!(check(&parsed(&fits), &LIMITS).unwrap().rng.place.slot, Some(31));
}

#[test]
fn two_devices_of_one_name_are_a_conflict() {
    let body = with(r#""rng":{"id":"a"},"console":{"mode":"Off","id":"a"}"#);
    let error = check(&parsed(&body), &LIMITS).unwrap_err();
    assert_eq!(error.to_string(), "console.id: `a` is the name of rng.id, too");
    assert!(error.is_duplicate());
    assert_eq!(crate::error::ApiError::from(error).status(), 409);
}

#[test]
fn a_word_about_tags_overrules_the_default() {
    let default = parsed(&with(r#""iommu":false"#));
    assert_eq!(check(&default, &LIMITS).unwrap().cpus.mte, MteRequest::Auto);
    let body = with(r#""cpus":{"boot_vcpus":1,"max_vcpus":1,"features":{"mte":true}}"#);
    assert_eq!(check(&parsed(&body), &LIMITS).unwrap().cpus.mte, MteRequest::On);
}
