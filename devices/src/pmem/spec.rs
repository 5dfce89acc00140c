//! Numbers of the persistent memory device (virtio 1.2, §5.19).

/// Its one queue (§5.19.2).
pub(super) const QUEUE_SIZES: [u16; 1] = [64];
/// Configuration (§5.19.4): `start` and `size`, 64 bits each.
pub const CONFIG_SIZE: usize = 16;
/// `VIRTIO_PMEM_REQ_TYPE_FLUSH` (§5.19.6), the only request there is.
pub(super) const FLUSH: u32 = 0;
/// Answer (§5.19.6.2): all that was stored before the request is on the medium.
pub(super) const DONE: u32 = 0;
/// Answer: it is not. `-EIO` as Linux reads it.
pub(super) const FAILED: u32 = 5u32.wrapping_neg();

/// The configuration space of a device whose memory is at `start`.
pub fn config(start: u64, size: u64) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    config[..8].copy_from_slice(&start.to_le_bytes());
    config[8..].copy_from_slice(&size.to_le_bytes());
    config
}
