//! What this host can do, for `granule probe` and the API.
//!
//! [`report`] needs `/dev/kvm` and nothing else; [`files`] reads what is only to be had from files and system calls that a
//! jail takes away. Both belong into `control` or a process of their own, never into one that is already in its jail.

mod files;
#[cfg(target_arch = "aarch64")]
mod report;

pub use files::{FileReport, Userfaultfd, files, shmem_huge_pages};
#[cfg(target_arch = "aarch64")]
pub use report::report;

use serde::{Deserialize, Serialize};

use crate::mte::MteReport;

/// What KVM and the processor offer to guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// Bytes of a page of that kernel.
    pub page_size: usize,
    /// The version of KVM's interface; 12 is the only one there is.
    pub kvm_api: i32,
    /// The most bits of guest physical address.
    pub ipa_bits: u8,
    /// The most vCPUs that KVM gives one VM.
    pub max_vcpus: usize,
    /// Memory tagging.
    pub mte: MteReport,
    /// An interrupt controller of version 3, which guests need.
    pub gicv3: bool,
    /// Its translation service, by which devices signal.
    pub its: bool,
    /// Lengths of scalable vectors in bits, none where there are no such vectors.
    pub sve_vector_bits: Vec<u32>,
    /// Pointer authentication.
    pub pointer_auth: bool,
    /// Performance counters.
    pub pmu: bool,
    /// The ring by which vCPUs tell which pages they wrote, and its size in bytes; 0 where there is none.
    pub dirty_ring_bytes: u32,
    /// Whether the guest's clock can be set for the whole VM at once.
    pub counter_offset: bool,
}
