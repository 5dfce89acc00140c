//! Fuzzes `tags` of the snapshot format.

#![no_main]

#[path = "../targets/snapshot.rs"]
#[allow(dead_code, reason = "one target of several")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::tags(bytes));
