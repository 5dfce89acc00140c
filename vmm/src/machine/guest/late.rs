//! A guest that runs before its memory is there, and what happens to it when the mover dies.
//!
//! ```text
//!   announced ──► Watch ── Complete ──► every page is there; the thread ends
//!                   │
//!                   └── the mover is gone ──► gate closed, vCPUs called back ──► userfaultfd closed: those who wait come out
//! ```
//! A vCPU that waits for a page cannot be interrupted. Closing the userfaultfd lets it go on, but with whatever is in the
//! page; so the gate is closed and a signal pending before that, and no vCPU enters the guest again. The thread touches
//! no guest memory, so it cannot wait for a page itself.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use granule_devices::userfault::{Late, LateError, Mapped};
use granule_jail::{SeccompMode, ThreadKind};

use super::GuestRam;
use super::bus::lock;
use super::regions::Regions;
use super::save::{ShareError, share};
use super::vcpus::Recall;

/// Why a guest cannot run before its memory is there.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Memory cannot be passed.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// It cannot be announced.
    #[error("guest memory cannot be registered with the mover")]
    Announce(#[from] LateError),
    /// The thread.
    #[error("cannot start the thread that watches the mover")]
    Thread(#[source] io::Error),
    /// The mover has gone in the meantime.
    #[error("the process that places guest memory is gone")]
    Lost,
}

/// Watches the mover on behalf of a guest.
#[derive(Debug)]
pub struct Watch(Arc<Mutex<Position>>);

#[derive(Debug)]
enum Position {
    /// No vCPU has run yet.
    Nobody,
    /// These are to be stopped.
    Vcpus(Recall),
    /// The mover is gone.
    Lost,
}

impl Watch {
    /// Passes guest memory to the mover and registers the machine's mapping of RAM, which nobody has touched. Memory that
    /// devices bring along is there when this returns: they may have other ways to it than by mapping it.
    pub fn begin(
        ram: &GuestRam,
        regions: &Regions,
        mover: OwnedFd,
        userfault: OwnedFd,
        seccomp: SeccompMode,
    ) -> Result<Self, WatchError> {
        let mover = share(ram, Some(regions), None, mover)?;
        let mut late = Late::new(userfault, mover);
        late.announce(&Mapped::all(&ram.memory))?;
        let position = Arc::new(Mutex::new(Position::Nobody));
        let watched = Arc::clone(&position);
        let thread = std::thread::Builder::new().name("memory-watch".into());
        let run = move || {
            if let Err(error) = granule_jail::enter_thread(ThreadKind::MemoryWatch, seccomp) {
                eprintln!("granule: memory-watch: {error}");
                std::process::abort();
            }
            late.wait(|| stop(&watched));
        };
        thread.spawn(run).map_err(WatchError::Thread)?;
        Ok(Self(position))
    }

    /// Names those who are to be stopped, before they run.
    pub fn over(&self, vcpus: Recall) -> Result<(), WatchError> {
        let mut position = lock(&self.0);
        if matches!(*position, Position::Lost) {
            return Err(WatchError::Lost);
        }
        *position = Position::Vcpus(vcpus);
        Ok(())
    }
}

/// The mover is gone. When this has returned, no vCPU enters the guest again.
fn stop(position: &Mutex<Position>) {
    let before = std::mem::replace(&mut *lock(position), Position::Lost);
    if let Position::Vcpus(vcpus) = before {
        vcpus.for_good();
    }
}
