//! A machine made of lists, for tests: it records what devices ask of it.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::platform::{MsiMessage, MsiVectors};
use crate::sync::lock;

/// Vectors whose routes can be looked at.
pub(crate) struct FakeVectors {
    eventfds: Vec<EventFd>,
    routes: Mutex<Vec<Option<MsiMessage>>>,
    routings: AtomicUsize,
}

impl FakeVectors {
    pub(crate) fn new(count: u16) -> Self {
        let eventfds = (0..count).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        Self { eventfds, routes: Mutex::new(vec![None; usize::from(count)]), routings: AtomicUsize::new(0) }
    }

    pub(crate) fn routed(&self, vector: u16) -> Option<MsiMessage> {
        lock(&self.routes)[usize::from(vector)]
    }

    pub(crate) fn routings(&self) -> usize {
        self.routings.load(Ordering::SeqCst)
    }

    /// How often the vector was raised since the last call.
    pub(crate) fn raised(&self, vector: u16) -> u64 {
        self.eventfds[usize::from(vector)].read().unwrap_or(0)
    }
}

impl MsiVectors for FakeVectors {
    fn count(&self) -> u16 {
        self.eventfds.len() as u16
    }

    fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        self.eventfds.get(usize::from(vector))
    }

    fn route(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        self.routings.fetch_add(1, Ordering::SeqCst);
        let mut routes = lock(&self.routes);
        *routes.get_mut(usize::from(vector)).ok_or(io::ErrorKind::InvalidInput)? = message;
        Ok(())
    }
}
