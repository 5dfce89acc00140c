//! Memory tagging: what this host's kernel can do with it, and the two ways to reach the tags.
//!
//! A *granule* is 16 bytes of memory and has one tag of four bits. Data and tag are separate locations: there is no
//! atomicity between them, and each can change without the other.
//!
//! ```text
//!                         reads                        writes
//!  guest                  LDG, checked loads           STG, …              the vCPU
//!  TagWindow              LDG at EL0                   STG, ST2G at EL0    a PROT_MTE mapping of the same memfd
//!  read_tags              KVM_ARM_MTE_COPY_TAGS        –                   an ioctl on the VM
//! ```
//!
//! There is no function that writes tags by the ioctl: on a running VM it is refused while dirty logging is on, waits
//! for userfaultfd with the VM's locks held, and wipes a page's tags when its buffer faults (docs/kernel-hazards.md).
//!
//! What the kernel allows is found out by trying it ([`probe`]), never by its version.

#[cfg(target_arch = "aarch64")]
mod copy;
#[cfg(target_arch = "aarch64")]
mod pages;
#[cfg(target_arch = "aarch64")]
mod probe;
#[cfg(target_arch = "aarch64")]
mod tags;

#[cfg(target_arch = "aarch64")]
pub use copy::{CopyTagsError, TagBuffer, read_tags};
#[cfg(target_arch = "aarch64")]
pub(crate) use pages::page_size;
#[cfg(target_arch = "aarch64")]
pub use probe::{ProbeError, probe};
#[cfg(target_arch = "aarch64")]
pub use tags::{TagWindow, TagWindowError};

use serde::{Deserialize, Serialize};

/// Bytes of memory that one tag covers.
pub const GRANULE: usize = 16;

/// Whether guests on this host can have memory tagging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "support", rename_all = "snake_case")]
pub enum MteSupport {
    /// No guest can.
    None {
        /// What is missing.
        why: String,
    },
    /// Only on memory that no other process shares, which this monitor's devices need.
    PrivateOnly {
        /// What is missing.
        why: String,
    },
    /// On shared memory as well.
    Shared,
}

impl MteSupport {
    /// Why a guest of this monitor cannot have memory tagging; `None` where it can.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::None { why } | Self::PrivateOnly { why } => Some(why),
            Self::Shared => None,
        }
    }
}

/// What a host was found to do with tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MteReport {
    /// Whether guests can have memory tagging.
    #[serde(flatten)]
    pub support: MteSupport,
    /// `ID_AA64PFR1_EL1.MTE` as a guest sees it: 2 for tags, 3 with asymmetric checks.
    pub level: Option<u8>,
    /// Tags set by the ioctl were read back by it and by `LDG`, without any vCPU.
    pub copies_tags: bool,
    /// What the ioctl answers when it is to write tags while dirty logging is on.
    pub writes_while_logging: Option<WritesWhileLogging>,
    /// Whether memory of huge pages is allowed under memory tagging (it is not used).
    pub huge_pages: Option<bool>,
}

impl MteReport {
    /// A host without.
    #[must_use]
    pub fn none(why: impl Into<String>) -> Self {
        Self {
            support: MteSupport::None { why: why.into() },
            level: None,
            copies_tags: false,
            writes_while_logging: None,
            huge_pages: None,
        }
    }
}

/// What becomes of `KVM_ARM_MTE_COPY_TAGS` to the guest while a slot of the VM logs dirty pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WritesWhileLogging {
    /// Refused with `EBUSY` (Linux 6.12).
    Refused,
    /// Done, and not logged (older kernels): the writer must log itself.
    Unlogged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_flat_and_names_its_reason() {
        let json = serde_json::to_value(MteReport::none("no tags here")).expect("serialised");
        assert_eq!(json["support"], "none");
        assert_eq!(json["why"], "no tags here");
        let shared = MteReport {
            support: MteSupport::Shared,
            level: Some(3),
            copies_tags: true,
            writes_while_logging: Some(WritesWhileLogging::Refused),
            huge_pages: Some(false),
        };
        let json = serde_json::to_string(&shared).expect("serialised");
        assert_eq!(serde_json::from_str::<MteReport>(&json).expect("read back"), shared);
        assert!(json.starts_with(r#"{"support":"shared","level":3,"#), "{json}");
    }

    #[test]
    fn only_shared_tags_are_no_refusal() {
        assert_eq!(MteSupport::Shared.refusal(), None);
        assert_eq!(MteSupport::PrivateOnly { why: "old".into() }.refusal(), Some("old"));
    }
}
