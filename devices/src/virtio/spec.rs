//! Numbers of the virtio 1.2 specification, each with its section.

/// Virtio's PCI vendor id (§4.1.2).
pub const PCI_VENDOR_ID: u16 = 0x1af4;
/// A modern device's PCI device id is this plus its type (§4.1.2.1).
pub const PCI_DEVICE_ID_BASE: u16 = 0x1040;

/// "No vector" in the MSI-X vector registers (§4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// Device status (§2.1): the guest has found the device.
pub const STATUS_ACKNOWLEDGE: u8 = 1;
/// Device status: the guest has a driver for it.
pub const STATUS_DRIVER: u8 = 2;
/// Device status: the driver is up.
pub const STATUS_DRIVER_OK: u8 = 4;
/// Device status: the features are settled.
pub const STATUS_FEATURES_OK: u8 = 8;
/// Device status: the device cannot go on.
pub const STATUS_NEEDS_RESET: u8 = 64;
/// Device status: the driver has given up.
pub const STATUS_FAILED: u8 = 128;

/// Bytes of the used ring of a queue of so many descriptors, its event index included (§2.7.8).
pub fn used_ring_size(descriptors: u16) -> u64 {
    6 + 8 * u64::from(descriptors)
}

/// Feature bit (§6): indirect descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit (§6): used_event and avail_event.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit (§6): not a legacy device.
pub const F_VERSION_1: u64 = 1 << 32;
/// Feature bit (§6): accesses are translated and limited by the platform.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// Features that a back end may have and a guest may see: those of the device's own type (bits 0 to 23 and 50 to
/// 63, §2.2) and the ring features that need no help from the transport.
///
/// Left out are packed rings, notification data, queue reset, SR-IOV and the bits that vhost-user keeps for itself
/// (26, 30).
pub const F_PASSED_ON: u64 =
    0x00ff_ffff | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | (1 << 35) | (0x3fff << 50);

/// `cfg_type` of a virtio capability (§4.1.4): common configuration.
pub const CAP_COMMON: u8 = 1;
/// `cfg_type`: notifications.
pub const CAP_NOTIFY: u8 = 2;
/// `cfg_type`: interrupt status.
pub const CAP_ISR: u8 = 3;
/// `cfg_type`: device-specific configuration.
pub const CAP_DEVICE: u8 = 4;
/// `cfg_type`: the window to BARs through configuration space.
pub const CAP_PCI: u8 = 5;

/// Interrupt status (§4.1.4.5): a queue has used buffers.
pub const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration has changed.
pub const ISR_CONFIG: u8 = 2;

/// Offsets into the common configuration structure (§4.1.4.3).
pub mod common {
    /// `device_feature_select`, 32 bits.
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    /// `device_feature`, 32 bits, read-only.
    pub const DEVICE_FEATURE: u64 = 0x04;
    /// `driver_feature_select`, 32 bits.
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    /// `driver_feature`, 32 bits.
    pub const DRIVER_FEATURE: u64 = 0x0c;
    /// `config_msix_vector`, 16 bits.
    pub const CONFIG_VECTOR: u64 = 0x10;
    /// `num_queues`, 16 bits, read-only.
    pub const NUM_QUEUES: u64 = 0x12;
    /// `device_status`, 8 bits.
    pub const DEVICE_STATUS: u64 = 0x14;
    /// `config_generation`, 8 bits, read-only.
    pub const CONFIG_GENERATION: u64 = 0x15;
    /// `queue_select`, 16 bits.
    pub const QUEUE_SELECT: u64 = 0x16;
    /// `queue_size`, 16 bits.
    pub const QUEUE_SIZE: u64 = 0x18;
    /// `queue_msix_vector`, 16 bits.
    pub const QUEUE_VECTOR: u64 = 0x1a;
    /// `queue_enable`, 16 bits.
    pub const QUEUE_ENABLE: u64 = 0x1c;
    /// `queue_notify_off`, 16 bits, read-only.
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    /// `queue_desc`, 64 bits.
    pub const QUEUE_DESC: u64 = 0x20;
    /// `queue_driver`, 64 bits.
    pub const QUEUE_DRIVER: u64 = 0x28;
    /// `queue_device`, 64 bits.
    pub const QUEUE_DEVICE: u64 = 0x30;
    /// Bytes of the structure, up to the fields that come with features which are not offered.
    pub const SIZE: u64 = 0x38;
}

/// The kind of a virtio device (§5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// Network card (§5.1).
    Net,
    /// Block device (§5.2).
    Block,
    /// Console (§5.3).
    Console,
    /// Entropy source (§5.4).
    Rng,
    /// Memory balloon (§5.5).
    Balloon,
    /// Socket device (§5.10).
    Vsock,
    /// Memory that is plugged and unplugged (§5.15).
    Mem,
    /// File system (§5.11).
    Fs,
    /// Persistent memory (§5.19).
    Pmem,
    /// Watchdog, as Cloud Hypervisor numbers it.
    Watchdog,
    /// Any other, of that number; none of the above.
    Other(u16),
}

impl DeviceType {
    /// The kind of that number.
    pub fn of(number: u16) -> Self {
        let named = [
            Self::Net,
            Self::Block,
            Self::Console,
            Self::Rng,
            Self::Balloon,
            Self::Vsock,
            Self::Mem,
            Self::Fs,
            Self::Pmem,
            Self::Watchdog,
        ];
        named.into_iter().find(|kind| kind.number() == number).unwrap_or(Self::Other(number))
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Rng => 4,
            Self::Balloon => 5,
            Self::Vsock => 19,
            Self::Mem => 24,
            Self::Fs => 26,
            Self::Pmem => 27,
            Self::Watchdog => 35,
            Self::Other(number) => number,
        }
    }

    /// The PCI device id of a modern device of this kind.
    pub const fn pci_device_id(self) -> u16 {
        PCI_DEVICE_ID_BASE + self.number()
    }

    /// PCI class, subclass and programming interface.
    pub const fn pci_class(self) -> [u8; 3] {
        match self {
            Self::Net => [0x02, 0x00, 0x00],
            Self::Block | Self::Fs => [0x01, 0x80, 0x00],
            Self::Console => [0x07, 0x80, 0x00],
            Self::Vsock => [0x02, 0x80, 0x00],
            Self::Rng | Self::Balloon | Self::Mem | Self::Pmem | Self::Watchdog | Self::Other(_) => {
                [0xff, 0x00, 0x00]
            }
        }
    }
}
