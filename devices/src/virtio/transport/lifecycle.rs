//! When the back end runs.
//!
//! ```text
//!             DRIVER_OK             at fault            dead              reconnect
//!   Stopped ────────────► Running ──────────► Suspect ──────► Orphaned ─────────────► Running
//!    ▲  ▲  └ guest at fault: NEEDS_RESET         │               │
//!    │  └──── status 0: the back end has stopped ┴───────────────┘
//!    │    Running ⇄ Quiet: stopped for a snapshot, and started where it stood (quiesce, wake)
//!    │                      │ it would not stop
//!    └──── dead ─────── Condemned: status stays NEEDS_RESET, so the driver waits
//! ```
//! A driver may reuse its memory once the status reads 0. That is why a back end that does not stop is waited for
//! until it is dead.

use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use tracing::{info, warn};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use super::{DriverEvent, VirtioPciDevice};
use crate::dirty::LogFile;
use crate::virtio::backend::QueueSetup;
use crate::virtio::fault::{DeviceFault, Fault, GuestFault, Ring};
use crate::virtio::spec::{STATUS_DRIVER_OK, STATUS_NEEDS_RESET};

/// What the queues are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: no driver is up, or one that was refused.
    Stopped,
    /// The back end serves them.
    Running,
    /// The back end is stopped while a snapshot is made or restored; it will go on where it stood.
    Quiet,
    /// The back end is at fault, but not known to be dead: it may still touch guest memory.
    Suspect,
    /// The back end is dead, from under a driver that is up.
    Orphaned,
    /// The driver has reset the device, but the back end would not stop.
    Condemned,
}

/// Where in its available ring a queue begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// At the first entry.
    Fresh,
    /// Behind the last buffer that was used.
    Used,
    /// Where it was stopped.
    Saved,
}

impl VirtioPciDevice {
    /// Takes note that the device process is dead: it touches no guest memory any more.
    ///
    /// Queues stand still until [`Self::reconnect`] or a reset.
    pub fn backend_gone(&mut self) {
        match self.phase {
            Phase::Stopped | Phase::Orphaned => {}
            Phase::Running | Phase::Quiet | Phase::Suspect => self.phase = Phase::Orphaned,
            Phase::Condemned => self.forget(),
        }
    }

    /// Tells the driver that the device cannot go on without a reset (virtio 1.2, §2.1.2).
    pub fn demand_reset(&mut self) {
        self.common.status |= STATUS_NEEDS_RESET;
        if self.common.status & STATUS_DRIVER_OK != 0 {
            self.config_changed();
        }
    }

    /// Whether the driver has been told so, and has not reset the device since.
    pub fn needs_reset(&self) -> bool {
        self.common.status & STATUS_NEEDS_RESET != 0
    }

    /// Whether the guest's driver is up and its queues are served.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Goes on over `stream` with a new process in the place of one that is dead.
    ///
    /// The queues go on behind the last buffer that was used: right for a device that uses buffers in the order in
    /// which they were made available. Interrupts and kicks that went down with the old process are made up for.
    pub fn reconnect(&mut self, stream: UnixStream) -> Result<(), Fault> {
        self.backend.reconnect(stream)?;
        self.backend_gone();
        if self.phase == Phase::Orphaned {
            self.start(From::Used)?;
            self.make_up();
        }
        Ok(())
    }

    /// Guest memory has more or less than before. A back end that cannot take that up is replaced as any that fails.
    pub fn remap(&mut self) {
        if self.phase == Phase::Running
            && let Err(fault) = self.backend.remap()
        {
            self.fail(&fault);
        }
    }

    /// Has what the back end writes to guest memory logged from now on, or no longer.
    pub fn log_writes(&mut self, log: Option<&LogFile>) -> Result<(), Fault> {
        match self.phase {
            Phase::Suspect | Phase::Orphaned | Phase::Condemned if log.is_some() => {
                Err(DeviceFault::Gone.into())
            }
            _ => self.backend.log_writes(log),
        }
    }

    /// Where the used rings of the queues are that the driver has set up: first address and bytes.
    pub fn used_rings(&self) -> impl Iterator<Item = (u64, u64)> {
        let enabled = self.common.queues.iter().filter(|queue| queue.enabled);
        enabled.map(|queue| (queue.used, queue.used_size()))
    }

    /// Stops the back end where it is: no guest memory is touched any more until [`Self::wake`]. No vCPU runs.
    pub fn quiesce(&mut self) -> Result<(), Fault> {
        match self.phase {
            Phase::Stopped | Phase::Quiet => return Ok(()),
            Phase::Running => {}
            Phase::Suspect | Phase::Orphaned | Phase::Condemned => return Err(DeviceFault::Gone.into()),
        }
        match self.backend.stop() {
            Ok(bases) => {
                for (index, base) in bases {
                    if let Some(queue) = self.common.queues.get_mut(usize::from(index)) {
                        queue.next_available = base;
                    }
                }
                self.phase = Phase::Quiet;
                Ok(())
            }
            Err(fault) => {
                self.fail(&fault);
                Err(fault)
            }
        }
    }

    /// Goes on after [`Self::quiesce`], or after its state was restored.
    pub fn wake(&mut self) -> Result<(), Fault> {
        if self.phase != Phase::Quiet {
            return Ok(());
        }
        match self.start(From::Saved) {
            Ok(()) => {
                self.make_up();
                Ok(())
            }
            Err(fault) => {
                self.fail(&fault);
                Err(fault)
            }
        }
    }

    /// Makes up for interrupts and kicks that went down with a process, or with the machine that was saved.
    fn make_up(&self) {
        for (index, queue) in (0..).zip(&self.common.queues).filter(|(_, queue)| queue.enabled) {
            self.msix.trigger(queue.vector);
            self.kicks.kick(index);
        }
    }

    /// The driver is up: checks what it has set up and has the back end serve it.
    pub(super) fn activate(&mut self) {
        match self.start(From::Fresh) {
            Ok(()) => {
                info!(id = self.id, features = self.common.features(), "the guest's driver is up");
                self.tell_driver(DriverEvent::Up);
            }
            Err(fault) => self.fail(&fault),
        }
    }

    /// Deals with a fault that came of a guest's access.
    pub(super) fn fail(&mut self, fault: &Fault) {
        warn!(id = self.id, error = fault as &dyn std::error::Error, "the device cannot go on");
        match &self.on_fault {
            // Its owner replaces the process, and the queues go on.
            Some(sink) if matches!(fault, Fault::Device(_)) => {
                self.phase = Phase::Suspect;
                sink(&self.id, fault);
            }
            Some(sink) => {
                sink(&self.id, fault);
                self.demand_reset();
            }
            None => self.demand_reset(),
        }
    }

    /// The driver resets the device: stops the back end and forgets what the driver has set up.
    pub(super) fn reset_device(&mut self) {
        if self.phase == Phase::Condemned {
            return;
        }
        if self.phase != Phase::Stopped {
            self.tell_driver(DriverEvent::Reset);
        }
        let stopped = match self.phase {
            Phase::Running | Phase::Suspect => self.backend.stop().map(drop),
            Phase::Stopped | Phase::Quiet | Phase::Orphaned | Phase::Condemned => Ok(()),
        };
        self.forget();
        if let Err(fault) = stopped {
            warn!(id = self.id, error = &fault as &dyn std::error::Error, "the back end would not stop");
            if let Some(sink) = &self.on_fault {
                self.phase = Phase::Condemned;
                self.common.status = STATUS_NEEDS_RESET;
                sink(&self.id, &fault);
            }
        }
    }

    fn tell_driver(&self, event: DriverEvent) {
        if let Some(sink) = &self.on_driver {
            sink(&self.id, event);
        }
    }

    fn forget(&mut self) {
        self.phase = Phase::Stopped;
        self.common.reset();
        self.interrupt_status = 0;
    }

    fn start(&mut self, from: From) -> Result<(), Fault> {
        let memory = self.memory.memory();
        let mut setups = Vec::new();
        for (index, queue) in (0..).zip(&self.common.queues).filter(|(_, queue)| queue.enabled) {
            queue.check(index, &*memory)?;
            let next_available = match from {
                From::Fresh => 0,
                From::Used => used_index(&memory, index, queue.used)?,
                From::Saved => queue.next_available,
            };
            setups.push(QueueSetup {
                index,
                size: queue.size,
                descriptors: queue.descriptors,
                available: queue.available,
                used: queue.used,
                next_available,
                kick: self.kicks.of(index),
                call: self.msix.eventfd(queue.vector),
            });
        }
        if from != From::Used {
            self.backend.renew();
        }
        self.backend.start(self.common.features(), &setups)?;
        self.phase = Phase::Running;
        Ok(())
    }
}

/// The index of the used ring, which `QueueConfig::check` has found in RAM.
fn used_index(memory: &GuestMemoryMmap<()>, queue: u16, used: u64) -> Result<u16, Fault> {
    memory
        .load::<u16>(GuestAddress(used + 2), Ordering::Acquire)
        .map(u16::from_le)
        .map_err(|_| GuestFault::OutsideMemory { queue, ring: Ring::Used, address: used, size: 4 }.into())
}
