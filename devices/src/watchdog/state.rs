//! What the watchdog remembers.
//!
//! ```text
//!            first ping             no ping for the time limit
//!   Asleep ─────────────► Awake ───────────────────────────────► Bitten
//!                          │ ▲ ping, and `resume`
//!                 `pause`  ▼ │
//!                          Held   no time passes
//! ```
//! `pause` and `resume` are orders of whoever stops the guest's processors; a machine that stands still is no hung one.

use std::time::{Duration, Instant};

/// The order to let no time pass.
pub const PAUSE: &[u8] = b"pause";
/// The order to let time pass again, as if the guest had just been heard of.
pub const RESUME: &[u8] = b"resume";

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// The guest has no driver, or has not pinged yet.
    Asleep,
    /// It has, at that time.
    Awake(Instant),
    /// It has, but the machine stands still.
    Held,
    /// The time was over; once is enough.
    Bitten,
}

impl Watch {
    /// The guest has been heard of.
    pub fn ping(&mut self) {
        if matches!(self, Self::Asleep | Self::Awake(_)) {
            *self = Self::Awake(Instant::now());
        }
    }

    /// The machine stands still.
    pub fn pause(&mut self) {
        if matches!(self, Self::Awake(_)) {
            *self = Self::Held;
        }
    }

    /// The machine goes on.
    pub fn resume(&mut self) {
        if matches!(self, Self::Held) {
            *self = Self::Awake(Instant::now());
        }
    }

    /// When the time is over.
    pub fn end(self, limit: Duration) -> Option<Instant> {
        match self {
            Self::Awake(last) => last.checked_add(limit),
            _ => None,
        }
    }
}
