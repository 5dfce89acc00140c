//! Virtio 1.2 over PCI: what the guest sees (`transport`), and how a device process is driven (`frontend`).
//!
//! ```text
//!   guest driver ──► transport::VirtioPciDevice ──► dyn VirtioBackend ──► frontend::VhostUserFrontend ──► process
//!        kick ─────────────── ioeventfd ───────────────────────────────────────────────────────────────► │
//!        interrupt ◄───────── irqfd ◄─────────────────────────────────────────────────────────────────── ┘
//! ```
//! Legacy and transitional devices are deliberately absent: a driver without VERSION_1 is refused.

pub mod backend;
pub mod fault;
pub mod frontend;
pub mod spec;
pub mod transport;

pub use backend::{QueueSetup, VirtioBackend};
pub use fault::{DeviceFault, Fault, GuestFault, Ring};
pub use frontend::{ConfigSource, Deadlines, DeviceProcess, Expected};
pub use spec::DeviceType;
pub use transport::{
    DriverEvent, DriverSink, FaultSink, GuestMemory, StateError, VirtioPciDevice, VirtioState,
};
