//! The front end of vhost-user: how the machine drives a device process.
//!
//! ```text
//!   connect     SET_OWNER, features, protocol features, number of queues, configuration
//!   start       SET_FEATURES, SET_MEM_TABLE, per queue: NUM, BASE, ADDR, ERR, CALL, KICK, ENABLE
//!   stop        per queue: ENABLE 0, GET_VRING_BASE (answered when the queue is quiet)
//! ```
//! Every request has its time (`deadline`), is acknowledged where the process can, and every answer is checked. The
//! first wrong answer ends the connection: what follows is [`DeviceFault::Gone`](super::DeviceFault::Gone) until
//! somebody brings a new process.

mod deadline;
mod process;
mod session;
mod state;

pub use deadline::{Armed, Deadlines};
pub use process::{ConfigSource, DeviceProcess, Expected};

#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod stock_tests;
#[cfg(test)]
mod tests;
