//! The REST API: its types, its HTTP server on a Unix socket, and a client.
//!
//! The paths, bodies, codes and spellings are Cloud Hypervisor's, so that its clients drive Granule unchanged;
//! what it has no word for (memory tagging, jails) is added in keys of its own. Four layers, each usable alone:
//!
//! ```text
//!  config   what a client sends and reads back (raw), and `config::check`: raw → Checked, or the field at fault
//!  types    what is answered: ping, vm.info, device tree, events
//!  error    a kind (→ status code) and a chain of causes (→ body)
//!  server   bytes and file descriptors → Request{Call, fds} → driver → Reply     client: the way back
//! ```
//!
//! This crate knows nothing of KVM or of processes: the server hands every request to whoever owns the machine
//! and holds no state of a VM itself. It may not depend on any other crate of this workspace.

pub mod call;
pub mod client;
pub mod config;
pub mod error;
pub mod json;
#[cfg(test)]
mod openapi;
pub mod server;
pub mod types;

/// The version of Cloud Hypervisor whose API is spoken; clients read it in `vmm.ping` and in `--version`.
pub const COMPAT_VERSION: &str = "51.1.0";

/// The name and version of this build, as `vmm.ping` reports it.
pub const BUILD_VERSION: &str = concat!("granule-v", env!("CARGO_PKG_VERSION"));
