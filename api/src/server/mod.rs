//! The HTTP server: bytes and file descriptors in, typed requests out, answers back.
//!
//! ```text
//!  Listener ── accept ──► Connection (recvmsg: bytes, fds) ──► hyper ──► Call ──► mpsc<Request> ──► the driver
//!                              ▲                                 │                                     │
//!                              └───────── head and body ─────────┴──────── oneshot<Result<Reply>> ◄────┘
//! ```

mod request;

pub use request::{Reply, Request};
