//! Queues that a guest has broken, as the processes that serve them tell it: through an eventfd for each device.
//!
//! ```text
//!  device process ── write(eventfd) ──► one epoll set ──► the machine's loop ──► DEVICE_NEEDS_RESET
//! ```
//! A process that may have been taken over holds the other end. All it can do with it is to have its own device marked
//! again, which changes nothing the second time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// How many are looked at in one turn of the loop.
const TURN: usize = 16;

/// The eventfds of all devices; every copy is the same set.
#[derive(Debug, Clone)]
pub struct Alarms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    epoll: Epoll,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Never used twice: an event of a device that is gone names nobody.
    next: u64,
    devices: BTreeMap<u64, (String, EventFd)>,
}

impl Alarms {
    /// Nobody is watched yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Inner { epoll: Epoll::new()?, watched: Mutex::default() })))
    }

    /// Watches the device `id`, in the place of one of that name.
    pub fn watch(&self, id: &str, eventfd: EventFd) -> io::Result<()> {
        self.forget(id);
        let mut watched = self.watched();
        let token = watched.next;
        watched.next += 1;
        // By the edge: what cannot be read, whoever may have made it so, must not wake the loop again and again.
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, token);
        self.0.epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event)?;
        watched.devices.insert(token, (id.to_owned(), eventfd));
        Ok(())
    }

    /// Watches the device `id` no more.
    pub fn forget(&self, id: &str) {
        self.watched().devices.retain(|_, (name, eventfd)| {
            let stays = name != id;
            if !stays {
                self.leave(eventfd);
            }
            stays
        });
    }

    /// Watches nobody any more.
    pub fn forget_all(&self) {
        let devices = std::mem::take(&mut self.watched().devices);
        devices.values().for_each(|(_, eventfd)| self.leave(eventfd));
    }

    /// The devices that have raised the alarm since the last time.
    pub fn raised(&self) -> Vec<String> {
        let mut events = [EpollEvent::default(); TURN];
        // Nothing to do about an error: the next alarm is told anew.
        let count = self.0.epoll.wait(0, &mut events).unwrap_or(0);
        let watched = self.watched();
        let devices = events[..count].iter().filter_map(|event| watched.devices.get(&event.data()));
        devices
            .map(|(id, eventfd)| {
                let _ = eventfd.read();
                id.clone()
            })
            .collect()
    }

    fn leave(&self, eventfd: &EventFd) {
        let gone = self.0.epoll.ctl(ControlOperation::Delete, eventfd.as_raw_fd(), EpollEvent::default());
        if let Err(error) = gone {
            tracing::debug!(%error, "an alarm could not be taken away");
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        // A panic aborts the process, so no lock is ever found poisoned.
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Alarms {
    fn as_raw_fd(&self) -> RawFd {
        self.0.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn watched(alarms: &Alarms, id: &str) -> EventFd {
        let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
        alarms.watch(id, eventfd.try_clone().unwrap()).unwrap();
        eventfd
    }

    #[test]
    fn an_alarm_names_its_device_once() {
        let alarms = Alarms::new().unwrap();
        let (first, second) = (watched(&alarms, "first"), watched(&alarms, "second"));
        assert!(alarms.raised().is_empty());
        second.write(3).unwrap();
        assert_eq!(alarms.raised(), ["second"]);
        assert!(alarms.raised().is_empty());
        first.write(1).unwrap();
        second.write(1).unwrap();
        assert_eq!(alarms.raised().len(), 2);
    }

    #[test]
    fn a_device_that_is_gone_raises_no_alarm_though_its_process_still_can() {
        let alarms = Alarms::new().unwrap();
        let (first, second) = (watched(&alarms, "first"), watched(&alarms, "second"));
        alarms.forget("first");
        first.write(1).unwrap();
        assert!(alarms.raised().is_empty());
        let _successor = watched(&alarms, "second");
        second.write(1).unwrap();
        assert!(alarms.raised().is_empty(), "it is another's now");
        alarms.forget_all();
    }
}
