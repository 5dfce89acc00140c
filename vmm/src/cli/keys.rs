//! The keys of every option: their name, the field of the API's JSON that they set, and the kind of their value.

/// One key of an option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// As it is typed.
    pub name: &'static str,
    /// The field that it sets, dots leading into objects.
    pub field: &'static str,
    /// What its value looks like.
    pub kind: Kind,
}

/// The keys of an option, in groups that options share.
pub(super) type Keys = &'static [&'static [Key]];

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Any text but the empty one.
    Text,
    /// `on` or `off`; nothing is `on`.
    Toggle,
    /// A number.
    Number,
    /// A number of bytes, such as `512M`.
    Size,
    /// `[1,2-4]`.
    Numbers,
    /// `[a,b]`.
    Texts,
    /// One of a few words, and how the API spells it.
    Word(&'static [(&'static str, &'static str)]),
    /// `on`, `off` or `auto`.
    Tagging,
    /// `threads:cores:dies:packages`.
    Topology,
    /// Names of CPU features.
    Features,
    /// `[a@b,…]`, each an object of two fields; the second a list if `many`.
    Pairs {
        /// The field that the part before `@` sets.
        left: &'static str,
        /// The field that the part behind it sets.
        right: &'static str,
        /// Whether the part behind it is a list.
        many: bool,
    },
}

use Kind::{Features, Number, Numbers, Pairs, Size, Tagging, Text, Texts, Toggle, Topology, Word};

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, field: name, kind }
}

const fn as_field(name: &'static str, field: &'static str, kind: Kind) -> Key {
    Key { name, field, kind }
}

const AFFINITY: Kind = Pairs { left: "vcpu", right: "host_cpus", many: true };
const QUEUE_AFFINITY: Kind = Pairs { left: "queue_index", right: "host_cpus", many: true };
const DISTANCES: Kind = Pairs { left: "destination", right: "distance", many: false };
const CORE_SCHEDULING: Kind = Word(&[("vm", "Vm"), ("vcpu", "Vcpu"), ("off", "Off")]);
const HOTPLUG: Kind = Word(&[("acpi", "Acpi"), ("virtio-mem", "VirtioMem")]);
const IMAGE: Kind = Word(&[
    ("raw", "Raw"),
    ("qcow2", "Qcow2"),
    ("vhdx", "Vhdx"),
    ("vhd", "FixedVhd"),
    ("fixed-vhd", "FixedVhd"),
    ("unknown", "Unknown"),
]);
const LOCK: Kind = Word(&[("byte-range", "ByteRange"), ("full", "Full")]);
const SIDE: Kind = Word(&[("client", "Client"), ("server", "Server")]);
const RESTORE_MODE: Kind = Word(&[("copy", "Copy"), ("on-demand", "OnDemand"), ("ondemand", "OnDemand")]);
const MIGRATION_MODE: Kind = Word(&[("precopy", "Precopy"), ("postcopy", "Postcopy")]);
const TIMEOUT: Kind = Word(&[("cancel", "Cancel"), ("ignore", "Ignore")]);

/// What a device is called and where on the PCI buses it is.
const PLACE: &[Key] = &[key("id", Text), key("pci_segment", Number), key("pci_device_id", Number)];

/// How fast it may be.
const RATE_LIMIT: &[Key] = &[
    as_field("bw_size", "rate_limiter_config.bandwidth.size", Number),
    as_field("bw_one_time_burst", "rate_limiter_config.bandwidth.one_time_burst", Number),
    as_field("bw_refill_time", "rate_limiter_config.bandwidth.refill_time", Number),
    as_field("ops_size", "rate_limiter_config.ops.size", Number),
    as_field("ops_one_time_burst", "rate_limiter_config.ops.one_time_burst", Number),
    as_field("ops_refill_time", "rate_limiter_config.ops.refill_time", Number),
];

pub(super) const CPUS: Keys = &[&[
    as_field("boot", "boot_vcpus", Number),
    as_field("max", "max_vcpus", Number),
    key("topology", Topology),
    key("kvm_hyperv", Toggle),
    key("max_phys_bits", Number),
    key("nested", Toggle),
    key("affinity", AFFINITY),
    as_field("features", "features.amx", Features),
    as_field("mte", "features.mte", Tagging),
    key("core_scheduling", CORE_SCHEDULING),
]];

pub(super) const MEMORY: Keys = &[&[
    key("size", Size),
    key("mergeable", Toggle),
    key("shared", Toggle),
    key("hugepages", Toggle),
    key("hugepage_size", Size),
    key("hotplug_method", HOTPLUG),
    key("hotplug_size", Size),
    key("hotplugged_size", Size),
    key("prefault", Toggle),
    key("reserve", Toggle),
    key("thp", Toggle),
]];

pub(super) const MEMORY_ZONE: Keys = &[&[
    key("id", Text),
    key("size", Size),
    key("file", Text),
    key("mergeable", Toggle),
    key("shared", Toggle),
    key("hugepages", Toggle),
    key("hugepage_size", Size),
    key("host_numa_node", Number),
    key("hotplug_size", Size),
    key("hotplugged_size", Size),
    key("prefault", Toggle),
    key("reserve", Toggle),
]];

pub(super) const PLATFORM: Keys = &[&[
    key("num_pci_segments", Number),
    key("iommu_segments", Numbers),
    as_field("iommu_address_width", "iommu_address_width_bits", Number),
    key("serial_number", Text),
    as_field("system_serial_number", "serial_number", Text),
    key("uuid", Text),
    as_field("system_uuid", "uuid", Text),
    key("oem_strings", Texts),
    key("system_manufacturer", Text),
    key("system_product_name", Text),
    key("system_version", Text),
    key("system_family", Text),
    key("system_sku_number", Text),
    key("chassis_asset_tag", Text),
    key("tdx", Toggle),
    key("sev_snp", Toggle),
    key("iommufd", Toggle),
    key("vfio_p2p_dma", Toggle),
]];

pub(super) const DISK: Keys = &[
    &[
        key("path", Text),
        key("readonly", Toggle),
        key("direct", Toggle),
        key("iommu", Toggle),
        key("num_queues", Number),
        key("queue_size", Number),
        key("vhost_user", Toggle),
        as_field("socket", "vhost_socket", Text),
        key("rate_limit_group", Text),
        key("serial", Text),
        key("queue_affinity", QUEUE_AFFINITY),
        key("backing_files", Toggle),
        key("sparse", Toggle),
        key("image_type", IMAGE),
        key("lock_granularity", LOCK),
        as_field("_disable_io_uring", "disable_io_uring", Toggle),
        as_field("_disable_aio", "disable_aio", Toggle),
    ],
    RATE_LIMIT,
    PLACE,
];

pub(super) const NET: Keys = &[
    &[
        key("tap", Text),
        key("ip", Text),
        key("mask", Text),
        key("mac", Text),
        key("host_mac", Text),
        key("mtu", Number),
        key("iommu", Toggle),
        key("num_queues", Number),
        key("queue_size", Number),
        key("vhost_user", Toggle),
        as_field("socket", "vhost_socket", Text),
        key("vhost_mode", SIDE),
        as_field("fd", "fds", Numbers),
        key("offload_tso", Toggle),
        key("offload_ufo", Toggle),
        key("offload_csum", Toggle),
    ],
    RATE_LIMIT,
    PLACE,
];

pub(super) const FS: Keys =
    &[&[key("tag", Text), key("socket", Text), key("num_queues", Number), key("queue_size", Number)], PLACE];

pub(super) const GENERIC_VHOST_USER: Keys = &[
    &[
        key("socket", Text),
        key("queue_sizes", Numbers),
        key("device_type", Number),
        as_field("virtio_id", "device_type", Number),
    ],
    PLACE,
];

pub(super) const PMEM: Keys = &[
    &[
        key("file", Text),
        key("size", Size),
        key("iommu", Toggle),
        key("discard_writes", Toggle),
        key("readonly", Toggle),
    ],
    PLACE,
];

pub(super) const VSOCK: Keys = &[&[key("cid", Number), key("socket", Text), key("iommu", Toggle)], PLACE];

pub(super) const RNG: Keys = &[&[key("src", Text), key("iommu", Toggle)], PLACE];

pub(super) const BALLOON: Keys = &[
    &[
        key("size", Size),
        key("deflate_on_oom", Toggle),
        key("free_page_reporting", Toggle),
        key("iommu", Toggle),
    ],
    PLACE,
];

pub(super) const DEVICE: Keys = &[
    &[
        key("path", Text),
        key("iommu", Toggle),
        key("x_nv_gpudirect_clique", Number),
        key("x_exclude_mmap_bars", Numbers),
    ],
    PLACE,
];

pub(super) const USER_DEVICE: Keys = &[&[key("socket", Text)], PLACE];

pub(super) const VDPA: Keys = &[&[key("path", Text), key("num_queues", Number), key("iommu", Toggle)], PLACE];

pub(super) const RATE_LIMIT_GROUP: Keys = &[&[key("id", Text)], RATE_LIMIT];

pub(super) const PCI_SEGMENT: Keys = &[&[
    key("pci_segment", Number),
    key("mmio32_aperture_weight", Number),
    key("mmio64_aperture_weight", Number),
]];

pub(super) const NUMA: Keys = &[&[
    key("guest_numa_id", Number),
    key("cpus", Numbers),
    key("distances", DISTANCES),
    key("memory_zones", Texts),
    key("pci_segments", Numbers),
    key("device_id", Text),
]];

pub(super) const TPM: Keys = &[&[key("socket", Text)]];

pub(super) const LANDLOCK_RULES: Keys = &[&[key("path", Text), key("access", Text)]];

pub(super) const JAIL: Keys =
    &[&[key("id", Text), key("uid", Number), key("gid", Number), key("root", Text), key("cgroup", Text)]];

pub(super) const RESTORE: Keys = &[&[
    key("source_url", Text),
    key("prefault", Toggle),
    key("memory_restore_mode", RESTORE_MODE),
    key("resume", Toggle),
    key("net_fds", Pairs { left: "id", right: "fds", many: true }),
]];

pub(super) const SEND_MIGRATION: Keys = &[&[
    key("destination_url", Text),
    key("local", Toggle),
    key("downtime_ms", Number),
    key("timeout_s", Number),
    key("timeout_strategy", TIMEOUT),
    key("connections", Number),
    key("tls_dir", Text),
    key("memory_mode", MIGRATION_MODE),
]];

pub(super) const RECEIVE_MIGRATION: Keys =
    &[&[key("receiver_url", Text), key("tls_dir", Text), key("memory_mode", MIGRATION_MODE)]];
