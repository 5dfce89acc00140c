//! The UART itself.

use std::io::{self, Write};
use std::sync::Arc;

use tracing::warn;
use vm_device::MutDeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::spec::{
    CR_RXE, CR_UARTEN, FIFO_DEPTH, FR_MODEM, FR_RXFE, FR_RXFF, FR_TXFE, INT_ALL, INT_RT, INT_RX, INT_TX,
    LCR_FEN, PERIPHERAL_ID, UARTCR, UARTDMACR, UARTDR, UARTFBRD, UARTFR, UARTIBRD, UARTICR, UARTIFLS,
    UARTILPR, UARTIMSC, UARTLCR_H, UARTMIS, UARTRIS, UARTRSR,
};
use super::state::{Pl011State, RestoreError};
use crate::amba;
use crate::platform::IrqLine;

/// A PL011.
///
/// The receive interrupts are levels: they stand as long as their cause does, so that no byte is ever forgotten in
/// the FIFO. Input is only taken while the guest listens by interrupt; Linux throws away what comes earlier.
pub struct Pl011 {
    state: Pl011State,
    line: Arc<dyn IrqLine>,
    asserted: bool,
    sink: Box<dyn Write + Send>,
    rx_event: EventFd,
    starved: bool,
}

impl Pl011 {
    /// A UART as after reset, which sends what the guest writes to `sink`.
    ///
    /// `sink` is written to by vCPU threads, a byte at a time, and must not block; its errors are not the guest's
    /// business.
    pub fn new(line: Arc<dyn IrqLine>, sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let rx_event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let state = Pl011State::default();
        Ok(Self { state, line, asserted: false, sink, rx_event, starved: true })
    }

    /// How many bytes [`Pl011::receive`] would take now.
    pub fn rx_space(&self) -> usize {
        let listening = self.state.control & (CR_UARTEN | CR_RXE) == CR_UARTEN | CR_RXE
            && self.state.mask & (INT_RX | INT_RT) != 0;
        if listening { self.depth().saturating_sub(self.state.received.len()) } else { 0 }
    }

    /// Readable when there is space again after there was none (or not enough); read it before trying again.
    pub fn rx_event(&self) -> &EventFd {
        &self.rx_event
    }

    /// Takes input, as much as there is space for, and returns how much that was.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.rx_space());
        self.state.received.extend_from_slice(&bytes[..taken]);
        self.starved = taken < bytes.len() || self.rx_space() == 0;
        self.update_line();
        taken
    }

    /// What it remembers.
    pub fn save(&self) -> Pl011State {
        self.state.clone()
    }

    /// Puts back what was saved, and drives the line accordingly.
    pub fn restore(&mut self, state: Pl011State) -> Result<(), RestoreError> {
        self.state = state.check()?;
        self.starved = true;
        self.changed();
        Ok(())
    }

    /// Puts it into the state after reset; what was received and not read is gone.
    pub fn reset(&mut self) {
        self.state = Pl011State::default();
        self.starved = true;
        self.changed();
    }

    fn depth(&self) -> usize {
        if self.state.line_control & LCR_FEN != 0 { FIFO_DEPTH } else { 1 }
    }

    /// The fill at which INT_RX is raised (UARTIFLS, §3.3.9).
    fn rx_level(&self) -> usize {
        if self.state.line_control & LCR_FEN == 0 {
            return 1;
        }
        match self.state.levels >> 3 & 7 {
            0 => FIFO_DEPTH / 8,
            1 => FIFO_DEPTH / 4,
            2 => FIFO_DEPTH / 2,
            3 => FIFO_DEPTH * 3 / 4,
            _ => FIFO_DEPTH * 7 / 8,
        }
    }

    fn raw_interrupts(&self) -> u32 {
        let fill = self.state.received.len();
        let mut raw = if self.state.transmitted { INT_TX } else { 0 };
        if fill >= self.rx_level() {
            raw |= INT_RX;
        } else if fill > 0 {
            // The 32 bit times of silence that the timeout waits for have always passed.
            raw |= INT_RT;
        }
        raw
    }

    fn flags(&self) -> u32 {
        let fill = self.state.received.len();
        let empty = if fill == 0 { FR_RXFE } else { 0 };
        let full = if fill >= self.depth() { FR_RXFF } else { 0 };
        FR_MODEM | FR_TXFE | empty | full
    }

    fn read_register(&mut self, register: u64) -> u32 {
        match register {
            UARTDR => self.take_received(),
            UARTFR => self.flags(),
            UARTILPR => self.state.irda,
            UARTIBRD => self.state.baud_integer,
            UARTFBRD => self.state.baud_fraction,
            UARTLCR_H => self.state.line_control,
            UARTCR => self.state.control,
            UARTIFLS => self.state.levels,
            UARTIMSC => self.state.mask,
            UARTRIS => self.raw_interrupts(),
            UARTMIS => self.raw_interrupts() & self.state.mask,
            UARTDMACR => self.state.dma,
            // UARTRSR too: nothing goes wrong on this line.
            _ => amba::id_register(PERIPHERAL_ID, register).unwrap_or(0),
        }
    }

    fn write_register(&mut self, register: u64, value: u32) {
        match register {
            UARTDR => self.transmit(value as u8),
            UARTILPR => self.state.irda = value & 0xff,
            UARTIBRD => self.state.baud_integer = value & 0xffff,
            UARTFBRD => self.state.baud_fraction = value & 0x3f,
            UARTLCR_H => self.set_line_control(value & 0xff),
            UARTCR => self.state.control = value & 0xff87,
            UARTIFLS => self.state.levels = value & 0x3f,
            UARTIMSC => self.state.mask = value & INT_ALL,
            UARTICR => self.state.transmitted &= value & INT_TX == 0,
            UARTDMACR => self.state.dma = value & 7,
            UARTRSR => {}
            _ => return,
        }
        self.changed();
    }

    fn transmit(&mut self, byte: u8) {
        // Whoever listens may be gone or slow; the UART goes on.
        let _ = self.sink.write(&[byte]);
        self.state.transmitted = true;
    }

    fn set_line_control(&mut self, value: u32) {
        if (self.state.line_control ^ value) & LCR_FEN != 0 {
            // Switching the FIFOs flushes them (§3.3.7).
            self.state.received.clear();
        }
        self.state.line_control = value;
    }

    fn take_received(&mut self) -> u32 {
        if self.state.received.is_empty() {
            return 0;
        }
        let byte = self.state.received.remove(0);
        self.changed();
        u32::from(byte)
    }

    /// Brings line and event up to date with the registers.
    fn changed(&mut self) {
        self.update_line();
        let space = self.rx_space();
        if space == 0 {
            // Full, or the guest has stopped listening: whoever looks now will wait for the event.
            self.starved = true;
        } else if self.starved && space >= self.depth().div_ceil(2) {
            // Not for every byte read: half a FIFO is worth waking somebody for.
            self.starved = false;
            // The only error is a full counter, and then it is readable already.
            let _ = self.rx_event.write(1);
        }
    }

    fn update_line(&mut self) {
        let asserted = self.raw_interrupts() & self.state.mask != 0;
        if asserted == self.asserted {
            return;
        }
        match self.line.set(asserted) {
            Ok(()) => self.asserted = asserted,
            Err(error) => warn!(%error, "the UART's interrupt line could not be driven"),
        }
    }
}

impl MutDeviceMmio for Pl011 {
    fn mmio_read(&mut self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        amba::read(offset, data, |register| self.read_register(register));
    }

    fn mmio_write(&mut self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        if let Some(value) = amba::written(offset, data) {
            self.write_register(offset, value);
        }
    }
}
