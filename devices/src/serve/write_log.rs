//! The front end's log of what the device writes to guest memory (vhost-user specification, "Migration").
//!
//! ```text
//!   none ── SET_LOG_BASE ──► a log ── SET_FEATURES with LOG_ALL ──► logging ── SET_FEATURES without ──► none
//! ```
//! A turn of serving is logged when it is over, so that nothing is logged before it was written: what may have been
//! written are the writable buffers of all chains that were taken, and the used ring.

use super::ring::Writes;
use crate::dirty::DirtyLog;

/// See the module's description.
#[derive(Default)]
pub struct WriteLog {
    log: Option<DirtyLog>,
    on: bool,
}

impl WriteLog {
    /// Whether writes are to be noted.
    pub fn is_logging(&self) -> bool {
        self.on && self.log.is_some()
    }

    /// Takes another log.
    pub fn replace(&mut self, log: DirtyLog) {
        self.log = Some(log);
    }

    /// Begins, or ends and lets go of the log.
    pub fn switch(&mut self, on: bool) {
        self.on = on;
        if !on {
            self.log = None;
        }
    }

    /// Logs a used ring and what was noted, of which nothing is left.
    pub fn mark(&self, used_ring: (u64, u64), writes: Option<&mut Writes>) {
        let (Some(log), Some(writes)) = (&self.log, writes) else { return };
        for (address, length) in writes.drain(..).chain([used_ring]) {
            log.mark(address, length);
        }
    }
}
