//! The jail from inside: every test starts this binary again in a role, which enters a jail and reports what it could do.
//!
//! Needs no root and no KVM, and runs the same on x86-64 and in the emulated Arm host.

// A test fails by panicking; the allowance for `#[test]` functions does not reach helpers and this harness.
#![allow(clippy::unwrap_used)]

mod harness;
mod refusals;
mod roles;
mod spawning;
mod work;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["role", words @ ..] => roles::play(words),
        filters => harness::run(filters.first().copied()),
    }
}
