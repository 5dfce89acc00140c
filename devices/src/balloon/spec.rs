//! Numbers of the memory balloon (virtio 1.2, §5.5).

/// Feature bit: the driver tells statistics (§5.5.3). Offered with [`F_REPORTING`] only, see [`queue_sizes`].
pub(super) const F_STATS_VQ: u64 = 1 << 1;
/// Feature bit: the driver takes memory back rather than kill a process.
pub(super) const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// Feature bit: the driver can be asked which pages are free. Offered with [`F_REPORTING`] only; it is never asked.
pub(super) const F_FREE_PAGE_HINT: u64 = 1 << 3;
/// Feature bit: the driver reports pages that are free.
pub(super) const F_REPORTING: u64 = 1 << 5;

/// Queue (§5.5.2): pages that the guest gives back, as numbers.
pub(super) const INFLATE: u16 = 0;
/// Queue: free pages, as buffers.
pub(super) const REPORTING: u16 = 4;
/// Queue: pages that the guest takes back, as numbers.
pub(super) const DEFLATE: u16 = 1;

const QUEUE_SIZE: u16 = 128;

/// Its queues. Where there is reporting, so are the queues before it: drivers count those that are missing in two ways, and
/// only with none missing do both come to the same number.
pub fn queue_sizes(reporting: bool) -> &'static [u16] {
    if reporting { &[QUEUE_SIZE; 5] } else { &[QUEUE_SIZE; 2] }
}

/// The unit of page numbers, whatever the pages of host and guest (§5.5.6).
pub(super) const PAGE: u64 = 4096;
/// Bytes of configuration (§5.5.4): `num_pages`, `actual`, `free_page_hint_cmd_id`, `poison_val`.
pub const CONFIG_SIZE: usize = 16;
/// Where `actual` is, which the driver writes.
pub(super) const ACTUAL: std::ops::Range<usize> = 4..8;
/// The most numbers that are taken of one chain; Linux sends 256.
pub(super) const MAX_NUMBERS: usize = 1024;
/// The most chains that are served before the socket is looked at again.
pub(super) const MAX_CHAINS: usize = 4;
