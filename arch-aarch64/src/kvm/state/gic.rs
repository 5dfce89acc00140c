//! GICv3: distributor, redistributors, CPU interfaces, levels of lines.
//!
//! Values are written as they were read. That sets and clears: in the kernel's interface for monitors a write of
//! `ISPENDR` is the pending state itself, and a fresh GIC has nothing enabled or active.

use std::collections::BTreeMap;

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
    KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES,
};
use kvm_ioctls::DeviceFd;

use super::attributes::{order, read, read_all, write};
use crate::fdt::Mpidr;
use crate::irq::GIC_INTERRUPTS;
use crate::kvm::gic::Gic;
use crate::kvm::{KvmError, doing};
use crate::state::{GicState, ProcessorState};

// Arm IHI 0069, §12.9 and §12.11: offsets into the frames.
const GICD_CTLR: u32 = 0x0000;
const GICD_IIDR: u32 = 0x0008;
const GICR_CTLR: u32 = 0x0000;
/// 64 bits, as two words: where the table of LPI priorities is, where that of pending LPIs.
const GICR_TABLES: [u32; 4] = [0x0070, 0x0074, 0x0078, 0x007c];
/// The second frame of a redistributor.
const SGI_BASE: u32 = 0x1_0000;

/// Banks of the distributor and of a redistributor's second frame: offset, and bits for each interrupt.
const GROUP: (u32, u32) = (0x0080, 1);
const ENABLE: (u32, u32) = (0x0100, 1);
const PENDING: (u32, u32) = (0x0200, 1);
const ACTIVE: (u32, u32) = (0x0300, 1);
const PRIORITY: (u32, u32) = (0x0400, 8);
const CONFIG: (u32, u32) = (0x0c00, 2);
const ROUTE: (u32, u32) = (0x6000, 64);

/// Line levels come 32 to the word; in the attribute the word's first interrupt stands in the low 10 bits.
const LINES: u32 = 32;

/// ICC_CTLR_EL1, and where it says how many bits a priority has.
const ICC_CTLR: u32 = interface(3, 0, 12, 12, 4);
const PRIORITY_BITS_SHIFT: u32 = 8;

/// The registers of a CPU interface: SRE first, because the others are not there without it.
const INTERFACE: [u32; 7] = [
    interface(3, 0, 12, 12, 5), // ICC_SRE_EL1
    ICC_CTLR,
    interface(3, 0, 12, 12, 6), // ICC_IGRPEN0_EL1
    interface(3, 0, 12, 12, 7), // ICC_IGRPEN1_EL1
    interface(3, 0, 4, 6, 0),   // ICC_PMR_EL1
    interface(3, 0, 12, 8, 3),  // ICC_BPR0_EL1
    interface(3, 0, 12, 12, 3), // ICC_BPR1_EL1
];

const fn interface(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// Offsets of a bank's words for the interrupts from `first` to `end`.
fn bank((offset, bits): (u32, u32), first: u32, end: u32) -> impl Iterator<Item = u32> {
    (offset + first * bits / 8..offset + end * bits / 8).step_by(4)
}

/// The distributor's registers in the order of setting. The first says by which rules the others are written, the second turns it on:
/// what becomes pending before is forwarded to nobody, not even later.
fn distributor() -> Vec<u32> {
    let banks = [GROUP, ROUTE, CONFIG, PRIORITY, ENABLE, PENDING, ACTIVE];
    let banks = banks.into_iter().flat_map(|of| bank(of, LINES, GIC_INTERRUPTS));
    [GICD_IIDR, GICD_CTLR].into_iter().chain(banks).collect()
}

/// A redistributor's registers in the order of setting: tables before the control register, which turns LPIs on.
fn redistributor() -> Vec<u32> {
    let banks = [GROUP, CONFIG, PRIORITY, ENABLE, PENDING, ACTIVE];
    let banks = banks.into_iter().flat_map(|of| bank(of, 0, LINES)).map(|offset| SGI_BASE + offset);
    GICR_TABLES.into_iter().chain(banks).chain([GICR_CTLR]).collect()
}

/// The registers of active priorities; their number depends on that of the bits of a priority.
fn active_priorities(control: u64) -> Vec<u32> {
    let bits = (control >> PRIORITY_BITS_SHIFT & 7) + 1;
    let count = match bits {
        0..=5 => 1,
        6 => 2,
        _ => 4,
    };
    (0..count).flat_map(|n| [interface(3, 0, 12, 8, 4 + n), interface(3, 0, 12, 9, n)]).collect()
}

/// The vCPU's name in the upper half of an attribute.
fn of_vcpu(vcpu: u8) -> u64 {
    u64::from(Mpidr::of_vcpu(vcpu).affinity()) << 32
}

impl Gic {
    /// Has the kernel write pending LPIs and the ITS's tables to guest memory: before the last look at that. All vCPUs
    /// stand still.
    ///
    /// # Errors
    /// Where the guest has placed the tables where no memory is, or a vCPU runs.
    pub fn save_tables(&self) -> Result<(), KvmError> {
        order(self.device(), KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES)
            .map_err(doing("save the GIC's tables of pending interrupts to guest memory"))?;
        self.save_its_tables()
    }

    /// Reads what the GIC remembers. All vCPUs stand still.
    ///
    /// # Errors
    /// Where a register cannot be read.
    pub fn save(&self, vcpus: u8) -> Result<GicState, KvmError> {
        let device = self.device();
        let processors = (0..vcpus).map(|vcpu| processor(device, vcpu)).collect::<Result<_, _>>()?;
        let distributor = read_all(device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, distributor());
        let lines = (LINES..GIC_INTERRUPTS).step_by(LINES as usize);
        let levels = lines.map(|first| read(device, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, u64::from(first)));
        Ok(GicState {
            distributor: distributor.map_err(doing("read the GIC's distributor"))?,
            levels: levels.collect::<Result<_, _>>().map_err(doing("read the GIC's lines"))?,
            processors,
        })
    }

    /// Sets what was saved, in a GIC that is fresh. Guest memory is there: pending LPIs are in it.
    ///
    /// # Errors
    /// Where the state is not that of such a GIC.
    pub fn restore(&self, state: &GicState) -> Result<(), KvmError> {
        let GicState { distributor: registers, levels, processors } = state;
        let device = self.device();
        let iidr = registers.get(&GICD_IIDR).copied().unwrap_or_default();
        write(device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, u64::from(GICD_IIDR), iidr)
            .map_err(doing("restore a GIC of this implementation"))?;
        // On before the redistributors have their lines back: KVM queues a line that rises while it is off for no vCPU
        // (vgic_target_oracle), and a timer whose line stands already is not looked at again, so its guest has no ticks.
        write(device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, u64::from(GICD_CTLR), value_of(registers, GICD_CTLR)?)
            .map_err(doing("restore the GIC's distributor"))?;
        for (vcpu, processor) in (0..).zip(processors) {
            restore_redistributor(device, vcpu, processor)?;
        }
        for offset in distributor() {
            let value = value_of(registers, offset)?;
            write(device, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, u64::from(offset), value)
                .map_err(doing("restore the GIC's distributor"))?;
        }
        for (first, level) in (LINES..GIC_INTERRUPTS).step_by(LINES as usize).zip(levels) {
            write(device, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, u64::from(first), *level)
                .map_err(doing("restore the GIC's lines"))?;
        }
        for (vcpu, processor) in (0..).zip(processors) {
            restore_interface(device, vcpu, processor)?;
        }
        Ok(())
    }
}

fn processor(device: &DeviceFd, vcpu: u8) -> Result<ProcessorState, KvmError> {
    let who = of_vcpu(vcpu);
    let group = KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS;
    let redistributor = read_all(device, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, who, redistributor());
    let interface = read::<u64>(device, group, who | u64::from(ICC_CTLR)).and_then(|control| {
        read_all(device, group, who, INTERFACE.into_iter().chain(active_priorities(control)))
    });
    let levels = read(device, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, who);
    Ok(ProcessorState {
        redistributor: redistributor.map_err(doing("read a GIC redistributor"))?,
        interface: interface.map_err(doing("read a GIC CPU interface"))?,
        levels: levels.map_err(doing("read the lines of a GIC redistributor"))?,
    })
}

fn restore_redistributor(device: &DeviceFd, vcpu: u8, state: &ProcessorState) -> Result<(), KvmError> {
    let ProcessorState { redistributor: registers, interface: _, levels } = state;
    let who = of_vcpu(vcpu);
    for offset in redistributor() {
        let value = value_of(registers, offset)?;
        write(device, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, who | u64::from(offset), value)
            .map_err(doing("restore a GIC redistributor"))?;
    }
    write(device, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, who, *levels)
        .map_err(doing("restore the lines of a GIC redistributor"))
}

fn restore_interface(device: &DeviceFd, vcpu: u8, state: &ProcessorState) -> Result<(), KvmError> {
    let who = of_vcpu(vcpu);
    let more = active_priorities(value_of(&state.interface, ICC_CTLR)?);
    for register in INTERFACE.into_iter().chain(more) {
        let value = value_of(&state.interface, register)?;
        write(device, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, who | u64::from(register), value)
            .map_err(doing("restore a GIC CPU interface"))?;
    }
    Ok(())
}

/// A register of a saved device.
pub(super) fn value_of<T: Copy>(registers: &BTreeMap<u32, T>, register: u32) -> Result<T, KvmError> {
    registers.get(&register).copied().ok_or(KvmError::State { what: "the interrupt controller", register })
}
