//! Lines of the machine's own table, and of its threads', left out one by one: no guest is built, or run, without.
//!
//! `vmm/tests/jail_rules.rs` does so with every line of every device's table. A machine takes a boot for each; here are those
//! that every boot needs.

use std::os::unix::process::ExitStatusExt;

use granule_jail::rules::Table;
use granule_jail::{DROP_RULE, Kind};
use granule_tests::client::Client;
use granule_tests::monitor::Monitor;

use crate::guest;

const SIGSYS: i32 = 31;

/// Lines by their table and their reason.
const NEEDED: [(&str, &str); 13] = [
    ("machine", "the VM, at every boot; the scratch VM of the MTE probe"),
    ("machine", "MTE, before the first memslot"),
    ("machine", "memslots"),
    ("machine", "vCPUs"),
    ("machine", "vCPU features, at boot and at reset"),
    ("machine", "GIC and ITS"),
    ("machine", "GIC, ITS, PMU set-up"),
    ("machine", "guest memory"),
    ("machine", "size of guest memory"),
    ("machine", "kicks, interrupts and wake-ups"),
    ("machine", "answers to control; vhost-user"),
    ("vcpu", "runs the guest"),
    ("deadline", "locks, joins, channels; with one thread, pthread_once wakes nobody"),
];

/// The number of a line in the program under test, which is a release build: what only others have does not count.
fn index(kind: &str, why: &str) -> usize {
    let table = Table::of(kind.parse::<Kind>().unwrap());
    let mut rules = table.rules.iter().filter(|rule| !rule.why.contains("with debug assertions"));
    rules.position(|rule| rule.why == why).unwrap_or_else(|| panic!("no line of {kind} says {why:?}"))
}

#[test]
fn a_machine_without_a_line_that_a_boot_needs_dies_of_it() {
    for (kind, why) in NEEDED {
        let dropped = format!("{kind}:{}", index(kind, why));
        let monitor = Monitor::spawn_with_env(&[(DROP_RULE, &dropped)], |folder| {
            vec!["--api-socket".to_owned(), folder.file("api.sock")]
        });
        // Whoever would answer dies with the machine, at any of these.
        let tried = ask(&monitor, "vm.create", Some(&guest().body(&monitor).to_string()))
            .and_then(|()| ask(&monitor, "vm.boot", None));
        let status = monitor.wait();
        assert_eq!(status.signal(), Some(SIGSYS), "{kind} without {why:?}: {status}, {tried:?}");
    }
}

fn ask(monitor: &Monitor, call: &str, body: Option<&str>) -> Option<()> {
    let connected = || match monitor.alive() {
        Ok(()) => Client::connect(&monitor.socket()).ok().map(Some),
        Err(_) => Some(None),
    };
    let mut client = granule_tests::wait::until(granule_tests::wait::LONG, connected)??;
    client.call("PUT", &format!("/api/v1/{call}"), body).ok().map(drop)
}
