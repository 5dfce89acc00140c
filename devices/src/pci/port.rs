//! A PCI Express root port with a hotplug slot: how a guest that knows no ACPI sees devices come and go.
//!
//! ```text
//!  plug      PRESENT, LINK_ACTIVE, "link changed" ─► message ─► the guest scans the bus behind the port, binds drivers
//!  release   "button pressed" ─► message ─► indicator blinks 5 s ─► drivers unbound ─► indicator off ─► on_release
//!  unplug    PRESENT and LINK_ACTIVE gone, "link changed" ─► message
//! ```
//! What the slot has, and why (Linux, drivers/pci/hotplug/pciehp*.c, is who reads it):
//! - *Link reporting*: a link that comes up is acted on at once, where a button alone would make the guest wait 5 s.
//! - *Attention button*: the only way to ask for a removal in which drivers still can flush what they hold. Going without
//!   asking (a link that goes down) breaks the device under its driver.
//! - *Power indicator*: switched off as the last thing of a removal: the sign that the guest has let go.
//! - *No power controller*: it would add a second to each removal and nothing else.
//! - *No "command completed"*: our registers take effect at once, so the guest need not wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::{AddressRange, BarIndex};
use super::config::{ConfigSpace, Identity};
use super::function::{DecodedBar, PciFunction};
use super::msi::Msi;
use super::spec::{
    BRIDGE_BUS_RESET, BRIDGE_CONTROL, CAPABILITY_EXPRESS, COMMAND, COMMAND_MEMORY, HEADER_BRIDGE,
    HEADER_MULTIFUNCTION, HEADER_TYPE, MEMORY_WINDOW, PREFETCHABLE_64, PREFETCHABLE_BASE_HIGH,
    PREFETCHABLE_WINDOW, PRIMARY_BUS, SECONDARY_BUS, express,
};
use super::state::RestoreError;
use crate::platform::MsiVectors;

/// A guest that has not begun to let go this long after it was asked is asked again when the client insists. Longer than
/// the five seconds in which a second press of the button takes the first one back.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Is told, by the thread of the vCPU, that the guest has let go of what is in the slot.
pub type ReleaseSink = Arc<dyn Fn() + Send + Sync>;

/// What a port lets through, as the guest has set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The bus behind it.
    pub secondary: u8,
    /// The memory behind it.
    pub windows: Vec<AddressRange>,
    /// What is behind it is held in reset.
    pub in_reset: bool,
}

/// What became of the wish that the guest lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The guest does not use it: it can be taken out now.
    Done,
    /// The guest was asked, and will be heard of.
    Asked,
}

/// A root port and its slot.
pub struct RootPort {
    config: ConfigSpace,
    express: usize,
    msi: Msi,
    home: u8,
    /// Whether an enabled event is pending: only its beginning sends a message (§6.7.3.4).
    asserted: bool,
    asked: Option<Instant>,
    on_release: ReleaseSink,
}

impl RootPort {
    /// A port with an empty slot.
    ///
    /// `home` is the number that firmware would give the bus behind it, `slot` the number that is painted on the slot;
    /// `shared` says that the port's device number has more ports.
    pub fn new(
        home: u8,
        slot: u16,
        shared: bool,
        vectors: Arc<dyn MsiVectors>,
        on_release: ReleaseSink,
    ) -> Self {
        let mut config = ConfigSpace::bridge(IDENTITY);
        if shared {
            config.put(HEADER_TYPE, &[HEADER_BRIDGE | HEADER_MULTIFUNCTION]);
        }
        let express = add_express(&mut config, home, slot);
        let msi = Msi::add_to(&mut config, vectors);
        let mut port = Self { config, express, msi, home, asserted: false, asked: None, on_release };
        port.reset();
        port
    }

    /// The number that firmware would give the bus behind it: a name for the port that no guest changes.
    pub fn home(&self) -> u8 {
        self.home
    }

    /// The number of the bus behind it: the guest's, or firmware's where the guest has none (yet).
    pub fn bus(&self) -> u8 {
        match self.config.read_u8(SECONDARY_BUS) {
            0 => self.home,
            secondary => secondary,
        }
    }

    /// What it lets through.
    pub fn forwarding(&self) -> Forwarding {
        let windows = match self.config.read_u16(COMMAND) & COMMAND_MEMORY {
            0 => Vec::new(),
            _ => [self.window(), self.prefetchable_window()].into_iter().flatten().collect(),
        };
        let in_reset = self.config.read_u16(BRIDGE_CONTROL) & BRIDGE_BUS_RESET != 0;
        Forwarding { secondary: self.config.read_u8(SECONDARY_BUS), windows, in_reset }
    }

    /// Whether something is in the slot.
    pub fn occupied(&self) -> bool {
        self.status() & express::PRESENT != 0
    }

    /// Something was put into the slot.
    pub fn plug(&mut self) {
        if !self.attended() {
            // As firmware leaves it: the guest's driver is still to come.
            self.set_indicator(express::POWER_ON);
        }
        self.change_link(true);
    }

    /// What was in the slot is gone.
    pub fn unplug(&mut self) {
        self.asked = None;
        if !self.attended() {
            self.set_indicator(express::POWER_OFF);
        }
        self.change_link(false);
    }

    /// Asks the guest to let go of what is in the slot.
    pub fn release(&mut self, now: Instant) -> Release {
        let indicator = self.control() & express::POWER_INDICATOR;
        if !self.occupied() || self.attended() && indicator == express::POWER_OFF {
            return Release::Done;
        }
        let under_way = self.asked.is_some_and(|then| {
            indicator == express::POWER_BLINKS || now.duration_since(then) < ASK_AGAIN_AFTER
        });
        if !under_way {
            self.asked = Some(now);
            self.press();
        }
        Release::Asked
    }

    /// The guest's driver listens for events.
    fn attended(&self) -> bool {
        self.control() & express::INTERRUPT_ENABLE != 0
    }

    fn control(&self) -> u16 {
        self.config.read_u16(self.express + express::SLOT_CONTROL)
    }

    fn status(&self) -> u16 {
        self.config.read_u16(self.express + express::SLOT_STATUS)
    }

    fn set_indicator(&mut self, value: u16) {
        self.config.change_u16(self.express + express::SLOT_CONTROL, value, express::POWER_INDICATOR);
    }

    fn press(&mut self) {
        self.config.change_u16(self.express + express::SLOT_STATUS, express::BUTTON_PRESSED, 0);
        self.signal();
    }

    fn change_link(&mut self, up: bool) {
        let changed = express::PRESENCE_CHANGED | express::LINK_CHANGED;
        let (present, active) = if up { (express::PRESENT, express::LINK_ACTIVE) } else { (0, 0) };
        self.config.change_u16(self.express + express::SLOT_STATUS, changed | present, express::PRESENT);
        self.config.change_u16(self.express + express::LINK_STATUS, active, express::LINK_ACTIVE);
        self.signal();
    }

    /// Sends the message when an enabled event begins to be pending.
    fn signal(&mut self) {
        let (status, control) = (self.status(), self.control());
        let pending = EVENTS.iter().any(|(event, enable)| status & event != 0 && control & enable != 0);
        let asserted = pending && self.attended();
        if asserted && !self.asserted {
            self.msi.trigger();
        }
        self.asserted = asserted;
    }

    /// Does what a store to slot control, which was `before`, commands.
    fn commanded(&mut self, before: u16) {
        let after = self.control();
        let begins = |mask: u16, value: u16| before & mask != value && after & mask == value;
        if self.asked.is_some() && begins(express::POWER_INDICATOR, express::POWER_OFF) {
            self.asked = None;
            (self.on_release)();
        }
        if self.asked.is_some() && begins(express::INTERRUPT_ENABLE, express::INTERRUPT_ENABLE) {
            // Its driver clears all events before it listens, so it has not heard of the button.
            self.press();
        }
    }

    fn window(&self) -> Option<AddressRange> {
        let [base, limit] = self.bounds(MEMORY_WINDOW);
        window(base, limit)
    }

    fn prefetchable_window(&self) -> Option<AddressRange> {
        let [base, limit] = self.bounds(PREFETCHABLE_WINDOW);
        let high = |at| u64::from(self.config.read_u32(at)) << 32;
        window(base | high(PREFETCHABLE_BASE_HIGH), limit | high(PREFETCHABLE_BASE_HIGH + 4))
    }

    /// Base and limit, of which the registers have bits 31 to 20.
    fn bounds(&self, at: usize) -> [u64; 2] {
        [at, at + 2].map(|at| u64::from(self.config.read_u16(at) & 0xfff0) << 16)
    }
}

impl PciFunction for RootPort {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        let before = self.control();
        self.config.write(offset, data);
        self.msi.update(&self.config);
        self.commanded(before);
        self.signal();
    }

    fn save_bridge(&self) -> Option<Vec<u8>> {
        let Self { config, express: _, msi: _, home: _, asserted: _, asked: _, on_release: _ } = self;
        Some(config.save())
    }

    fn restore_bridge(&mut self, saved: &[u8]) -> Result<(), RestoreError> {
        // What is in the slot is seen there.
        let shown = [express::SLOT_STATUS, express::LINK_STATUS].map(|at| self.express + at);
        self.config.restore(saved, &shown.map(|at| at..at + 2))?;
        self.msi.update(&self.config);
        self.signal();
        Ok(())
    }

    fn bars(&self) -> Vec<DecodedBar> {
        Vec::new()
    }

    fn bar_read(&mut self, _bar: BarIndex, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        let indicator = if self.occupied() { express::POWER_ON } else { express::POWER_OFF };
        self.config.reset();
        self.config.put(PRIMARY_BUS, &[0, self.home, self.home]);
        self.config.put(MEMORY_WINDOW, &CLOSED.to_le_bytes());
        self.config.put(PREFETCHABLE_WINDOW, &(CLOSED | WIDE).to_le_bytes());
        self.config.put(PREFETCHABLE_BASE_HIGH, &[0; 8]);
        self.config.put(BRIDGE_CONTROL, &[0, 0]);
        self.config.put(self.express + express::SLOT_CONTROL, &indicator.to_le_bytes());
        self.config.change_u16(self.express + express::SLOT_STATUS, 0, !express::PRESENT);
        self.msi.reset(&mut self.config);
        self.asked = None;
        self.asserted = false;
    }

    fn forwarding(&self) -> Option<Forwarding> {
        Some(self.forwarding())
    }
}

/// Each event and what enables it.
const EVENTS: [(u16, u16); 3] = [
    (express::BUTTON_PRESSED, express::BUTTON_ENABLE),
    (express::PRESENCE_CHANGED, express::PRESENCE_ENABLE),
    (express::LINK_CHANGED, express::LINK_ENABLE),
];

/// A base above its limit: nothing is let through.
const CLOSED: u32 = 0x0000_fff0;
const WIDE: u32 = PREFETCHABLE_64 | PREFETCHABLE_64 << 16;

/// The numbers are those of QEMU's generic root port, which asks for no driver but the one for its class.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x000c,
    revision: 0,
    class: [0x06, 0x04, 0],
    subsystem_vendor: 0,
    subsystem: 0,
};

fn window(base: u64, limit: u64) -> Option<AddressRange> {
    let last = limit | 0xf_ffff;
    AddressRange::new(base, last.checked_sub(base)?.checked_add(1)?)
}

fn add_express(config: &mut ConfigSpace, home: u8, slot: u16) -> usize {
    let mut registers = [0; express::SIZE];
    let mut writable = [0; express::SIZE];
    let mut put = |at: usize, value: u32, mask: u32| {
        registers[at..at + 4].copy_from_slice(&value.to_le_bytes());
        writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
    };
    put(express::CAPABILITIES, express::ROOT_PORT_WITH_SLOT.into(), 0);
    put(express::DEVICE_CAPABILITIES, express::ROLE_BASED_ERRORS, 0);
    put(express::DEVICE_CONTROL, 0, 0x7fff);
    let link = express::SLOWEST_LINK | express::LINK_REPORTS | u32::from(home) << 24;
    put(express::LINK_CAPABILITIES, link, 0);
    put(express::LINK_CONTROL, express::SLOWEST_LINK << 16, 0x00d3);
    let slot = express::HAS_BUTTON
        | express::HAS_POWER_INDICATOR
        | express::SURPRISE
        | express::HOTPLUG
        | express::NO_COMMAND_COMPLETED
        | u32::from(slot & 0x1fff) << express::SLOT_NUMBER_SHIFT;
    put(express::SLOT_CAPABILITIES, slot, 0);
    put(express::SLOT_CONTROL, 0, express::SLOT_CONTROL_WRITABLE.into());
    put(express::ROOT_CONTROL, 0, 0x001f);
    put(express::LINK_CAPABILITIES_2, express::SPEEDS, 0);
    let at = config.add_capability(CAPABILITY_EXPRESS, &registers[2..], &writable[2..]);
    let events = EVENTS.iter().fold(0, |all, (event, _)| all | event);
    config.clear_by_ones(at + express::SLOT_STATUS, &events.to_le_bytes());
    at
}

#[cfg(test)]
#[path = "port_tests.rs"]
mod tests;
