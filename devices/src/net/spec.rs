//! Numbers of the network device (virtio 1.2, §5.1) and of the kernel's taps.

/// Feature bits (§5.1.3).
pub(super) const F_CSUM: u64 = 1 << 0;
pub(super) const F_GUEST_CSUM: u64 = 1 << 1;
pub(super) const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(super) const F_MTU: u64 = 1 << 3;
pub(super) const F_MAC: u64 = 1 << 5;
pub(super) const F_GUEST_TSO4: u64 = 1 << 7;
pub(super) const F_GUEST_TSO6: u64 = 1 << 8;
pub(super) const F_GUEST_ECN: u64 = 1 << 9;
pub(super) const F_GUEST_UFO: u64 = 1 << 10;
pub(super) const F_HOST_TSO4: u64 = 1 << 11;
pub(super) const F_HOST_TSO6: u64 = 1 << 12;
pub(super) const F_HOST_ECN: u64 = 1 << 13;
pub(super) const F_HOST_UFO: u64 = 1 << 14;
pub(super) const F_MRG_RXBUF: u64 = 1 << 15;
pub(super) const F_STATUS: u64 = 1 << 16;
pub(super) const F_CTRL_VQ: u64 = 1 << 17;
pub(super) const F_MQ: u64 = 1 << 22;

/// What a guest may be spared when it receives; the bits are those of `VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET` too.
pub(super) const GUEST_OFFLOADS: u64 = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO;

/// Bytes of configuration: address, status, pairs, MTU (§5.1.4).
pub const CONFIG_SIZE: usize = 12;
/// `VIRTIO_NET_S_LINK_UP` (§5.1.4).
pub(super) const LINK_UP: u16 = 1;

/// Bytes of the header before each packet (§5.1.6): as long as with `num_buffers`, which version 1 always has.
pub const HEADER_SIZE: usize = 12;
/// Where `num_buffers` is in it.
pub(super) const NUM_BUFFERS: usize = 10;
/// The longest packet of a tap: 64 KiB of IP in an Ethernet frame with a VLAN tag, and the header.
pub(super) const MAX_PACKET: usize = 65_535 + 18 + HEADER_SIZE;
/// The MTU of a tap that was given none.
pub(super) const DEFAULT_MTU: u16 = 1500;

/// The most packets that one turn of a queue moves.
pub(super) const MAX_PACKETS: usize = 64;
/// The most pairs of queues: as many as fit the numbers by which the loop names queues.
pub const MAX_PAIRS: u16 = 16;

/// Class and command of the control queue (§5.1.6.5): how many pairs are in use.
pub(super) const CTRL_MQ_PAIRS: [u8; 2] = [4, 0];
/// What the guest wants to be spared from now on.
pub(super) const CTRL_OFFLOADS: [u8; 2] = [5, 0];
/// The longest command that is understood.
pub(super) const MAX_COMMAND: usize = 10;
/// `VIRTIO_NET_OK`.
pub(super) const CTRL_OK: u8 = 0;
/// `VIRTIO_NET_ERR`.
pub(super) const CTRL_ERROR: u8 = 1;

/// `TUNSETOFFLOAD` of linux/if_tun.h.
pub(super) const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
/// Bits of [`TUNSETOFFLOAD`]: checksums, segmentation (IPv4, IPv6, with ECN), UDP fragmentation.
pub const TUN_F_CSUM: u32 = 1;
/// As above.
pub const TUN_F_TSO4: u32 = 2;
/// As above.
pub const TUN_F_TSO6: u32 = 4;
/// As above.
pub const TUN_F_TSO_ECN: u32 = 8;
/// As above.
pub const TUN_F_UFO: u32 = 16;
