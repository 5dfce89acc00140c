//! The process that runs the guest.
//!
//! ```text
//!  start ─► spawn control ─► close what is control's ─► jail ─► loop ─► exit with control's code
//!
//!  loop:   control's socket ──► Command ──► Guest::{build, pause, resume, stop, …} ──► Reply
//!          vCPU threads, devices ──► Notice ──► control's socket
//!          device processes ──► Alarm ──► DEVICE_NEEDS_RESET
//!          SIGTERM, SIGINT, SIGHUP ──► Notice::Terminate
//! ```
//!
//! One thread owns the guest and is its only mutator. It has given up the file system before the first command: all
//! that it works on arrives as descriptors. When `control` goes, everything here goes.

mod signals;
mod start;
mod turn;

// Used by the guest's modules only, and tested everywhere.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
mod alarms;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
mod gate;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
mod mailbox;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
mod memory;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
mod serial;

#[cfg(target_arch = "aarch64")]
mod guest;
#[cfg(not(target_arch = "aarch64"))]
#[path = "guest_elsewhere.rs"]
mod guest;

pub use guest::Host;
pub use start::run;
