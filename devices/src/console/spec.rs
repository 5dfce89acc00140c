//! Numbers of the console device (virtio 1.2, §5.3).

/// Queues of port 0 (§5.3.2), the only port.
pub(super) const QUEUE_SIZES: [u16; 2] = [256; 2];
/// Input, to the guest.
pub(super) const RECEIVE: u16 = 0;
/// Output, from the guest.
#[cfg(test)]
pub(super) const TRANSMIT: u16 = 1;

/// Feature bit (§5.3.3): `cols` and `rows` of the configuration are valid.
pub(super) const F_SIZE: u64 = 1 << 0;
/// Bytes of configuration (§5.3.4): `cols` and `rows`, 16 bits each, `max_nr_ports` and `emerg_wr`, 32 bits each.
pub const CONFIG_SIZE: usize = 12;

/// The most output that waits for a slow reader: several screens, and a whole boot log.
pub(super) const BACKLOG: usize = 256 << 10;
/// The most input that waits for the guest to give it room.
pub(super) const INPUT: usize = 4096;
/// The most bytes that one chain's output is taken for; Linux sends a page at the most.
pub(super) const MAX_CHAIN_BYTES: usize = 64 << 10;
/// The most chains that are served before the socket is looked at again.
pub(super) const MAX_CHAINS: usize = 32;
