//! The Arm machine that Granule gives to a guest: memory map, device tree, boot, GIC, vCPUs and memory tagging.
//!
//! ```text
//!  layout ──► where everything is in guest physical memory (pure)
//!  irq    ──► what each interrupt is called on each side (pure)
//!  fdt    ──► the device tree that tells the guest so (pure)
//!  boot   ──► which file is a kernel, where it goes, how the first vCPU starts (pure, and one loader)
//!  kvm    ──► VM, vCPUs, GICv3 and ITS (leaf modules, Arm only)
//!  mte    ──► what the host's kernel can do with tags; reading and writing them (leaf modules, Arm only)
//!  state  ──► what all of that remembers, as it is saved (pure)
//!  host   ──► a report of all that for a person or a client
//! ```
//!
//! This crate knows nothing of HTTP, processes or virtio, opens no file by path (except `host::files`, whose
//! purpose that is) and starts no thread. What is pure builds and is tested on any machine.

pub mod boot;
pub mod fdt;
pub mod host;
pub mod irq;
#[cfg(target_arch = "aarch64")]
pub mod kvm;
pub mod layout;
pub mod mte;
pub mod state;
