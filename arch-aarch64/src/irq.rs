//! What each interrupt is called: by the device tree, by KVM and by the GIC.
//!
//! A shared peripheral interrupt (SPI) *n* is interrupt *32 + n* of the GIC. The device tree counts from the SPI,
//! KVM's routing table too, `KVM_IRQ_LINE` from the GIC. [`Spi`] is the only place that converts.
//!
//! A PCI function signals the ITS with a device id. KVM's ITS takes 16 bits of it, and our segments have 16 buses:
//! four bits of segment and twelve of requester id fill them exactly.

use serde::{Deserialize, Serialize};

use crate::layout::{MAX_PCI_SEGMENTS, PCI_BUSES_PER_SEGMENT};

/// The first interrupt of the GIC that is shared (below are those private to a CPU).
const FIRST_SHARED: u32 = 32;
/// Interrupts of the GIC (`KVM_DEV_ARM_VGIC_GRP_NR_IRQS`): 32 private and 96 shared ones.
pub const GIC_INTERRUPTS: u32 = 128;
/// Shared peripheral interrupts, [`Spi`] 0 to 95.
pub const SPIS: u32 = GIC_INTERRUPTS - FIRST_SHARED;

/// The serial port's interrupt.
pub const UART_SPI: Spi = Spi(1);
/// The clock's interrupt.
pub const RTC_SPI: Spi = Spi(2);
/// The GPIO controller's interrupt.
pub const GPIO_SPI: Spi = Spi(7);

/// A shared peripheral interrupt, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spi(pub u32);

impl Spi {
    /// The number in the GIC.
    #[must_use]
    pub const fn intid(self) -> u32 {
        self.0 + FIRST_SHARED
    }

    /// The `irq` field of `KVM_IRQ_LINE`: type (1 = SPI) in bits 24 to 27, GIC number below.
    #[must_use]
    pub const fn kvm_line(self) -> u32 {
        1 << 24 | self.intid()
    }

    /// The GSI to which an irqfd of this interrupt is attached.
    #[must_use]
    pub const fn gsi(self) -> u32 {
        self.0
    }
}

/// A private peripheral interrupt (one per CPU), counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ppi(pub u32);

impl Ppi {
    /// The number in the GIC.
    #[must_use]
    pub const fn intid(self) -> u32 {
        self.0 + 16
    }
}

/// The PMU's overflow interrupt.
pub const PMU_PPI: Ppi = Ppi(7);
/// The secure physical timer, the physical timer, the virtual timer and the hypervisor's timer.
pub const TIMER_PPIS: [Ppi; 4] = [Ppi(13), Ppi(14), Ppi(11), Ppi(10)];

/// The requester ids of one segment: 16 buses of 256 functions.
pub const REQUESTER_IDS_PER_SEGMENT: u32 = PCI_BUSES_PER_SEGMENT as u32 * 256;
const _: () =
    assert!(REQUESTER_IDS_PER_SEGMENT * MAX_PCI_SEGMENTS as u32 <= 1 << 16, "KVM's ITS takes 16 bits");

/// The id by which the ITS knows one PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItsDeviceId(u32);

impl ItsDeviceId {
    /// The id of the function with this requester id (bus, device and function in 16 bits) on this segment;
    /// nothing where the bus is not one of the segment's 16 or the segment not one of the VM's 16.
    #[must_use]
    pub const fn of(segment: u16, requester_id: u16) -> Option<Self> {
        if segment >= MAX_PCI_SEGMENTS || requester_id as u32 >= REQUESTER_IDS_PER_SEGMENT {
            return None;
        }
        Some(Self(Self::first_of(segment) + requester_id as u32))
    }

    /// The number as the ITS sees it.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The id of the segment's function 00:00.0, from which its others count.
    pub(crate) const fn first_of(segment: u16) -> u32 {
        segment as u32 * REQUESTER_IDS_PER_SEGMENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_port_is_interrupt_33() {
        assert_eq!(UART_SPI.intid(), 33);
        assert_eq!(UART_SPI.kvm_line(), 0x0100_0021);
        assert_eq!(UART_SPI.gsi(), 1);
        assert_eq!(PMU_PPI.intid(), 23);
    }

    #[test]
    fn device_ids_of_all_functions_differ_and_fit_sixteen_bits() {
        assert_eq!(ItsDeviceId::of(0, 0).map(ItsDeviceId::raw), Some(0));
        assert_eq!(ItsDeviceId::of(1, 0x0008).map(ItsDeviceId::raw), Some(0x1008));
        assert_eq!(ItsDeviceId::of(15, 0x0fff).map(ItsDeviceId::raw), Some(0xffff));
        assert_eq!(ItsDeviceId::of(0, 0x1000), None);
        assert_eq!(ItsDeviceId::of(16, 0), None);
    }
}
