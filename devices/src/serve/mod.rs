//! The back end of vhost-user: what every device process has in common.
//!
//! ```text
//!   run: accept ─► enter the jail ─► build the device ─► serve one front end ─► exit
//!
//!   loop: poll ─┬─ socket readable ─► one request (`handler`)
//!               ├─ orders readable ─► Device::order (`orders`)
//!               ├─ kick readable ───► Device::serve, a bounded amount of work
//!               ├─ own file ready ──► Device::ready ──┐
//!               ├─ time is up ──────► Device::elapsed ┴► Device::serve of the queues that they wake
//!               └─ work left over ──► Device::serve again, after a look at the rest
//! ```
//! One thread does all of it, so that a jail need not know of threads, and an idle process costs next to nothing.
//! That is the reason, with in-flight regions and connected sockets, for not using `vhost-user-backend`'s daemon
//! around its rings.

mod handler;
mod inflight;
mod intake;
mod memory;
mod orders;
mod queue;
mod ring;
mod server;
mod vectors;
mod watch;
mod write_log;

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use rustix::event::PollFlags;
use thiserror::Error;

use crate::userfault::Late;

pub use intake::{Intake, Taken};
pub use orders::{COUNTERS, Counters, MAX_ORDER, NUMBER, UNASKED};
pub use vectors::{BadChain, Vectors};
pub use watch::{Wake, Watch};

pub use ring::{Chain, Memory, Progress, Ring, RingFault, Round, serve_chains, serve_rounds, serve_while};

/// A device as its process serves it.
pub trait Device {
    /// The features that it has; the server adds those of vhost-user.
    fn features(&self) -> u64;

    /// The most descriptors that each of its queues may have, each a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The device-specific configuration.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Takes a write to it; the range was checked.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Is told which features the driver has accepted.
    fn accept_features(&mut self, features: u64) {
        let _ = features;
    }

    /// Serves some of what is available in `queue`; a bounded amount, whatever the guest does meanwhile.
    fn serve(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<Progress, RingFault>;

    /// Whether it uses the chains of each queue in the order in which they were made available, one at a time: then what
    /// was in flight when it died is known, and an in-flight region is offered.
    fn keeps_order(&self) -> bool {
        false
    }

    /// Names the files of its own that it wants to hear of just now.
    fn watches<'a>(&'a self, watches: &mut Vec<Watch<'a>>) {
        let _ = watches;
    }

    /// Is told that a file that it watches is ready. Queues that have work by it are named to `wake`.
    fn ready(&mut self, token: u64, flags: PollFlags, wake: &mut Wake) {
        let _ = (token, flags, wake);
    }

    /// When [`Device::elapsed`] shall be called, if at all. Asked for anew each time around.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Is told that its deadline has passed. Queues that have work by it are named to `wake`.
    fn elapsed(&mut self, wake: &mut Wake) {
        let _ = wake;
    }

    /// Ends what is under way of `queue`: afterwards nothing of it is in flight, and no memory of the guest is touched
    /// for it until it is served again.
    fn drain(&mut self, queue: u16, ring: &mut Ring, memory: &Memory) -> Result<(), RingFault> {
        let _ = (queue, ring, memory);
        Ok(())
    }

    /// What it remembers beyond its queues and its configuration; all queues are drained.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Puts back what a process of its kind had saved, which a file may have garbled since; before any queue is served.
    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        if state.is_empty() { Ok(()) } else { Err("this device has no state of its own".into()) }
    }

    /// What it has counted since it began.
    fn counters(&self) -> Counters {
        Counters::new()
    }

    /// Carries out an order of whoever started the process, who is trusted; answers what is to be told, or why not.
    ///
    /// `fd` is the descriptor that came with it, if one did.
    fn order(&mut self, order: &[u8], fd: Option<OwnedFd>, wake: &mut Wake) -> Result<Vec<u8>, String> {
        let _ = (order, fd, wake);
        Err("this device takes no orders".into())
    }
}

/// Where the front end comes from.
#[derive(Debug)]
pub enum Endpoint {
    /// Whoever spawned the process has connected it already.
    Connected(UnixStream),
    /// The first to connect is served.
    Listening(UnixListener),
}

impl Endpoint {
    fn accept(self) -> io::Result<UnixStream> {
        match self {
            Self::Connected(stream) => Ok(stream),
            Self::Listening(listener) => Ok(listener.accept()?.0),
        }
    }
}

/// How a device process begins.
#[derive(Debug)]
pub struct Entry<J> {
    /// Where the front end comes from.
    pub endpoint: Endpoint,
    /// Where orders come from: one end of a pair of SEQPACKET sockets.
    pub orders: Option<OwnedFd>,
    /// How it announces what it maps of guest memory that is not there yet.
    pub late: Option<Late>,
    /// Shuts the jail.
    pub enter_jail: J,
}

/// Why a device process ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Nobody could be served.
    #[error("no front end could be accepted")]
    Accept(#[source] io::Error),
    /// The process must not run outside its jail.
    #[error("the jail could not be entered")]
    Jail(#[source] Box<dyn Error + Send + Sync>),
    /// What it works on cannot be worked on.
    #[error("the device cannot be made")]
    Build(#[source] io::Error),
    /// The front end asked for what makes no sense.
    #[error("the front end made a request that cannot be served")]
    Request(#[source] vhost::vhost_user::Error),
    /// The kernel refused to wait.
    #[error("waiting for requests and kicks failed")]
    Poll(#[source] io::Error),
}

/// Runs a device process until its front end goes.
///
/// `build` makes the device once the jail is shut; before, nothing reads a byte that the front end or the guest has
/// written.
pub fn run<D: Device>(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    build: impl FnOnce() -> D,
) -> Result<(), ServeError> {
    try_run(entry, || Ok(build()))
}

/// As [`run`], for a device that may turn out to be none.
pub fn try_run<D: Device>(
    entry: Entry<impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>>,
    build: impl FnOnce() -> io::Result<D>,
) -> Result<(), ServeError> {
    let stream = entry.endpoint.accept().map_err(ServeError::Accept)?;
    (entry.enter_jail)().map_err(ServeError::Jail)?;
    server::serve(stream, entry.orders, entry.late, build().map_err(ServeError::Build)?)
}
