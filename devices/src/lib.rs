//! What a guest sees of the outside world, and the processes that serve it.
//!
//! ```text
//!   vCPU exits ──► vm_device bus ──► pci::PciSegment ──► VirtioPciDevice ── VirtioBackend ──► device process
//!                        └─────────► pl011, pl031, pl061                   (vhost-user)        serve + rng, …
//! ```
//!
//! The left half runs in the machine process, the right half (`serve`, `rng`) in a jailed process per device;
//! guest memory, kicks and interrupts pass between guest and device process without either half copying them.
//!
//! This crate knows nothing of KVM, of HTTP and of processes: what it needs of the machine it asks for by the
//! traits of [`platform`], and file descriptors come to it already open.

mod amba;
pub mod balloon;
pub mod blk;
pub mod console;
pub mod dirty;
pub mod hex;
mod holes;
pub mod mem;
pub mod net;
pub mod pci;
pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod platform;
pub mod pmem;
pub mod rate;
pub mod rng;
pub mod serve;
mod sync;
mod sys;
pub mod userfault;
pub mod virtio;
pub mod vsock;
pub mod watchdog;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod fakes;
