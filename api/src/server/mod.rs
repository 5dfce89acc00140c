//! The HTTP server: bytes and file descriptors in, typed requests out, answers back.
//!
//! ```text
//!  Listener ── accept ──► Connection (recvmsg: bytes, fds) ──► hyper ──► Call ──► mpsc<Request> ──► the driver
//!                              ▲        │ ledger: which fd      │                                     │
//!                              │        ▼ came with which       ▼                                     │
//!                              └── head and body ◄── Answer ◄── service ◄── oneshot<Result<Reply>> ◄──┘
//! ```
//!
//! The server holds no state of a VM and decides nothing about one. Requests of one connection are answered in order;
//! connections do not wait for each other, so a call that takes long delays no other client's ping.

mod answer;
mod body;
mod connection;
mod framing;
mod ledger;
mod listener;
mod receive;
mod request;
mod serve;
mod service;

pub use listener::{ListenError, Listener, MAX_SOCKET_PATH};
pub use request::{Reply, Request};
pub use serve::{ServerLimits, serve};
