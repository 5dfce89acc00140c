//! `fs`, `generic_vhost_user`, `disks` and `net` with a socket: devices that another program serves.

use std::os::fd::OwnedFd;
use std::path::Path;

use granule_api::config::{Checked, Disk, Fs, Net, PciPlace, VmConfig};
use granule_devices::net;

use super::ids::taken;
use super::{Ids, PlanError};
use crate::control::outside::{Connections, Target};
use crate::wire::{OutsideConfig, OutsideDevice};

/// The type of a network device (virtio 1.2, §5.1).
const NET: u16 = 1;
/// The type of a block device (virtio 1.2, §5.2).
const BLOCK: u16 = 2;
/// The type of a file system device (virtio 1.2, §5.11).
const FS: u16 = 26;
/// Bytes of its tag (§5.11.4).
const TAG: usize = 36;

/// A device of another program that is connected.
#[derive(Debug)]
pub struct External {
    /// The device's id.
    pub id: String,
    /// The program's socket.
    pub target: Target,
    /// The connection.
    pub socket: OwnedFd,
    /// What the guest is told that it is.
    pub device: OutsideDevice,
    /// Where on the PCI buses it is wanted.
    pub place: PciPlace,
    /// The most descriptors of each of its queues.
    pub queue_sizes: Vec<u16>,
}

/// The sockets that must be connected before the devices of `checked` can be planned.
pub fn targets(checked: &Checked) -> Vec<Target> {
    let shares = checked.fs.iter().enumerate().map(|(index, fs)| target("fs", index, &fs.socket));
    let disks = checked.disks.iter().enumerate();
    let disks =
        disks.filter_map(|(index, disk)| Some(vhost_target("disks", index, disk.served_at.as_ref()?)));
    let nets = checked.net.iter().enumerate();
    let nets = nets.filter_map(|(index, net)| Some(vhost_target("net", index, net.served_at.as_ref()?)));
    let generic = checked.generic_vhost_user.iter().enumerate();
    let generic = generic.map(|(index, device)| target("generic_vhost_user", index, &device.socket));
    disks.chain(nets).chain(shares).chain(generic).collect()
}

/// Plans the interface of that index, which the program at `socket` serves; who the guest is there, is decided here.
pub(super) fn net(
    index: usize,
    id: String,
    checked: &Net,
    socket: &Path,
    connections: &mut Connections,
) -> Result<External, PlanError> {
    let target = vhost_target("net", index, socket);
    let socket = connections.take(&target)?;
    let offer = net::elsewhere(checked.mac, checked.mtu, checked.offloads);
    let device = OutsideDevice {
        device_type: NET,
        config: OutsideConfig::Given(offer.config.to_vec()),
        withheld: offer.withheld,
        ours: offer.ours,
    };
    Ok(External {
        id,
        target,
        socket,
        device,
        place: checked.place,
        queue_sizes: vec![checked.queue_size; 2],
    })
}

/// Plans the disk of that index, which the program at `socket` serves: it alone knows size and features.
pub(super) fn disk(
    index: usize,
    id: String,
    checked: &Disk,
    socket: &Path,
    connections: &mut Connections,
) -> Result<External, PlanError> {
    let target = vhost_target("disks", index, socket);
    let socket = connections.take(&target)?;
    let device = OutsideDevice::new(BLOCK, OutsideConfig::OnDemand);
    let queue_sizes = vec![checked.queue_size; checked.queues.into()];
    Ok(External { id, target, socket, device, place: checked.place, queue_sizes })
}

fn vhost_target(list: &str, index: usize, path: &Path) -> Target {
    Target { field: format!("{list}[{index}].vhost_socket"), path: path.to_owned() }
}

fn target(list: &str, index: usize, path: &Path) -> Target {
    Target { field: format!("{list}[{index}].socket"), path: path.to_owned() }
}

/// Plans the shared directory of that index.
pub(super) fn fs(
    index: usize,
    config: &mut VmConfig,
    checked: &Fs,
    ids: &mut Ids,
    connections: &mut Connections,
) -> Result<External, PlanError> {
    let named = config.fs[index].id.clone();
    let id = named.unwrap_or_else(|| ids.give("_fs", &taken(config)));
    config.fs[index].id = Some(id.clone());
    let target = target("fs", index, &checked.socket);
    let socket = connections.take(&target)?;
    let device = OutsideDevice::new(FS, OutsideConfig::Given(fs_config(checked)));
    // The first queue is for what must not wait behind requests.
    let queue_sizes = vec![checked.queue_size; usize::from(checked.queues) + 1];
    Ok(External { id, target, socket, device, place: checked.place, queue_sizes })
}

/// `struct virtio_fs_config`: the tag, padded with zeros, and the number of request queues.
fn fs_config(checked: &Fs) -> Vec<u8> {
    let mut config = checked.tag.clone().into_bytes();
    config.resize(TAG, 0);
    config.extend(u32::from(checked.queues).to_le_bytes());
    config
}

/// Plans the generic device of that index.
pub(super) fn generic(
    index: usize,
    config: &mut VmConfig,
    checked: &granule_api::config::GenericVhostUser,
    ids: &mut Ids,
    connections: &mut Connections,
) -> Result<External, PlanError> {
    let named = config.generic_vhost_user[index].id.clone();
    let id = named.unwrap_or_else(|| ids.give("_generic_vhost_user", &taken(config)));
    config.generic_vhost_user[index].id = Some(id.clone());
    let target = target("generic_vhost_user", index, &checked.socket);
    let socket = connections.take(&target)?;
    let device = OutsideDevice::new(checked.device_type, OutsideConfig::OnDemand);
    Ok(External {
        id,
        target,
        socket,
        device,
        place: checked.place,
        queue_sizes: checked.queue_sizes.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_its_tag_and_its_queues() {
        let checked = Fs {
            tag: "kataShared".into(),
            socket: "/s".into(),
            queues: 2,
            queue_size: 1024,
            place: PciPlace::default(),
        };
        let config = fs_config(&checked);
        assert_eq!(config.len(), 40);
        assert_eq!(&config[..12], b"kataShared\0\0");
        assert_eq!(&config[36..], [2, 0, 0, 0]);
    }
}
