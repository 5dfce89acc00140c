//! What a block device is made of. There is nothing to save: all that it knows is in the image and in these settings.

use super::direct::Alignment;
use super::spec::SERIAL;
use crate::rate::LimiterSettings;

/// Settings of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the guest may only read.
    pub readonly: bool,
    /// The format of the image.
    pub format: Format,
    /// Whether the first sector cannot be written: the format was found out by looking at it, and a guest that can
    /// write there decides what the next look finds.
    pub guard_first_sector: bool,
    /// What direct I/O demands, if the image was opened for it.
    pub direct: Option<Alignment>,
    /// Whether discarded blocks are given back to the host.
    pub sparse: bool,
    /// Descriptors of each queue, one entry per queue.
    pub queue_sizes: Vec<u16>,
    /// What the guest reads as the serial number.
    pub serial: Serial,
    /// How much may be moved.
    pub limits: LimiterSettings,
}

/// How the bytes of the disk are laid out in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One after the other.
    Raw,
    /// QEMU's format, without a backing file.
    Qcow2,
}

/// A serial number as virtio has it: 20 bytes, shorter ones end with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serial(pub(super) [u8; SERIAL]);

impl Serial {
    /// As much of `text` as fits.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; SERIAL];
        let length = text.len().min(SERIAL);
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self(bytes)
    }
}
