//! The private language of `machine` and `control`: one JSON message per SEQPACKET datagram.
//!
//! ```text
//!  control ── Envelope<Command> + descriptors ──► machine
//!  control ◄── Reply (one per command) | Notice ── machine
//! ```
//!
//! `control` is trusted by `machine`. The other way it is not so: whoever has taken over a vCPU thread can write
//! anything here, so `control` reads with a size cap, takes no descriptor from `machine`, and treats a message that
//! does not parse as the death of the machine.

mod channel;
mod message;
mod mover;

pub use channel::{Channel, ChannelError, Received};
pub use message::{
    Blame, BootReport, BootSpec, Command, Contents, CpuSpec, DeviceKind, DeviceReport, DeviceSpec, Envelope,
    Failure, FdSlot, FromMachine, GuestEnd, Notice, Outcome, OutsideConfig, OutsideDevice, RegionSpec,
    SerialSpec, Served, StartSpec,
};
#[cfg(target_arch = "aarch64")]
pub use message::{BusDevice, MteReport};
pub use mover::{FileSlots, FromMover, LayerSpec, MoverOrder, SavedMemory, SharedMemory, SharedRegion};
