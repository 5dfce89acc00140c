//! Registers of the PL061, Arm DDI 0190B, §3.3.

/// Data: 256 words, of which address bits 9:2 mask the pins (§3.3.1).
pub(super) const GPIODATA_END: u64 = 0x400;
/// Direction: a set bit is an output (§3.3.2).
pub(super) const GPIODIR: u64 = 0x400;
/// Interrupt sense: a set bit is a level (§3.3.3).
pub(super) const GPIOIS: u64 = 0x404;
/// Interrupt on both edges (§3.3.4).
pub(super) const GPIOIBE: u64 = 0x408;
/// Interrupt event: rising edge or high level (§3.3.5).
pub(super) const GPIOIEV: u64 = 0x40c;
/// Interrupt mask: a set bit lets the interrupt through (§3.3.6).
pub(super) const GPIOIE: u64 = 0x410;
/// Raw interrupts (§3.3.7).
pub(super) const GPIORIS: u64 = 0x414;
/// Interrupts that the mask lets through (§3.3.8).
pub(super) const GPIOMIS: u64 = 0x418;
/// Interrupt clear (§3.3.9).
pub(super) const GPIOIC: u64 = 0x41c;
/// Mode control (§3.3.10).
pub(super) const GPIOAFSEL: u64 = 0x420;

/// GPIOPeriphID0 to 3 (§3.3.11): part 0x061 of Arm.
pub(super) const PERIPHERAL_ID: [u8; 4] = [0x61, 0x10, 0x04, 0x00];

/// The pin of the power button, as a mask; the device tree's `gpio-keys` says pin 3.
pub(super) const POWER_BUTTON: u8 = 1 << 3;
