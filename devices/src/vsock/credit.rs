//! Credit of one connection (virtio 1.2, §5.10.6.3): each side says how much room it has and how much it has passed on.

use super::packet::Header;
use super::spec::WINDOW;

/// Counters, all modulo 2^32 as in the packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    received: u32,
    forwarded: u32,
    told: u32,
}

impl Credit {
    /// Takes note of what the guest says in every packet, true or not: a lie holds up its own connection only.
    pub fn heard(&mut self, header: &Header) {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = header.forwarded;
    }

    /// How much may be sent to the guest.
    pub fn room(&self) -> usize {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded)) as usize
    }

    /// So much was sent to it; no more than there was room for.
    pub fn send(&mut self, count: usize) {
        self.sent = self.sent.wrapping_add(count as u32);
    }

    /// Whether the guest may send so much, which then counts as received.
    pub fn receive(&mut self, count: u32) -> bool {
        let held = self.received.wrapping_sub(self.forwarded);
        let fits = held.checked_add(count).is_some_and(|held| held <= WINDOW);
        if fits {
            self.received = self.received.wrapping_add(count);
        }
        fits
    }

    /// So much of what was received is the host's now.
    pub fn forward(&mut self, count: usize) {
        self.forwarded = self.forwarded.wrapping_add(count as u32);
    }

    /// Whether the guest would soon have to wait for room that there is.
    pub fn update_due(&self) -> bool {
        self.forwarded != self.told && self.received.wrapping_sub(self.told) > WINDOW / 2
    }

    /// Puts our side into a packet, which tells the guest.
    pub fn tell(&mut self, header: Header) -> Header {
        self.told = self.forwarded;
        Header { buffer: WINDOW, forwarded: self.forwarded, ..header }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsock::packet::{Operation, Ports};

    fn said(buffer: u32, forwarded: u32) -> Header {
        let header = Header::bare(Ports { host: 1, guest: 2 }, Operation::CreditUpdate);
        Header { buffer, forwarded, ..header }
    }

    #[test]
    fn the_guest_is_sent_what_it_has_room_for_also_around_the_top() {
        let mut credit = Credit { sent: u32::MAX - 9, guest_forwarded: u32::MAX - 9, ..Credit::default() };
        credit.heard(&said(100, u32::MAX - 9));
        assert_eq!(credit.room(), 100);
        credit.send(60);
        assert_eq!(credit.room(), 40);
        credit.heard(&said(100, 20));
        assert_eq!(credit.room(), 70);
        // It takes room back, and says that it has passed on what it never got.
        credit.heard(&said(10, 20));
        assert_eq!(credit.room(), 0);
        credit.heard(&said(100, 1000));
        assert_eq!(credit.room(), 0);
    }

    #[test]
    fn the_guest_may_fill_the_window_and_no_more() {
        let mut credit = Credit::default();
        assert!(credit.receive(WINDOW));
        assert!(!credit.receive(1));
        assert!(!credit.receive(u32::MAX));
        credit.forward(10);
        assert!(credit.receive(10));
        assert!(!credit.receive(1));
    }

    #[test]
    fn room_is_told_before_the_guest_has_to_wait() {
        let mut credit = Credit::default();
        assert!(credit.receive(WINDOW / 2));
        credit.forward(1000);
        assert!(!credit.update_due());
        assert!(credit.receive(1));
        assert!(credit.update_due());
        assert_eq!(credit.tell(said(0, 0)).forwarded, 1000);
        assert!(!credit.update_due());
    }
}
