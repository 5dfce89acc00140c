//! `net`: virtio-net devices.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::defaults::{self, net_ip, net_mac, net_mask, net_queue_size, net_queues, yes};
use super::list;
use super::rate::RateLimiterConfig;

/// What stands in [`NetConfig::fds`] for a tap that came with the request: no client's number means anything here.
pub const PASSED_FD: i32 = -1;

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NetConfig {
    /// Name of a tap device of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Address that a tap made here gets.
    #[serde(default = "net_ip::value", deserialize_with = "net_ip::deserialize")]
    pub ip: IpAddr,
    /// Mask that goes with it.
    #[serde(default = "net_mask::value", deserialize_with = "net_mask::deserialize")]
    pub mask: IpAddr,
    /// The guest's address; random where none is given.
    #[serde(default = "net_mac::value", deserialize_with = "net_mac::deserialize")]
    pub mac: MacAddr,
    /// The tap's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<MacAddr>,
    /// Largest packet, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether the interface is behind a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// Queues: two for each pair.
    #[serde(default = "net_queues::value", deserialize_with = "net_queues::deserialize")]
    pub num_queues: usize,
    /// Descriptors of each queue.
    #[serde(default = "net_queue_size::value", deserialize_with = "net_queue_size::deserialize")]
    pub queue_size: u16,
    /// Whether somebody else serves the interface over vhost-user.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub vhost_user: bool,
    /// The socket of that vhost-user server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<PathBuf>,
    /// Which side listens on it.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub vhost_mode: VhostMode,
    /// Name, unique in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Taps by number: of this process on the command line; numbers of a client's own are never used.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub fds: Vec<i32>,
    /// Limits of traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// PCI segment.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pci_segment: u16,
    /// Slot on that segment's bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
    /// Whether TCP segmentation is left to the host.
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub offload_tso: bool,
    /// Whether UDP fragmentation is left to the host.
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub offload_ufo: bool,
    /// Whether checksums are left to the host.
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub offload_csum: bool,
}

/// Which side of a vhost-user connection listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum VhostMode {
    /// We connect.
    #[default]
    Client,
    /// We listen.
    Server,
}

/// An Ethernet address, written `02:00:ca:fe:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// An address made up here: locally administered, unicast, otherwise random.
    pub fn random() -> Self {
        let mut octets = [0; 6];
        // Six bytes are always delivered whole; before the host's pool is ready the call waits.
        let _ = getrandom(&mut octets, GetRandomFlags::empty());
        octets[0] = (octets[0] & 0xfc) | 0x02;
        Self(octets)
    }
}

/// The text is not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an Ethernet address such as 02:00:ca:fe:00:01")]
pub struct BadMac(String);

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            *octet = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| BadMac(text.chars().take(40).collect()))?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(BadMac(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for MacAddr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$" })
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
