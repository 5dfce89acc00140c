//! The bodies that Kata Containers' runtimes send, and what their readers demand of the echo.

use granule_api::config::{HotplugMethod, ImageType, Limits, Mode, MteRequest, VmConfig, check};
use granule_api::json;
use granule_api::types::{VmInfo, VmState};
use serde::Deserialize;
use serde_json::Value;

/// The Go runtime's body, as its own constructors print it.
const GO: &str = include_str!("../../tests/recorded/kata-go.json");

/// The Rust runtime's body: other fields, nulls, keys of x86, no platform.
const RUST: &str = include_str!("../../tests/recorded/kata-rust.json");

/// What the Rust runtime demands of `vm.info`: a copy of the shape that it deserializes into.
#[derive(Debug, Deserialize)]
struct StrictInfo {
    config: StrictConfig,
    state: StrictState,
    memory_actual_size: u64,
}

#[derive(Debug, Deserialize, PartialEq)]
enum StrictState {
    Created,
    Running,
    Shutdown,
    Paused,
}

#[derive(Debug, Deserialize)]
struct StrictConfig {
    cpus: StrictCpus,
    memory: StrictMemory,
    rng: StrictRng,
    serial: StrictConsole,
    console: StrictConsole,
    #[serde(default)]
    disks: Vec<StrictDisk>,
    #[serde(default)]
    net: Vec<StrictNet>,
    #[serde(default)]
    fs: Vec<StrictFs>,
    vsock: Option<StrictVsock>,
    platform: Option<StrictPlatform>,
}

#[derive(Debug, Deserialize)]
struct StrictCpus {
    boot_vcpus: u8,
    max_vcpus: u8,
    max_phys_bits: u8,
    topology: Option<StrictTopology>,
}

#[derive(Debug, Deserialize)]
struct StrictTopology {
    threads_per_core: u8,
    cores_per_die: u8,
    dies_per_package: u8,
    packages: u8,
}

#[derive(Debug, Deserialize)]
struct StrictMemory {
    size: u64,
    #[serde(default)]
    hotplug_method: Option<StrictHotplug>,
}

#[derive(Debug, Deserialize, PartialEq)]
enum StrictHotplug {
    Acpi,
    VirtioMem,
}

#[derive(Debug, Deserialize)]
struct StrictRng {
    src: String,
}

#[derive(Debug, Deserialize, PartialEq)]
enum StrictMode {
    Off,
    Pty,
    Tty,
    File,
    Null,
}

#[derive(Debug, Deserialize)]
struct StrictConsole {
    mode: StrictMode,
}

#[derive(Debug, Deserialize)]
struct StrictDisk {
    num_queues: usize,
    queue_size: u16,
}

#[derive(Debug, Deserialize)]
struct StrictNet {
    ip: std::net::Ipv4Addr,
    mask: std::net::Ipv4Addr,
    mac: String,
    num_queues: usize,
    queue_size: u16,
}

#[derive(Debug, Deserialize)]
struct StrictFs {
    tag: String,
    socket: String,
    num_queues: usize,
    queue_size: u16,
}

#[derive(Debug, Deserialize)]
struct StrictVsock {
    cid: u64,
    socket: String,
}

#[derive(Debug, Deserialize)]
struct StrictPlatform {
    num_pci_segments: u16,
}

fn read(body: &str) -> VmConfig {
    json::parse(body.as_bytes()).expect("Kata's body is read")
}

/// What `vm.info` says of a body that was sent.
fn echo(config: VmConfig) -> Vec<u8> {
    let memory_actual_size = config.memory.size;
    let info = VmInfo {
        config,
        state: VmState::Created,
        memory_actual_size,
        device_tree: None,
        mte: None,
        jail: None,
        memory_restore: None,
        work: None,
    };
    json::write(&info).expect("an answer is written")
}

#[test]
fn the_go_runtimes_body_is_understood() {
    let config = read(GO);
    assert_eq!((config.cpus.max_vcpus, config.cpus.max_phys_bits), (2, 46));
    assert_eq!((config.memory.hotplug_method, config.memory.thp), (HotplugMethod::Acpi, true));
    assert_eq!((config.disks[0].image_type, config.fs[0].pci_segment), (ImageType::Raw, 1));
    assert_eq!(config.serial.mode, Mode::Off);
    assert_eq!(config.platform.unwrap().num_pci_segments, 2);
    assert_eq!(config.cpus.features.mte, None, "Kata has no word for tags");
}

#[test]
fn nothing_that_was_sent_is_lost_in_the_echo() {
    for body in [GO, RUST] {
        let sent: Value = serde_json::from_str(body).unwrap();
        let echoed: Value = serde_json::from_slice(&echo(read(body))).unwrap();
        let unknown = ["/payload/mrconfigid", "/sgx_epc"];
        assert_kept(&sent, &echoed["config"], "", &unknown);
    }
}

/// Every value that is sent is echoed, but for nulls, empty lists and keys that we do not know.
fn assert_kept(sent: &Value, echoed: &Value, path: &str, unknown: &[&str]) {
    match sent {
        Value::Null => {}
        _ if unknown.contains(&path) => {}
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                assert_kept(item, &echoed[index], &format!("{path}/{index}"), unknown);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                assert_kept(member, &echoed[key], &format!("{path}/{key}"), unknown);
            }
        }
        value => assert_eq!(value, echoed, "{path}"),
    }
}

#[test]
fn the_strict_reader_reads_the_echo_of_both_bodies() {
    for (body, disks, segments) in [(GO, 1, Some(2)), (RUST, 1, None)] {
        let info: StrictInfo = serde_json::from_slice(&echo(read(body))).unwrap();
        assert_eq!((info.state, info.memory_actual_size), (StrictState::Created, 2 << 30));
        let config = info.config;
        assert_eq!((config.cpus.boot_vcpus, config.cpus.max_phys_bits, config.memory.size), (1, 46, 2 << 30));
        let topology = config.cpus.topology.unwrap();
        let cores = u32::from(topology.cores_per_die) * u32::from(topology.threads_per_core);
        assert_eq!(
            cores * u32::from(topology.dies_per_package) * u32::from(topology.packages),
            u32::from(config.cpus.max_vcpus)
        );
        assert_eq!(config.memory.hotplug_method, Some(StrictHotplug::Acpi));
        assert_eq!(config.rng.src, "/dev/urandom");
        assert!([StrictMode::Off, StrictMode::Tty].contains(&config.serial.mode));
        assert_eq!(config.console.mode, StrictMode::Off);
        assert_eq!((config.disks.len(), config.disks[0].num_queues), (disks, 1));
        assert!([128, 1024].contains(&config.disks[0].queue_size));
        for net in &config.net {
            assert_eq!(
                (net.ip.octets()[0], net.mask.octets()[3], net.num_queues, net.queue_size),
                (192, 0, 2, 256)
            );
            assert_eq!(net.mac, "02:00:ca:fe:00:04");
        }
        assert_eq!(
            (config.fs[0].tag.as_str(), config.fs[0].num_queues, config.fs[0].queue_size),
            ("kataShared", 1, 1024)
        );
        assert!(config.fs[0].socket.ends_with("virtiofsd.sock"));
        let vsock = config.vsock.unwrap();
        assert_eq!((vsock.cid, vsock.socket.ends_with(".sock")), (3, true));
        assert_eq!(config.platform.map(|platform| platform.num_pci_segments), segments);
    }
}

#[test]
fn the_strict_reader_reads_the_echo_of_the_least_body() {
    let least = r#"{"payload":{"kernel":"/k"},"disks":[{}],"net":[{}],"fs":[{"tag":"t","socket":"/s"}],"platform":{}}"#;
    let info: StrictInfo = serde_json::from_slice(&echo(read(least))).unwrap();
    let config = info.config;
    assert_eq!((config.serial.mode, config.console.mode), (StrictMode::Null, StrictMode::Off));
    assert_eq!((config.disks[0].num_queues, config.disks[0].queue_size), (1, 128));
    assert_eq!((config.net[0].num_queues, config.net[0].queue_size, config.net[0].mac.len()), (2, 256, 17));
    assert_eq!(config.platform.unwrap().num_pci_segments, 1);
}

#[test]
fn every_optional_field_may_be_null() {
    let echoed: Value = serde_json::from_slice(&echo(read(GO))).unwrap();
    let required = ["boot_vcpus", "max_vcpus", "size", "mode", "tag", "socket", "cid", "file"];
    let topology = ["threads_per_core", "cores_per_die", "dies_per_package", "packages"];
    let mut nulls = 0;
    for section in ["cpus", "memory", "payload", "rng", "serial", "console", "platform", "vsock"] {
        for key in echoed["config"][section].as_object().unwrap().keys() {
            if required.contains(&key.as_str()) || topology.contains(&key.as_str()) {
                continue;
            }
            let mut body = echoed["config"].clone();
            body[section][key] = Value::Null;
            json::from_value::<VmConfig>(body).unwrap_or_else(|error| panic!("{section}.{key}: {error}"));
            nulls += 1;
        }
    }
    for key in echoed["config"].as_object().unwrap().keys() {
        let mut body = echoed["config"].clone();
        body[key] = Value::Null;
        json::from_value::<VmConfig>(body).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    assert!(nulls > 20, "{nulls}");
}

#[test]
fn without_the_devices_that_are_not_built_the_bodies_can_be_run() {
    let limits = Limits {
        max_vcpus: 32,
        host_memory: 32 << 30,
        page_size: 4096,
        ipa_bits: 40,
        ram_start: 1 << 30,
        max_pci_segments: 16,
        mte_default: MteRequest::Auto,
    };
    for body in [GO, RUST] {
        let mut config = read(body);
        (config.disks, config.net, config.fs, config.vsock) = Default::default();
        let checked = check(&config, &limits).unwrap();
        assert_eq!((checked.cpus.phys_bits, checked.memory.size), (40, 2 << 30));
    }
}
