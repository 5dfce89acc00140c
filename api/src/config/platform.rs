//! `platform`, `pci_segments`, `numa`, `tpm` and `landlock_rules`: the shape of the machine and of its jail.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, aperture_weight, iommu_address_width, pci_segments, yes};
use super::list;

/// `platform` of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlatformConfig {
    /// PCI segments.
    #[serde(default = "pci_segments::value", deserialize_with = "pci_segments::deserialize")]
    pub num_pci_segments: u16,
    /// Segments whose devices are behind a virtual IOMMU.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub iommu_segments: Vec<u16>,
    /// Bits of address that the virtual IOMMU translates.
    #[serde(default = "iommu_address_width::value", deserialize_with = "iommu_address_width::deserialize")]
    pub iommu_address_width_bits: u8,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, alias = "system_serial_number", skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, alias = "system_uuid", skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// SMBIOS texts; accepted and echoed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub oem_strings: Vec<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_manufacturer: Option<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_product_name: Option<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_version: Option<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_family: Option<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_sku_number: Option<String>,
    /// SMBIOS text; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chassis_asset_tag: Option<String>,
    /// x86 only: a confidential guest.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub tdx: bool,
    /// x86 only: a confidential guest.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub sev_snp: bool,
    /// How VFIO devices would be opened; accepted and echoed.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommufd: bool,
    /// Whether VFIO devices may reach each other; accepted and echoed.
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub vfio_p2p_dma: bool,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self {
            num_pci_segments: pci_segments::value(),
            iommu_segments: Vec::new(),
            iommu_address_width_bits: iommu_address_width::value(),
            serial_number: None,
            uuid: None,
            oem_strings: Vec::new(),
            system_manufacturer: None,
            system_product_name: None,
            system_version: None,
            system_family: None,
            system_sku_number: None,
            chassis_asset_tag: None,
            tdx: false,
            sev_snp: false,
            iommufd: false,
            vfio_p2p_dma: yes::value(),
        }
    }
}

/// How much of the PCI windows one segment gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PciSegmentConfig {
    /// The segment.
    pub pci_segment: u16,
    /// Its share of the window below 4 GiB.
    #[serde(default = "aperture_weight::value", deserialize_with = "aperture_weight::deserialize")]
    pub mmio32_aperture_weight: u32,
    /// Its share of the window above RAM.
    #[serde(default = "aperture_weight::value", deserialize_with = "aperture_weight::deserialize")]
    pub mmio64_aperture_weight: u32,
}

/// One NUMA node of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NumaConfig {
    /// Number of the node.
    pub guest_numa_id: u32,
    /// Its vCPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub cpus: Vec<u32>,
    /// How far other nodes are.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub distances: Vec<NumaDistance>,
    /// Its memory zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub memory_zones: Vec<String>,
    /// Its PCI segments.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub pci_segments: Vec<u16>,
    /// The device whose memory it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

/// How far a NUMA node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NumaDistance {
    /// The other node.
    pub destination: u32,
    /// 10 is a node to itself.
    pub distance: u8,
}

/// A TPM served by swtpm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TpmConfig {
    /// The socket of the server.
    pub socket: PathBuf,
}

/// A path that the jail leaves open. Accepted and echoed: the jail here leaves none open, files come in as descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LandlockConfig {
    /// The path.
    pub path: PathBuf,
    /// `r`, `w` or `rw`.
    pub access: String,
}
