//! Numbers of the block device (virtio 1.2, §5.2).

/// What a sector number counts, whatever the block size (§5.2.4).
pub const SECTOR: u64 = 512;

/// Feature (§5.2.3): `size_max` is valid.
pub(super) const F_SIZE_MAX: u64 = 1 << 1;
/// Feature: `seg_max` is valid.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// Feature: the guest may only read.
pub(super) const F_RO: u64 = 1 << 5;
/// Feature: `blk_size` is valid.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// Feature: FLUSH is there, and writes are cached until then.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// Feature: `topology` is valid.
pub(super) const F_TOPOLOGY: u64 = 1 << 10;
/// Feature: `num_queues` is valid.
pub(super) const F_MQ: u64 = 1 << 12;
/// Feature: DISCARD is there.
pub(super) const F_DISCARD: u64 = 1 << 13;
/// Feature: WRITE_ZEROES is there.
pub(super) const F_WRITE_ZEROES: u64 = 1 << 14;

/// Request types (§5.2.6).
pub(super) mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// How a request ended (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Bytes of a request before its data: type, reserved, sector.
pub(super) const HEADER: usize = 16;
/// Bytes of one range of DISCARD and WRITE_ZEROES: sector, number of sectors, flags.
pub(super) const RANGE: usize = 16;
/// Flag of such a range: the blocks may be given back.
pub(super) const UNMAP: u32 = 1;
/// Bytes of the serial number; shorter ones end with a zero byte.
pub const SERIAL: usize = 20;

/// The most bytes of one segment; no more than Linux makes them by itself.
pub(super) const SIZE_MAX: u32 = 1 << 16;
/// The most segments of a request that the kernel takes in one call (UIO_MAXIOV).
pub(super) const MAX_SEGMENTS: usize = 1024;
/// The most bytes of one request, so that a guest cannot keep the process busy with a single one; whoever heeds
/// `size_max` and `seg_max` stays below.
pub(super) const MAX_REQUEST: u64 = SIZE_MAX as u64 * MAX_SEGMENTS as u64;
/// The most sectors of one range of DISCARD: nothing is written, so this may be much (2 GiB).
pub(super) const MAX_DISCARD: u32 = 1 << 22;
/// The most ranges of one DISCARD.
pub(super) const MAX_DISCARD_RANGES: u32 = 16;
/// The most sectors of WRITE_ZEROES, which is written where the file system cannot do better (16 MiB).
pub(super) const MAX_ZEROES: u32 = 1 << 15;
/// The most ranges of one WRITE_ZEROES.
pub(super) const MAX_ZEROES_RANGES: u32 = 1;
/// The most requests of one queue that are served before the others get their turn.
pub(super) const MAX_CHAINS: usize = 16;

/// Bytes of `struct virtio_blk_config` (§5.2.4) up to `unused1`.
pub const CONFIG_SIZE: usize = 60;

/// The device's configuration, before it is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    /// Sectors.
    pub capacity: u64,
    pub seg_max: u32,
    /// Bytes of a logical block.
    pub block: u32,
    /// Bytes of a physical block, a multiple of `block` by a power of two.
    pub physical_block: u32,
    pub queues: u16,
    /// Whether discarded blocks are given back.
    pub discard: bool,
}

impl Config {
    /// As a driver reads it.
    pub fn bytes(&self) -> [u8; CONFIG_SIZE] {
        let mut bytes = [0; CONFIG_SIZE];
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &self.capacity.to_le_bytes());
        put(8, &SIZE_MAX.to_le_bytes());
        put(12, &self.seg_max.to_le_bytes());
        put(20, &self.block.to_le_bytes());
        let exponent = (self.physical_block / self.block.max(1)).max(1).ilog2();
        put(24, &[exponent as u8]);
        // The smallest reasonable write, in logical blocks.
        put(26, &(1u16 << exponent.min(15)).to_le_bytes());
        put(32, &[1]);
        put(34, &self.queues.to_le_bytes());
        if self.discard {
            put(36, &MAX_DISCARD.to_le_bytes());
            put(40, &MAX_DISCARD_RANGES.to_le_bytes());
            put(44, &(self.physical_block.max(self.block) / SECTOR as u32).to_le_bytes());
        }
        put(48, &MAX_ZEROES.to_le_bytes());
        put(52, &MAX_ZEROES_RANGES.to_le_bytes());
        put(56, &[u8::from(self.discard)]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_its_fields_where_linux_looks_for_them() {
        let config = Config {
            capacity: 0x0102_0304_0506_0708,
            seg_max: 126,
            block: 512,
            physical_block: 4096,
            queues: 4,
            discard: true,
        };
        let expected = [
            8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 0, 126, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3, 0, 8, 0, 0, 0, 0, 0,
            1, 0, 4, 0, 0, 0, 64, 0, 16, 0, 0, 0, 8, 0, 0, 0, 0, 128, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(config.bytes(), expected);
    }
}
