//! The host's KVM: opened and tried out before the jail closes, because trying out memory tagging takes a tagged mapping,
//! which no jail of ours allows.

use std::path::Path;

use granule_arch::host::{self, HostReport};
use kvm_ioctls::Kvm;

use crate::wire::{Blame, Failure};

/// KVM, and what was found out about the host.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    report: HostReport,
    shmem_huge_pages: Option<String>,
}

impl Host {
    /// Opens `/dev/kvm` and probes with scratch VMs.
    pub fn open() -> Result<Self, Failure> {
        let kvm = Kvm::new().map_err(|error| {
            let path = Path::new("/dev/kvm");
            let hint = if path.exists() {
                "guests need read and write access to it: is the user in its group (kvm)?"
            } else {
                "it is not there: this kernel has no KVM, or does not run at the level (EL2) that KVM needs"
            };
            Failure {
                blame: Blame::Host,
                causes: vec![
                    "cannot open /dev/kvm".into(),
                    std::io::Error::from(error).to_string(),
                    hint.into(),
                ],
            }
        })?;
        let report = host::report(&kvm)?;
        Ok(Self { kvm, report, shmem_huge_pages: host::shmem_huge_pages() })
    }

    /// What it can do.
    pub fn report(&self) -> &HostReport {
        &self.report
    }

    /// The setting of huge pages for shared memory, as it was before the jail closed.
    pub fn shmem_huge_pages(&self) -> Option<&str> {
        self.shmem_huge_pages.as_deref()
    }

    /// For building a VM.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}
