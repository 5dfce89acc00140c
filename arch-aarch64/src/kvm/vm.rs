//! The VM: address space, memory tagging, memory, vCPUs, interrupt controller, in this order.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_ARM_MTE, KVM_CAP_ARM_NISV_TO_USER, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{
    Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

use super::gic::Gic;
use super::state::Restoring;
use super::vcpu::{CpuFeatures, Vcpu};
use super::{KvmError, doing};
use crate::irq::Spi;
use crate::layout::{Gpa, Layout, Window};
use crate::state::{RegisterId, VcpuState};

/// What KVM offers where it has no `KVM_CAP_ARM_VM_IPA_SIZE`.
const DEFAULT_IPA_BITS: u8 = 40;
/// The least that KVM takes.
const MIN_IPA_BITS: u8 = 32;
const KVM_API_VERSION: i32 = 12;

/// The bits of guest physical address that a VM gets when a client asks for `max_phys_bits`: what the host has, where
/// that is less. Clients send 46 whatever the host.
#[must_use]
pub fn usable_ipa_bits(kvm: &Kvm, max_phys_bits: u8) -> u8 {
    let limit = match u8::try_from(kvm.get_host_ipa_limit()) {
        Ok(0) | Err(_) => DEFAULT_IPA_BITS,
        Ok(bits) => bits,
    };
    max_phys_bits.clamp(MIN_IPA_BITS, limit.max(MIN_IPA_BITS))
}

/// What a VM and its vCPUs share, so that none outlives the memory under the memslots.
pub(super) struct Core {
    pub(super) fd: VmFd,
    memory: Mutex<Slots>,
    mte: bool,
}

#[derive(Default)]
struct Slots {
    used: u32,
    read_only: Vec<Window>,
    // A memslot must not outlive its mapping, or the guest would write to whatever is mapped there next. With the number of
    // the first region's slot.
    held: Vec<(u32, GuestMemoryMmap<()>)>,
}

/// A VM without memory of which it is not yet decided whether it has memory tagging.
pub struct NewVm {
    fd: VmFd,
    ipa_bits: u8,
}

impl NewVm {
    /// Creates a VM with a guest physical address space of `ipa_bits` bits (see [`usable_ipa_bits`]).
    ///
    /// # Errors
    /// Where KVM has no such address space, or no memory for a VM.
    pub fn create(kvm: &Kvm, ipa_bits: u8) -> Result<Self, KvmError> {
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION {
            return Err(KvmError::ApiVersion(version));
        }
        let ipa_type = if kvm.check_extension(Cap::ArmVmIPASize) { u32::from(ipa_bits) } else { 0 };
        let fd = loop {
            match kvm.create_vm_with_ipa_size(ipa_type) {
                Err(e) if e.errno() == libc::EINTR => {}
                other => break other.map_err(doing("create a VM"))?,
            }
        };
        // Without it a guest could end its VM by a load pair from a device; with it, it gets an abort. Old kernels
        // that lack it keep the old behaviour.
        let nisv = kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..Default::default() };
        let _ = fd.enable_cap(&nisv);
        Ok(Self { fd, ipa_bits })
    }

    /// The size of the guest physical address space.
    #[must_use]
    pub fn ipa_bits(&self) -> u8 {
        self.ipa_bits
    }

    /// Turns memory tagging on. The host should have been probed before ([`crate::mte`]).
    ///
    /// # Errors
    /// Where the processor or KVM has none.
    pub fn with_mte(self) -> Result<MteDecided, KvmError> {
        let cap = kvm_enable_cap { cap: KVM_CAP_ARM_MTE, ..Default::default() };
        self.fd.enable_cap(&cap).map_err(|e| KvmError::NoMte(e.into()))?;
        Ok(MteDecided { fd: self.fd, mte: true })
    }

    /// Leaves memory tagging off.
    #[must_use]
    pub fn without_mte(self) -> MteDecided {
        MteDecided { fd: self.fd, mte: false }
    }
}

/// A VM without memory of which it is decided whether it has memory tagging.
pub struct MteDecided {
    fd: VmFd,
    mte: bool,
}

impl MteDecided {
    /// Gives the VM its memory, each region in a slot of its own from 0 on, and keeps it mapped.
    ///
    /// # Errors
    /// Where KVM refuses a region.
    pub fn with_memory(self, memory: &GuestMemoryMmap<()>) -> Result<WithMemory, KvmError> {
        let core = Core { fd: self.fd, memory: Mutex::default(), mte: self.mte };
        core.map(memory, 0)?;
        Ok(WithMemory { core: Arc::new(core) })
    }
}

/// A VM with memory and no vCPU.
pub struct WithMemory {
    core: Arc<Core>,
}

impl WithMemory {
    /// Creates the layout's vCPUs, all of them, then initialises each: the first to start, the others off until the guest
    /// asks for them (PSCI).
    ///
    /// # Errors
    /// Where KVM refuses a vCPU or a feature.
    pub fn with_vcpus(
        self,
        layout: &Layout,
        features: CpuFeatures,
    ) -> Result<(WithVcpus, Vec<Vcpu>), KvmError> {
        self.vcpus(layout, features, None)
    }

    /// The same for saved vCPUs, whose registers are set later: they get the vector lengths of the first, as all have
    /// the same.
    ///
    /// # Errors
    /// Where KVM refuses a vCPU or a feature, or lacks a vector length.
    pub fn with_restored_vcpus(
        self,
        layout: &Layout,
        features: CpuFeatures,
        saved: &VcpuState,
    ) -> Result<(WithVcpus, Vec<Vcpu>), KvmError> {
        let vector_lengths = saved.registers.get(RegisterId::VECTOR_LENGTHS);
        self.vcpus(layout, features, Some(Restoring { vector_lengths }))
    }

    fn vcpus(
        self,
        layout: &Layout,
        features: CpuFeatures,
        restoring: Option<Restoring<'_>>,
    ) -> Result<(WithVcpus, Vec<Vcpu>), KvmError> {
        let mut vcpus = Vec::with_capacity(usize::from(layout.vcpus()));
        for index in 0..layout.vcpus() {
            vcpus.push(Vcpu::create(Arc::clone(&self.core), index)?);
        }
        for vcpu in &mut vcpus {
            vcpu.init(features, restoring)?;
        }
        Ok((WithVcpus { core: self.core, layout: layout.clone() }, vcpus))
    }
}

/// A VM with memory and vCPUs and no interrupt controller.
pub struct WithVcpus {
    core: Arc<Core>,
    layout: Layout,
}

impl WithVcpus {
    /// Creates GIC and ITS and starts each vCPU's PMU, which needs them.
    ///
    /// # Errors
    /// Where the host has no GICv3.
    pub fn with_gic(self, vcpus: &[Vcpu]) -> Result<Vm, KvmError> {
        let gic = Gic::create(&self.core.fd, &self.layout)?;
        for vcpu in vcpus {
            vcpu.start_pmu()?;
        }
        Ok(Vm { core: self.core, gic })
    }
}

/// A VM that can run.
pub struct Vm {
    core: Arc<Core>,
    gic: Gic,
}

impl Vm {
    /// Whether the guest has memory tagging.
    #[must_use]
    pub fn mte(&self) -> bool {
        self.core.mte
    }

    /// KVM's file of this VM: irqfds, ioeventfds, routing.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.core.fd
    }

    /// The interrupt controller.
    #[must_use]
    pub fn gic(&self) -> &Gic {
        &self.gic
    }

    /// Sets the level of a wired interrupt.
    ///
    /// # Errors
    /// Where KVM refuses, which it does not for a [`Spi`] that the GIC has.
    pub fn set_spi(&self, spi: Spi, asserted: bool) -> io::Result<()> {
        Ok(self.core.fd.set_irq_line(spi.kvm_line(), asserted)?)
    }

    /// Adds regions after the fact, in the next free slots, and keeps them mapped. A store of the guest to a read-only
    /// one is [`Exit::ReadOnly`](super::Exit::ReadOnly), or undecodable.
    ///
    /// # Errors
    /// Where KVM refuses a region; those before it stay.
    pub fn add_memory(&self, memory: &GuestMemoryMmap<()>, read_only: bool) -> Result<(), KvmError> {
        self.core.map(memory, if read_only { KVM_MEM_READONLY } else { 0 })
    }

    /// Takes away memory that [`Self::add_memory`] has added, by the address of its one region: the guest finds nothing there
    /// any more, and the mapping is let go of. Numbers of slots are not used again.
    ///
    /// # Errors
    /// Where KVM refuses, or there is no such memory; the mapping stays then.
    pub fn remove_memory(&self, address: u64) -> Result<(), KvmError> {
        self.core.unmap(address)
    }

    /// Has KVM log what the guest, and KVM itself, write to RAM from now on, data and tags alike; or no longer. Memory that
    /// was added later is not RAM.
    ///
    /// # Errors
    /// Where KVM refuses. Whether it logs is then not known.
    pub fn log_writes(&self, on: bool) -> Result<(), KvmError> {
        let ram = self.core.ram();
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        (0..).zip(ram.iter()).try_for_each(|(slot, region)| self.core.map_region(slot, region, flags))
    }

    /// Takes what was written to since the log began, or was last taken: first address and bytes of each range. A write
    /// that comes after the answer is in the next one: memory must be read after this, and not before.
    ///
    /// # Errors
    /// Where nothing is logged.
    pub fn take_log(&self, mut written: impl FnMut(u64, u64)) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(self.core.ram().iter()) {
            // Cannot truncate: it is mapped.
            let bytes = region.len() as usize;
            let words = self.core.fd.get_dirty_log(slot, bytes).map_err(doing("take the log of writes"))?;
            // What a bit of KVM's log stands for.
            let page = crate::mte::page_size() as u64;
            for (number, mut word) in (0..).zip(words) {
                while word != 0 {
                    let index: u64 = number * 64 + u64::from(word.trailing_zeros());
                    written(region.start_addr().raw_value() + index * page, page);
                    word &= word - 1;
                }
            }
        }
        Ok(())
    }
}

impl Core {
    fn map(&self, memory: &GuestMemoryMmap<()>, flags: u32) -> Result<(), KvmError> {
        let mut slots = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        // Held from before the first slot: a later region that is refused leaves the earlier ones in place.
        let first = slots.used;
        slots.held.push((first, memory.clone()));
        for region in memory.iter() {
            self.map_region(slots.used, region, flags)?;
            slots.used += 1;
            if flags & KVM_MEM_READONLY != 0 {
                let window = Window::checked(region.start_addr().raw_value(), region.len());
                slots.read_only.extend(window);
            }
        }
        Ok(())
    }

    /// What the first slots are.
    fn ram(&self) -> GuestMemoryMmap<()> {
        let slots = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        slots.held.first().map(|(_, ram)| ram.clone()).unwrap_or_default()
    }

    fn unmap(&self, address: u64) -> Result<(), KvmError> {
        let mut slots = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let first = |memory: &GuestMemoryMmap<()>| memory.iter().next().map(|region| region.start_addr().0);
        // The first is RAM, which stays.
        let later = slots.held.iter().skip(1).position(|(_, memory)| first(memory) == Some(address));
        let index =
            later.ok_or_else(|| KvmError::Memory { address, source: io::ErrorKind::NotFound.into() })? + 1;
        let nothing = kvm_userspace_memory_region {
            slot: slots.held[index].0,
            guest_phys_addr: address,
            ..kvm_userspace_memory_region::default()
        };
        // SAFETY: of no bytes, this only takes a slot away.
        let gone = unsafe { self.fd.set_user_memory_region(nothing) };
        gone.map_err(|e| KvmError::Memory { address, source: e.into() })?;
        slots.held.remove(index);
        slots.read_only.retain(|window| window.base().0 != address);
        Ok(())
    }

    /// Whether the guest may read here and not write.
    pub(super) fn is_read_only(&self, address: Gpa) -> bool {
        let slots = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        slots.read_only.iter().any(|window| window.contains(address))
    }

    fn map_region(&self, slot: u32, region: &GuestRegionMmap<()>, flags: u32) -> Result<(), KvmError> {
        let address = region.start_addr().raw_value();
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|e| KvmError::Memory { address, source: io::Error::other(e) })?;
        let slot = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: address,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is that of a mapping which `held` keeps alive for as long as the VM's file, or any of
        // its vCPUs, is open. What the guest writes there is volatile by the laws of `vm-memory`.
        let result = unsafe { self.fd.set_user_memory_region(slot) };
        result.map_err(|e| match e.errno() {
            libc::EINVAL if self.mte => KvmError::MemoryNotTaggable { address, source: e.into() },
            _ => KvmError::Memory { address, source: e.into() },
        })
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("fd", &self.core.fd.as_raw_fd()).field("mte", &self.core.mte).finish()
    }
}
