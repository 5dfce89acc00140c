//! Whatever configuration is sent, its echo means the same; whatever bytes are sent, nothing panics.

use std::net::IpAddr;
use std::path::PathBuf;

use granule_api::config::{
    ConsoleConfig, CpuAffinity, CpuFeatures, CpuTopology, CpusConfig, DiskConfig, FsConfig, ImageType,
    Limits, MacAddr, MemoryConfig, MemoryZoneConfig, Mode, MteRequest, NetConfig, PayloadConfig,
    PlatformConfig, RateLimiterConfig, SerialConfig, TokenBucket, VmConfig, VsockConfig, check,
};
use granule_api::json;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

fn path() -> impl Strategy<Value = PathBuf> {
    ".{0,20}".prop_map(PathBuf::from)
}

fn tagging() -> impl Strategy<Value = MteRequest> {
    prop_oneof![Just(MteRequest::On), Just(MteRequest::Off), Just(MteRequest::Auto)]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Off),
        Just(Mode::Pty),
        Just(Mode::Tty),
        Just(Mode::File),
        Just(Mode::Socket),
        Just(Mode::Null)
    ]
}

fn cpus() -> impl Strategy<Value = CpusConfig> {
    let topology =
        any::<[u16; 4]>().prop_map(|[threads_per_core, cores_per_die, dies_per_package, packages]| {
            CpuTopology { threads_per_core, cores_per_die, dies_per_package, packages }
        });
    let affinity = (any::<u32>(), vec(any::<usize>(), 0..4))
        .prop_map(|(vcpu, host_cpus)| CpuAffinity { vcpu, host_cpus });
    (any::<(u32, u32, u8, bool)>(), of(topology), vec(affinity, 0..3), of(tagging()), of(any::<bool>()))
        .prop_map(|((boot_vcpus, max_vcpus, max_phys_bits, nested), topology, affinity, mte, amx)| {
            CpusConfig {
                boot_vcpus,
                max_vcpus,
                max_phys_bits,
                nested,
                topology,
                affinity,
                features: CpuFeatures { amx, mte },
                ..CpusConfig::default()
            }
        })
}

fn memory() -> impl Strategy<Value = MemoryConfig> {
    let zone = (".{0,8}", any::<u64>(), of(path()), any::<bool>(), of(any::<u32>())).prop_map(
        |(id, size, file, shared, host_numa_node)| MemoryZoneConfig {
            id,
            size,
            file,
            mergeable: false,
            shared,
            hugepages: false,
            hugepage_size: None,
            host_numa_node,
            hotplug_size: None,
            hotplugged_size: None,
            prefault: !shared,
            reserve: false,
        },
    );
    (any::<(u64, bool, bool, bool)>(), of(any::<u64>()), vec(zone, 0..3)).prop_map(
        |((size, shared, thp, prefault), hotplug_size, zones)| MemoryConfig {
            size,
            shared,
            thp,
            prefault,
            hotplug_size,
            zones,
            ..MemoryConfig::default()
        },
    )
}

fn limiter() -> impl Strategy<Value = RateLimiterConfig> {
    let bucket = || {
        of(any::<(u64, Option<u64>, u64)>().prop_map(|(size, one_time_burst, refill_time)| TokenBucket {
            size,
            one_time_burst,
            refill_time,
        }))
    };
    (bucket(), bucket()).prop_map(|(bandwidth, ops)| RateLimiterConfig { bandwidth, ops })
}

fn disk() -> impl Strategy<Value = DiskConfig> {
    let kind = prop_oneof![Just(ImageType::Raw), Just(ImageType::Qcow2), Just(ImageType::Unknown)];
    (of(path()), any::<(usize, u16, bool, bool)>(), of(limiter()), kind, of(".{0,8}")).prop_map(
        |(path, (num_queues, queue_size, readonly, sparse), rate_limiter_config, image_type, id)| {
            DiskConfig {
                path,
                num_queues,
                queue_size,
                readonly,
                sparse,
                rate_limiter_config,
                image_type,
                id,
                ..DiskConfig::default()
            }
        },
    )
}

fn net() -> impl Strategy<Value = NetConfig> {
    (any::<[u8; 6]>(), any::<IpAddr>(), of(any::<u16>()), vec(any::<i32>(), 0..3)).prop_map(
        |(mac, ip, mtu, fds)| NetConfig {
            mac: MacAddr(mac),
            ip,
            mtu,
            fds,
            ..json::parse(b"{}").expect("all has a default")
        },
    )
}

fn vm() -> impl Strategy<Value = VmConfig> {
    let payload = (of(path()), of(".{0,30}"), of(path())).prop_map(|(kernel, cmdline, initramfs)| {
        PayloadConfig { kernel, cmdline, initramfs, ..PayloadConfig::default() }
    });
    let serial =
        (mode(), of(path())).prop_map(|(mode, file)| SerialConfig { file, ..SerialConfig::with_mode(mode) });
    let console = (mode(), of(path()))
        .prop_map(|(mode, socket)| ConsoleConfig { socket, ..ConsoleConfig::with_mode(mode) });
    let fs = (".{0,8}", path(), any::<(usize, u16, u16)>()).prop_map(
        |(tag, socket, (num_queues, queue_size, pci_segment))| FsConfig {
            tag,
            socket,
            num_queues,
            queue_size,
            pci_segment,
            id: None,
            pci_device_id: None,
        },
    );
    let vsock = (any::<u64>(), path()).prop_map(|(cid, socket)| VsockConfig {
        cid,
        socket,
        ..VsockConfig::default()
    });
    let platform = (any::<u16>(), vec(".{0,8}", 0..3)).prop_map(|(num_pci_segments, oem_strings)| {
        PlatformConfig { num_pci_segments, oem_strings, ..PlatformConfig::default() }
    });
    let machine = (cpus(), memory(), payload, serial, console);
    let devices =
        (vec(disk(), 0..3), vec(net(), 0..3), vec(fs, 0..2), of(vsock), of(platform), any::<bool>());
    (machine, devices).prop_map(
        |((cpus, memory, payload, serial, console), (disks, net, fs, vsock, platform, watchdog))| VmConfig {
            cpus,
            memory,
            payload,
            serial,
            console,
            disks,
            net,
            fs,
            vsock,
            platform,
            watchdog,
            ..VmConfig::default()
        },
    )
}

const LIMITS: Limits = Limits {
    max_vcpus: 32,
    host_memory: u64::MAX,
    page_size: 4096,
    ipa_bits: 64,
    ram_start: 1 << 30,
    max_pci_segments: 16,
    mte_default: MteRequest::Auto,
};

proptest! {
    #[test]
    fn an_echo_means_what_was_sent(config in vm()) {
        let echo = json::write(&config).unwrap();
        prop_assert!(echo.is_ascii());
        prop_assert_eq!(json::parse::<VmConfig>(&echo).unwrap(), config);
    }

    #[test]
    fn no_configuration_makes_the_check_panic(config in vm()) {
        if let Err(error) = check(&config, &LIMITS) {
            prop_assert!(!error.field().is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = json::parse::<VmConfig>(&bytes);
    }

    #[test]
    fn no_cut_and_no_changed_byte_of_a_body_makes_the_reader_panic(config in vm(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut echo = json::write(&config).unwrap();
        let at = at.index(echo.len());
        let _ = json::parse::<VmConfig>(&echo[..at]);
        echo[at] = to;
        let _ = json::parse::<VmConfig>(&echo);
    }
}

#[test]
fn a_list_is_of_bounded_length() {
    let list = |items: usize| format!(r#"{{"disks":[{}]}}"#, vec!["{}"; items].join(","));
    assert!(json::parse::<VmConfig>(list(1024).as_bytes()).is_ok());
    let error = json::parse::<VmConfig>(list(1025).as_bytes()).unwrap_err().to_string();
    assert!(error.contains("more than 1024 items"), "{error}");
}

#[test]
fn unknown_keys_are_ignored_at_every_depth() {
    let body = br#"{"x":[1,{"y":2}],"cpus":{"boot_vcpus":1,"max_vcpus":1,"x":null,"features":{"x":1}},"disks":[{"x":1}]}"#;
    assert_eq!(json::parse::<VmConfig>(body).unwrap().disks.len(), 1);
}
