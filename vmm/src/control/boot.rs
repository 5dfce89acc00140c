//! vm.boot: opens what the configuration names, starts the device processes, and writes the machine's specification.

use std::os::fd::OwnedFd;

use granule_api::config::{Checked, CpuTopology, Output, PciPlace};
use granule_api::error::{ApiError, ErrorKind};
use tokio::sync::mpsc;

use super::children::{Children, MOVER_FD, SpawnError, USERFAULT_FD};
use super::console_end::{self, ConsoleEnd, ConsoleError};
use super::devices::{self, Argument, Device, External, PlanError, Planned, Recipe, Region};
use super::driver::Event;
use super::files::{self, FileError};
use super::outside::Connections;
use super::serial_end::{self, SerialError};
use super::transfer::between;
use super::vm::{Created, MteDecision, SerialEnd};
use super::watchdog_end::{self, WatchdogEnd};
use crate::wire::{
    BootSpec, CpuSpec, DeviceKind, DeviceSpec, FdSlot, RegionSpec, SerialSpec, Served, StartSpec,
};

/// Why a boot could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file of the configuration.
    #[error(transparent)]
    File(#[from] FileError),
    /// The serial port's end.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// What a device works on, or who serves it.
    #[error(transparent)]
    Device(#[from] PlanError),
    /// The console's end.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The watchdog's end.
    #[error("watchdog: cannot listen for it")]
    Watchdog(#[source] std::io::Error),
    /// Memory on demand.
    #[error("the device processes cannot be given memory on demand")]
    Late(#[source] std::io::Error),
    /// A device process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The configuration names a device of which no plan could be made.
    #[error("this version has no such device")]
    NoDevice,
    /// The connection to a device of another program.
    #[error("device {id:?}: its socket cannot be kept")]
    Keep {
        /// Which device.
        id: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl BootError {
    /// What a client hears: a file or socket that it named is its own to mend, the rest is not.
    pub fn into_api(self, what: &str) -> ApiError {
        let kind = match &self {
            Self::Spawn(_) | Self::Keep { .. } | Self::NoDevice | Self::Watchdog(_) | Self::Late(_) => {
                ErrorKind::Internal
            }
            Self::File(_) | Self::Serial(_) | Self::Device(_) | Self::Console(_) => ErrorKind::BadRequest,
        };
        ApiError::new(kind, what).caused_by(Some(&self))
    }
}

/// How the guest's life begins.
#[derive(Debug)]
pub enum Begin {
    /// With the kernel of its configuration.
    Kernel,
    /// Where it was saved.
    Snapshot {
        /// The machine's state.
        state: OwnedFd,
        /// The machine's end of its socket to the mover.
        mover: OwnedFd,
        /// `/dev/userfaultfd`, where it runs before its memory is there.
        userfault: Option<OwnedFd>,
    },
}

/// A specification with its descriptors.
#[derive(Debug)]
pub struct Prepared {
    /// What `machine` builds.
    pub spec: BootSpec,
    /// The descriptors that the specification numbers.
    pub fds: Vec<OwnedFd>,
    /// What stays here of the serial port.
    pub serial: SerialEnd,
    /// What stays here of the console.
    pub console: Option<ConsoleEnd>,
    /// What stays here of the watchdog.
    pub watchdog: Option<WatchdogEnd>,
    /// The mover's ends of the sockets on which device processes announce what they map, where memory comes on demand.
    pub announcing: Vec<OwnedFd>,
}

/// Prepares a boot. On an error the caller ends the device processes that were started; everything else is closed.
pub fn prepare(
    created: &mut Created,
    children: &mut Children,
    connections: &mut Connections,
    guest: u64,
    post: &mpsc::UnboundedSender<Event>,
    begin: Begin,
) -> Result<Prepared, BootError> {
    let mut fds = Parcel::default();
    let checked = created.checked.clone();
    let restored = matches!(begin, Begin::Snapshot { .. });
    let (begun, late) = start_spec(begin, &checked, &mut fds)?;
    let mut announcing = Vec::new();
    let (serial, end) = serial(created, &checked, &mut fds, post)?;
    let (first, console) = console(created, &checked, post)?;
    let (last, watchdog) = watchdog(&checked, guest, post)?;
    let of = devices::For { mte: created.mte == MteDecision::On, restored };
    let Created { config, ids, passed, groups, .. } = &mut *created;
    let planned = devices::plan(config, &checked, ids, connections, passed, groups, of)?;
    let planned = first.into_iter().chain(planned).chain(last);
    let devices = planned.map(|device| match device {
        Device::Ours(mut planned) => {
            if let Some(userfault) = &late {
                announcing.push(announce(&mut planned.recipe, userfault)?);
            }
            start(planned, children, &mut fds)
        }
        Device::Outside(external) => take_up(external, children, &mut fds),
    });
    let devices = devices.collect::<Result<_, _>>()?;
    let spec = BootSpec {
        cpus: CpuSpec {
            count: checked.cpus.boot,
            max_phys_bits: checked.cpus.phys_bits,
            topology: topology(&checked),
        },
        memory_bytes: checked.memory.size,
        hotplug_bytes: checked.memory.hotplug.map_or(0, |hotplug| hotplug.size),
        mte: created.mte == MteDecision::On,
        // What comes on demand comes in small pages, and all of it comes.
        huge_pages: checked.memory.thp && late.is_none(),
        prefault: checked.memory.prefault && late.is_none(),
        start: begun,
        serial,
        pci_segments: checked.pci_segments,
        devices,
        start_paused: false,
    };
    Ok(Prepared { spec, fds: fds.0, serial: end, console, watchdog, announcing })
}

/// How it starts, and `/dev/userfaultfd` for the device processes.
fn start_spec(
    begin: Begin,
    checked: &Checked,
    fds: &mut Parcel,
) -> Result<(StartSpec, Option<OwnedFd>), BootError> {
    if let Begin::Snapshot { state, mover, userfault } = begin {
        let (state, mover) = (fds.add(state), fds.add(mover));
        let late = userfault.as_ref().map(OwnedFd::try_clone).transpose().map_err(BootError::Late)?;
        let userfault = userfault.map(|device| fds.add(device));
        return Ok((StartSpec::Snapshot { state, mover, userfault }, late));
    }
    let kernel = fds.add(files::open_regular("payload.kernel", &checked.payload.kernel)?);
    let initramfs = match &checked.payload.initramfs {
        Some(path) => Some(fds.add(files::open_regular("payload.initramfs", path)?)),
        None => None,
    };
    Ok((StartSpec::Kernel { kernel, initramfs, cmdline: checked.payload.cmdline.clone() }, None))
}

/// Gives a device process what it announces by what it maps; answers the mover's end.
fn announce(recipe: &mut Recipe, userfault: &OwnedFd) -> Result<OwnedFd, BootError> {
    let (movers, theirs) = between().map_err(BootError::Late)?;
    recipe.arguments.push(Argument::Fd(USERFAULT_FD, userfault.try_clone().map_err(BootError::Late)?));
    recipe.arguments.push(Argument::Fd(MOVER_FD, theirs));
    Ok(movers)
}

fn serial(
    created: &mut Created,
    checked: &Checked,
    fds: &mut Parcel,
    post: &mpsc::UnboundedSender<Event>,
) -> Result<(SerialSpec, SerialEnd), BootError> {
    Ok(match &checked.serial {
        Output::Off => (SerialSpec::Off, SerialEnd::None),
        Output::Null => (SerialSpec::Null, SerialEnd::None),
        Output::Tty => (SerialSpec::Terminal, SerialEnd::None),
        Output::File(path) => {
            let output = files::create_output("serial.file", path)?;
            (SerialSpec::Fds { input: None, output: fds.add(output) }, SerialEnd::None)
        }
        Output::Pty => {
            let (ours, end, path) = serial_end::pty()?;
            created.config.serial.file = Some(path);
            let input = ours.try_clone().map_err(SerialError::Pty)?;
            (SerialSpec::Fds { input: Some(fds.add(input)), output: fds.add(ours) }, end)
        }
        Output::Socket(path) => (SerialSpec::Socket, serial_end::socket(path, post.clone())?),
    })
}

fn console(
    created: &mut Created,
    checked: &Checked,
    post: &mpsc::UnboundedSender<Event>,
) -> Result<(Option<Device>, Option<ConsoleEnd>), BootError> {
    let Some(opened) = console_end::open(&checked.console, post)? else { return Ok((None, None)) };
    let id = created.config.console.id.get_or_insert_with(|| "__console".into()).clone();
    if opened.pty.is_some() {
        created.config.console.file = opened.pty;
    }
    let planned = Planned {
        recipe: Recipe { id, kind: DeviceKind::Console, arguments: opened.arguments },
        place: checked.console_place,
        queue_sizes: vec![256; 2],
        memory: None,
    };
    Ok((Some(Device::Ours(planned)), Some(opened.end)))
}

fn watchdog(
    checked: &Checked,
    guest: u64,
    post: &mpsc::UnboundedSender<Event>,
) -> Result<(Option<Device>, Option<WatchdogEnd>), BootError> {
    if !checked.watchdog {
        return Ok((None, None));
    }
    let (bite, end) = watchdog_end::open(guest, post).map_err(BootError::Watchdog)?;
    let arguments = vec![Argument::Fd("--bite-fd", bite)];
    let planned = Planned {
        recipe: Recipe { id: watchdog_end::ID.to_owned(), kind: DeviceKind::Watchdog, arguments },
        place: PciPlace::default(),
        queue_sizes: vec![16],
        memory: None,
    };
    Ok((Some(Device::Ours(planned)), Some(end)))
}

/// Starts the process of a device that is added to a guest, or takes up its program; with the descriptors that the
/// specification names.
pub fn start_device(
    device: Option<Device>,
    children: &mut Children,
) -> Result<(DeviceSpec, Vec<OwnedFd>), BootError> {
    let mut fds = Parcel::default();
    let spec = match device {
        Some(Device::Ours(planned)) => start(planned, children, &mut fds)?,
        Some(Device::Outside(external)) => take_up(external, children, &mut fds)?,
        None => return Err(BootError::NoDevice),
    };
    Ok((spec, fds.0))
}

/// Keeps an eye on the program that serves a device.
fn take_up(device: External, children: &mut Children, fds: &mut Parcel) -> Result<DeviceSpec, BootError> {
    let External { id, target, socket, device, place, queue_sizes } = device;
    let socket = children
        .outsiders()
        .take_up(&id, target, socket)
        .map_err(|source| BootError::Keep { id: id.clone(), source })?;
    Ok(DeviceSpec {
        id,
        served: Served::Outside(device),
        segment: place.segment,
        slot: place.slot,
        port: None,
        queue_sizes,
        socket: fds.add(socket),
        memory: None,
    })
}

/// Starts the process of one device.
fn start(device: Planned, children: &mut Children, fds: &mut Parcel) -> Result<DeviceSpec, BootError> {
    let Planned { recipe, place, queue_sizes, memory } = device;
    let (id, kind) = (recipe.id.clone(), recipe.kind);
    let socket = children.start(recipe)?;
    Ok(DeviceSpec {
        id,
        served: Served::Ours(kind),
        segment: place.segment,
        slot: place.slot,
        port: None,
        queue_sizes,
        socket: fds.add(socket),
        memory: memory.map(|Region { file, size, read_only, contents }| RegionSpec {
            file: fds.add(file),
            size,
            read_only,
            contents,
        }),
    })
}

/// The layout of the vCPUs, where it describes those that the guest boots with. Clients describe `max_vcpus`; a guest by
/// device tree cannot be told of vCPUs that may come later, so a layout of more than it has would be untrue.
fn topology(checked: &Checked) -> Option<[u8; 4]> {
    let CpuTopology { threads_per_core, cores_per_die, dies_per_package, packages } = checked.cpus.topology?;
    // Each factor divides a number that is at most 32.
    let [threads, cores, dies, packages] =
        [threads_per_core, cores_per_die, dies_per_package, packages].map(u8::try_from);
    let factors = [threads.ok()?, cores.ok()?, dies.ok()?, packages.ok()?];
    let vcpus = factors.iter().map(|&factor| u32::from(factor)).product::<u32>();
    (vcpus == u32::from(checked.cpus.boot)).then_some(factors)
}

/// Descriptors to be sent, numbered as they are added.
#[derive(Debug, Default)]
struct Parcel(Vec<OwnedFd>);

impl Parcel {
    fn add(&mut self, fd: impl Into<OwnedFd>) -> FdSlot {
        self.0.push(fd.into());
        // A specification names a few dozen at the most; the channel refuses more than 253.
        FdSlot(u8::try_from(self.0.len() - 1).unwrap_or(u8::MAX))
    }
}
