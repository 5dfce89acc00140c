//! What the transport needs of whatever serves a device.
//!
//! ```text
//!             start                  stop
//!   stopped ─────────► running ─────────────► stopped
//!      ▲                  │ back end gone: every call fails with DeviceFault
//!      └──── reconnect ◄──┘
//! ```

use std::os::unix::net::UnixStream;

use vmm_sys_util::eventfd::EventFd;

use super::fault::{DeviceFault, Fault};
use crate::dirty::LogFile;

/// The most that a back end may remember, in bytes.
pub const MAX_STATE: u64 = 16 << 20;

/// One queue, checked: its size is a power of two, its rings are aligned and each lies in one region of RAM.
#[derive(Clone, Copy, Debug)]
pub struct QueueSetup<'a> {
    /// The queue's index.
    pub index: u16,
    /// How many descriptors it has.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The index of the available ring to go on from; 0 on a fresh start.
    pub next_available: u16,
    /// Signalled when the guest has made buffers available.
    pub kick: &'a EventFd,
    /// To be signalled when buffers were used; `None` if the guest wants no interrupt.
    pub call: Option<&'a EventFd>,
}

/// Whatever serves a virtio device; in production a device process that speaks vhost-user.
///
/// Every method returns within a time that the implementor bounds.
pub trait VirtioBackend: Send {
    /// The features that it has.
    fn features(&self) -> u64;

    /// The most descriptors that each of its queues may have, each a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The device-specific configuration, at most 4,096 bytes of it.
    fn config(&self) -> &[u8];

    /// Fills `data`, which the guest reads at `offset` of the configuration; with zeros beyond its end.
    fn read_config(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        read_slice(self.config(), offset, data);
        Ok(())
    }

    /// Passes on a write of the guest, which lies within [`VirtioBackend::config`].
    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault>;

    /// Reads the device-specific configuration anew: it has changed on the other side.
    fn refresh_config(&mut self) -> Result<(), Fault>;

    /// Is told that the driver starts anew: nothing of what it did before is in flight.
    fn renew(&mut self) {}

    /// Starts serving `queues`, which are those that the guest has enabled.
    fn start(&mut self, features: u64, queues: &[QueueSetup<'_>]) -> Result<(), Fault>;

    /// Guest memory has more or less than before: one that is running has to know.
    fn remap(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Has `queue` of a running device interrupt by another eventfd.
    fn set_call(&mut self, queue: u16, call: Option<&EventFd>) -> Result<(), Fault>;

    /// Has what it writes to guest memory logged from now on, or no longer; whether it runs or not.
    fn log_writes(&mut self, log: Option<&LogFile>) -> Result<(), Fault>;

    /// Stops. On success the back end reads and writes no guest memory any more. Answers, for each queue that ran, the
    /// index of the available ring from which it is to go on.
    fn stop(&mut self) -> Result<Vec<(u16, u16)>, Fault>;

    /// Whether it can say what it remembers beyond the queues ([`Self::save`]).
    fn keeps_state(&self) -> bool {
        true
    }

    /// What it remembers beyond the queues, once it is stopped; at most [`MAX_STATE`] bytes.
    fn save(&mut self) -> Result<Vec<u8>, Fault> {
        Ok(Vec::new())
    }

    /// Puts back what another of its kind had saved, before it is started.
    fn restore(&mut self, state: &[u8]) -> Result<(), Fault> {
        if state.is_empty() { Ok(()) } else { Err(DeviceFault::Lacks("a place for saved state").into()) }
    }

    /// Goes on over `stream` with a new process in the place of one that is gone; the back end is stopped then.
    fn reconnect(&mut self, stream: UnixStream) -> Result<(), Fault>;
}

/// Fills `data` from `offset` of `config` on; with zeros beyond its end.
pub(super) fn read_slice(config: &[u8], offset: u64, data: &mut [u8]) {
    let at = |index: usize| usize::try_from(offset).ok()?.checked_add(index).and_then(|at| config.get(at));
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = at(index).copied().unwrap_or(0);
    }
}
