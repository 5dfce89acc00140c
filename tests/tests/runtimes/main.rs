//! Container runtimes drive a VM: the bodies and bytes that Kata Containers' runtimes send, recorded, and the deadlines
//! that they give. The lab's cargo runner knows this file by its name: here time counts instructions, so that a busy
//! machine does not change it.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too: a panic is how they fail")]

mod go;
mod load;
mod pod;
mod rust;

use std::sync::LazyLock;

/// The guest's first program, built with these tests; cargo's target folder is shared with the lab.
static INIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = env!("CARGO_BIN_EXE_guest-init");
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
});
