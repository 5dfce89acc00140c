//! Numbers of the memory device (virtio 1.2, §5.15), and its messages as bytes.

/// Feature bit (§5.15.3): the driver does not touch what is not plugged.
pub(super) const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// Its one queue (§5.15.2): requests of the guest.
pub const QUEUE_SIZES: [u16; 1] = [64];
/// The most chains that are served before the socket is looked at again: each can free a whole block and more.
pub(super) const MAX_CHAINS: usize = 4;

/// What is plugged and unplugged at once: a transparent huge page, as other monitors have it.
pub const BLOCK: u64 = 2 << 20;

/// Bytes of configuration (§5.15.4).
pub const CONFIG_SIZE: usize = 56;

/// Request (§5.15.6): plug blocks.
pub(super) const PLUG: u16 = 0;
/// Request: unplug blocks.
pub(super) const UNPLUG: u16 = 1;
/// Request: unplug all there is.
pub(super) const UNPLUG_ALL: u16 = 2;
/// Request: are blocks plugged?
pub(super) const STATE: u16 = 3;

/// Answer: done.
pub(super) const ACK: u16 = 0;
/// Answer: not now.
pub(super) const NACK: u16 = 1;
/// Answer: the request is wrong.
pub(super) const ERROR: u16 = 3;

/// State: all blocks are plugged.
pub(super) const PLUGGED: u16 = 0;
/// State: none is.
pub(super) const UNPLUGGED: u16 = 1;
/// State: some are.
pub(super) const MIXED: u16 = 2;

/// Bytes of a request.
pub(super) const REQUEST_SIZE: usize = 24;
/// Bytes of an answer.
pub(super) const ANSWER_SIZE: usize = 10;

/// A request, every number in it an allegation of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub kind: u16,
    pub address: u64,
    pub blocks: u16,
}

impl Request {
    /// Of the bytes that the driver sends.
    pub fn of(bytes: &[u8; REQUEST_SIZE]) -> Self {
        let [a, b, _, _, _, _, _, _, address @ .., c, d, _, _, _, _, _, _] = *bytes;
        Self {
            kind: u16::from_le_bytes([a, b]),
            address: u64::from_le_bytes(address),
            blocks: u16::from_le_bytes([c, d]),
        }
    }

    /// As the driver sends it.
    pub fn bytes(&self) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.blocks.to_le_bytes());
        bytes
    }
}

/// An answer as bytes; `state` is that of a [`STATE`] request.
pub(super) fn answer(kind: u16, state: u16) -> [u8; ANSWER_SIZE] {
    let mut bytes = [0; ANSWER_SIZE];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&state.to_le_bytes());
    bytes
}

/// The configuration, by its fields of 64 bits: `block_size`, `node_id` (none), `addr`, `region_size`,
/// `usable_region_size`, `plugged_size`, `requested_size`.
pub(super) fn config(
    block: u64,
    address: u64,
    region: u64,
    plugged: u64,
    requested: u64,
) -> [u8; CONFIG_SIZE] {
    let mut bytes = [0; CONFIG_SIZE];
    let fields = [block, 0, address, region, region, plugged, requested];
    for (field, value) in bytes.chunks_exact_mut(8).zip(fields) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}
