//! From the checked configuration to device processes: one file per kind, which opens what the kind works on and says
//! how its process is started.
//!
//! ```text
//!  Checked ── KIND.rs ──► Planned ── Children::start ──► process, DeviceSpec for `machine`
//! ```

mod balloon;
mod disk;
mod external;
mod groups;
mod ids;
mod mem;
mod net;
mod pmem;
mod rng;
mod vsock;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use granule_api::config::{Checked, PciPlace, RateLimiterConfig, TokenBucket, VmConfig};

use super::files::FileError;
use super::outside::{ConnectError, Connections};
use super::vm::PassedFds;
use crate::wire::{Contents, DeviceKind};

pub use external::{External, targets};
pub use groups::Groups;
pub use ids::{Ids, taken};
pub use mem::ID as MEM_ID;

/// Why a device could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file that it works on.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program that serves it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A socket that is listened on for it.
    #[error("{field}: cannot listen on {path:?}")]
    Listen {
        /// Field of the request.
        field: &'static str,
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Where a device process keeps its notes.
    #[error("memory.hotplug_size: there is nowhere to note what is plugged")]
    Notes(#[source] io::Error),
    /// What the disks of a group share.
    #[error("{field}: there is no memory for it")]
    Group {
        /// Field of the request.
        field: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The address space ends before.
    #[error("memory.hotplug_size: the address space has no room for it")]
    NoRoom,
}

/// A device of the configuration, ready to be given to `machine`.
#[derive(Debug)]
pub enum Device {
    /// A process of ours serves it, which is still to be started.
    Ours(Planned),
    /// Another program serves it, and is connected.
    Outside(External),
}

impl Device {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Self::Ours(planned) => &planned.recipe.id,
            Self::Outside(external) => &external.id,
        }
    }
}

/// A device that can be started: everything that it works on is open.
#[derive(Debug)]
pub struct Planned {
    /// How its process is started.
    pub recipe: Recipe,
    /// Where on the PCI buses it is wanted.
    pub place: PciPlace,
    /// The most descriptors of each of its queues.
    pub queue_sizes: Vec<u16>,
    /// Memory that it brings into the guest's address space.
    pub memory: Option<Region>,
}

/// Memory of a device.
#[derive(Debug)]
pub struct Region {
    /// What `machine` and the devices map; open for reading alone where it is read-only.
    pub file: OwnedFd,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whose contents it has.
    pub contents: Contents,
}

/// The guest that devices are planned for.
#[derive(Debug, Clone, Copy)]
pub struct For {
    /// It has memory tagging.
    pub mte: bool,
    /// It comes out of a snapshot.
    pub restored: bool,
}

/// What a device process is started with, and started anew after its death.
#[derive(Debug)]
pub struct Recipe {
    /// The device's id.
    pub id: String,
    /// What to serve.
    pub kind: DeviceKind,
    /// Arguments of `granule device KIND`, beyond those that every kind has.
    pub arguments: Vec<Argument>,
}

/// One argument of a device process.
#[derive(Debug)]
pub enum Argument {
    /// As it stands.
    Text(String),
    /// A flag whose value is the number that the descriptor has in the process.
    Fd(&'static str, OwnedFd),
    /// Nothing for the process: what lives as long as its device does.
    #[expect(dead_code, reason = "it is only dropped")]
    Kept(Box<dyn Debug + Send>),
}

impl Argument {
    /// An opened file behind a flag.
    pub fn file(flag: &'static str, file: File) -> Self {
        Self::Fd(flag, file.into())
    }
}

/// Words of a command line.
fn texts(words: &[&str]) -> impl Iterator<Item = Argument> {
    words.iter().map(|word| Argument::Text((*word).to_owned()))
}

/// The flags of a rate limiter.
fn limits(limits: &RateLimiterConfig) -> Vec<Argument> {
    let buckets = [("--bandwidth", limits.bandwidth), ("--operations", limits.ops)];
    // A bucket without size or time is no limit, as in Cloud Hypervisor.
    let limited = |bucket: &TokenBucket| bucket.size > 0 && bucket.refill_time > 0;
    let flags = buckets.into_iter().filter_map(|(flag, bucket)| Some((flag, bucket.filter(limited)?)));
    flags.flat_map(|(flag, bucket)| texts(&[flag, &bucket_text(bucket)]).collect::<Vec<_>>()).collect()
}

fn bucket_text(TokenBucket { size, one_time_burst, refill_time }: TokenBucket) -> String {
    format!("{size},{},{refill_time}", one_time_burst.unwrap_or(0))
}

/// Plans all devices of a configuration, in the order of their slots; ids that they are given are written to `config`.
///
/// The order is Cloud Hypervisor's, which clients know `/dev/vda` by: console, disks, network, entropy, persistent
/// memory, shared directories, sockets, pluggable memory, balloon, watchdog.
pub fn plan(
    config: &mut VmConfig,
    checked: &Checked,
    ids: &mut Ids,
    connections: &mut Connections,
    passed: &PassedFds,
    groups: &mut Groups,
    guest: For,
) -> Result<Vec<Device>, PlanError> {
    let taken = ids::taken(config);
    let mut devices = Vec::new();
    for (index, (disk, raw)) in checked.disks.iter().zip(&mut config.disks).enumerate() {
        let id = raw.id.get_or_insert_with(|| ids.give("_disk", &taken)).clone();
        devices.push(match &disk.served_at {
            Some(socket) => Device::Outside(external::disk(index, id, disk, socket, connections)?),
            None => Device::Ours(disk::plan(&format!("disks[{index}]"), id, disk, groups)?),
        });
    }
    for (index, (net, raw)) in checked.net.iter().zip(&mut config.net).enumerate() {
        let id = raw.id.get_or_insert_with(|| ids.give("_net", &taken)).clone();
        devices.push(match &net.served_at {
            Some(socket) => Device::Outside(external::net(index, id, net, socket, connections)?),
            None => Device::Ours(net::plan(&format!("net[{index}]"), id, net, passed)?),
        });
    }
    devices.push(Device::Ours(rng::plan(config, &checked.rng)?));
    devices.extend(pmem::plan(config, &checked.pmem, ids, guest)?.into_iter().map(Device::Ours));
    for (index, fs) in checked.fs.iter().enumerate() {
        devices.push(Device::Outside(external::fs(index, config, fs, ids, connections)?));
    }
    for (index, device) in checked.generic_vhost_user.iter().enumerate() {
        devices.push(Device::Outside(external::generic(index, config, device, ids, connections)?));
    }
    if let Some(vsock) = &checked.vsock {
        devices.push(Device::Ours(vsock::plan(config, vsock, ids)?));
    }
    devices.extend(mem::plan(&checked.memory)?.map(Device::Ours));
    devices.extend(balloon::plan(config, checked.balloon.as_ref(), ids).map(Device::Ours));
    Ok(devices)
}
