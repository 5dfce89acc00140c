//! Cloud Hypervisor's defaults, in one table.
//!
//! Each line makes a module `name` with `value()` (the default) and `deserialize()` (an explicit `null` means the
//! default, too), to be used as `#[serde(default = "name::value", deserialize_with = "name::deserialize")]`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::console::{ConsoleConfig, Mode, SerialConfig};
use super::net::MacAddr;

macro_rules! defaults {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {$(
        $(#[$doc])*
        pub(super) mod $name {
            use super::*;

            pub(in crate::config) fn value() -> $type {
                $value
            }

            pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                Ok(Option::deserialize(from)?.unwrap_or_else(value))
            }
        }
    )*};
}

defaults! {
    yes: bool = true;
    /// What Kata's Rust runtime sends whatever the host has; clamped by whoever builds the VM.
    phys_bits: u8 = 46;
    pci_segments: u16 = 1;
    iommu_address_width: u8 = 64;
    aperture_weight: u32 = 1;
    one_queue: usize = 1;
    net_queues: usize = 2;
    disk_queue_size: u16 = 128;
    net_queue_size: u16 = 256;
    fs_queue_size: u16 = 1024;
    net_ip: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 249, 1));
    net_mask: IpAddr = IpAddr::V4(Ipv4Addr::new(255, 255, 255, 0));
    net_mac: MacAddr = MacAddr::random();
    rng_source: PathBuf = PathBuf::from("/dev/urandom");
    serial: SerialConfig = SerialConfig::with_mode(Mode::Null);
    /// Off as long as no console device is built; Cloud Hypervisor's own is Tty.
    console: ConsoleConfig = ConsoleConfig::with_mode(Mode::Off);
    debug_console_port: u16 = 0xe9;
    downtime_ms: u64 = 300;
    migration_timeout_s: u64 = 3600;
    one_connection: u32 = 1;
}

/// Reads a field whose default is its type's own; an explicit `null` means that default.
pub(super) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
