//! Registers of the PL011, Arm DDI 0183G; the section after each is that document's.

/// Data register (§3.3.1).
pub(super) const UARTDR: u64 = 0x00;
/// Receive status, error clear (§3.3.2).
pub(super) const UARTRSR: u64 = 0x04;
/// Flags (§3.3.3).
pub(super) const UARTFR: u64 = 0x18;
/// IrDA counter (§3.3.4).
pub(super) const UARTILPR: u64 = 0x20;
/// Integer baud rate (§3.3.5).
pub(super) const UARTIBRD: u64 = 0x24;
/// Fractional baud rate (§3.3.6).
pub(super) const UARTFBRD: u64 = 0x28;
/// Line control (§3.3.7).
pub(super) const UARTLCR_H: u64 = 0x2c;
/// Control (§3.3.8).
pub(super) const UARTCR: u64 = 0x30;
/// Interrupt FIFO levels (§3.3.9).
pub(super) const UARTIFLS: u64 = 0x34;
/// Interrupt mask: a set bit lets the interrupt through (§3.3.10).
pub(super) const UARTIMSC: u64 = 0x38;
/// Raw interrupts (§3.3.11).
pub(super) const UARTRIS: u64 = 0x3c;
/// Interrupts that the mask lets through (§3.3.12).
pub(super) const UARTMIS: u64 = 0x40;
/// Interrupt clear (§3.3.13).
pub(super) const UARTICR: u64 = 0x44;
/// DMA control (§3.3.14).
pub(super) const UARTDMACR: u64 = 0x48;

/// Flags: clear to send, data set ready, carrier: somebody is always there.
pub(super) const FR_MODEM: u32 = 0b111;
/// Flags: the receive FIFO is empty.
pub(super) const FR_RXFE: u32 = 1 << 4;
/// Flags: the receive FIFO is full.
pub(super) const FR_RXFF: u32 = 1 << 6;
/// Flags: the transmit FIFO is empty.
pub(super) const FR_TXFE: u32 = 1 << 7;

/// Line control: the FIFOs are on.
pub(super) const LCR_FEN: u32 = 1 << 4;
/// Control: the UART is on.
pub(super) const CR_UARTEN: u32 = 1 << 0;
/// Control: the receiver is on.
pub(super) const CR_RXE: u32 = 1 << 9;
/// Control after reset: transmitter and receiver on, UART off.
pub(super) const CR_RESET: u32 = 0x300;
/// Interrupt levels after reset: half full, both ways.
pub(super) const IFLS_RESET: u32 = 0x12;

/// Interrupt: the receive FIFO has reached its level.
pub(super) const INT_RX: u32 = 1 << 4;
/// Interrupt: the transmit FIFO has fallen to its level.
pub(super) const INT_TX: u32 = 1 << 5;
/// Interrupt: there is something in the receive FIFO, and nothing more has come.
pub(super) const INT_RT: u32 = 1 << 6;
/// All interrupts that there are.
pub(super) const INT_ALL: u32 = 0x7ff;

/// UARTPeriphID0 to 3 (§3.3.15): part 0x011 of Arm, revision r1p5, which has FIFOs of 32 bytes.
pub(super) const PERIPHERAL_ID: [u8; 4] = [0x11, 0x10, 0x34, 0x00];
/// Bytes of the receive FIFO.
pub(super) const FIFO_DEPTH: usize = 32;
