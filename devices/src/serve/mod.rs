//! The back end of vhost-user: what every device process has in common.
//!
//! ```text
//!   run: accept ─► enter the jail ─► build the device ─► serve one front end ─► exit
//!
//!   loop: poll ─┬─ socket readable ─► one request (`handler`)
//!               ├─ kick readable ───► Device::serve, a bounded amount of work
//!               └─ work left over ──► Device::serve again, after a look at the socket
//! ```
//! One thread does all of it, so that a jail need not know of threads, and an idle process costs next to nothing.
//! That is the reason, with in-flight regions and connected sockets, for not using `vhost-user-backend`'s daemon
//! around its rings.

mod handler;
mod memory;
mod queue;
mod ring;
mod server;

use std::error::Error;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use thiserror::Error;

pub use ring::{Chain, Memory, Progress, Ring, RingFault, serve_chains};

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

/// Why a device process ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Nobody could be served.
    #[error("no front end could be accepted")]
    Accept(#[source] io::Error),
    /// The process must not run outside its jail.
    #[error("the jail could not be entered")]
    Jail(#[source] Box<dyn Error + Send + Sync>),
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
    endpoint: Endpoint,
    enter_jail: impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>,
    build: impl FnOnce() -> D,
) -> Result<(), ServeError> {
    let stream = endpoint.accept().map_err(ServeError::Accept)?;
    enter_jail().map_err(ServeError::Jail)?;
    server::serve(stream, build())
}
