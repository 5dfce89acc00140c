//! The GPIO itself.

use std::sync::Arc;

use tracing::warn;
use vm_device::MutDeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

use super::spec::{
    GPIOAFSEL, GPIODATA_END, GPIODIR, GPIOIBE, GPIOIC, GPIOIE, GPIOIEV, GPIOIS, GPIOMIS, GPIORIS,
    PERIPHERAL_ID, POWER_BUTTON,
};
use super::state::Pl061State;
use crate::amba;
use crate::platform::IrqLine;

/// A PL061 with one thing on its pins: the power button.
pub struct Pl061 {
    state: Pl061State,
    line: Arc<dyn IrqLine>,
    asserted: bool,
}

impl Pl061 {
    /// A GPIO as after reset, with the button up.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        Self { state: Pl061State::default(), line, asserted: false }
    }

    /// Presses the power button; it goes up again once the guest has seen it down.
    pub fn press(&mut self) {
        // A button that nobody has looked at is let go first: each press is an edge.
        self.set_inputs(self.state.inputs & !POWER_BUTTON);
        self.set_inputs(self.state.inputs | POWER_BUTTON);
    }

    /// What it remembers.
    pub fn save(&self) -> Pl061State {
        self.state.clone()
    }

    /// Puts back what was saved, and drives the line accordingly.
    pub fn restore(&mut self, state: Pl061State) {
        self.state = state;
        self.update_line();
    }

    /// Puts it into the state after reset.
    pub fn reset(&mut self) {
        self.restore(Pl061State::default());
    }

    fn set_inputs(&mut self, inputs: u8) {
        let state = &mut self.state;
        let changed = state.inputs ^ inputs;
        let wanted = state.both_edges | !(state.event ^ inputs);
        state.edges |= changed & wanted & !state.sense & !state.direction;
        state.inputs = inputs;
        self.update_line();
    }

    fn pins(&self) -> u8 {
        self.state.outputs & self.state.direction | self.state.inputs & !self.state.direction
    }

    fn raw_interrupts(&self) -> u8 {
        let levels = !(self.state.inputs ^ self.state.event) & self.state.sense & !self.state.direction;
        self.state.edges | levels
    }

    fn read_register(&mut self, register: u64) -> u32 {
        let state = &self.state;
        let value = match register {
            0..GPIODATA_END => return u32::from(self.read_data((register >> 2) as u8)),
            GPIODIR => state.direction,
            GPIOIS => state.sense,
            GPIOIBE => state.both_edges,
            GPIOIEV => state.event,
            GPIOIE => state.mask,
            GPIORIS => self.raw_interrupts(),
            GPIOMIS => self.raw_interrupts() & state.mask,
            GPIOAFSEL => state.mode,
            _ => return amba::id_register(PERIPHERAL_ID, register).unwrap_or(0),
        };
        u32::from(value)
    }

    fn read_data(&mut self, pins: u8) -> u8 {
        let value = self.pins() & pins;
        if value & POWER_BUTTON & self.state.inputs != 0 {
            self.set_inputs(self.state.inputs & !POWER_BUTTON);
        }
        value
    }

    fn write_register(&mut self, register: u64, value: u8) {
        let state = &mut self.state;
        match register {
            0..GPIODATA_END => {
                let pins = (register >> 2) as u8 & state.direction;
                state.outputs = state.outputs & !pins | value & pins;
            }
            GPIODIR => state.direction = value,
            GPIOIS => state.sense = value,
            GPIOIBE => state.both_edges = value,
            GPIOIEV => state.event = value,
            GPIOIE => state.mask = value,
            GPIOIC => state.edges &= !value,
            GPIOAFSEL => state.mode = value,
            _ => return,
        }
        self.update_line();
    }

    fn update_line(&mut self) {
        let asserted = self.raw_interrupts() & self.state.mask != 0;
        if asserted == self.asserted {
            return;
        }
        match self.line.set(asserted) {
            Ok(()) => self.asserted = asserted,
            Err(error) => warn!(%error, "the GPIO's interrupt line could not be driven"),
        }
    }
}

impl MutDeviceMmio for Pl061 {
    fn mmio_read(&mut self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        amba::read(offset, data, |register| self.read_register(register));
    }

    fn mmio_write(&mut self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        if let Some(value) = amba::written(offset, data) {
            // Eight pins, eight bits.
            self.write_register(offset, value as u8);
        }
    }
}
