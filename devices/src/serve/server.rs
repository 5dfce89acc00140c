//! The loop of a device process.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vhost::vhost_user::{BackendReqHandler, Error};
use vhost_user_backend::VringT;

use super::handler::Handler;
use super::{Device, ServeError};
use crate::sync::lock;
use crate::sys::borrow;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What a look at all descriptors has found.
struct Ready {
    request: bool,
    kicked: Vec<u16>,
}

/// Serves the front end at the other end of `stream` until it goes.
pub(super) fn serve<D: Device>(stream: UnixStream, device: D) -> Result<(), ServeError> {
    let handler = Handler::new(device).map_err(|error| ServeError::Accept(io::Error::other(error)))?;
    let handler = Arc::new(Mutex::new(handler));
    let mut requests = BackendReqHandler::from_stream(stream, Arc::clone(&handler));
    loop {
        let Ready { request, kicked } = wait(borrow(&requests), &lock(&handler))?;
        if request {
            match requests.handle_request() {
                Ok(()) => {}
                Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => return Ok(()),
                Err(error) => return Err(ServeError::Request(error)),
            }
        }
        let mut handler = lock(&handler);
        for index in kicked {
            handler.take_kick(index);
        }
        handler.serve_pending();
    }
}

/// Waits for a request or a kick, or only looks for them if there is work left over.
fn wait<D: Device>(socket: BorrowedFd<'_>, handler: &Handler<D>) -> Result<Ready, ServeError> {
    let live: Vec<_> = (0u16..).zip(&handler.queues).filter(|(_, queue)| queue.live()).collect();
    let rings: Vec<_> = live.iter().map(|(index, queue)| (*index, queue.ring.get_ref())).collect();
    let kicks = || rings.iter().filter_map(|(index, ring)| Some((*index, ring.get_kick().as_ref()?)));
    let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    fds.extend(kicks().map(|(_, kick)| PollFd::from_borrowed_fd(borrow(kick), PollFlags::IN)));
    let pending = live.iter().any(|(_, queue)| queue.pending);
    match poll(&mut fds, pending.then_some(&NOW)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(ServeError::Poll(error.into())),
    }
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let kicked = kicks().zip(&fds[1..]).filter(|(_, fd)| ready(fd)).map(|((index, _), _)| index).collect();
    Ok(Ready { request: ready(&fds[0]), kicked })
}
