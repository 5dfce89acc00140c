//! What the guest does when its checks are over.

use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::system::RebootCommand;

use crate::{checks, root, say, streams, sys};

/// Carries out `what` of `granule.then=`; it never returns.
///
/// `poweroff`, `reboot`, `panic` do what they say; `power-button` waits for the button and powers off;
/// `idle` sleeps for ever; `shell` is a busybox shell; `root` goes over to the root file system; anything else serves commands from the console.
pub fn act(what: &str) -> ! {
    if what != "serve" {
        say(&format!("then {what}"));
    }
    let failure = match what {
        "poweroff" => sys::stop_machine(RebootCommand::PowerOff),
        "reboot" => sys::stop_machine(RebootCommand::Restart),
        "panic" => {
            std::fs::write("/proc/sysrq-trigger", "c").map_or_else(|e| e.to_string(), |()| String::new())
        }
        "power-button" => match checks::power::wait_for_button() {
            Ok(source) => {
                say(&format!("ok power {source}"));
                sys::stop_machine(RebootCommand::PowerOff)
            }
            Err(error) => error,
        },
        "shell" => Command::new("/bin/busybox").arg("sh").exec().to_string(),
        "idle" => String::new(),
        "root" => root::switch(),
        _ => serve(),
    };
    if !failure.is_empty() {
        say(&format!("fail {what} {failure}"));
    }
    loop {
        std::thread::park();
    }
}

/// Commands from the console, one a line: `run NAME…`, `keep THREADS`, `start SERVICE`, `load DRIVERS`, `echo TEXT`, or a word of [`act`].
fn serve() -> String {
    say("serving");
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("run", names) => {
                for name in names.split_whitespace() {
                    checks::report_apart(name);
                }
            }
            ("keep", threads) => {
                // It goes on beside what else is asked for, and says so itself.
                if let Err(error) = Command::new("/proc/self/exe").args(["keep", threads]).spawn() {
                    say(&format!("fail keep {error}"));
                }
            }
            ("start", what) => match streams::start(what) {
                Ok(()) => say(&format!("started {what}")),
                Err(error) => say(&format!("fail start {what}: {error}")),
            },
            ("load", folder) => match &granule_tests::modules::load_all(&format!("/{folder}"))[..] {
                [] => say(&format!("loaded {folder}")),
                refused => say(&format!("fail load {folder}: {refused:?}")),
            },
            ("echo", text) => say(&format!("echo {text}")),
            ("", _) => {}
            (what @ ("poweroff" | "reboot" | "panic" | "power-button" | "idle" | "shell"), _) => act(what),
            (other, _) => say(&format!("fail command {other}")),
        }
    }
    "the console has no more input".to_owned()
}
