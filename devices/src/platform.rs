//! What the machine implements for its devices: interrupts and doorbells, with no word of KVM.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// One wired interrupt line.
pub trait IrqLine: Send + Sync {
    /// Drives the line to its asserted or idle level.
    fn set(&self, asserted: bool) -> io::Result<()>;
}

/// What a message-signalled interrupt writes, and where (PCI Local Bus 3.0, §6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address written to; for an ITS, its `GITS_TRANSLATER`.
    pub address: u64,
    /// The value written; for an ITS, the event id.
    pub data: u32,
}

/// The MSI-X vectors of one PCI function; the index is the vector's number.
pub trait MsiVectors: Send + Sync {
    /// How many vectors there are.
    fn count(&self) -> u16;

    /// The eventfd that raises `vector`, valid for the life of the VM; a device process gets it as its call fd.
    fn eventfd(&self, vector: u16) -> Option<&EventFd>;

    /// Points `vector` at `message`.
    ///
    /// `None` masks it: its eventfd is detached from the interrupt controller, what is written to it meanwhile
    /// accumulates there, and fires when a message is set again.
    fn route(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()>;
}

/// Guest stores that become eventfd writes without leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// Has every store to guest-physical `address`, of any width and value, signal `fd`.
    fn attach(&self, address: u64, fd: &EventFd) -> io::Result<()>;

    /// Ends what [`Doorbells::attach`] began.
    fn detach(&self, address: u64, fd: &EventFd) -> io::Result<()>;
}
