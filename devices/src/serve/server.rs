//! The loop of a device process.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vhost::vhost_user::{BackendReqHandler, Error};
use vhost_user_backend::VringT;

use super::handler::Handler;
use super::orders::Orders;
use super::{Device, ServeError, Watch};
use crate::sync::lock;
use crate::sys::borrow;
use crate::userfault::Late;

/// What a look at all descriptors has found.
struct Ready {
    request: bool,
    order: bool,
    kicked: Vec<u16>,
    own: Vec<(u64, PollFlags)>,
}

/// Serves the front end at the other end of `stream` until it goes.
pub(super) fn serve<D: Device>(
    stream: UnixStream,
    orders: Option<OwnedFd>,
    late: Option<Late>,
    device: D,
) -> Result<(), ServeError> {
    let handler = Handler::new(device, late).map_err(|error| ServeError::Accept(io::Error::other(error)))?;
    let handler = Arc::new(Mutex::new(handler));
    let mut requests = BackendReqHandler::from_stream(stream, Arc::clone(&handler));
    let mut orders = orders.map(Orders::new);
    loop {
        let ready = wait(borrow(&requests), orders.as_ref(), &lock(&handler))?;
        if ready.request {
            match requests.handle_request() {
                Ok(()) => {}
                Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => return Ok(()),
                Err(error) => return Err(ServeError::Request(error)),
            }
        }
        let mut handler = lock(&handler);
        if ready.order && !orders.as_ref().is_some_and(|orders| handler.take_order(orders)) {
            orders = None;
        }
        for index in ready.kicked {
            handler.take_kick(index);
        }
        handler.tell_device(&ready.own);
        handler.serve_pending();
    }
}

/// Waits for a request, an order, a kick, a file of the device or its deadline; or only looks if there is work left over.
fn wait<D: Device>(
    socket: BorrowedFd<'_>,
    orders: Option<&Orders>,
    handler: &Handler<D>,
) -> Result<Ready, ServeError> {
    let live: Vec<_> = (0u16..).zip(&handler.queues).filter(|(_, queue)| queue.live()).collect();
    let rings: Vec<_> = live.iter().map(|(index, queue)| (*index, queue.ring.get_ref())).collect();
    let kicks: Vec<_> =
        rings.iter().filter_map(|(index, ring)| Some((*index, ring.get_kick().as_ref()?))).collect();
    let mut watches = Vec::new();
    handler.device.watches(&mut watches);

    let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    fds.extend(orders.map(|orders| PollFd::from_borrowed_fd(orders.fd(), PollFlags::IN)));
    fds.extend(kicks.iter().map(|(_, kick)| PollFd::from_borrowed_fd(borrow(*kick), PollFlags::IN)));
    fds.extend(watches.iter().map(|Watch { fd, flags, .. }| PollFd::from_borrowed_fd(*fd, *flags)));

    let pending = live.iter().any(|(_, queue)| queue.pending);
    match poll(&mut fds, patience(pending, handler.device.deadline()).as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(ServeError::Poll(error.into())),
    }
    let mut found = fds.iter().map(PollFd::revents);
    let mut next = || found.next().unwrap_or(PollFlags::empty());
    Ok(Ready {
        request: !next().is_empty(),
        order: orders.is_some() && !next().is_empty(),
        kicked: kicks.iter().filter(|_| !next().is_empty()).map(|(index, _)| *index).collect(),
        own: watches
            .iter()
            .map(|watch| (watch.token, next()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect(),
    })
}

/// How long to wait; `None` is for ever.
fn patience(pending: bool, deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = if pending { Some(Duration::ZERO) } else { left };
    // A day is as good as any time that does not fit.
    left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 86_400, tv_nsec: 0 }))
}
