//! What is known of one connection: which request each descriptor came with, and whether anything is under way.
//!
//! The connection writes it as bytes arrive, the service reads it as requests are answered. hyper calls the service
//! once for each request and in order, so the n-th call is the n-th request that [`Framing`] counts.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::framing::Framing;

/// The most descriptors that one request may bring: what Linux sends in one message (SCM_MAX_FD).
pub(super) const MAX_FDS: usize = 253;

/// The descriptors of a request cannot all be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FdsLost {
    /// There were more than [`MAX_FDS`].
    #[error("more than {MAX_FDS} file descriptors")]
    TooMany,
    /// The kernel could not hand over all: this process has too many open.
    #[error("file descriptors were lost: too many are open here")]
    Truncated,
}

/// A shared [`Ledger`].
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Ledger>>);

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Ledger {
    framing: Framing,
    arrived: VecDeque<(u64, OwnedFd)>,
    lost: Option<(u64, FdsLost)>,
    /// Requests that the service was called for.
    begun: u64,
    /// Requests that it has answered.
    answered: u64,
    last_use: Instant,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Ledger {
            framing: Framing::new(),
            arrived: VecDeque::new(),
            lost: None,
            begun: 0,
            answered: 0,
            last_use: Instant::now(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        // No code that can panic runs under the lock; if it did, the counts would still be usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service was called: takes the next turn.
    pub(super) fn begin(&self) -> Turn {
        let mut ledger = self.lock();
        let request = ledger.begun;
        ledger.begun += 1;
        ledger.last_use = Instant::now();
        Turn { ledger: self.clone(), request }
    }
}

impl Ledger {
    /// Bytes have arrived, and descriptors with the last of them.
    pub(super) fn arrive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>, truncated: bool) {
        self.last_use = Instant::now();
        let owner = self.framing.feed(bytes);
        // Descriptors of no request, or of one that is already answered, are closed here.
        let Some(request) = owner.filter(|&request| request >= self.answered) else { return };
        if truncated {
            self.lost = Some((request, FdsLost::Truncated));
        }
        for fd in fds {
            if self.arrived.len() < MAX_FDS {
                self.arrived.push_back((request, fd));
            } else {
                self.lost = Some((request, FdsLost::TooMany));
            }
        }
    }

    /// The request that has begun to arrive and is not whole.
    pub(super) fn unfinished(&self) -> Option<u64> {
        self.framing.unfinished()
    }

    /// Whether the connection stopped in the middle of a head while nothing else is under way, so that only the
    /// connection itself can say so.
    pub(super) fn cut_in_head(&self) -> bool {
        self.framing.unfinished().is_some()
            && !self.framing.past_head()
            && self.begun == self.answered
            && self.answered == self.framing.request()
    }

    /// Since when nothing has happened; none while a request is being answered.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.begun == self.answered).then_some(self.last_use)
    }
}

/// The turn of one request; when it is over, descriptors that nobody took are closed.
#[derive(Debug)]
pub(super) struct Turn {
    ledger: Shared,
    request: u64,
}

impl Turn {
    /// Takes the descriptors that came with the request, in order. To be called when its body is whole.
    pub(super) fn fds(&self) -> Result<Vec<OwnedFd>, FdsLost> {
        let mut ledger = self.ledger.lock();
        if let Some((request, reason)) = ledger.lost
            && request == self.request
        {
            ledger.lost = None;
            return Err(reason);
        }
        let mut fds = Vec::new();
        while let Some((request, fd)) = ledger.arrived.pop_front() {
            if request > self.request {
                ledger.arrived.push_front((request, fd));
                break;
            }
            if request == self.request {
                fds.push(fd);
            }
        }
        Ok(fds)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut ledger = self.ledger.lock();
        ledger.answered = self.request + 1;
        ledger.last_use = Instant::now();
        let answered = ledger.answered;
        ledger.arrived.retain(|(request, _)| *request >= answered);
        if ledger.lost.is_some_and(|(request, _)| request < answered) {
            ledger.lost = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn some_fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn descriptors_go_to_the_request_whose_bytes_came_with_them() {
        let ledger = Shared::new();
        let (first, second) = (some_fd(), some_fd());
        let numbers = (first.as_raw_fd(), second.as_raw_fd());
        ledger.lock().arrive(b"GET /a HTTP/1.1\r\n\r\nPUT /b HT", vec![first], false);
        ledger.lock().arrive(b"TP/1.1\r\n\r\n", vec![second], false);
        let turn = ledger.begin();
        assert!(turn.fds().unwrap().is_empty());
        drop(turn);
        let fds = ledger.begin().fds().unwrap();
        assert_eq!((fds[0].as_raw_fd(), fds[1].as_raw_fd()), numbers);
    }

    #[test]
    fn descriptors_that_come_after_the_answer_are_closed() {
        let ledger = Shared::new();
        ledger.lock().arrive(b"PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n", Vec::new(), false);
        drop(ledger.begin());
        ledger.lock().arrive(b"ab", vec![some_fd()], false);
        assert!(ledger.lock().arrived.is_empty());
    }

    #[test]
    fn too_many_descriptors_are_refused_not_kept() {
        let ledger = Shared::new();
        for _ in 0..2 {
            let fds = (0..200).map(|_| some_fd()).collect();
            ledger.lock().arrive(b"P", fds, false);
        }
        assert_eq!(ledger.lock().arrived.len(), MAX_FDS);
        let turn = ledger.begin();
        assert_eq!(turn.fds().unwrap_err(), FdsLost::TooMany);
        drop(turn);
        assert!(ledger.lock().arrived.is_empty());
    }
}
