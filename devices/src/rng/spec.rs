//! Numbers of the entropy device.

/// Its one queue (virtio 1.2, §5.4.2), of which Linux uses one descriptor at a time.
pub(super) const QUEUE_SIZES: [u16; 1] = [256];
/// The most bytes that one chain is filled with; a driver may be given less than it asks for (§5.4.6.1).
pub(super) const MAX_CHAIN_BYTES: usize = 64 << 10;
/// The most chains that are served before the socket is looked at again.
pub(super) const MAX_CHAINS: usize = 16;
