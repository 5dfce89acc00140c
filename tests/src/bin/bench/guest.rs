//! The guest's side: this program as its first one.

use std::io::Write;

use rustix::system::{RebootCommand, reboot};

/// The first words of the guest's `/init`.
pub const MARK: &str = "BENCH-INIT";

/// Says that it runs, then powers off, or sleeps.
pub fn live(idle: bool) -> ! {
    // In one write, so that it is one piece on the console; a console that fails shows as a mark that never comes.
    let _ = std::io::stdout().write_all(format!("{MARK}\n").as_bytes());
    if !idle {
        let _ = reboot(RebootCommand::PowerOff);
    }
    loop {
        std::thread::park();
    }
}
