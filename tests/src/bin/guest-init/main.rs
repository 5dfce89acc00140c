//! The first program of a test guest: it looks at the machine from the inside and says what it sees.
//!
//! ```text
//! kernel ── /init ──► mount ─► load /modules/* ─► "GRANULE init up" ─► each check of granule.run ─► granule.then
//!                                                                      one line each
//! ```
//! Every line for the harness starts with `GRANULE `:
//! ```text
//! GRANULE init up {"uptime":1.62,…}      once per boot
//! GRANULE ok NAME {json}                 the check ran; the json is what the guest saw
//! GRANULE fail NAME reason               the check could not be made, or saw what no machine may show
//! GRANULE tick N                         every granule.tick=MILLISECONDS
//! GRANULE then WHAT                      the last word before the guest acts
//! ```
//! A check reports and seldom judges: whether tags *should* be there is known to the host alone.
//!
//! The same binary has two more roles: `guest-init check NAME[,NAME…]` prints the lines of those checks on
//! any machine (so host and guest can be compared), `guest-init victim KIND` is a program that is meant to die.

mod checks;
mod hostile;
mod keep;
mod params;
mod root;
mod serve;
mod streams;
mod sys;
mod victim;

use std::process::exit;

use granule_tests::{modules, tags};
use params::Params;

fn main() {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("victim"), Some(kind)) => victim::run(&kind),
        (Some("keep"), Some(threads)) => {
            if let Err(error) = keep::run(threads.parse().unwrap_or(1)) {
                say(&format!("fail keep {error}"));
            }
            exit(1)
        }
        (Some("check"), Some(names)) => {
            exit(i32::from(!names.split(',').map(checks::report).fold(true, |all, ok| all & ok)))
        }
        _ if std::process::id() == 1 => first_process(),
        _ => {
            eprintln!(
                "usage: guest-init check NAME[,NAME...] | victim KIND (or as the first process of a guest)"
            );
            exit(2);
        }
    }
}

/// Lives as the guest's PID 1; it never returns, since the kernel panics when PID 1 ends.
fn first_process() -> ! {
    for (what, error) in sys::mount_all() {
        say(&format!("fail mount {what}: {error}"));
    }
    for (what, error) in modules::load_all("/modules") {
        say(&format!("fail module {what}: {error}"));
    }
    let params = Params::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    say(&format!("init up {}", checks::boot()));
    if let Some(every) = params.tick {
        std::thread::spawn(move || tick(every));
    }
    for name in &params.start {
        if let Err(error) = streams::start(name) {
            say(&format!("fail start {name}: {error}"));
        }
    }
    for name in &params.run {
        checks::report_apart(name);
    }
    serve::act(&params.then)
}

fn tick(every: std::time::Duration) {
    for count in 0_u64.. {
        say(&format!("tick {count}"));
        std::thread::sleep(every);
    }
}

/// Writes one line for the harness, in one call so that lines of threads do not mix.
fn say(line: &str) {
    use std::io::Write;
    let line = format!("GRANULE {line}\n");
    // A console that is gone leaves nobody to tell.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}
