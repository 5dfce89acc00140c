//! `fs` and `generic_vhost_user`: devices that another program serves, over a vhost-user socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::machine::socket_path;
use super::places::{PciPlace, place};
use crate::config::{FsConfig, GenericVhostUserConfig};

/// The most queues of such a device: what the front end of every kind of device is sure to have room for.
const MAX_QUEUES: usize = 64;
/// The most descriptors of a queue (virtio 1.2, §2.7).
const MAX_QUEUE_SIZE: u64 = 32_768;
/// Bytes of a file system's tag (virtio 1.2, §5.11.4).
const MAX_TAG: usize = 36;
/// The highest virtio device type that a PCI device id has room for (virtio 1.2, §4.1.2).
const MAX_DEVICE_TYPE: u64 = 63;

/// A shared directory, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fs {
    /// What the guest mounts it by: 1 to 36 bytes, none of them 0.
    pub tag: String,
    /// The socket of the program that serves it.
    pub socket: PathBuf,
    /// Request queues, 1 or more; there is one more for what must not wait.
    pub queues: u16,
    /// Descriptors of each queue, a power of two.
    pub queue_size: u16,
    /// Where on the PCI bus it is wanted.
    pub place: PciPlace,
}

/// Any device of another program, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenericVhostUser {
    /// The socket of the program that serves it.
    pub socket: PathBuf,
    /// The virtio device type.
    pub device_type: u16,
    /// Descriptors of each queue, each a power of two; at least one queue.
    pub queue_sizes: Vec<u16>,
    /// Where on the PCI bus it is wanted.
    pub place: PciPlace,
}

/// Checks one shared directory; `field` is its place in the configuration.
pub fn fs(field: &str, raw: &FsConfig, segments: u16) -> Result<Fs, ConfigError> {
    let at = |key: &str| format!("{field}.{key}");
    let tag = match raw.tag.len() {
        0 => return Err(ConfigError::new(at("tag"), Fault::Empty)),
        length if length > MAX_TAG => {
            let fault = Fault::TooLong { length, what: "a file system's configuration", max: MAX_TAG };
            return Err(ConfigError::new(at("tag"), fault));
        }
        _ if raw.tag.contains('\0') => return Err(ConfigError::new(at("tag"), Fault::Nul)),
        _ => raw.tag.clone(),
    };
    Ok(Fs {
        tag,
        socket: socket_path(&at("socket"), &raw.socket)?,
        queues: count(at("num_queues"), raw.num_queues, MAX_QUEUES - 1)?,
        queue_size: queue_size(at("queue_size"), raw.queue_size)?,
        place: place(field, raw.pci_segment, raw.pci_device_id, segments)?,
    })
}

/// Checks one device of another program; `field` is its place in the configuration.
pub fn generic(
    field: &str,
    raw: &GenericVhostUserConfig,
    segments: u16,
) -> Result<GenericVhostUser, ConfigError> {
    let at = |key: &str| format!("{field}.{key}");
    let value = raw.device_type.into();
    let device_type =
        u16::try_from(raw.device_type).ok().filter(|_| (1..=MAX_DEVICE_TYPE).contains(&value)).ok_or_else(
            || ConfigError::new(at("device_type"), Fault::OutOfRange { value, min: 1, max: MAX_DEVICE_TYPE }),
        )?;
    count(at("queue_sizes"), raw.queue_sizes.len(), MAX_QUEUES)?;
    let sizes = (0..).zip(&raw.queue_sizes);
    let queue_sizes = sizes.map(|(index, &size)| queue_size(format!("{field}.queue_sizes[{index}]"), size));
    Ok(GenericVhostUser {
        socket: socket_path(&at("socket"), &raw.socket)?,
        device_type,
        queue_sizes: queue_sizes.collect::<Result<_, _>>()?,
        place: place(field, raw.pci_segment, raw.pci_device_id, segments)?,
    })
}

fn count(field: String, value: usize, max: usize) -> Result<u16, ConfigError> {
    match u16::try_from(value) {
        Ok(count) if (1..=max).contains(&value) => Ok(count),
        _ => Err(ConfigError::new(field, Fault::OutOfRange { value: value as u64, min: 1, max: max as u64 })),
    }
}

fn queue_size(field: String, size: u16) -> Result<u16, ConfigError> {
    if size.is_power_of_two() {
        return Ok(size);
    }
    let value = u64::from(size);
    if value == 0 || value > MAX_QUEUE_SIZE {
        return Err(ConfigError::new(field, Fault::OutOfRange { value, min: 1, max: MAX_QUEUE_SIZE }));
    }
    Err(ConfigError::new(field, Fault::Contradiction(format!("{size} is not a power of two"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> FsConfig {
        serde_json::from_str(r#"{"tag":"kataShared","socket":"/run/virtiofsd.sock","pci_segment":1}"#)
            .unwrap()
    }

    fn any() -> GenericVhostUserConfig {
        serde_json::from_str(r#"{"socket":"/run/rng.sock","queue_sizes":[256],"device_type":4}"#).unwrap()
    }

    #[test]
    fn a_share_as_kata_asks_for_it_is_accepted() {
        let checked = fs("fs[0]", &share(), 2).unwrap();
        assert_eq!((checked.queues, checked.queue_size, checked.place.segment), (1, 1024, 1));
    }

    #[test]
    fn what_a_share_cannot_have_is_refused_by_its_field() {
        let cases: [(FsConfig, &str); 6] = [
            (FsConfig { tag: String::new(), ..share() }, "fs[0].tag: empty"),
            (FsConfig { tag: "x".repeat(37), ..share() }, "fs[0].tag: 37 bytes long"),
            (FsConfig { num_queues: 0, ..share() }, "fs[0].num_queues: 0 is not in 1..=63"),
            (FsConfig { queue_size: 1000, ..share() }, "fs[0].queue_size: 1000 is not a power of two"),
            (FsConfig { socket: "x".repeat(108).into(), ..share() }, "fs[0].socket: 108 bytes long"),
            (FsConfig { pci_segment: 2, ..share() }, "fs[0].pci_segment: 2 is not in 0..=1"),
        ];
        for (config, expected) in cases {
            let error = fs("fs[0]", &config, 2).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_a_generic_device_cannot_have_is_refused_by_its_field() {
        let cases: [(GenericVhostUserConfig, &str); 4] = [
            (GenericVhostUserConfig { device_type: 0, ..any() }, "g.device_type: 0 is not in 1..=63"),
            (GenericVhostUserConfig { device_type: 1 << 16, ..any() }, "g.device_type: 65536 is not in"),
            (GenericVhostUserConfig { queue_sizes: vec![], ..any() }, "g.queue_sizes: 0 is not in 1..=64"),
            (
                GenericVhostUserConfig { queue_sizes: vec![2, 3], ..any() },
                "g.queue_sizes[1]: 3 is not a power",
            ),
        ];
        for (config, expected) in cases {
            let error = generic("g", &config, 1).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
