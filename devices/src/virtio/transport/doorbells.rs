//! The kicks: one eventfd per queue, which a doorbell in the BAR signals.

use std::io;
use std::sync::Arc;

use tracing::warn;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::layout::NOTIFY_MULTIPLIER;
use crate::platform::Doorbells;

/// The eventfds, and where their doorbells are now.
pub(super) struct Kicks {
    eventfds: Vec<EventFd>,
    doorbells: Arc<dyn Doorbells>,
    base: Option<u64>,
}

impl Kicks {
    /// Eventfds for `queues` queues, with no doorbell yet.
    pub fn new(queues: usize, doorbells: Arc<dyn Doorbells>) -> io::Result<Self> {
        let eventfd = |_| EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let eventfds = (0..queues).map(eventfd).collect::<io::Result<_>>()?;
        Ok(Self { eventfds, doorbells, base: None })
    }

    /// The eventfd of a queue that there is.
    pub fn of(&self, queue: u16) -> &EventFd {
        &self.eventfds[usize::from(queue)]
    }

    /// Kicks `queue`, if there is one.
    pub fn kick(&self, queue: u16) {
        if let Some(eventfd) = self.eventfds.get(usize::from(queue)) {
            // The only error is a full counter, and then there is a kick already.
            let _ = eventfd.write(1);
        }
    }

    /// A store to the doorbells that no ioeventfd caught.
    pub fn ring(&self, offset: u64) {
        if let Ok(queue) = u16::try_from(offset / NOTIFY_MULTIPLIER) {
            self.kick(queue);
        }
    }

    /// Moves the doorbells to `base`, or takes them away.
    pub fn place(&mut self, base: Option<u64>) {
        if self.base == base {
            return;
        }
        if let Some(old) = self.base.take() {
            for (address, eventfd) in self.at(old) {
                if let Err(error) = self.doorbells.detach(address, eventfd) {
                    warn!(address, %error, "a doorbell could not be taken away");
                }
            }
        }
        if let Some(new) = base {
            for (address, eventfd) in self.at(new) {
                if let Err(error) = self.doorbells.attach(address, eventfd) {
                    // It works without, by way of `ring`, only slower.
                    warn!(address, %error, "a doorbell could not be put up");
                }
            }
            self.base = base;
        }
    }

    fn at(&self, base: u64) -> impl Iterator<Item = (u64, &EventFd)> {
        let step = NOTIFY_MULTIPLIER as usize;
        (base..).step_by(step).zip(&self.eventfds)
    }
}
