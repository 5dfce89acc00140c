//! The messages between `control` and `machine`.

use serde::{Deserialize, Serialize};

/// Index into the descriptors that came with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdSlot(pub u8);

/// A command with the number under which it will be answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by `control`, echoed in the reply.
    pub id: u32,
    /// What to do.
    pub body: T,
}

/// What `control` asks of `machine`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// First message: what can the host do? Answered with [`Outcome::Host`].
    Hello,
    /// Build the machine and start its vCPUs. Answered with [`Outcome::Booted`].
    Boot(Box<BootSpec>),
    /// Stop all vCPUs at an instruction boundary.
    Pause,
    /// Let the vCPUs run again.
    Resume,
    /// Press the power button.
    PowerButton,
    /// Write the machine's state to a file. vCPUs stand still and devices are quiet from then on, until
    /// [`Command::Resume`] or [`Command::Release`].
    Save {
        /// An empty file.
        state: FdSlot,
        /// The mover's socket, to pass memory on; of a live snapshot the mover has it ([`Command::Track`]), and what was
        /// written last is in the log of writes.
        mover: Option<FdSlot>,
    },
    /// Log writes to guest memory from now on, and pass memory and log on.
    Track {
        /// The mover's socket.
        mover: FdSlot,
    },
    /// Tell how often vCPUs came back from the guest. Answered with [`Outcome::Exits`].
    CountExits,
    /// Put what KVM has logged into the log that the mover has.
    Harvest,
    /// Log no longer, and let a machine that [`Command::Save`] has stopped run on. Answered with [`Outcome::Released`].
    Release,
    /// Finish what [`Command::Boot`] began with [`StartSpec::Snapshot`]: its memory is there now. Answered with
    /// [`Outcome::Booted`].
    Finish,
    /// Tear the machine down; memory, threads and descriptors are gone when this is answered.
    Stop,
    /// A client has connected to the serial port's socket.
    AttachSerial {
        /// The accepted connection.
        connection: FdSlot,
    },
    /// Put a device into a hotplug slot. Answered with [`Outcome::Added`].
    AddDevice(Box<DeviceSpec>),
    /// Ask the guest to let go of a device in a hotplug slot; [`Notice::DeviceRemoved`] tells when it has.
    RemoveDevice {
        /// The device's id.
        id: String,
    },
    /// A device process was started anew: take it up where the old one stopped.
    ReplaceBackend {
        /// The device's id.
        id: String,
        /// Connected vhost-user socket.
        socket: FdSlot,
    },
    /// Nobody serves a device any more, and it is not known when somebody will: tell the guest.
    BackendGone {
        /// The device's id.
        id: String,
    },
    /// The configuration space of a device has changed in its process: read it again and tell the guest.
    ConfigChanged {
        /// The device's id.
        id: String,
    },
    /// Restore the terminal and end the process with this code. Not answered.
    Exit {
        /// The process's exit code.
        code: u8,
    },
}

/// Everything that `machine` needs to build a guest; checked by `control` before it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BootSpec {
    /// vCPUs.
    pub cpus: CpuSpec,
    /// Guest memory in bytes, a multiple of the page size.
    pub memory_bytes: u64,
    /// Memory that may be plugged while it runs, in bytes.
    pub hotplug_bytes: u64,
    /// Whether tagged memory is switched on: decided, not "auto".
    pub mte: bool,
    /// Whether the host may use transparent huge pages; never heeded under `mte`.
    pub huge_pages: bool,
    /// Whether every page is touched before the guest starts.
    pub prefault: bool,
    /// How its life begins.
    pub start: StartSpec,
    /// Where the PL011's bytes go.
    pub serial: SerialSpec,
    /// Number of PCI segments, 1..=16.
    pub pci_segments: u16,
    /// PCI devices in slot order.
    pub devices: Vec<DeviceSpec>,
    /// Whether to leave the vCPUs paused after building.
    pub start_paused: bool,
}

/// How a guest's life begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum StartSpec {
    /// With a kernel.
    Kernel {
        /// The kernel image, open for reading.
        kernel: FdSlot,
        /// The initramfs, open for reading.
        initramfs: Option<FdSlot>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// Where it stood when it was saved. Answered with [`Outcome::Done`]; then its memory is filled, and
    /// [`Command::Finish`] follows.
    Snapshot {
        /// `state.json`.
        state: FdSlot,
        /// The mover's socket.
        mover: FdSlot,
        /// `/dev/userfaultfd`, where the guest is to run before its memory is there: then [`Command::Finish`] does not
        /// wait for it.
        userfault: Option<FdSlot>,
    },
}

/// vCPU configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CpuSpec {
    /// Number of vCPUs, 1..=32.
    pub count: u8,
    /// Upper limit on guest physical address bits; clamped to what KVM offers.
    pub max_phys_bits: u8,
    /// threads per core, cores per die, dies per package, packages.
    pub topology: Option<[u8; 4]>,
}

/// Where the PL011's bytes go and come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SerialSpec {
    /// No PL011 in the machine.
    Off,
    /// A PL011 whose output is thrown away.
    Null,
    /// A PL011 on the machine's own standard input and output, switched to raw mode if that is a terminal.
    Terminal,
    /// A PL011 on open descriptors.
    Fds {
        /// Guest input comes from here.
        input: Option<FdSlot>,
        /// Guest output goes here.
        output: FdSlot,
    },
    /// A PL011 on whichever client was attached last ([`Command::AttachSerial`]); output with no client is dropped.
    Socket,
}

/// One device on the PCI bus.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Unique id, as in `vm.info`.
    pub id: String,
    /// What it is, and who serves it.
    pub served: Served,
    /// PCI segment.
    pub segment: u16,
    /// Slot on the root bus, 1..=31; the first free one where none is given.
    pub slot: Option<u8>,
    /// The root port behind which it was, for one that is restored there, by the number of the port's home bus.
    #[serde(default)]
    pub port: Option<u8>,
    /// The most descriptors that each virtqueue may have, each a power of two.
    pub queue_sizes: Vec<u16>,
    /// Connected vhost-user socket of the process that serves it.
    pub socket: FdSlot,
    /// Memory that it brings along.
    #[serde(default)]
    pub memory: Option<RegionSpec>,
}

/// Memory of a device in the guest's address space, beside RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionSpec {
    /// What is mapped: open for reading alone where it is read-only.
    pub file: FdSlot,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whose contents it has.
    pub contents: Contents,
}

/// What is in memory that a device brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// The guest's own, that nobody else has: a snapshot holds it.
    Own,
    /// A file's, to which the guest may write.
    File,
    /// A file's as it was modified last at this time, seconds and nanoseconds: nobody may write to it.
    FileOf(i64, i64),
}

/// Who serves a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Served {
    /// A process of ours.
    Ours(DeviceKind),
    /// Another program.
    Outside(OutsideDevice),
}

/// What a guest is told of a device that another program serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideDevice {
    /// The virtio device type.
    pub device_type: u16,
    /// Where its configuration comes from.
    pub config: OutsideConfig,
    /// Features of its program that the guest is not offered.
    pub withheld: u64,
    /// Features that the guest is offered because of the configuration that it is given.
    pub ours: u64,
}

impl OutsideDevice {
    /// One whose features are its program's.
    pub fn new(device_type: u16, config: OutsideConfig) -> Self {
        Self { device_type, config, withheld: 0, ours: 0 }
    }
}

/// The device-specific configuration of a device that another program serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutsideConfig {
    /// Its program is asked at each access of the guest.
    OnDemand,
    /// This, whatever its program says.
    Given(Vec<u8>),
}

/// Device types that have a back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Disk.
    Blk,
    /// Network interface.
    Net,
    /// Entropy source.
    Rng,
    /// Persistent memory.
    Pmem,
    /// Sockets between guest and host.
    Vsock,
    /// Text in and out.
    Console,
    /// Watchdog.
    Watchdog,
    /// Memory balloon.
    Balloon,
    /// Memory that is plugged.
    Mem,
}

impl DeviceKind {
    /// As in `granule device NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blk => "blk",
            Self::Net => "net",
            Self::Rng => "rng",
            Self::Pmem => "pmem",
            Self::Vsock => "vsock",
            Self::Console => "console",
            Self::Watchdog => "watchdog",
            Self::Balloon => "balloon",
            Self::Mem => "mem",
        }
    }
}

/// Any datagram from `machine`.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromMachine {
    /// The answer to the command with the same id.
    Reply(Envelope<Result<Outcome, Failure>>),
    /// Something happened.
    Notice(Notice),
}

/// What a command achieved.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// What a device process has answered to an order.
    Told(Vec<u8>),
    /// The host as KVM shows it.
    Host(Box<granule_arch::host::HostReport>),
    /// The device is in its slot.
    Added(Box<DeviceReport>),
    /// The machine is built and (unless told otherwise) runs.
    Booted(Box<BootReport>),
    /// How often vCPUs came back from the guest, by reason.
    Exits(std::collections::BTreeMap<String, u64>),
    /// It runs on.
    Released {
        /// How long it stood still, in microseconds.
        paused_us: u64,
    },
}

/// A chain of causes, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Who can mend it.
    pub blame: Blame,
    /// What went wrong; each entry is the cause of the one before.
    pub causes: Vec<String>,
}

/// Who can mend a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blame {
    /// Whoever sent the request: what it names cannot be used.
    Request,
    /// Whoever runs the host, or wrote this program.
    Host,
}

impl Failure {
    /// A failure without deeper cause.
    pub fn of(cause: &str) -> Self {
        Self { blame: Blame::Host, causes: vec![cause.to_owned()] }
    }
}

impl Failure {
    /// The same, mendable by this party.
    pub fn blamed(self, blame: Blame) -> Self {
        Self { blame, ..self }
    }

    /// Flattens an error and its sources.
    pub fn from_source(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = vec![error.to_string()];
        let mut next = error.source();
        while let Some(source) = next {
            causes.push(source.to_string());
            next = source.source();
        }
        Self { blame: Blame::Host, causes }
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_source(&error)
    }
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// Memory tagging as it is.
    pub mte: MteReport,
    /// Guest physical address bits.
    pub ipa_bits: u8,
    /// The devices on the bus.
    pub devices: Vec<DeviceReport>,
    /// Microseconds from the command to the first vCPU's start, by phase.
    pub phases_us: Vec<(String, u64)>,
}

/// Memory tagging of a built machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MteReport {
    /// Whether the guest has tags.
    pub enabled: bool,
    /// `ID_AA64PFR1_EL1.MTE` as the guest reads it.
    pub level: u8,
}

/// Where a device sits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// The device's id.
    pub id: String,
    /// `SSSS:BB:DD.F`, as the guest knows it.
    pub bdf: String,
    /// The root port behind which it is, by the number of the port's home bus; `None` on the root bus.
    #[serde(default)]
    pub port: Option<u8>,
    /// Its memory BARs: index, guest physical base, size in bytes, prefetchable.
    pub bars: Vec<BusDevice>,
}

/// One BAR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusDevice {
    /// BAR index, 0..=5.
    pub index: u8,
    /// Guest physical base address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
    /// Whether it is prefetchable (and 64 bits wide).
    pub prefetchable: bool,
}

/// How a guest ended its own run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestEnd {
    /// PSCI SYSTEM_OFF.
    PowerOff,
    /// PSCI SYSTEM_RESET.
    Reset,
}

/// What `machine` tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The guest ended its run; its vCPUs are stopped.
    GuestEnded(GuestEnd),
    /// A vCPU cannot go on; all vCPUs are stopped.
    VcpuFailed {
        /// Which.
        vcpu: u8,
        /// Why.
        reason: String,
    },
    /// The guest's driver of a device is up.
    DeviceActivated {
        /// The device's id.
        id: String,
    },
    /// The guest's driver reset a device that was up.
    DeviceReset {
        /// The device's id.
        id: String,
    },
    /// The guest has let go of a device, which is gone from the bus: its process is free to end.
    DeviceRemoved {
        /// The device's id.
        id: String,
    },
    /// The guest has broken a queue of a device, and was told that the device needs a reset.
    DeviceNeedsReset {
        /// The device's id.
        id: String,
    },
    /// A device's process does not answer as it should; it must be replaced.
    DeviceFailed {
        /// The device's id.
        id: String,
        /// Why, outermost cause first.
        causes: Vec<String>,
    },
    /// SIGTERM, SIGINT or SIGHUP reached `machine`.
    Terminate {
        /// The signal's number.
        signal: i32,
    },
}
