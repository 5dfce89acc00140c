//! What the guest finds at the addresses that are not memory.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use granule_arch::irq::{GPIO_SPI, ItsDeviceId};
use granule_arch::kvm::Vm;
use granule_arch::layout::{self, Layout, Window};
use granule_devices::pci::{AddressRange, Bdf, InsertError, PciSegment, SegmentLayout};
use granule_devices::pl031::Pl031;
use granule_devices::pl061::Pl061;
use granule_devices::pmem;
use granule_devices::virtio::frontend::{Deadlines, DeviceProcess, Expected};
use granule_devices::virtio::{
    ConfigSource, DeviceType, DriverEvent, DriverSink, Fault, FaultSink, GuestMemory, VirtioPciDevice,
};
use granule_jail::{SeccompMode, ThreadKind};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioRange};
use vm_device::device_manager::{IoManager, MmioManager};
use vm_memory::GuestAddressSpace;

use super::console::Console;
use super::doorbells::KvmDoorbells;
use super::interrupts::{FunctionVectors, MsiRoutes};
use super::placement::{self, Place};
use super::regions::{RegionError, Regions};
use super::wires::SpiLine;
use crate::machine::alarms::Alarms;
use crate::machine::mailbox::Postman;
use crate::machine::memory::GuestRam;
use crate::machine::turn::{Descriptors, MissingDescriptor};
use crate::wire::{Blame, DeviceKind, DeviceReport, DeviceSpec, Failure, Notice, OutsideConfig, Served};

/// Why the bus could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Two devices at one address: a mistake in the memory map.
    #[error("cannot place {what} at {base:#x} on the bus")]
    Place {
        /// Which device.
        what: &'static str,
        /// Where.
        base: u64,
    },
    /// A device process did not shake hands.
    #[error("device {id:?}: its process does not serve it")]
    Backend {
        /// Which device.
        id: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// No slot, no room for its BARs.
    #[error("device {id:?} does not fit the PCI bus")]
    Slot {
        /// Which device.
        id: String,
        /// Why.
        #[source]
        source: InsertError,
    },
    /// There is no such segment.
    #[error("device {id:?}: there is no PCI segment {segment}")]
    Segment {
        /// Which device.
        id: String,
        /// Which segment it names.
        segment: u16,
    },
    /// Interrupt vectors, or the eventfd of its alarms.
    #[error("device {id:?}: no interrupts")]
    Vectors {
        /// Which device.
        id: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that keeps time for device processes.
    #[error("cannot start the thread that keeps time for device processes")]
    Deadlines(#[source] io::Error),
    /// The specification and its descriptors do not fit each other.
    #[error(transparent)]
    Descriptor(#[from] MissingDescriptor),
    /// Memory of devices.
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl BusError {
    /// A place that is not there or taken is the request's to mend.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Slot { .. }
            | Self::Segment { .. }
            | Self::Region(RegionError::NoRoom { .. } | RegionError::Short { .. }) => Blame::Request,
            _ => Blame::Host,
        }
    }
}

/// How long a process of persistent memory may be busy with a flush before it is taken for hung: as long as a disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// A virtio device.
type SharedDevice = Arc<Mutex<VirtioPciDevice>>;

/// A virtio device and where it sits.
pub(super) struct Attached {
    pub device: SharedDevice,
    pub segment: u16,
    pub place: Place,
    /// A program of others serves it that may remember more than queues do.
    pub may_remember: bool,
}

/// The guest's devices.
pub struct Bus {
    io: Arc<IoManager>,
    pub(super) gpio: Arc<Mutex<Pl061>>,
    pub(super) rtc: Arc<Mutex<Pl031>>,
    pub(super) builder: Builder,
    pub(super) devices: BTreeMap<String, Attached>,
}

/// What devices are built with, at boot and later.
pub(super) struct Builder {
    pub(super) vm: Arc<Vm>,
    memory: GuestMemory,
    ram: GuestMemory,
    outsiders: GuestMemory,
    pub(super) regions: Regions,
    routes: Arc<MsiRoutes>,
    pub segments: Vec<Arc<PciSegment>>,
    deadlines: Arc<Deadlines>,
    postman: Postman,
}

impl Bus {
    /// Builds all of it: platform devices, PCI segments, virtio devices in slot order. `prepare` has a say in what the
    /// buses are like before devices are put on them.
    #[allow(clippy::too_many_arguments, reason = "all that a machine has")]
    pub fn build<E: From<BusError>>(
        vm: &Arc<Vm>,
        (ram, regions): (&GuestRam, Regions),
        layout: &Layout,
        console: Option<&Console>,
        specs: &[DeviceSpec],
        fds: &mut Descriptors,
        (postman, seccomp): (&Postman, SeccompMode),
        prepare: impl FnOnce(&[Arc<PciSegment>]) -> Result<(), E>,
    ) -> Result<(Self, Vec<DeviceReport>), E> {
        let mut io = IoManager::new();
        if let Some(console) = console {
            place(&mut io, "the UART", layout::UART, console.uart.clone())?;
        }
        let rtc = Arc::new(Mutex::new(Pl031::new()));
        place(&mut io, "the clock", layout::RTC, rtc.clone())?;
        let gpio = Arc::new(Mutex::new(Pl061::new(SpiLine::new(vm.clone(), GPIO_SPI))));
        place(&mut io, "the power button", layout::GPIO, gpio.clone())?;

        let segments = layout
            .segments()
            .iter()
            .map(|segment| segment_at(&mut io, segment))
            .collect::<Result<Vec<_>, _>>()?;
        let memory = GuestMemory::from(Arc::new(regions.beside(&ram.memory).map_err(BusError::from)?));
        let outsiders =
            GuestMemory::from(Arc::new(regions.beside_for_outsiders(&ram.memory).map_err(BusError::from)?));
        let deadlines = Deadlines::start(move || keep_time_only(seccomp)).map_err(BusError::Deadlines)?;
        let postman = postman.try_clone().map_err(BusError::Deadlines)?;
        let routes = MsiRoutes::new(vm.clone());
        let builder = Builder {
            vm: vm.clone(),
            memory,
            ram: GuestMemory::from(ram.memory.clone()),
            outsiders,
            regions,
            routes,
            segments,
            deadlines,
            postman,
        };
        for segment in &builder.segments {
            builder.add_ports(segment)?;
        }
        prepare(&builder.segments)?;
        let mut bus = Self { io: Arc::new(io), gpio, rtc, builder, devices: BTreeMap::new() };
        let reports =
            specs.iter().map(|spec| bus.add(spec, placement::cold(spec), fds)).collect::<Result<_, _>>()?;
        Ok((bus, reports))
    }

    /// For the vCPU threads.
    pub fn io(&self) -> &Arc<IoManager> {
        &self.io
    }

    /// The virtio device of this name.
    pub fn device(&self, id: &str) -> Option<&SharedDevice> {
        self.devices.get(id).map(|attached| &attached.device)
    }

    /// Presses and releases the power button.
    pub fn press_power_button(&self) {
        lock(&self.gpio).press();
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("devices", &self.devices.keys()).finish_non_exhaustive()
    }
}

/// Confines the thread that keeps time to that.
fn keep_time_only(seccomp: SeccompMode) {
    if let Err(error) = granule_jail::enter_thread(ThreadKind::Deadline, seccomp) {
        eprintln!("granule: deadline: {error}");
        std::process::abort();
    }
}

impl Builder {
    fn sinks(&self) -> Result<(FaultSink, DriverSink), BusError> {
        let (faults, drivers) = (self.postman()?, self.postman()?);
        let on_fault: FaultSink = Arc::new(move |id, fault| tell_fault(&lock(&faults), id, fault));
        let on_driver: DriverSink = Arc::new(move |id, event| {
            let id = id.to_owned();
            lock(&drivers).post(match event {
                DriverEvent::Up => Notice::DeviceActivated { id },
                DriverEvent::Reset => Notice::DeviceReset { id },
            });
        });
        Ok((on_fault, on_driver))
    }

    /// Has devices that are started from now on share RAM and all regions that there are.
    pub(super) fn share_regions(&self) -> Result<(), RegionError> {
        let ram = self.ram.memory();
        let shares = [
            (&self.memory, self.regions.beside(&ram)?),
            (&self.outsiders, self.regions.beside_for_outsiders(&ram)?),
        ];
        for (shared, memory) in shares {
            // A panic aborts the process, so no lock is ever found poisoned.
            shared.lock().unwrap_or_else(PoisonError::into_inner).replace(memory);
        }
        Ok(())
    }

    /// A postman that vCPU threads can share.
    pub(super) fn postman(&self) -> Result<Mutex<Postman>, BusError> {
        self.postman.try_clone().map(Mutex::new).map_err(BusError::Deadlines)
    }

    /// The alarms of device processes.
    pub(super) fn alarms(&self) -> &Alarms {
        self.postman.alarms()
    }

    /// The segment that a device is wanted on.
    pub(super) fn segment(&self, spec: &DeviceSpec) -> Result<&Arc<PciSegment>, BusError> {
        let no_segment = || BusError::Segment { id: spec.id.clone(), segment: spec.segment };
        self.segments.get(usize::from(spec.segment)).ok_or_else(no_segment)
    }

    /// Interrupt vectors of the function that the guest will know by `bdf`.
    pub(super) fn vectors(
        &self,
        id: &str,
        segment: u16,
        bdf: Bdf,
        count: u16,
    ) -> Result<Arc<FunctionVectors>, BusError> {
        let device = ItsDeviceId::of(segment, bdf.requester_id())
            .ok_or_else(|| BusError::Segment { id: id.into(), segment })?;
        let failed = |source| BusError::Vectors { id: id.into(), source };
        self.routes.vectors(device, count).map_err(failed)
    }

    /// One virtio device that the guest will know by `bdf`: hands shaken with its process, on no bus yet.
    pub(super) fn device(
        &self,
        spec: &DeviceSpec,
        bdf: Bdf,
        fds: &mut Descriptors,
    ) -> Result<SharedDevice, BusError> {
        let id = spec.id.clone();
        let failed = |source| BusError::Backend { id: id.clone(), source };
        let stream = UnixStream::from(fds.take(spec.socket)?);
        let mut expected = expected(spec);
        let window = self.regions.window(&spec.id);
        if let Some(window) = window {
            // Where its memory is, is decided here.
            let config = pmem::config(window.base().0, window.size()).to_vec();
            expected.config = ConfigSource::Given(config);
            expected.limit += ready_time(window.size());
        }
        let memory = match &spec.served {
            // What it is given it may free: an image is not the guest's to empty.
            Served::Ours(DeviceKind::Balloon | DeviceKind::Mem) => self.ram.clone(),
            Served::Ours(_) => self.memory.clone(),
            Served::Outside(_) => self.outsiders.clone(),
        };
        let deadlines = self.deadlines.clone();
        let mut backend = DeviceProcess::connect(stream, deadlines, memory, expected).map_err(failed)?;
        if window.is_some() {
            backend.limit_to(FLUSH_LIMIT);
        }
        let errors = backend.errors().and_then(|errors| self.postman.alarms().watch(&id, errors));
        errors.map_err(|source| BusError::Vectors { id: id.clone(), source })?;
        let vectors = self.vectors(&id, spec.segment, bdf, vectors_of(spec))?;
        let (on_fault, on_driver) = self.sinks()?;
        let doorbells = KvmDoorbells::new(self.vm.clone());
        let device = VirtioPciDevice::new(
            &*id,
            device_type(&spec.served),
            Box::new(backend),
            vectors,
            doorbells,
            self.memory.clone(),
        )
        .map_err(failed)?
        .on_fault(on_fault)
        .on_driver(on_driver);
        Ok(Arc::new(Mutex::new(device)))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process, so no lock is ever found poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a fault of one device leads to: `control` ends its process and brings a new one.
fn tell_fault(postman: &Postman, id: &str, fault: &Fault) {
    let causes = Failure::from_source(fault).causes;
    match fault {
        // Answered to the guest by DEVICE_NEEDS_RESET, and nobody else's business.
        Fault::Guest(_) => tracing::debug!(id, ?causes, "the guest set a device up wrongly"),
        Fault::Device(_) | Fault::Host { .. } => postman.post(Notice::DeviceFailed { id: id.into(), causes }),
    }
}

/// The most bytes of configuration that vhost-user has room for.
const MAX_CONFIG: usize = 256;

/// One vector for each queue, and one for changes of configuration.
fn vectors_of(spec: &DeviceSpec) -> u16 {
    u16::try_from(spec.queue_sizes.len()).unwrap_or(u16::MAX).saturating_add(1)
}

fn expected(spec: &DeviceSpec) -> Expected {
    let (config_size, config) = match &spec.served {
        // What is plugged is a part of it, and changes by every request of the guest's.
        Served::Ours(DeviceKind::Mem) => (config_size(DeviceKind::Mem), ConfigSource::OnDemand),
        Served::Ours(kind) => (config_size(*kind), ConfigSource::Read),
        Served::Outside(device) => match &device.config {
            OutsideConfig::OnDemand => (MAX_CONFIG, ConfigSource::OnDemand),
            OutsideConfig::Given(config) => (config.len(), ConfigSource::Given(config.clone())),
        },
    };
    let (withheld, ours) = match &spec.served {
        Served::Ours(_) => (0, 0),
        Served::Outside(device) => (device.withheld, device.ours),
    };
    Expected {
        queue_sizes: spec.queue_sizes.clone(),
        config_size,
        config,
        withheld,
        ours,
        limit: Expected::LIMIT,
    }
}

/// How long a process may take beyond the usual to get the memory of its device ready: it reads the image, from a slow disk
/// of a busy host at 4 MiB a second.
fn ready_time(size: u64) -> Duration {
    Duration::from_secs(size >> 22)
}

/// Bytes of device-specific configuration.
fn config_size(kind: DeviceKind) -> usize {
    match kind {
        DeviceKind::Blk => granule_devices::blk::CONFIG_SIZE,
        DeviceKind::Console => granule_devices::console::CONFIG_SIZE,
        DeviceKind::Rng | DeviceKind::Watchdog => 0,
        DeviceKind::Net => granule_devices::net::CONFIG_SIZE,
        DeviceKind::Pmem => pmem::CONFIG_SIZE,
        DeviceKind::Vsock => granule_devices::vsock::CONFIG_SIZE,
        DeviceKind::Balloon => granule_devices::balloon::CONFIG_SIZE,
        DeviceKind::Mem => granule_devices::mem::CONFIG_SIZE,
    }
}

/// Whether what serves the device may remember something beyond its queues that only it can say. Disks do not, and processes
/// of ours say all.
pub(super) fn may_remember(served: &Served) -> bool {
    matches!(served, Served::Outside(device) if DeviceType::of(device.device_type) != DeviceType::Block)
}

fn device_type(served: &Served) -> DeviceType {
    match served {
        Served::Ours(kind) => type_of(*kind),
        Served::Outside(device) => DeviceType::of(device.device_type),
    }
}

fn type_of(kind: DeviceKind) -> DeviceType {
    match kind {
        DeviceKind::Blk => DeviceType::Block,
        DeviceKind::Console => DeviceType::Console,
        DeviceKind::Net => DeviceType::Net,
        DeviceKind::Rng => DeviceType::Rng,
        DeviceKind::Pmem => DeviceType::Pmem,
        DeviceKind::Vsock => DeviceType::Vsock,
        DeviceKind::Watchdog => DeviceType::Watchdog,
        DeviceKind::Balloon => DeviceType::Balloon,
        DeviceKind::Mem => DeviceType::Mem,
    }
}

fn segment_at(io: &mut IoManager, segment: &layout::PciSegment) -> Result<Arc<PciSegment>, BusError> {
    let range = |window: Window| {
        AddressRange::new(window.base().0, window.size())
            .ok_or(BusError::Place { what: "a PCI window", base: window.base().0 })
    };
    let built = PciSegment::new(SegmentLayout {
        number: segment.id,
        ecam: range(segment.ecam)?,
        mem32: range(segment.mmio32)?,
        mem64: range(segment.mmio64)?,
    });
    place(io, "PCI configuration space", segment.ecam, built.ecam())?;
    place(io, "a PCI window", segment.mmio32, built.window())?;
    place(io, "a PCI window", segment.mmio64, built.window())?;
    Ok(built)
}

fn place(
    io: &mut IoManager,
    what: &'static str,
    window: Window,
    device: Arc<dyn DeviceMmio + Send + Sync>,
) -> Result<(), BusError> {
    let base = window.base().0;
    let range =
        MmioRange::new(MmioAddress(base), window.size()).map_err(|_| BusError::Place { what, base })?;
    io.register_mmio(range, device).map_err(|_| BusError::Place { what, base })
}
