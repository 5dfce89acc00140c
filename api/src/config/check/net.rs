//! `net`: network interfaces on taps of the host.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::machine::socket_path;
use super::places::{PciPlace, place};
use crate::config::{NetConfig, PASSED_FD, RateLimiterConfig, VhostMode};

/// The most pairs of queues, for which the numbers by which a device's loop names queues have room.
const MAX_PAIRS: usize = 16;
/// The longest name of an interface, `IFNAMSIZ` of linux/if.h less its end.
const MAX_NAME: usize = 15;
/// What every link must carry (RFC 791).
const MIN_MTU: u16 = 68;

/// A network interface, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    /// The tap's name; one is made up where none is given.
    pub tap: Option<String>,
    /// Its taps came as descriptors, one for each pair.
    pub passed: bool,
    /// The socket of the program that serves it, if that is not we; there is no tap then.
    pub served_at: Option<PathBuf>,
    /// Address of a tap that is made for it.
    pub ip: Ipv4Addr,
    /// Mask that goes with it.
    pub mask: Ipv4Addr,
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The tap's.
    pub host_mac: Option<[u8; 6]>,
    /// Largest packet, of the tap and of what the guest is told.
    pub mtu: Option<u16>,
    /// Pairs of queues, 1 or more.
    pub pairs: u16,
    /// Descriptors of each queue, a power of two.
    pub queue_size: u16,
    /// Whether checksums, TCP segmentation and UDP fragmentation may be left to the other side.
    pub offloads: [bool; 3],
    /// Limits of each direction.
    pub limits: RateLimiterConfig,
    /// Where on the PCI bus it is wanted.
    pub place: PciPlace,
}

/// Checks one interface; `field` is its place in the configuration.
pub fn net(field: &str, raw: &NetConfig, segments: u16) -> Result<Net, ConfigError> {
    let at = |key: &str| format!("{field}.{key}");
    let refuse = |key: &str, reason| Err(ConfigError::new(at(key), Fault::Unsupported(reason)));
    let served_at = served_at(field, raw)?;
    passed(field, raw)?;
    if raw.iommu {
        return refuse("iommu", "a virtual IOMMU is not supported");
    }
    let (ip, mask) = match (raw.ip, raw.mask) {
        (IpAddr::V4(ip), IpAddr::V4(mask)) => (ip, mask),
        (IpAddr::V6(_), _) => return refuse("ip", "taps get IPv4 addresses only"),
        (_, IpAddr::V6(_)) => return refuse("mask", "taps get IPv4 addresses only"),
    };
    if u32::from(mask).leading_ones() + u32::from(mask).trailing_zeros() != 32 {
        let fault = Fault::Contradiction(format!("{mask} has ones after zeros"));
        return Err(ConfigError::new(at("mask"), fault));
    }
    if let Some(mtu) = raw.mtu.filter(|mtu| *mtu < MIN_MTU) {
        let fault = Fault::OutOfRange { value: mtu.into(), min: MIN_MTU.into(), max: u16::MAX.into() };
        return Err(ConfigError::new(at("mtu"), fault));
    }
    if raw.mac.0[0] & 1 != 0 {
        let fault = Fault::Contradiction(format!("{} is an address of a group", raw.mac));
        return Err(ConfigError::new(at("mac"), fault));
    }
    Ok(Net {
        served_at,
        passed: !raw.fds.is_empty(),
        tap: raw.tap.as_deref().map(|name| tap(at("tap"), name)).transpose()?,
        ip,
        mask,
        mac: raw.mac.0,
        host_mac: raw.host_mac.map(|mac| mac.0),
        mtu: raw.mtu,
        pairs: pairs(at("num_queues"), raw.num_queues)?,
        queue_size: queue_size(at("queue_size"), raw.queue_size)?,
        offloads: [raw.offload_csum, raw.offload_tso, raw.offload_ufo],
        limits: raw.rate_limiter_config.unwrap_or_default(),
        place: place(field, raw.pci_segment, raw.pci_device_id, segments)?,
    })
}

/// Where the program that serves the interface is found, and that nothing is asked which only we could do.
fn served_at(field: &str, raw: &NetConfig) -> Result<Option<PathBuf>, ConfigError> {
    let fault = |key: &str, fault| Err(ConfigError::new(format!("{field}.{key}"), fault));
    let socket = match (&raw.vhost_socket, raw.vhost_user) {
        (None, false) => return Ok(None),
        (Some(socket), true) => socket_path(&format!("{field}.vhost_socket"), socket)?,
        (None, true) => {
            return fault("vhost_socket", Fault::Missing("an interface of another program needs its socket"));
        }
        (Some(_), false) => {
            return fault("vhost_socket", Fault::Contradiction("vhost_user is false".into()));
        }
    };
    if raw.vhost_mode == VhostMode::Server {
        return fault("vhost_mode", Fault::Unsupported("we connect, and the program listens"));
    }
    if raw.num_queues != 2 {
        let reason = "more than one pair takes a queue of commands, which some programs serve and some leave to the \
                      monitor; describe it as it is, by generic_vhost_user with device_type 1";
        return fault("num_queues", Fault::Unsupported(reason));
    }
    let ours = [
        ("tap", raw.tap.is_some()),
        ("fds", !raw.fds.is_empty()),
        ("host_mac", raw.host_mac.is_some()),
        ("rate_limiter_config", raw.rate_limiter_config.is_some()),
    ];
    match ours.into_iter().find(|(_, given)| *given) {
        Some((key, _)) => {
            let text =
                "the program at vhost_socket has its own link to the network, and is not told".to_owned();
            fault(key, Fault::Contradiction(text))
        }
        None => Ok(Some(socket)),
    }
}

/// Descriptors come along with vm.add-net or stand on our own command line, one for each pair of queues.
fn passed(field: &str, raw: &NetConfig) -> Result<(), ConfigError> {
    let fault = match raw.fds.len() {
        0 => return Ok(()),
        _ if raw.fds.iter().any(|number| *number != PASSED_FD) => Fault::Unsupported(
            "numbers of a client's own descriptors mean nothing here; send the descriptors along with vm.add-net",
        ),
        _ if raw.tap.is_some() => Fault::Contradiction("a tap comes by name or by descriptor".into()),
        taps if taps.checked_mul(2) != Some(raw.num_queues) => Fault::Contradiction(format!(
            "{taps} taps and {} queues; to each tap there are two",
            raw.num_queues
        )),
        _ => return Ok(()),
    };
    Err(ConfigError::new(format!("{field}.fds"), fault))
}

/// A name that the kernel takes for an interface (`dev_valid_name` of net/core/dev.c), and does not fill in itself.
fn tap(field: String, name: &str) -> Result<String, ConfigError> {
    let fault = if name.is_empty() {
        Fault::Empty
    } else if name.len() > MAX_NAME {
        Fault::TooLong { length: name.len(), what: "an interface's name", max: MAX_NAME }
    } else if name == "."
        || name == ".."
        || name.contains(|c: char| "/:%\0".contains(c) || c.is_ascii_whitespace())
    {
        Fault::Contradiction(format!("`{name}` is no interface's name"))
    } else {
        return Ok(name.to_owned());
    };
    Err(ConfigError::new(field, fault))
}

fn pairs(field: String, queues: usize) -> Result<u16, ConfigError> {
    if !queues.is_multiple_of(2) {
        let text = format!("{queues} is odd; there are two queues to a pair");
        return Err(ConfigError::new(field, Fault::Contradiction(text)));
    }
    match u16::try_from(queues / 2) {
        Ok(pairs) if (1..=MAX_PAIRS).contains(&(queues / 2)) => Ok(pairs),
        _ => {
            let fault = Fault::OutOfRange { value: queues as u64, min: 2, max: 2 * MAX_PAIRS as u64 };
            Err(ConfigError::new(field, fault))
        }
    }
}

fn queue_size(field: String, size: u16) -> Result<u16, ConfigError> {
    if size.is_power_of_two() && size >= 4 {
        return Ok(size);
    }
    let text = format!("{size} is not a power of two between 4 and 32768");
    Err(ConfigError::new(field, Fault::Contradiction(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Net, String> {
        net("net[1]", &serde_json::from_str(json).unwrap(), 1).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_cloud_hypervisors() {
        let net = of("{}").unwrap();
        assert_eq!((net.pairs, net.queue_size, net.mtu), (1, 256, None));
        assert_eq!((net.ip, net.mask), (Ipv4Addr::new(192, 168, 249, 1), Ipv4Addr::new(255, 255, 255, 0)));
        assert_eq!((net.offloads, net.mac[0] & 3, net.passed), ([true; 3], 2, false));
        assert!(of(r#"{"fds":[-1,-1],"num_queues":4}"#).unwrap().passed);
        let outside = of(r#"{"vhost_user":true,"vhost_socket":"/s"}"#).unwrap();
        assert_eq!(outside.served_at.as_deref(), Some("/s".as_ref()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_the_fields_name() {
        for (json, key) in [
            (r#"{"num_queues":3}"#, "num_queues"),
            (r#"{"num_queues":0}"#, "num_queues"),
            (r#"{"num_queues":34}"#, "num_queues"),
            (r#"{"queue_size":100}"#, "queue_size"),
            (r#"{"queue_size":2}"#, "queue_size"),
            (r#"{"tap":""}"#, "tap"),
            (r#"{"tap":"a-name-of-16-bytes"}"#, "tap"),
            (r#"{"tap":"../x"}"#, "tap"),
            (r#"{"tap":"tap%d"}"#, "tap"),
            (r#"{"mtu":67}"#, "mtu"),
            (r#"{"mac":"01:00:00:00:00:01"}"#, "mac"),
            (r#"{"mask":"255.0.255.0"}"#, "mask"),
            (r#"{"ip":"fe80::1"}"#, "ip"),
            (r#"{"iommu":true}"#, "iommu"),
            (r#"{"fds":[3]}"#, "fds"),
            (r#"{"fds":[-1,-1]}"#, "fds"),
            (r#"{"fds":[-1],"tap":"tap0"}"#, "fds"),
            (r#"{"vhost_user":true}"#, "vhost_socket"),
            (r#"{"vhost_socket":"/s"}"#, "vhost_socket"),
            (r#"{"vhost_user":true,"vhost_socket":"/s","vhost_mode":"Server"}"#, "vhost_mode"),
            (r#"{"vhost_user":true,"vhost_socket":"/s","num_queues":4}"#, "num_queues"),
            (r#"{"vhost_user":true,"vhost_socket":"/s","tap":"tap0"}"#, "tap"),
        ] {
            let error = of(json).unwrap_err();
            assert!(error.starts_with(&format!("net[1].{key}: ")), "{json}: {error}");
        }
    }
}
