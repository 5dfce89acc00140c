//! Finds out by trying what this host's kernel does with tags.
//!
//! ```text
//!  KVM_CHECK_EXTENSION(MTE) = 0 ────────────────────────► None
//!  scratch VM, enable MTE: fails ───────────────────────► None
//!  slot over a shared memfd:  ok ───────────────────────► Shared
//!                             EINVAL ─ slot over private
//!                                      memory:  ok ─────► PrivateOnly (Linux before 6.2)
//!                                               fails ──► None
//!  then, for information: tags to the guest and back; the same with dirty logging on; a slot of huge pages
//! ```
//!
//! No vCPU runs, and what is tried is gone when the function returns. A kernel's version is never asked: vendors take
//! patches back and forth.

use std::io;

use kvm_bindings::{
    KVM_CAP_ARM_MTE, KVM_MEM_LOG_DIRTY_PAGES, kvm_enable_cap, kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VmFd};
use thiserror::Error;

use super::copy::{Direction, TagBuffer, copy};
use super::pages::{Pages, memfd, page_size};
use super::tags::TagWindow;
use super::{GRANULE, MteReport, MteSupport, WritesWhileLogging};
use crate::kvm::SystemRegister;

/// Two pages of scratch memory.
const SHARED_SLOT: u64 = 0x1000_0000;
const PRIVATE_SLOT: u64 = 0x2000_0000;
const HUGE_SLOT: u64 = 0x4000_0000;
const HUGE_PAGE: usize = 2 << 20;

/// Why the probe has no answer.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No scratch VM.
    #[error("cannot create a VM to try memory tagging in")]
    CreateVm(#[source] io::Error),
    /// No scratch memory.
    #[error("cannot make memory to try memory tagging on")]
    Memory(#[source] io::Error),
    /// The kernel answered as no known kernel does.
    #[error("KVM refuses shared memory in a VM with memory tagging for a reason that is not known")]
    Slot(#[source] io::Error),
}

/// Tries what guests on this host can do with memory tagging.
///
/// # Errors
/// Where nothing could be tried, or the kernel's answer is unknown.
pub fn probe(kvm: &Kvm) -> Result<MteReport, ProbeError> {
    if kvm.check_extension_raw(KVM_CAP_ARM_MTE.into()) == 0 {
        return Ok(MteReport::none(
            "KVM offers no memory tagging: the processor has no MTE, or the firmware or the kernel's command line has it \
             switched off",
        ));
    }
    let vm = kvm.create_vm().map_err(|e| ProbeError::CreateVm(e.into()))?;
    if let Err(e) = vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_ARM_MTE, ..Default::default() }) {
        return Ok(MteReport::none(format!("KVM offers memory tagging but refuses to turn it on: {e}")));
    }
    let page = page_size();
    let file = memfd(page, 0).map_err(ProbeError::Memory)?;
    let shared =
        Pages::shared(&file, 0, page, libc::PROT_READ | libc::PROT_WRITE).map_err(ProbeError::Memory)?;
    let private = Pages::anonymous(page).map_err(ProbeError::Memory)?;

    let support = support(
        slot(&vm, 0, SHARED_SLOT, &shared, 0),
        // The control: without it a refusal of the first could mean anything.
        slot(&vm, 1, PRIVATE_SLOT, &private, 0),
    )?;
    let mut report = MteReport {
        support,
        level: level(&vm),
        copies_tags: false,
        writes_while_logging: None,
        huge_pages: huge_pages(&vm),
    };
    let (number, address, pages) = match report.support {
        MteSupport::None { .. } => return Ok(report),
        MteSupport::PrivateOnly { .. } => (1, PRIVATE_SLOT, &private),
        MteSupport::Shared => (0, SHARED_SLOT, &shared),
    };
    let window = match report.support {
        MteSupport::Shared => TagWindow::map(&file, 0, page).ok(),
        _ => None,
    };
    let mut buffer = TagBuffer::new(1).map_err(ProbeError::Memory)?;
    report.copies_tags = copies_tags(&vm, address, &mut buffer, window.as_ref());
    report.writes_while_logging = writes_while_logging(&vm, number, address, pages, &mut buffer);
    Ok(report)
}

/// What the answers for the two slots mean.
fn support(shared: io::Result<()>, private: io::Result<()>) -> Result<MteSupport, ProbeError> {
    match (shared, private) {
        (Ok(()), _) => Ok(MteSupport::Shared),
        (Err(e), Ok(())) if e.raw_os_error() == Some(libc::EINVAL) => Ok(MteSupport::PrivateOnly {
            why: "this kernel refuses shared guest memory in a VM with memory tagging (Linux 6.2 and later allow it), \
                  and the device processes need it shared"
                .into(),
        }),
        (Err(_), Err(e)) => Ok(MteSupport::None {
            why: format!("KVM refuses any memory in a VM with memory tagging: {e}"),
        }),
        (Err(e), Ok(())) => Err(ProbeError::Slot(e)),
    }
}

fn slot(vm: &VmFd, number: u32, address: u64, pages: &Pages, flags: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot: number,
        flags,
        guest_phys_addr: address,
        memory_size: pages.length() as u64,
        userspace_addr: pages.start().as_ptr() as u64,
    };
    // SAFETY: no vCPU of this VM ever runs, so that nothing is written by way of the slot but tags, by the ioctl, while
    // the mapping is alive. Afterwards the VM goes without touching it.
    Ok(unsafe { vm.set_user_memory_region(region) }?)
}

/// Whether a pattern of tags comes back, by the ioctl and by `LDG`.
fn copies_tags(vm: &VmFd, address: u64, buffer: &mut TagBuffer, window: Option<&TagWindow>) -> bool {
    let page = page_size();
    let granules = page / GRANULE;
    let pattern: Vec<u8> = (0..granules).map(|i| (i * 7 + 3) as u8 & 0xf).collect();
    buffer.set(&pattern);
    let whole = |result: io::Result<u64>| result.is_ok_and(|n| n == page as u64);
    if !whole(copy(vm, Direction::ToGuest, address, page as u64, buffer)) {
        return false;
    }
    buffer.set(&vec![0; granules]);
    if !whole(copy(vm, Direction::FromGuest, address, page as u64, buffer))
        || buffer.tags(granules) != pattern
    {
        return false;
    }
    let Some(window) = window else { return true };
    let mut tags = vec![0; granules];
    window.read(0, &mut tags).is_ok() && tags == pattern
}

fn writes_while_logging(
    vm: &VmFd,
    number: u32,
    address: u64,
    pages: &Pages,
    buffer: &mut TagBuffer,
) -> Option<WritesWhileLogging> {
    slot(vm, number, address, pages, KVM_MEM_LOG_DIRTY_PAGES).ok()?;
    match copy(vm, Direction::ToGuest, address, pages.length() as u64, buffer) {
        Ok(_) => Some(WritesWhileLogging::Unlogged),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Some(WritesWhileLogging::Refused),
        Err(_) => None,
    }
}

/// Nothing where the host has no huge page to spare for the question; none is taken from the pool by asking.
fn huge_pages(vm: &VmFd) -> Option<bool> {
    let file = memfd(HUGE_PAGE, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB).ok()?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let pages = Pages::shared_without_reservation(&file, HUGE_PAGE, prot).ok()?;
    match slot(vm, 2, HUGE_SLOT, &pages, 0) {
        Ok(()) => Some(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Some(false),
        Err(_) => None,
    }
}

/// The level that a guest sees, of a vCPU that never runs.
fn level(vm: &VmFd) -> Option<u8> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).ok()?;
    let vcpu = vm.create_vcpu(0).ok()?;
    vcpu.vcpu_init(&target).ok()?;
    let mut value = [0; 8];
    vcpu.get_one_reg(SystemRegister::ID_AA64PFR1_EL1.id(), &mut value).ok()?;
    Some((u64::from_le_bytes(value) >> 8 & 0xf) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(n: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(n))
    }

    #[test]
    fn shared_memory_accepted_means_shared() {
        assert_eq!(support(Ok(()), Ok(())).expect("an answer"), MteSupport::Shared);
    }

    #[test]
    fn only_shared_memory_refused_means_an_old_kernel() {
        let answer = support(errno(libc::EINVAL), Ok(())).expect("an answer");
        assert!(matches!(answer, MteSupport::PrivateOnly { .. }));
        assert!(answer.refusal().expect("a reason").contains("6.2"));
    }

    #[test]
    fn all_memory_refused_means_none() {
        let answer = support(errno(libc::EINVAL), errno(libc::EINVAL)).expect("an answer");
        assert!(matches!(answer, MteSupport::None { .. }));
    }

    #[test]
    fn another_refusal_is_no_answer() {
        assert!(matches!(support(errno(libc::ENOMEM), Ok(())), Err(ProbeError::Slot(_))));
    }
}
