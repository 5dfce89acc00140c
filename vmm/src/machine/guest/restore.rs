//! Building a guest that was saved, by the path of a cold boot as far as that goes.
//!
//! ```text
//!  Guest::restore                                          Restoring::finish
//!   state.json ─► shape ─► memory ─► VM ─► vCPUs ─► GIC     counter ─► GIC ─► ITS (tables out of memory) ─► power ─► threads
//!   ─► bus, devices ─► registers ─► memory's file to the mover
//!                              └── the mover fills memory ──┘
//! ```
//! On demand the mover has memory's file, and the machine's mapping, as soon as there is memory; it goes on placing pages
//! when all of this is over (`late`).
//!
//! Whatever does not fit is found in the first half, before anything of the guest exists that could be lost.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use granule_arch::kvm::{KvmError, NewVm, Vcpu, Vm, install_kick_handler, usable_ipa_bits};
use granule_arch::layout::Layout;
use granule_arch::state::{GicState, ItsState, VcpuState};
use granule_devices::pci::{Bdf, RestoreError as PciError};
use granule_devices::pl031::Pl031;
use granule_devices::virtio::StateError as DeviceError;
use granule_jail::SeccompMode;
use granule_snapshot::state::{MAX_STATE, StateError, StateReader};

use super::build::{BuildError, Phases, console, layout, memory};
use super::bus::{Bus, lock};
use super::console::Console;
use super::host::Host;
use super::late::{Watch, WatchError};
use super::placement::Place;
use super::regions::Regions;
use super::save::{ShareError, share};
use super::state::{self, DeviceState, Shape, VERSION};
use super::vcpus::Vcpus;
use super::{Guest, GuestRam};
use crate::machine::mailbox::Postman;
use crate::machine::turn::Descriptors;
use crate::wire::{BootReport, BootSpec, DeviceReport, MteReport, StartSpec};

/// Why saved state is not this machine's.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It cannot be read.
    #[error("state.json cannot be read")]
    Read(#[source] io::Error),
    /// Its components.
    #[error("state.json")]
    State(#[from] StateError),
    /// The configuration is that of another machine.
    #[error("{0} is not what it was when the snapshot was made")]
    Shape(&'static str),
    /// An address space that the host lacks.
    #[error("the saved machine has {saved} bits of physical address, this host can give {host}")]
    AddressSpace {
        /// The snapshot's.
        saved: u8,
        /// The host's most.
        host: u8,
    },
    /// A device on another bus.
    #[error("device {0:?} was on another PCI segment")]
    Segment(String),
    /// A device with other memory.
    #[error("device {id:?}: {what} is not what it was when the snapshot was made")]
    Region {
        /// Which.
        id: String,
        /// In what it differs.
        what: &'static str,
    },
    /// A device.
    #[error("device {id:?}")]
    Device {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// Bridges.
    #[error("PCI segment {segment}")]
    Bridges {
        /// Which.
        segment: u16,
        /// Why.
        #[source]
        source: PciError,
    },
    /// The serial port.
    #[error("the serial port")]
    Uart(#[from] granule_devices::pl011::RestoreError),
    /// The mover.
    #[error("guest memory cannot be passed on")]
    Memory(#[from] ShareError),
    /// Memory that is to come later.
    #[error("the guest cannot run before its memory is there")]
    Late(#[from] WatchError),
}

/// A guest whose memory is not there yet. Fields are dropped in this order.
pub struct Restoring {
    vcpus: Vec<Vcpu>,
    states: Vec<VcpuState>,
    gic: GicState,
    its: ItsState,
    console: Option<Console>,
    bus: Bus,
    shape: Shape,
    vm: Arc<Vm>,
    ram: GuestRam,
    /// On guard where memory comes on demand.
    watch: Option<Watch>,
    devices: Vec<DeviceReport>,
    clock: Phases,
}

impl std::fmt::Debug for Restoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restoring").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Guest {
    /// Builds all but memory's contents, and passes memory to the mover.
    pub fn restore(
        host: &Host,
        spec: &BootSpec,
        fds: &mut Descriptors,
        postman: &Postman,
        seccomp: SeccompMode,
    ) -> Result<Restoring, BuildError> {
        let mut clock = Phases::start();
        let StartSpec::Snapshot { state, mover, userfault } = spec.start else {
            return Err(BuildError::NoKernel);
        };
        let mut reader = read(fds.take(state)?)?;
        let mover = fds.take(mover)?;
        let userfault = userfault.map(|slot| fds.take(slot)).transpose()?;
        let shape = shape(&mut reader, spec, host)?;
        let layout = layout(spec, shape.ipa_bits)?;
        let states = (0..shape.vcpus).map(|vcpu| take(&mut reader, state::VCPU, &vcpu.to_string()));
        let states = states.collect::<Result<Vec<VcpuState>, _>>()?;
        let devices = spec.devices.iter().map(|device| {
            Ok((device.id.clone(), take::<DeviceState>(&mut reader, state::VIRTIO, &device.id)?))
        });
        let devices = devices.collect::<Result<Vec<_>, RestoreError>>()?;
        let regions = Regions::map(&spec.devices, fds, &layout)?;
        compare(&regions, &devices)?;
        clock.done("state");

        let (ram, _) = memory(spec, &layout)?;
        // On demand: before anybody could touch it.
        let (mover, watch) = match userfault {
            Some(userfault) => {
                let watch = Watch::begin(&ram, &regions, mover, userfault, seccomp);
                (None, Some(watch.map_err(RestoreError::from)?))
            }
            None => (Some(mover), None),
        };
        let (vm, vcpus) = virtual_machine(host, spec, &ram, &layout, &shape, &states)?;
        regions.give_to(&vm)?;
        for (vcpu, state) in vcpus.iter().zip(&states) {
            vcpu.restore(state)?;
        }
        clock.done("kvm");

        let console = console(&spec.serial, fds, &vm, seccomp)?;
        if let Some(console) = &console {
            let uart = take(&mut reader, state::UART, "")?;
            lock(&console.uart).restore(uart).map_err(RestoreError::from)?;
        }
        let placed = placed(spec, &devices)?;
        let bridges = bridges(&mut reader, spec.pci_segments)?;
        let (bus, reports) = Bus::build(
            &vm,
            (&ram, regions),
            &layout,
            console.as_ref(),
            &placed,
            fds,
            (postman, seccomp),
            |segments| restore_bridges(segments, &bridges).map_err(BuildError::from),
        )?;
        bus.restore(&mut reader, &devices, &bridges)?;
        let (gic, its) = (take(&mut reader, state::GIC, "")?, take(&mut reader, state::ITS, "")?);
        reader.finish().map_err(RestoreError::from)?;
        clock.done("devices");
        if let Some(mover) = mover {
            share(&ram, Some(&bus.builder.regions), None, mover).map_err(RestoreError::from)?;
        }
        let devices = reports;
        Ok(Restoring { vcpus, states, gic, its, console, bus, shape, vm, ram, watch, devices, clock })
    }
}

impl Restoring {
    /// Memory is there, or comes as it is touched: the rest, up to vCPUs that stand still.
    pub fn finish(self, postman: &Postman, seccomp: SeccompMode) -> Result<(Guest, BootReport), BuildError> {
        let Self { vcpus, states, gic, its, console, bus, shape, vm, ram, watch, devices, mut clock } = self;
        clock.done("memory");
        vm.gic().restore(&gic)?;
        vm.gic().restore_its(&its)?;
        for (vcpu, state) in vcpus.iter().zip(&states) {
            vcpu.restore_power(state)?;
        }
        if let Some(first) = states.first() {
            vm.restore_counter(&vcpus, first)?;
        }
        let threads = |source| BuildError::Host { what: "start the vCPU threads", source };
        install_kick_handler().map_err(threads)?;
        let vcpus = Vcpus::start(vcpus, bus.io(), postman, seccomp).map_err(threads)?;
        if let Some(watch) = watch {
            watch.over(vcpus.recall()).map_err(RestoreError::from)?;
        }
        clock.done("threads");
        let mte = MteReport { enabled: vm.mte(), level: shape.mte_level };
        let report = BootReport {
            mte,
            ipa_bits: shape.ipa_bits,
            devices,
            phases_us: std::mem::take(&mut clock.phases),
        };
        Ok((Guest { vcpus, ended: false, console, bus, shape, tracking: None, vm, ram }, report))
    }
}

fn read(state: OwnedFd) -> Result<StateReader, RestoreError> {
    let mut bytes = Vec::new();
    File::from(state).take(MAX_STATE + 1).read_to_end(&mut bytes).map_err(RestoreError::Read)?;
    Ok(StateReader::decode(&bytes)?)
}

fn take<T: serde::de::DeserializeOwned>(
    reader: &mut StateReader,
    kind: &str,
    id: &str,
) -> Result<T, RestoreError> {
    Ok(reader.take(kind, id, VERSION)?.1)
}

/// What the machine is like; refused where configuration or host differ.
fn shape(reader: &mut StateReader, spec: &BootSpec, host: &Host) -> Result<Shape, RestoreError> {
    let shape: Shape = take(reader, state::MACHINE, "")?;
    if let Some(field) = shape.difference(spec) {
        return Err(RestoreError::Shape(field));
    }
    let most = usable_ipa_bits(host.kvm(), u8::MAX);
    if shape.ipa_bits > most {
        return Err(RestoreError::AddressSpace { saved: shape.ipa_bits, host: most });
    }
    Ok(shape)
}

fn virtual_machine(
    host: &Host,
    spec: &BootSpec,
    ram: &GuestRam,
    layout: &Layout,
    shape: &Shape,
    states: &[VcpuState],
) -> Result<(Arc<Vm>, Vec<Vcpu>), KvmError> {
    let new = NewVm::create(host.kvm(), shape.ipa_bits)?;
    let decided = if spec.mte { new.with_mte()? } else { new.without_mte() };
    let with_memory = decided.with_memory(&ram.memory)?;
    let (vm, vcpus) = match states.first() {
        Some(first) => with_memory.with_restored_vcpus(layout, shape.features, first)?,
        None => with_memory.with_vcpus(layout, shape.features)?,
    };
    Ok((Arc::new(vm.with_gic(&vcpus)?), vcpus))
}

/// The memory of devices is what it was.
fn compare(regions: &Regions, saved: &[(String, DeviceState)]) -> Result<(), RestoreError> {
    for (id, DeviceState { memory, .. }) in saved {
        let what = match (memory, &regions.saved(id)) {
            (Some(saved), Some(here)) => saved.difference(here),
            (None, None) => None,
            _ => Some("that it has memory"),
        };
        if let Some(what) = what {
            return Err(RestoreError::Region { id: id.clone(), what });
        }
    }
    Ok(())
}

/// The devices where they were.
fn placed(
    spec: &BootSpec,
    saved: &[(String, DeviceState)],
) -> Result<Vec<crate::wire::DeviceSpec>, RestoreError> {
    let one = |(device, (id, saved)): (&crate::wire::DeviceSpec, &(String, DeviceState))| {
        if device.segment != saved.segment {
            return Err(RestoreError::Segment(id.clone()));
        }
        let mut device = device.clone();
        (device.slot, device.port) = (saved.slot, saved.port);
        Ok(device)
    };
    spec.devices.iter().zip(saved).map(one).collect()
}

type Bridges = Vec<granule_devices::pci::BridgeStates>;

fn bridges(reader: &mut StateReader, segments: u16) -> Result<Bridges, RestoreError> {
    (0..segments).map(|number| take(reader, state::SEGMENT, &number.to_string())).collect()
}

fn restore_bridges(
    segments: &[Arc<granule_devices::pci::PciSegment>],
    bridges: &Bridges,
) -> Result<(), RestoreError> {
    for (segment, saved) in segments.iter().zip(bridges) {
        let number = segment.layout().number;
        let restored = segment.restore_bridges(saved);
        restored.map_err(|source| RestoreError::Bridges { segment: number, source })?;
    }
    Ok(())
}

impl Bus {
    fn restore(
        &self,
        reader: &mut StateReader,
        devices: &[(String, DeviceState)],
        bridges: &Bridges,
    ) -> Result<(), RestoreError> {
        *lock(&self.rtc) = Pl031::restored(&take(reader, state::CLOCK, "")?);
        lock(&self.gpio).restore(take(reader, state::GPIO, "")?);
        // Again: putting devices behind ports was news that the guest has had already.
        restore_bridges(&self.builder.segments, bridges)?;
        for (id, saved) in devices {
            let Some(attached) = self.devices.get(id) else { continue };
            let restored = lock(&attached.device).restore(&saved.virtio);
            restored.map_err(|source| RestoreError::Device { id: id.clone(), source })?;
            let home = match attached.place {
                Place::RootBus(slot) => Bdf::on_root_bus(slot),
                Place::Port(home) => Bdf::new(home, 0, 0),
            };
            if let Some((segment, home)) = self.builder.segments.get(usize::from(attached.segment)).zip(home)
            {
                segment.reroute(home);
            }
        }
        Ok(())
    }
}
