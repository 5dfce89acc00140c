//! One vCPU: registers, power, pending exceptions.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED, KVM_MP_STATE_SUSPENDED, RegList, kvm_mp_state,
    kvm_vcpu_events,
};

use crate::kvm::vcpu::Vcpu;
use crate::kvm::{KvmError, doing};
use crate::state::{Events, Power, RegisterId, Registers, VcpuState};

/// More than any vCPU has; the most that the bindings' list holds.
const MOST_REGISTERS: usize = 500;

/// What a vCPU is made with when it is made for a saved one.
#[derive(Clone, Copy)]
pub(in crate::kvm) struct Restoring<'a> {
    /// The saved vCPU's vector lengths, if it has any.
    pub vector_lengths: Option<&'a [u8]>,
}

impl Vcpu {
    /// The registers that it has.
    fn register_ids(&self) -> Result<Vec<RegisterId>, KvmError> {
        let mut list = RegList::new(MOST_REGISTERS).map_err(|_| KvmError::Missing("list of registers"))?;
        self.fd().get_reg_list(&mut list).map_err(doing("list a vCPU's registers"))?;
        Ok(list.as_slice().iter().copied().map(RegisterId).collect())
    }

    /// Reads all of it. It stands still: no thread is in [`Vcpu::run`].
    ///
    /// # Errors
    /// Where a register cannot be read.
    pub fn save(&self) -> Result<VcpuState, KvmError> {
        let mut registers = Registers::default();
        for id in self.register_ids()? {
            let Some(bytes) = id.bytes() else { return Err(KvmError::Missing("register of a known width")) };
            let mut value = vec![0; bytes];
            self.fd().get_one_reg(id.0, &mut value).map_err(doing("read a vCPU's register"))?;
            registers.insert(id, value);
        }
        let power = match self.fd().get_mp_state().map_err(doing("read a vCPU's power state"))?.mp_state {
            KVM_MP_STATE_STOPPED => Power::Off,
            KVM_MP_STATE_SUSPENDED => Power::Suspended,
            _ => Power::On,
        };
        let events =
            self.fd().get_vcpu_events().map_err(doing("read a vCPU's pending exceptions"))?.exception;
        let events = Events {
            serror: events.serror_pending != 0,
            serror_syndrome: (events.serror_has_esr != 0).then_some(events.serror_esr),
        };
        Ok(VcpuState { registers, power, events })
    }

    /// Sets all registers, in a vCPU that never ran, but for the counters: those are the VM's
    /// ([`Vm::restore_counter`](crate::kvm::Vm::restore_counter), before this).
    ///
    /// # Errors
    /// Where they are not those of a vCPU of this host.
    pub fn restore(&self, state: &VcpuState) -> Result<(), KvmError> {
        let here = self.register_ids()?;
        state.registers.check(&here).map_err(|source| KvmError::Registers { vcpu: self.index(), source })?;
        let lengths = RegisterId::VECTOR_LENGTHS;
        if let Some(saved) = state.registers.get(lengths) {
            let mut mine = vec![0; saved.len()];
            self.fd().get_one_reg(lengths.0, &mut mine).map_err(doing("read a vCPU's vector lengths"))?;
            if mine != saved {
                return Err(KvmError::VectorLengths);
            }
        }
        for (id, value) in state.registers.in_order() {
            self.fd().set_one_reg(id.0, value).map_err(|source| KvmError::Register {
                vcpu: self.index(),
                id: id.0,
                source: source.into(),
            })?;
        }
        Ok(())
    }

    /// The last of it: power and pending exceptions.
    ///
    /// # Errors
    /// Where KVM refuses.
    pub fn restore_power(&self, state: &VcpuState) -> Result<(), KvmError> {
        let VcpuState { registers: _, power, events } = state;
        let mp_state = match power {
            Power::On => KVM_MP_STATE_RUNNABLE,
            Power::Off => KVM_MP_STATE_STOPPED,
            Power::Suspended => KVM_MP_STATE_SUSPENDED,
        };
        self.fd().set_mp_state(kvm_mp_state { mp_state }).map_err(doing("restore a vCPU's power state"))?;
        let Events { serror, serror_syndrome } = *events;
        let mut pending = kvm_vcpu_events::default();
        pending.exception.serror_pending = serror.into();
        pending.exception.serror_has_esr = (serror && serror_syndrome.is_some()).into();
        pending.exception.serror_esr = serror_syndrome.filter(|_| serror).unwrap_or_default();
        self.fd().set_vcpu_events(&pending).map_err(doing("restore a vCPU's pending exceptions"))
    }
}
