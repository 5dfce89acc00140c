//! `manifest.json`: what a snapshot is. Written last; a directory without it is not a snapshot.
//!
//! The first line can be read alone: it says the version of the format, and the checksum of everything after it.
//!
//! ```text
//!   {"granule-snapshot":1,"crc32":"89abcdef",
//!     "id": "00112233445566778899aabbccddeeff",
//!     "parent": {"id": "…", "path": "../base"},          or null: a full snapshot
//!     "creator": "granule 0.1.0",
//!     "created": 1764000000,                             seconds since 1970
//!     "arch": "aarch64",
//!     "page_size": 4096,
//!     "mte": 3,                                          level, or null: no tags
//!     "regions": [{"gpa": 1073741824, "size": 268435456}],
//!     "files": {"config.json": {"size": …, "crc32": "…"}, "state.json": …,
//!               "memory": {"size": …}, "pages": {"size": …, "crc32": "…"}, "tags": …}
//!   }
//! ```
//!
//! The sums of `pages` and `tags` are those of their headers, which cover the rest of the file. That of `config.json` only
//! tells whether the file was edited since: it may be.

mod raw;
mod target;

use thiserror::Error;

use raw::Raw;
pub use target::{Refusal, Target};

use crate::FORMAT_VERSION;
use crate::block_file::BlockFileSummary;
use crate::layout::{Layout, LayoutError};
use crate::memory::MemorySummary;

/// The longest `manifest.json`.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The longest first line.
const MAX_HEAD: usize = 64;
const MAX_PATH: usize = 4096;
const MAX_TEXT: usize = 256;

/// Why bytes are not a manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Too long to look at.
    #[error("manifest of {bytes} bytes is longer than {MAX_MANIFEST}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// The first line is not that of a manifest.
    #[error("not the manifest of a snapshot")]
    Head,
    /// Written by a later version.
    #[error("snapshot format {found} is newer than {FORMAT_VERSION}, the newest known")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// No such version was ever written.
    #[error("there is no snapshot format {found}")]
    NoSuchVersion {
        /// Its version.
        found: u32,
    },
    /// Damaged.
    #[error("manifest is damaged: its checksum is not what its first line says")]
    Sum,
    /// Not JSON, or not of the shape.
    #[error("manifest is not of this format")]
    Shape(#[source] serde_json::Error),
    /// A value that no writer writes.
    #[error("manifest with {field} {value}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
    },
    /// The memory regions.
    #[error("manifest with impossible memory")]
    Layout(#[from] LayoutError),
}

/// What a snapshot is called, wherever it lies: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId(pub [u8; 16]);

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl SnapshotId {
    /// Reads 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 32 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(text, 16).ok().filter(|_| plain)?;
        Some(Self(number.to_be_bytes()))
    }
}

/// What a diff is a diff of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its id, so that another snapshot in its place is noticed.
    pub id: SnapshotId,
    /// Where it was: absolute, or relative to the diff's directory.
    pub path: String,
}

/// Length and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSum {
    /// Bytes.
    pub size: u64,
    /// CRC-32: of all bytes (JSON files), or the sum in the header (`pages`, `tags`).
    pub sum: u32,
}

impl FileSum {
    /// Of a whole file.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sum: crc32fast::hash(bytes) }
    }
}

impl From<BlockFileSummary> for FileSum {
    fn from(BlockFileSummary { size, sum }: BlockFileSummary) -> Self {
        Self { size, sum }
    }
}

/// What a snapshot is; checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub id: SnapshotId,
    /// What it is a diff of.
    pub parent: Option<Parent>,
    /// What wrote it.
    pub creator: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The machine's architecture, as in `uname -m`.
    pub arch: String,
    /// The level of memory tagging (ID_AA64PFR1_EL1.MTE: 2 or 3) of the machine's vCPUs; `None` without.
    pub mte: Option<u8>,
    /// The machine's memory.
    pub layout: Layout,
    /// `config.json` as it was written.
    pub config: FileSum,
    /// `state.json`.
    pub state: FileSum,
    /// `pages`.
    pub pages: FileSum,
    /// `tags`; there if and only if `mte` is.
    pub tags: Option<FileSum>,
}

impl Manifest {
    /// Whether the memory files match what was written.
    #[must_use]
    pub fn describes(&self, memory: &MemorySummary) -> bool {
        memory.memory_size == self.layout.bytes()
            && FileSum::from(memory.pages) == self.pages
            && memory.tags.map(FileSum::from) == self.tags
    }

    /// The bytes of `manifest.json`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let raw = Raw::from(self);
        let json = serde_json::to_string_pretty(&raw).expect("strings and numbers are always JSON");
        let rest = json.strip_prefix("{\n").expect("a pretty object begins a line");
        let rest = format!("{rest}\n");
        let sum = crc32fast::hash(rest.as_bytes());
        format!("{{\"granule-snapshot\":{FORMAT_VERSION},\"crc32\":\"{sum:08x}\",\n{rest}").into_bytes()
    }

    /// Reads `manifest.json`.
    ///
    /// # Errors
    /// Where it is too long, damaged, newer, or says what cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLong { bytes: bytes.len() as u64 });
        }
        let (version, sum, rest) = head(bytes).ok_or(ManifestError::Head)?;
        match version {
            FORMAT_VERSION => {}
            found if found > FORMAT_VERSION => return Err(ManifestError::Newer { found }),
            found => return Err(ManifestError::NoSuchVersion { found }),
        }
        if crc32fast::hash(rest) != sum {
            return Err(ManifestError::Sum);
        }
        let raw: Raw = serde_json::from_slice(&[b"{", rest].concat()).map_err(ManifestError::Shape)?;
        raw.check()
    }
}

/// Version and checksum of the first line, and what follows it.
fn head(bytes: &[u8]) -> Option<(u32, u32, &[u8])> {
    let end = bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    let (version, sum) = line.strip_prefix("{\"granule-snapshot\":")?.split_once(",\"crc32\":\"")?;
    let sum = hex_sum(sum.strip_suffix("\",")?)?;
    let plain = !version.is_empty() && version.bytes().all(|digit| digit.is_ascii_digit());
    Some((version.parse().ok().filter(|_| plain)?, sum, &bytes[end + 1..]))
}

fn hex_sum(text: &str) -> Option<u32> {
    let plain = text.len() == 8 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(text, 16).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests;
