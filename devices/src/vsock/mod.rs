//! The socket device (virtio 1.2, §5.10) as a process: streams between the guest's AF_VSOCK and the host's AF_UNIX.
//!
//! ```text
//!   client ── connect ──► PATH        "CONNECT port\n" ──► REQUEST to the guest's port
//!          ◄─ "OK host-port\n" ◄────────────────────────── RESPONSE
//!   server ◄─ connect ─── PATH_port   ◄── broker ◄──────── REQUEST of the guest to the host's port
//! ```
//! The process listens on a socket that it was given and can connect to nothing: the `broker`, outside of the jail,
//! connects for it. Each connection is a state (`connection`) with its credit (`credit`); what the guest sends goes from
//! its memory into the stream by one `writev`, what the host sends from the stream into its memory by one `readv`.
//! `rust-vmm`'s `virtio-vsock` reads packets too, but none whose payload is in more than one buffer, as Linux sends them.

mod batch;
mod broker;
mod connection;
mod credit;
mod device;
mod lobby;
mod packet;
mod reset;
mod spec;
mod state;
mod table;

use std::error::Error;

pub use broker::{Answer, Wish};
pub use device::VsockDevice;
pub use spec::{CONFIG_SIZE, QUEUE_SIZES};
pub use state::{BadCid, GuestCid, HostSide};

use crate::serve::{Entry, ServeError, run as serve};

/// Runs the device process: whoever spawned it listens for it, and connects for it.
pub fn run(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    cid: GuestCid,
    host: HostSide,
) -> Result<(), ServeError> {
    serve(entry, || VsockDevice::new(cid, host))
}

#[cfg(test)]
mod tests;
