//! End-to-end tests of `granule` and the programs that run in their guests.
//!
//! The tests are in `tests/tests/`, the guest's first program in `src/bin/guest-init`; this library is the harness
//! between them. It may not depend on any other crate of the workspace: what it knows of the product is what any
//! client knows, the binary's command line, its socket and its event file.

pub mod elf;
pub mod initramfs;
