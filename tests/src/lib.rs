//! End-to-end tests of `granule` and the programs that run in their guests.
//!
//! ```text
//! tests/tests/e2e/*.rs ── Vm ──► Monitor ──► granule --api-socket … --event-monitor …   (a process in a cgroup of its own)
//!                          │        └─ Client: HTTP, checked byte for byte        └─ guest: src/bin/guest-init as /init
//!                          └─ Console: the guest's lines, "GRANULE ok NAME {json}"
//! ```
//! The tests are in `tests/tests/`, the guest's first program in `src/bin/guest-init`; this library is the harness
//! between them. It may not depend on any other crate of the workspace: what it knows of the product is what any
//! client knows, the binary's command line, its socket and its event file.
//!
//! The harness panics where a test would: its messages say what was waited for and show the last words of the guest
//! and of the monitor.

pub mod client;
pub mod console;
pub mod elf;
pub mod events;
pub mod folder;
pub mod golden;
pub mod initramfs;
pub mod inject;
pub mod lab;
pub mod memory;
pub mod modules;
pub mod monitor;
pub mod pattern;
pub mod processes;
pub mod relay;
pub mod server;
pub mod session;
pub mod tags;
pub mod tap;
pub mod tree;
pub mod vm;
pub mod vsock;
pub mod wait;
