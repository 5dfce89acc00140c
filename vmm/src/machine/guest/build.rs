//! Builds a guest: the one path that cold boot takes.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use granule_arch::boot::{self, BootPlan, ImageError, Initramfs, KernelImage, LoadError, PlanError};
use granule_arch::fdt::{self, FdtError, Seeds, Topology};
use granule_arch::irq::UART_SPI;
use granule_arch::kvm::{CpuFeatures, KvmError, NewVm, Vcpu, Vm, install_kick_handler, usable_ipa_bits};
use granule_arch::layout::{Layout, LayoutError};
use granule_jail::SeccompMode;

use super::bus::{Bus, BusError};
use super::console::{Console, Ends};
use super::host::Host;
use super::regions::{self, RegionError, Regions};
use super::restore::RestoreError;
use super::state::Shape;
use super::vcpus::Vcpus;
use super::wires::SpiLine;
use super::{Guest, GuestRam};
use crate::machine::mailbox::Postman;
use crate::machine::memory::{MemoryError, MemoryKind};
use crate::machine::turn::{Descriptors, MissingDescriptor};
use crate::wire::{Blame, BootReport, BootSpec, FdSlot, MteReport, SerialSpec, StartSpec};

/// Why a guest could not be built. What was built until then is gone.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The memory map.
    #[error("memory.size")]
    Layout(#[from] LayoutError),
    /// Where memory may be plugged.
    #[error("memory.hotplug_size")]
    Hotplug(#[source] LayoutError),
    /// Guest memory.
    #[error("memory.size")]
    Memory(#[from] MemoryError),
    /// Where persistent memory goes.
    #[error("pmem: it cannot be placed")]
    PmemLayout(#[source] LayoutError),
    /// Memory of devices.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel's file.
    #[error("payload.kernel")]
    Kernel(#[from] ImageError),
    /// Where kernel and initramfs go.
    #[error("payload.kernel, payload.initramfs: they cannot be placed in memory.size")]
    Plan(#[from] PlanError),
    /// Copying them there.
    #[error("the payload cannot be loaded")]
    Load(#[from] LoadError),
    /// The device tree.
    #[error("payload.cmdline, cpus.topology: the device tree cannot be built")]
    Fdt(#[from] FdtError),
    /// Devices.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The specification and its descriptors do not fit each other.
    #[error(transparent)]
    Descriptor(#[from] MissingDescriptor),
    /// Nothing to start with.
    #[error("the machine was to boot and was given no kernel")]
    NoKernel,
    /// A snapshot's state.
    #[error("the snapshot cannot be restored")]
    Restore(#[from] RestoreError),
    /// A thread, an eventfd, randomness.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// What the request names cannot be used, or something here failed.
    pub fn blame(&self) -> Blame {
        match self {
            // A mover that dies, and what else is not the snapshot's fault.
            Self::Restore(RestoreError::Late(_) | RestoreError::Memory(_)) => Blame::Host,
            Self::Layout(_)
            | Self::Hotplug(_)
            | Self::PmemLayout(_)
            | Self::Region(RegionError::Short { .. })
            | Self::Kernel(_)
            | Self::Plan(_)
            | Self::Fdt(_)
            | Self::Restore(_) => Blame::Request,
            _ => Blame::Host,
        }
    }
}

/// Payload files, looked at before anything else is built.
struct Payload {
    kernel: File,
    initramfs: Option<File>,
    plan: BootPlan,
}

impl Guest {
    /// Builds what the specification says, and starts it unless it says otherwise.
    pub fn build(
        host: &Host,
        spec: &BootSpec,
        fds: &mut Descriptors,
        postman: &Postman,
        seccomp: SeccompMode,
    ) -> Result<(Self, BootReport), BuildError> {
        let mut clock = Phases::start();
        let kvm = host.kvm();
        let ipa_bits = usable_ipa_bits(kvm, spec.cpus.max_phys_bits);
        let layout = layout(spec, ipa_bits)?;
        let StartSpec::Kernel { kernel, initramfs, cmdline } = &spec.start else {
            return Err(BuildError::NoKernel);
        };
        let payload = Payload::open(*kernel, *initramfs, fds, &layout)?;

        let (ram, kind) = memory(spec, &layout)?;
        clock.done("memory");
        payload.load(&ram, kind.is_kept_by_writes(host.shmem_huge_pages()))?;
        clock.done("payload");

        let features = CpuFeatures::of_host(kvm);
        let (vm, vcpus) = virtual_machine(kvm, ipa_bits, spec.mte, &ram, &layout, features)?;
        let regions = Regions::map(&spec.devices, fds, &layout)?;
        regions.give_to(&vm)?;
        clock.done("kvm");

        let console = console(&spec.serial, fds, &vm, seccomp)?;
        let (bus, devices) = Bus::build(
            &vm,
            (&ram, regions),
            &layout,
            console.as_ref(),
            &spec.devices,
            fds,
            (postman, seccomp),
            |_| Ok::<_, BusError>(()),
        )?;
        clock.done("devices");

        let blob =
            fdt::build(&fdt::Machine {
                layout: &layout,
                topology: spec.cpus.topology.map(topology),
                cmdline,
                initramfs: payload.plan.initramfs(),
                serial: console.is_some(),
                pmu: features.pmu,
                seeds: Some(seeds().map_err(|source| BuildError::Host {
                    what: "get random numbers for the guest",
                    source,
                })?),
            })?;
        boot::write_fdt(&payload.plan, &blob, &*ram.memory)?;
        vcpus[0].set_boot_registers(&payload.plan.registers())?;
        let mte = MteReport { enabled: vm.mte(), level: if vm.mte() { vcpus[0].mte_level()? } else { 0 } };
        clock.done("fdt");

        let threads = |source| BuildError::Host { what: "start the vCPU threads", source };
        install_kick_handler().map_err(threads)?;
        let vcpus = Vcpus::start(vcpus, bus.io(), postman, seccomp).map_err(threads)?;
        clock.done("threads");
        if !spec.start_paused {
            vcpus.open();
        }
        let shape = Shape { ipa_bits, features, mte_level: mte.level, ..Shape::of(spec) };
        let report = BootReport { mte, ipa_bits, devices, phases_us: clock.phases };
        Ok((Self { vcpus, ended: false, console, bus, shape, tracking: None, vm, ram }, report))
    }
}

impl Payload {
    fn open(
        kernel: FdSlot,
        initramfs: Option<FdSlot>,
        fds: &mut Descriptors,
        layout: &Layout,
    ) -> Result<Self, BuildError> {
        let kernel = File::from(fds.take(kernel)?);
        let initramfs = initramfs.map(|slot| fds.take(slot)).transpose()?.map(File::from);
        let image = KernelImage::inspect(&kernel)?;
        let size = initramfs.as_ref().map(Initramfs::inspect).transpose()?;
        let plan = BootPlan::new(layout.ram(), &image, size)?;
        Ok(Self { kernel, initramfs, plan })
    }

    /// Through the file of guest memory is quicker, but not where that makes other pages than memory shall have.
    fn load(&self, ram: &GuestRam, by_file: bool) -> Result<(), LoadError> {
        let initramfs = self.initramfs.as_ref();
        match ram.file() {
            Some(file) if by_file => boot::load_into_file(&self.plan, &self.kernel, initramfs, file),
            _ => boot::load(&self.plan, &self.kernel, initramfs, &*ram.memory),
        }
    }
}

/// The memory map: RAM, where more may be plugged, and what devices bring along.
pub(super) fn layout(spec: &BootSpec, ipa_bits: u8) -> Result<Layout, BuildError> {
    let ram = Layout::new(spec.memory_bytes, spec.cpus.count.into(), spec.pci_segments, ipa_bits)?;
    let with_hotplug = ram.with_hotplug(spec.hotplug_bytes, ipa_bits).map_err(BuildError::Hotplug)?;
    with_hotplug.with_pmem(&regions::sizes(&spec.devices), ipa_bits).map_err(BuildError::PmemLayout)
}

/// Guest memory, fresh.
pub(super) fn memory(spec: &BootSpec, layout: &Layout) -> Result<(GuestRam, MemoryKind), BuildError> {
    let kind = MemoryKind { huge_pages: spec.huge_pages && !spec.mte, prefault: spec.prefault };
    granule_jail::huge_pages(kind.huge_pages)
        .map_err(|source| BuildError::Host { what: "set the use of huge pages", source })?;
    let spare = layout.memory().size() - layout.ram().size();
    let ram = GuestRam::new(layout.ram().base().0, layout.ram().size(), spare, kind)?;
    Ok((ram, kind))
}

/// The VM in the order that memory tagging demands; the types of `granule_arch::kvm` allow no other.
fn virtual_machine(
    kvm: &kvm_ioctls::Kvm,
    ipa_bits: u8,
    mte: bool,
    ram: &GuestRam,
    layout: &Layout,
    features: CpuFeatures,
) -> Result<(Arc<Vm>, Vec<Vcpu>), KvmError> {
    let new = NewVm::create(kvm, ipa_bits)?;
    let decided = if mte { new.with_mte()? } else { new.without_mte() };
    let (vm, vcpus) = decided.with_memory(&ram.memory)?.with_vcpus(layout, features)?;
    let vm = vm.with_gic(&vcpus)?;
    vm.start_counter(&vcpus)?;
    Ok((Arc::new(vm), vcpus))
}

pub(super) fn console(
    spec: &SerialSpec,
    fds: &mut Descriptors,
    vm: &Arc<Vm>,
    seccomp: SeccompMode,
) -> Result<Option<Console>, BuildError> {
    let failed = |source| BuildError::Host { what: "start the serial port", source };
    let irq = SpiLine::new(vm.clone(), UART_SPI);
    let mut ends = Ends { input: None, output: None, raw_terminal: false };
    match spec {
        SerialSpec::Off => return Ok(None),
        SerialSpec::Null => return Console::null(irq).map(Some).map_err(failed),
        SerialSpec::Socket => {}
        SerialSpec::Terminal => {
            ends = Ends::terminal().map_err(failed)?;
        }
        SerialSpec::Fds { input, output } => {
            ends.input = input.map(|slot| fds.take(slot)).transpose()?;
            ends.output = Some(fds.take(*output)?);
        }
    }
    Console::start(irq, ends, seccomp).map(Some).map_err(failed)
}

fn topology([threads_per_core, cores_per_die, dies_per_package, packages]: [u8; 4]) -> Topology {
    Topology { threads_per_core, cores_per_die, dies_per_package, packages }
}

fn seeds() -> io::Result<Seeds> {
    let mut bytes = [0u8; 40];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    let (kaslr, rng) = bytes.split_at(8);
    let mut seeds = Seeds { kaslr: 0, rng: [0; 32] };
    seeds.kaslr = kaslr.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
    seeds.rng.copy_from_slice(rng);
    Ok(seeds)
}

/// How long each phase of a build took.
pub(super) struct Phases {
    since: Instant,
    pub phases: Vec<(String, u64)>,
}

impl Phases {
    pub fn start() -> Self {
        Self { since: Instant::now(), phases: Vec::new() }
    }

    pub fn done(&mut self, phase: &str) {
        let now = Instant::now();
        let micros = u64::try_from(now.duration_since(self.since).as_micros()).unwrap_or(u64::MAX);
        self.phases.push((phase.to_owned(), micros));
        self.since = now;
    }
}
