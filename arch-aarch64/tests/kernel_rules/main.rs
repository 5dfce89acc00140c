//! What the kernel does with tags, shown on the kernel that this runs on.
//!
//! Each test is one rule that the monitor is built around; `docs/kernel-hazards.md` says what follows from it. Where kernels
//! differ, a test asserts what *this* kernel must do, by its release: a kernel that does otherwise is news, and fails.
//!
//! ```text
//!  slots    which memory may back a guest with tags, and when that is checked
//!  copy     KVM_ARM_MTE_COPY_TAGS
//!  memory   what becomes of tags when memory is written, copied, dropped, split
//!  lazy     placing pages under userfaultfd
//!  state    saving and restoring what KVM holds of a guest
//!  guest    a bare-metal guest of a few instructions: tags, dirty logging, exits, kicks
//! ```
//!
//! Rules about tags need a host with tags; on another host they are counted as ignored, with the reason.

#[cfg(target_arch = "aarch64")]
mod bare_metal;
#[cfg(target_arch = "aarch64")]
mod copy;
#[cfg(target_arch = "aarch64")]
mod guest;
#[cfg(target_arch = "aarch64")]
mod host;
#[cfg(target_arch = "aarch64")]
mod lazy;
#[cfg(target_arch = "aarch64")]
mod memory;
#[cfg(target_arch = "aarch64")]
mod probe;
#[cfg(target_arch = "aarch64")]
mod slots;
#[cfg(target_arch = "aarch64")]
mod state;
#[cfg(target_arch = "aarch64")]
mod sys;
#[cfg(target_arch = "aarch64")]
mod uffd;

#[cfg(target_arch = "aarch64")]
fn main() -> std::process::ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let host = host::Host::look();
    host.say_what_is_ignored();
    let mut trials = Vec::new();
    for rules in
        [probe::rules, slots::rules, copy::rules, memory::rules, lazy::rules, guest::rules, state::rules]
    {
        trials.extend(rules(&host));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[cfg(not(target_arch = "aarch64"))]
fn main() {
    println!("the rules of the kernel are shown on Arm: cargo test --target aarch64-unknown-linux-gnu");
}
