//! A snapshot, through its chain of parents, to the memory of a guest that already runs.
//!
//! ```text
//!   machine ── SharedMemory, memfds; its mapping ──► register; fill what it does not announce, answer
//!                                                       │
//!                      ┌────────────────────────────────▼─┐
//!    a process announces ─► register, answer              │
//!    a page is waited for ─► fill it, CONTINUE everywhere  ├─ all filled ─► unregister everywhere, tell Complete ─► Restored
//!    all is calm ─► fill the next few, CONTINUE everywhere │
//!                      └──────────────────────────────────┘
//! ```
//! This is the pager of `models/src/placement`. It has one thread, so that fault and background work cannot claim the same
//! page: a page is filled once (P2), data and tags before it is mapped anywhere (P1, P4). Who maps memory waits for the
//! answer before it touches it (P3). No lock is shared with anyone and no call is made to KVM (P5). A damaged page cannot
//! be placed: then this process ends, and with it the guest (P6).

mod calm;
mod fill;
mod mappings;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use granule_devices::userfault::{Announcement, Answer, tell};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Passed;
use super::memory::GuestPages;
use super::restore::open;
use crate::wire::{Blame, Channel, Failure, FdSlot, FromMover, LayerSpec};
use calm::Calm;
use fill::Fill;
use mappings::Mappings;

/// Does the job.
pub fn place(
    machine: FdSlot,
    layers: &[LayerSpec],
    processes: &[FdSlot],
    fds: &mut Passed,
    control: &Channel,
) -> Result<FromMover, Failure> {
    let machine = Channel::from_fd(fds.take(machine)?);
    let processes = processes.iter().map(|slot| fds.take(*slot)).collect::<Result<Vec<_>, _>>()?;
    let chain = open(layers, fds).map_err(|failure| failure.blamed(Blame::Request))?;
    let tags = layers.first().is_some_and(|layer| layer.files.tags.is_some());
    let pages = GuestPages::receive(&machine, tags)?;
    if pages.layout() != chain.layout() {
        return Err(Failure::of("the machine's memory is not where the snapshot's is").blamed(Blame::Request));
    }
    let mut pager = Pager {
        mappings: Mappings::new(pages.layout().clone()),
        fill: Fill::new(chain, pages),
        processes: [Some(machine.into())].into_iter().chain(processes.into_iter().map(Some)).collect(),
        faults: 0,
        told: 0,
        control,
    };
    pager.begin()?;
    pager.run()
}

struct Pager<'a> {
    mappings: Mappings,
    fill: Fill,
    /// The machine's socket, then those of the device processes; none where nobody will say anything any more.
    processes: Vec<Option<OwnedFd>>,
    faults: u64,
    told: u64,
    control: &'a Channel,
}

/// What a look at all descriptors has found.
struct Ready {
    processes: Vec<usize>,
    mappings: Vec<usize>,
}

impl Pager<'_> {
    /// Waits for the machine's mapping: nothing is placed before it is registered. What it does not wait for is filled
    /// before it goes on.
    fn begin(&mut self) -> Result<(), Failure> {
        let machine = self.processes[0].as_ref().ok_or_else(|| Failure::of("the machine has no socket"))?;
        let announced = Announcement::receive(machine.as_fd(), true)?;
        let announced = announced.ok_or_else(|| Failure::of("the machine is gone"))?;
        let number = announced.number;
        let registered = self.mappings.register_machine(announced);
        for pages in registered.map_err(|reason| Failure::of(&reason))? {
            self.fill.load(pages)?;
        }
        tell(machine.as_fd(), number, &Answer::Registered)?;
        Ok(())
    }

    fn run(mut self) -> Result<FromMover, Failure> {
        let mut calm = Calm::new(Instant::now());
        'filling: loop {
            let Ready { processes, mappings } = self.look(calm.wait(Instant::now()))?;
            let waited = !(processes.is_empty() && mappings.is_empty());
            for mapping in mappings {
                self.serve(mapping)?;
            }
            for process in processes {
                self.hear(process)?;
            }
            if waited {
                calm.disturbed(Instant::now());
            }
            // Woken for nothing, the look is not worth another.
            let turns = calm.turns(Instant::now()).max(usize::from(!waited));
            for _ in 0..turns {
                let Some((first, present)) = self.fill.next_few()? else { break 'filling };
                self.mappings.publish(first, present)?;
            }
            if turns > 0 {
                calm.worked(Instant::now());
                self.tell_progress(false);
            }
            self.mappings.forget_gone();
        }
        self.mappings.unregister();
        for process in self.processes.iter().flatten() {
            // One that does not read has what it needs all the same: nothing of its memory is registered.
            let _ = tell(process.as_fd(), 0, &Answer::Complete);
        }
        self.tell_progress(true);
        Ok(FromMover::Restored)
    }

    /// Looks who has something to say, and waits for it no longer than this: there are pages to fill.
    fn look(&self, longest: Duration) -> Result<Ready, Failure> {
        let processes: Vec<_> =
            self.processes.iter().enumerate().filter_map(|(index, fd)| Some((index, fd.as_ref()?))).collect();
        let mut fds: Vec<_> = processes.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::IN)).collect();
        fds.extend(self.mappings.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Less than a second.
        let longest = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        match poll(&mut fds, Some(&longest)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        let (of_processes, of_mappings) = fds.split_at(processes.len());
        let said = |fd: &PollFd<'_>| !fd.revents().is_empty();
        Ok(Ready {
            processes: processes
                .iter()
                .zip(of_processes)
                .filter(|(_, fd)| said(fd))
                .map(|(each, _)| each.0)
                .collect(),
            // Anything but a fault is no userfaultfd of ours, and reading might wait.
            mappings: (0..)
                .zip(of_mappings)
                .filter(|(_, fd)| fd.revents() == PollFlags::IN)
                .map(|(index, _)| index)
                .collect(),
        })
    }

    /// A process has mapped memory, or is gone. What it says is wrong is its own loss: it is not answered well and must
    /// not touch what it has mapped.
    fn hear(&mut self, process: usize) -> Result<(), Failure> {
        let Some(socket) = self.processes.get(process).and_then(Option::as_ref) else { return Ok(()) };
        let announced = match Announcement::receive(socket.as_fd(), false) {
            Ok(Some(announced)) => announced,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Ok(None) | Err(_) => {
                self.processes[process] = None;
                return Ok(());
            }
        };
        let number = announced.number;
        let registered = if self.mappings.has_room(process)? {
            self.mappings.register(process, announced)
        } else {
            Err("all that it has announced before is still there".into())
        };
        let answer = match registered {
            Ok(()) => Answer::Registered,
            Err(reason) => Answer::Refused(reason),
        };
        if tell(socket.as_fd(), number, &answer).is_err() {
            self.processes[process] = None;
        }
        Ok(())
    }

    /// Places the pages for which somebody waits.
    fn serve(&mut self, mapping: usize) -> Result<(), Failure> {
        for page in self.mappings.faults(mapping)? {
            self.faults += 1;
            self.fill.page(page)?;
            if !self.mappings.resolve(mapping, page)? {
                // Nothing is there: it is all zero, or the guest has given it away. Then a page of zeros is.
                self.fill.make(page)?;
                self.mappings.resolve(mapping, page)?;
            }
        }
        Ok(())
    }

    fn tell_progress(&mut self, last: bool) {
        let (done, of) = (self.fill.looked_at(), self.mappings.layout().pages());
        let step = (of / 64).max(1024);
        if last || done >= self.told + step {
            self.told = done;
            // Whether control still listens is seen at the end.
            let _ = self.control.send(&FromMover::Placed { done, of, faults: self.faults }, &[]);
        }
    }
}
