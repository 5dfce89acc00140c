//! `vsock`: sockets between guest and host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::machine::socket_path;
use super::places::{PciPlace, place};
use crate::config::VsockConfig;

/// Context ids below are the hypervisor's, the host's own and the host's (virtio 1.2, §5.10.4).
const MIN_CID: u64 = 3;
/// The upper half of a context id is reserved, and all ones mean "any" to Linux.
const MAX_CID: u64 = u32::MAX as u64 - 1;

/// The socket device, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's context id.
    pub cid: u64,
    /// Where programs of the host connect; where the guest connects to a port, it is followed by `_` and the port.
    pub socket: PathBuf,
    /// Where on the PCI bus it is wanted.
    pub place: PciPlace,
}

/// Checks the socket device.
pub fn vsock(raw: &VsockConfig, segments: u16) -> Result<Vsock, ConfigError> {
    let cid = raw.cid;
    if !(MIN_CID..=MAX_CID).contains(&cid) {
        let fault = Fault::OutOfRange { value: cid, min: MIN_CID, max: MAX_CID };
        return Err(ConfigError::new("vsock.cid", fault));
    }
    Ok(Vsock {
        cid,
        socket: socket_path("vsock.socket", &raw.socket)?,
        place: place("vsock", raw.pci_segment, raw.pci_device_id, segments)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cid: u64, socket: &str) -> Result<Vsock, String> {
        let raw = VsockConfig { cid, socket: socket.into(), ..VsockConfig::default() };
        vsock(&raw, 1).map_err(|error| error.to_string())
    }

    #[test]
    fn reserved_context_ids_are_refused() {
        for cid in [0, 1, 2, u32::MAX.into(), 1 << 32, u64::MAX] {
            let expected = format!("vsock.cid: {cid} is not in 3..=4294967294");
            assert_eq!(of(cid, "/run/v").unwrap_err(), expected);
        }
        assert_eq!(of(3, "/run/v").unwrap().cid, 3);
    }

    #[test]
    fn a_socket_is_needed_and_its_path_fits_an_address() {
        assert_eq!(of(3, "").unwrap_err(), "vsock.socket: empty");
        assert!(of(3, &"x".repeat(108)).unwrap_err().starts_with("vsock.socket: 108 bytes long"));
    }
}
