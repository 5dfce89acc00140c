//! PCI Express as a guest with a device tree sees it: segments, configuration space, BARs and MSI-X.
//!
//! ```text
//!   ECAM access ─► PciSegment ─► function (own lock) ─► config_read / config_write
//!                      ▲                                     │ BAR or command changed
//!                      └── routes (one RwLock, held briefly) ◄┘
//!   window access ─► routes ─► function (own lock) ─► bar_read / bar_write
//! ```
//!
//! Devices that come while the guest runs sit behind root ports ([`port`]). A port's bus has the number that the guest gave it;
//! everything here knows a device by its *home*, the number that firmware would have given.
//!
//! Locks are taken in one order only: a function's own lock, then one of the segment's. A look-up copies the route
//! out and lets go before it takes the function's lock, so a function that is slow delays nobody else's accesses.

pub mod address;
pub mod bridge;
pub mod config;
mod firmware;
pub mod function;
mod hotplug;
mod mmio;
pub mod msi;
pub mod msix;
pub mod port;
pub mod routes;
mod saved;
pub mod segment;
pub mod spec;
pub mod state;

pub use address::{AddressRange, BarIndex, Bdf};
pub use bridge::HostBridge;
pub use config::{ConfigSpace, Identity};
pub use function::{DecodedBar, PciFunction, SharedFunction};
pub use hotplug::{PortPlace, port_places};
pub use mmio::{Ecam, MemoryWindow};
pub use msi::Msi;
pub use msix::Msix;
pub use port::{Forwarding, Release, ReleaseSink, RootPort};
pub use saved::BridgeStates;
pub use segment::{InsertError, PciSegment, SegmentLayout};
pub use state::{MsixState, RestoreError};
