//! The ITS: registers, and tables that the kernel writes to and reads from guest memory.

use kvm_bindings::{
    KVM_DEV_ARM_ITS_RESTORE_TABLES, KVM_DEV_ARM_ITS_SAVE_TABLES, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_ITS_REGS,
};

use super::attributes::{order, read_all, write};
use super::gic::value_of;
use crate::kvm::gic::Gic;
use crate::kvm::{KvmError, doing};
use crate::state::ItsState;

const GITS_CTLR: u32 = 0x0000;
/// Before the tables, in the order of setting: IIDR (by which rules tables are laid out), CBASER (which clears CREADR),
/// CREADR, CWRITER, BASER 0 to 7.
const BEFORE_TABLES: [u32; 12] =
    [0x0004, 0x0080, 0x0090, 0x0088, 0x0100, 0x0108, 0x0110, 0x0118, 0x0120, 0x0128, 0x0130, 0x0138];

impl Gic {
    pub(super) fn save_its_tables(&self) -> Result<(), KvmError> {
        order(self.its(), KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_SAVE_TABLES)
            .map_err(doing("save the ITS's tables to guest memory"))
    }

    /// Reads what the ITS remembers beside its tables. All vCPUs stand still.
    ///
    /// # Errors
    /// Where a register cannot be read.
    pub fn save_its(&self) -> Result<ItsState, KvmError> {
        let all = BEFORE_TABLES.into_iter().chain([GITS_CTLR]);
        let registers = read_all(self.its(), KVM_DEV_ARM_VGIC_GRP_ITS_REGS, 0, all);
        Ok(ItsState { registers: registers.map_err(doing("read the ITS"))? })
    }

    /// Sets what was saved and has the kernel read the tables from guest memory, which is there; after
    /// [`Gic::restore`].
    ///
    /// # Errors
    /// Where the state is not that of such an ITS, or the tables are not.
    pub fn restore_its(&self, state: &ItsState) -> Result<(), KvmError> {
        let ItsState { registers } = state;
        let set = |offset: u32| {
            let value = value_of(registers, offset)?;
            write(self.its(), KVM_DEV_ARM_VGIC_GRP_ITS_REGS, u64::from(offset), value)
                .map_err(doing("restore the ITS"))
        };
        BEFORE_TABLES.into_iter().try_for_each(set)?;
        order(self.its(), KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_RESTORE_TABLES)
            .map_err(doing("restore the ITS's tables from guest memory"))?;
        set(GITS_CTLR)
    }
}
