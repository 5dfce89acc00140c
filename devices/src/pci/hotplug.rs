//! Root ports of a segment, and what is behind them.
//!
//! ```text
//!  bus 00: 00.0 host bridge │ 01.0 … devices that were there at boot │ 1e.0-7, 1f.0-7 root ports
//!                                                                      └─ bus 01, 02, …: one device each, 00.0
//! ```
//! A guest gives the buses numbers as it likes. Functions behind a port are therefore kept under the port's *home* bus, and
//! an access to bus *n* goes to the port whose secondary bus is *n* at that moment. Their BARs are decoded where the port
//! forwards the address.

use std::sync::{Arc, Mutex};

use super::address::Bdf;
use super::function::SharedFunction;
use super::port::{Forwarding, Release, RootPort};
use super::segment::{InsertError, Occupant, PciSegment};
use crate::sync::{lock, read, write};

/// A root port as its segment knows it.
pub(super) struct Port {
    pub home: u8,
    pub port: Arc<Mutex<RootPort>>,
    /// As of the guest's last store to the port.
    pub forwarding: Forwarding,
}

/// Where a root port sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPlace {
    /// On the root bus.
    pub bdf: Bdf,
    /// The number of the bus behind it.
    pub home: u8,
    /// Whether other ports share its device number.
    pub shared: bool,
}

/// Where `count` root ports sit (at most 15: a segment has 16 buses).
///
/// Eight of them share one device number, and they take the highest: the low ones are for devices that are there at boot,
/// which clients expect from 01 on. Buses are numbered in the order in which Linux comes upon the ports, so that its
/// numbers are ours.
pub fn port_places(count: u8) -> Vec<PortPlace> {
    let count = count.min(15);
    let devices = count.div_ceil(8);
    let place = |index: u8| {
        let bdf = Bdf::new(0, 32 - devices + index / 8, index % 8)?;
        Some(PortPlace { bdf, home: index + 1, shared: count - index / 8 * 8 > 1 })
    };
    (0..count).filter_map(place).collect()
}

impl PciSegment {
    /// Adds a root port with an empty slot.
    pub fn add_port(&self, bdf: Bdf, port: RootPort) -> Result<(), InsertError> {
        let (home, forwarding) = (port.home(), port.forwarding());
        let port = Arc::new(Mutex::new(port));
        self.place(bdf, Occupant { function: port.clone(), assigned: Vec::new() })?;
        write(&self.ports).insert(bdf, Port { home, port, forwarding });
        Ok(())
    }

    /// The home bus of a port with an empty slot.
    pub fn free_port(&self) -> Result<u8, InsertError> {
        let functions = read(&self.functions);
        let ports = read(&self.ports);
        let empty = |port: &&Port| !behind(port.home).is_some_and(|bdf| functions.contains_key(&bdf));
        ports
            .values()
            .find(empty)
            .map(|port| port.home)
            .ok_or(InsertError::NoFreePort { segment: self.layout().number, ports: ports.len() })
    }

    /// The number by which the guest knows the bus whose home number is `home`.
    pub fn bus_of(&self, home: u8) -> Option<u8> {
        self.port(home).map(|port| lock(&port).bus())
    }

    /// Puts `function` behind the port `home` and lets the guest know. Its BARs have no addresses yet: these are the
    /// guest's to give, within what the port forwards.
    pub fn plug(&self, home: u8, function: SharedFunction) -> Result<(), InsertError> {
        let no_port = InsertError::NoSuchPort(home);
        let (Some(bdf), Some(port)) = (behind(home), self.port(home)) else { return Err(no_port) };
        self.place(bdf, Occupant { function, assigned: Vec::new() })?;
        lock(&port).plug();
        Ok(())
    }

    /// Asks the guest to let go of what is behind the port `home`.
    pub fn release(&self, home: u8) -> Release {
        self.port(home).map_or(Release::Done, |port| lock(&port).release(std::time::Instant::now()))
    }

    /// Takes what is behind the port `home` out, and lets the guest know.
    pub fn unplug(&self, home: u8) -> Option<SharedFunction> {
        // First the link, then the device: as it would be if somebody pulled it.
        let port = self.port(home)?;
        lock(&port).unplug();
        self.remove(behind(home)?)
    }

    fn port(&self, home: u8) -> Option<Arc<Mutex<RootPort>>> {
        read(&self.ports).values().find(|port| port.home == home).map(|port| port.port.clone())
    }

    /// Under which name the function is kept that the guest knows as `bdf`.
    pub(super) fn home_of(&self, bdf: Bdf) -> Option<Bdf> {
        if bdf.bus() == 0 {
            return Some(bdf);
        }
        let ports = read(&self.ports);
        let leads = |port: &&Port| port.forwarding.secondary == bdf.bus() && !port.forwarding.in_reset;
        let port = ports.values().find(leads)?;
        Bdf::new(port.home, bdf.device(), bdf.function())
    }

    /// What the port in front of the function kept under `home` lets through; `None` on the root bus.
    pub(super) fn in_front_of(&self, home: Bdf) -> Option<Forwarding> {
        let ports = read(&self.ports);
        ports.values().find(|port| port.home == home.bus()).map(|port| port.forwarding.clone())
    }

    /// Takes note of what the port at `bdf`, whose lock the caller holds, now lets through. Returns the place behind it
    /// if that concerns what is there, and whether that is reset.
    pub(super) fn forward(&self, bdf: Bdf, now: Forwarding) -> Option<(Bdf, bool)> {
        let mut ports = write(&self.ports);
        let port = ports.get_mut(&bdf)?;
        if port.forwarding == now {
            return None;
        }
        let reset = now.in_reset && !port.forwarding.in_reset;
        port.forwarding = now;
        Some((behind(port.home)?, reset))
    }

    /// Brings what is kept at `home` up to date with a port that has changed.
    pub(super) fn follow(&self, home: Bdf, reset: bool) {
        let function = read(&self.functions).get(&home).map(|occupant| Arc::clone(&occupant.function));
        let Some(shared) = function else { return };
        let mut function = lock(&shared);
        if reset {
            function.reset();
        }
        self.route(home, &shared, &mut *function);
    }
}

/// The one place behind a port.
fn behind(home: u8) -> Option<Bdf> {
    Bdf::new(home, 0, 0)
}

#[cfg(test)]
#[path = "hotplug_tests.rs"]
mod tests;
