//! Numbers of the socket device (virtio 1.2, §5.10), and what this one limits itself to.

use std::time::Duration;

/// Packets to the guest (§5.10.2).
pub const RX: u16 = 0;
/// Packets from the guest.
pub const TX: u16 = 1;
/// Events to the guest.
pub const EVENTS: u16 = 2;

/// Descriptors of each queue.
pub const QUEUE_SIZES: [u16; 3] = [256; 3];
/// Bytes of configuration: the guest's context id (§5.10.4).
pub const CONFIG_SIZE: usize = 8;

/// The host's context id.
pub const HOST_CID: u64 = 2;
/// The least context id that a guest may have; those below are the hypervisor's, the host's own and the host's (§5.10.4).
pub const MIN_GUEST_CID: u64 = 3;
/// The greatest: the upper half of the field is reserved, and all ones mean "any" to Linux.
pub const MAX_GUEST_CID: u64 = u32::MAX as u64 - 1;

/// Bytes of a packet's header (§5.10.6).
pub(super) const HEADER_SIZE: usize = 44;
/// Packet type: stream.
pub(super) const TYPE_STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: whoever says so will receive no more (§5.10.6.4).
pub(super) const SHUT_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: whoever says so will send no more.
pub(super) const SHUT_SEND: u32 = 2;
/// Both.
pub(super) const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;
/// Event: connections that the guest knows of are no more (§5.10.6.7).
pub(super) const EVENT_TRANSPORT_RESET: u32 = 0;

/// Bytes of an event (§5.10.6.7).
pub(super) const EVENT_SIZE: usize = 4;

/// How much of a connection the guest may send before the host has taken it.
pub(super) const WINDOW: u32 = 256 << 10;
/// The most bytes in one packet to the guest.
pub(super) const MAX_PAYLOAD: usize = 64 << 10;
/// The most connections at once. With [`WINDOW`] this bounds what a guest can have this process hold: 128 MiB.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// The most clients that have connected to the socket and not yet named a port; the oldest goes for the next.
pub(super) const MAX_HALF_OPEN: usize = 64;
/// The most connections that wait for an answer of the guest or of the broker.
pub(super) const MAX_WAITING: usize = 128;
/// The most refusals that wait for buffers of the guest; a refusal too many is not told.
pub(super) const MAX_REFUSALS: usize = 256;
/// How long a client may take to name its port, a guest to answer to it, and the broker to connect.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a guest may take to end a connection that the host has closed.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest line that names a port: `connect 4294967295\r\n` and some spaces.
pub(super) const MAX_LINE: usize = 32;
/// The first port that stands for a client on the host; those below may have meanings of their own.
pub(super) const FIRST_HOST_PORT: u32 = 1 << 30;
/// The most packets that one turn takes or gives.
pub(super) const MAX_PACKETS: usize = 64;
/// The most chains that one read fills: [`MAX_PAYLOAD`] in buffers as Linux gives them.
pub(super) const MAX_BATCH: usize = 18;
/// The most clients that are accepted in one turn.
pub(super) const MAX_ACCEPTS: usize = 16;
