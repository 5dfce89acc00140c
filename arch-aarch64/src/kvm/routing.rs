//! KVM's table from GSI to interrupt: which MSI an irqfd raises.
//!
//! The table is replaced as a whole (`KVM_SET_GSI_ROUTING`), which makes the kernel wait until nobody reads the old one.
//! Callers therefore install only what [`RoutingTable::set`] says has changed, and gather changes where they can.
//!
//! GSIs below [`crate::irq::SPIS`] are the wired interrupts, as KVM has them by default; those above are for MSI.

use std::collections::BTreeMap;
use std::io;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use thiserror::Error;

use crate::irq::{GPIO_SPI, ItsDeviceId, RTC_SPI, SPIS, UART_SPI};

/// KVM_MAX_IRQ_ROUTES of the kernel.
const MAX_GSI: u32 = 4096;

/// A GSI that can raise an MSI. Only the table makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsiGsi(u32);

impl MsiGsi {
    /// The number that `KVM_IRQFD` takes.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// The message that a GSI sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRoute {
    /// Where the guest told the function to write: the ITS's doorbell, if the guest is well.
    pub address: u64,
    /// What it told it to write.
    pub data: u32,
    /// Who writes.
    pub device: ItsDeviceId,
}

/// Why a route cannot be had.
#[derive(Debug, Error)]
pub enum RoutingError {
    /// All are taken.
    #[error("all {} interrupt routes of the VM are in use", MAX_GSI - SPIS)]
    Exhausted,
    /// KVM refused the table.
    #[error("cannot set the VM's interrupt routes")]
    Install(#[source] io::Error),
}

/// The routes of one VM.
#[derive(Debug, Default)]
pub struct RoutingTable {
    /// Claimed GSIs; `None` where nothing is routed.
    routes: BTreeMap<u32, Option<MsiRoute>>,
}

impl RoutingTable {
    /// A table with the wired interrupts of the platform and no MSI.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a free GSI; nothing is routed to it yet.
    ///
    /// # Errors
    /// Where none is free.
    pub fn claim(&mut self) -> Result<MsiGsi, RoutingError> {
        // The lowest free number. Tables are short, so the search is as well.
        let mut free = SPIS;
        for &taken in self.routes.keys() {
            if taken != free {
                break;
            }
            free += 1;
        }
        if free >= MAX_GSI {
            return Err(RoutingError::Exhausted);
        }
        self.routes.insert(free, None);
        Ok(MsiGsi(free))
    }

    /// Gives a GSI back. Says whether the table must be installed again.
    pub fn release(&mut self, gsi: MsiGsi) -> bool {
        self.routes.remove(&gsi.0).flatten().is_some()
    }

    /// Routes a GSI, or routes it nowhere. Says whether the table must be installed again.
    pub fn set(&mut self, gsi: MsiGsi, route: Option<MsiRoute>) -> bool {
        match self.routes.get_mut(&gsi.0) {
            Some(current) if *current != route => {
                *current = route;
                true
            }
            _ => false,
        }
    }

    /// Gives the table to KVM.
    ///
    /// # Errors
    /// Where KVM refuses it.
    pub fn install(&self, vm: &VmFd) -> Result<(), RoutingError> {
        let entries = self.entries();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|e| RoutingError::Install(io::Error::other(format!("{e:?}"))))?;
        vm.set_gsi_routing(&table).map_err(|e| RoutingError::Install(e.into()))
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let wired = [UART_SPI, RTC_SPI, GPIO_SPI].map(|spi| {
            let mut entry = kvm_irq_routing_entry {
                gsi: spi.gsi(),
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..Default::default()
            };
            entry.u.irqchip = kvm_irq_routing_irqchip { irqchip: 0, pin: spi.0 };
            entry
        });
        let messages = self.routes.iter().filter_map(|(&gsi, route)| {
            let route = (*route)?;
            let mut entry = kvm_irq_routing_entry {
                gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                // KVM finds the ITS by the address and the function by this id.
                flags: KVM_MSI_VALID_DEVID,
                ..Default::default()
            };
            let mut msi = kvm_irq_routing_msi {
                address_lo: route.address as u32,
                address_hi: (route.address >> 32) as u32,
                data: route.data,
                ..Default::default()
            };
            msi.__bindgen_anon_1.devid = route.device.raw();
            entry.u.msi = msi;
            Some(entry)
        });
        wired.into_iter().chain(messages).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(data: u32) -> Option<MsiRoute> {
        let device = ItsDeviceId::of(1, 8).expect("a function");
        Some(MsiRoute { address: 0x1_0809_0040, data, device })
    }

    #[test]
    fn claimed_numbers_are_the_lowest_free_ones() {
        let mut table = RoutingTable::new();
        let claimed = [(); 3].map(|()| table.claim().expect("free"));
        assert_eq!(claimed.map(MsiGsi::raw), [SPIS, SPIS + 1, SPIS + 2]);
        table.release(claimed[1]);
        assert_eq!(table.claim().expect("free"), claimed[1]);
    }

    #[test]
    fn more_routes_than_kvm_has_are_refused() {
        let mut table = RoutingTable::new();
        for _ in SPIS..MAX_GSI {
            table.claim().expect("free");
        }
        assert!(matches!(table.claim(), Err(RoutingError::Exhausted)));
    }

    #[test]
    fn only_changes_ask_for_a_new_table() {
        let mut table = RoutingTable::new();
        let gsi = table.claim().expect("free");
        assert!(!table.set(gsi, None));
        assert!(table.set(gsi, route(1)));
        assert!(!table.set(gsi, route(1)));
        assert!(table.set(gsi, route(2)));
        assert!(table.release(gsi));
        assert!(!table.set(gsi, route(1)));
    }

    #[test]
    fn an_msi_entry_names_the_function() {
        let mut table = RoutingTable::new();
        let gsi = table.claim().expect("free");
        table.set(gsi, route(7));
        let entries = table.entries();
        let entry = entries.last().expect("an entry");
        assert_eq!((entries.len(), entry.gsi, entry.flags), (4, gsi.raw(), KVM_MSI_VALID_DEVID));
        // SAFETY: the entry is of the MSI kind; all members of the union are plain numbers.
        let (msi, devid) = unsafe { (entry.u.msi, entry.u.msi.__bindgen_anon_1.devid) };
        assert_eq!((msi.address_lo, msi.address_hi, msi.data, devid), (0x0809_0040, 1, 7, 0x1008));
    }
}
