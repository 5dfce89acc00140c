use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::fakes::FakeVectors;
use crate::pci::spec::{CAPABILITY_MSI, SUBORDINATE_BUS};

const LISTENS: u16 = express::INTERRUPT_ENABLE | express::BUTTON_ENABLE | express::LINK_ENABLE;

/// A port, and how a guest's driver and its owner see it.
struct Rig {
    port: RootPort,
    vectors: Arc<FakeVectors>,
    released: Arc<AtomicU32>,
}

impl Rig {
    fn new() -> Self {
        let vectors = Arc::new(FakeVectors::new(1));
        let released = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&released);
        let on_release: ReleaseSink = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let port = RootPort::new(3, 35, true, Arc::clone(&vectors) as Arc<dyn MsiVectors>, on_release);
        Self { port, vectors, released }
    }

    fn attended() -> Self {
        let mut rig = Self::new();
        rig.control(LISTENS | express::POWER_OFF);
        rig
    }

    fn control(&mut self, value: u16) {
        let at = self.port.express + express::SLOT_CONTROL;
        self.port.config_write(at as u16, &value.to_le_bytes());
    }

    fn clear(&mut self, events: u16) {
        let at = self.port.express + express::SLOT_STATUS;
        self.port.config_write(at as u16, &events.to_le_bytes());
    }

    fn messages(&self) -> u64 {
        self.vectors.raised(0)
    }

    fn releases(&self) -> u32 {
        self.released.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn it_is_a_root_port_with_a_slot() {
    let mut rig = Rig::new();
    let mut header = [0; 64];
    rig.port.config_read(0, &mut header);
    assert_eq!(header[..4], [0x36, 0x1b, 0x0c, 0]);
    assert_eq!(header[8..16], [0, 0, 4, 6, 0, 0, 0x81, 0]);
    assert_eq!(header[PRIMARY_BUS..=SUBORDINATE_BUS], [0, 3, 3]);
    assert_eq!(header[0x1c..0x1e], [0, 0], "no I/O window");
    let mut express = [0; express::SIZE];
    rig.port.config_read(rig.port.express as u16, &mut express);
    assert_eq!(express[..4], [CAPABILITY_EXPRESS, rig.port.express as u8 + express::SIZE as u8, 0x42, 1]);
    assert_eq!(express[12..16], [0x11, 0, 0x10, 3], "2.5 GT/s, one lane, reports its link, port 3");
    assert_eq!(express[20..24], [0x71, 0, 0x1c, 1], "button, power indicator, surprise, hotplug; slot 35");
    let mut msi = [0];
    rig.port.config_read(u16::from(express[1]), &mut msi);
    assert_eq!(msi, [CAPABILITY_MSI]);
}

#[test]
fn a_guest_that_listens_hears_of_what_is_plugged_in() {
    let mut rig = Rig::attended();
    assert!(!rig.port.occupied());
    rig.port.plug();
    assert_eq!(rig.messages(), 1);
    assert_eq!(rig.port.status(), express::PRESENT | express::PRESENCE_CHANGED | express::LINK_CHANGED);
    let link = rig.port.config.read_u16(rig.port.express + express::LINK_STATUS);
    assert_eq!(link, express::LINK_ACTIVE | 0x11);
    rig.clear(express::PRESENCE_CHANGED | express::LINK_CHANGED);
    assert_eq!(rig.port.status(), express::PRESENT, "an event is cleared by a one, a state is not");
    rig.port.unplug();
    assert_eq!(rig.messages(), 1);
    assert_eq!(rig.port.status(), express::PRESENCE_CHANGED | express::LINK_CHANGED);
}

#[test]
fn a_second_event_before_the_first_is_cleared_sends_no_message() {
    let mut rig = Rig::attended();
    rig.port.plug();
    rig.port.unplug();
    assert_eq!(rig.messages(), 1);
    rig.clear(express::PRESENCE_CHANGED);
    assert_eq!(rig.messages(), 0, "the link's event is still there");
    rig.clear(express::LINK_CHANGED);
    rig.port.plug();
    assert_eq!(rig.messages(), 1);
}

#[test]
fn an_event_from_before_the_guest_listened_is_told_when_it_does() {
    let mut rig = Rig::new();
    rig.port.plug();
    assert_eq!(rig.messages(), 0);
    rig.control(LISTENS | express::POWER_ON);
    assert_eq!(rig.messages(), 1);
}

#[test]
fn a_guest_lets_go_by_switching_the_indicator_off() {
    let mut rig = Rig::attended();
    rig.port.plug();
    rig.clear(0x1ff);
    rig.control(LISTENS | express::POWER_ON);
    assert_eq!(rig.messages(), 1);
    let now = Instant::now();
    assert_eq!(rig.port.release(now), Release::Asked);
    assert_eq!(rig.messages(), 1);
    assert_ne!(rig.port.status() & express::BUTTON_PRESSED, 0);
    rig.clear(express::BUTTON_PRESSED);
    rig.control(LISTENS | express::POWER_BLINKS);
    assert_eq!(rig.port.release(now + 2 * ASK_AGAIN_AFTER), Release::Asked);
    assert_eq!(rig.messages(), 0, "a second press would take the first one back");
    assert_eq!(rig.releases(), 0);
    rig.control(LISTENS | express::POWER_OFF);
    assert_eq!(rig.releases(), 1);
    rig.control(LISTENS | express::POWER_OFF);
    assert_eq!(rig.releases(), 0, "it is told once");
}

#[test]
fn a_guest_that_switches_the_indicator_off_unasked_keeps_its_device() {
    let mut rig = Rig::attended();
    rig.port.plug();
    rig.control(LISTENS | express::POWER_ON);
    rig.control(LISTENS | express::POWER_OFF);
    assert_eq!(rig.releases(), 0);
    assert!(rig.port.occupied());
    assert_eq!(rig.port.release(Instant::now()), Release::Done, "it has already let go");
}

#[test]
fn a_guest_that_ignores_the_button_is_asked_again_only_after_a_while() {
    let mut rig = Rig::attended();
    rig.port.plug();
    rig.clear(0x1ff);
    rig.control(LISTENS | express::POWER_ON);
    rig.messages();
    let now = Instant::now();
    for (after, messages) in [(0, 1), (1, 0), (9, 0), (10, 1), (11, 0)] {
        assert_eq!(rig.port.release(now + Duration::from_secs(after)), Release::Asked);
        assert_eq!(rig.messages(), messages, "{after} s");
        rig.clear(express::BUTTON_PRESSED);
    }
}

#[test]
fn a_guest_whose_driver_comes_up_late_is_asked_then() {
    let mut rig = Rig::new();
    rig.port.plug();
    assert_eq!(rig.port.release(Instant::now()), Release::Asked);
    // What Linux does: clears everything, then listens.
    rig.clear(0x1ff);
    assert_eq!(rig.port.status(), express::PRESENT);
    rig.control(LISTENS | express::POWER_ON);
    assert_eq!(rig.messages(), 1);
    assert_ne!(rig.port.status() & express::BUTTON_PRESSED, 0);
}

#[test]
fn windows_are_what_the_guest_opens() {
    let mut rig = Rig::new();
    assert_eq!(rig.port.forwarding(), Forwarding { secondary: 3, windows: Vec::new(), in_reset: false });
    rig.port.config_write(MEMORY_WINDOW as u16, &0x1010_1000_u32.to_le_bytes());
    rig.port.config_write(PREFETCHABLE_WINDOW as u16, &0x0030_0010_u32.to_le_bytes());
    rig.port.config_write(PREFETCHABLE_BASE_HIGH as u16, &[0x80, 0, 0, 0, 0x80, 0, 0, 0]);
    assert!(rig.port.forwarding().windows.is_empty(), "memory is not enabled");
    rig.port.config_write(COMMAND as u16, &COMMAND_MEMORY.to_le_bytes());
    let low = AddressRange::new(0x1000_0000, 0x20_0000).unwrap();
    let high = AddressRange::new(0x80_0010_0000, 0x30_0000).unwrap();
    assert_eq!(rig.port.forwarding().windows, [low, high]);
    rig.port.config_write(BRIDGE_CONTROL as u16, &[0xff, 0xff]);
    assert!(rig.port.forwarding().in_reset);
    rig.port.config_write(PRIMARY_BUS as u16, &[0, 0, 0]);
    assert_eq!(rig.port.bus(), 3, "a guest that has given no number yet");
}

#[test]
fn a_reset_keeps_what_is_in_the_slot_and_forgets_the_rest() {
    let mut rig = Rig::attended();
    rig.port.plug();
    assert_eq!(rig.port.release(Instant::now() + ASK_AGAIN_AFTER), Release::Done);
    rig.port.config_write(PRIMARY_BUS as u16, &[0, 9, 9]);
    rig.port.reset();
    assert_eq!(rig.port.status(), express::PRESENT);
    assert_eq!(rig.port.control(), express::POWER_ON);
    assert_eq!(rig.port.forwarding(), Forwarding { secondary: 3, windows: Vec::new(), in_reset: false });
}
