//! No line of the machine's own table, or of its threads', is there for nothing: without it, the machine dies of a life that
//! it would have led. Nor is one of the mover's that takes a guest, or the devices' for memory that comes later.
//!
//! `vmm/tests/jail_rules.rs` does so with the tables of the devices, `seccomp/tests/jail` with what every process and every
//! thread needs.

mod lives;

use std::os::unix::process::ExitStatusExt;

use granule_jail::arch::Arch;
use granule_jail::rules::Table;
use granule_jail::{DROP_RULE, Kind};
use lives::{End, Life};

const SIGSYS: i32 = 31;

/// The machine, and its threads that have narrower jails.
const KINDS: [&str; 5] = ["machine", "vcpu", "serial-writer", "deadline", "memory-watch"];

/// Reasons of lines that take more than a boot, by the life that leads to them.
const TRAVELS: &[&str] = &[
    "which registers a vCPU has",
    "power state of a vCPU",
    "pending SError of a vCPU",
    "GIC state",
    "harvest of dirty pages",
    "state files that control opened",
];
const WAKES_EARLY: &[&str] =
    &["a userfaultfd of its own memory, for the mover", "word from the mover that all memory is there"];
const SPEAKS: &[&str] =
    &["terminal mode, as rustix asks for it", "terminal mode, raw and back, as rustix sets it; no TIOCSTI"];
const IS_PIPED_TO: &[&str] = &["no terminal, as rustix finds out"];
const IS_LEFT_ALONE: &[&str] = &[
    "ends a connection, and the wait in it with it",
    "ends a connection whose device process broke the protocol",
];
const IS_STORED_TO: &[&str] =
    &["an abort for the guest: a store to read-only memory, an access that cannot be decoded"];
const IS_RESET: &[&str] = &[
    "is an eventfd ready, without taking its count?",
    "an interrupt that waits is forgotten with the reset of its function",
];

/// Those of the process that moves guest memory, which `vmm/tests/jail_rules.rs` has no guest for.
const READS_TAGS: &[&str] = &["a window on the tags of guest memory"];
const PLACES: &[&str] = &[
    "waits for faults and for those who announce what they map",
    "faults",
    "what is passed is a userfaultfd",
    "memory of the process that made it, before its first page",
    "that memory, once all of it is there",
    "a page is there",
    "a page was there",
];

/// A line, by the name that leaves it out.
struct Line {
    name: String,
    why: &'static str,
}

/// The lines of a kind that are its own.
fn lines(kind: &str) -> Vec<Line> {
    let common = [Table::runtime().rules, Table::threads().rules].concat();
    let table = Table::of(kind.parse::<Kind>().unwrap());
    // The program under test is a release build: what only others have does not count.
    let rules = table.rules.iter().filter(|rule| !rule.why.contains("with debug assertions"));
    let own = rules.enumerate().filter(|(_, rule)| {
        rule.call.number(Arch::NATIVE).is_some() && !common.iter().any(|known| known.matches_same(rule))
    });
    own.map(|(index, rule)| Line { name: format!("{kind}:{index}"), why: rule.why }).collect()
}

/// All lines that say one of `whys`.
fn that_say(whys: &[&str]) -> Vec<Line> {
    let all: Vec<Line> = KINDS.iter().chain(["mover"].iter()).flat_map(|kind| lines(kind)).collect();
    for why in whys {
        assert!(all.iter().any(|line| line.why == *why), "no line says {why:?}");
    }
    all.into_iter().filter(|line| whys.contains(&line.why)).collect()
}

/// The lines of a kind that a boot leads to, which are all others.
fn of_a_boot(kind: &str) -> Vec<Line> {
    let more = [TRAVELS, WAKES_EARLY, SPEAKS, IS_PIPED_TO, IS_LEFT_ALONE, IS_STORED_TO, IS_RESET].concat();
    lines(kind).into_iter().filter(|line| !more.contains(&line.why)).collect()
}

/// Leads a life as it is, and then once without each of the lines: the machine is killed.
fn needs_each(life: &Life, lines: Vec<Line>) {
    ends_without_each(life, lines, |end| end.status.signal() == Some(SIGSYS));
}

/// Leads a life as it is, and then once without each of the lines: it is another one.
fn ends_without_each(life: &Life, lines: Vec<Line>, ends: impl Fn(&End) -> bool) {
    let whole = life.lead(&[]);
    assert!(whole.is_good(), "{whole:?}");
    let unneeded = lines.into_iter().filter_map(|line| {
        let end = life.lead(&[(DROP_RULE, &line.name)]);
        (!ends(&end)).then(|| format!("{} ({}): {end:?}", line.name, line.why))
    });
    let unneeded: Vec<String> = unneeded.collect();
    assert!(unneeded.is_empty(), "{unneeded:#?}");
}

#[test]
fn a_machine_that_boots_needs_each_of_its_lines() {
    needs_each(&lives::BOOTS, of_a_boot("machine"));
}

#[test]
fn the_threads_of_a_machine_that_boots_need_each_of_their_lines() {
    needs_each(&lives::BOOTS, KINDS[1..].iter().flat_map(|kind| of_a_boot(kind)).collect());
}

#[test]
fn a_machine_that_travels_needs_each_line_for_it() {
    needs_each(&lives::TRAVELS, that_say(TRAVELS));
}

#[test]
fn a_machine_whose_memory_comes_later_needs_each_line_for_it() {
    needs_each(&lives::WAKES_EARLY, that_say(WAKES_EARLY));
}

#[test]
fn a_machine_on_a_terminal_needs_each_line_for_it() {
    needs_each(&lives::SPEAKS, that_say(SPEAKS));
    needs_each(&lives::IS_PIPED_TO, that_say(IS_PIPED_TO));
}

#[test]
fn a_machine_whose_device_hangs_needs_each_line_for_it() {
    needs_each(&lives::IS_LEFT_ALONE, that_say(IS_LEFT_ALONE));
}

#[test]
fn a_machine_whose_guest_stores_to_read_only_memory_needs_each_line_for_it() {
    needs_each(&lives::IS_STORED_TO, that_say(IS_STORED_TO));
}

#[test]
fn a_machine_whose_guest_resets_a_port_needs_each_line_for_it() {
    needs_each(&lives::IS_RESET, that_say(IS_RESET));
}

#[test]
fn a_mover_needs_each_line_that_takes_a_guest() {
    ends_without_each(&lives::TRAVELS, that_say(READS_TAGS), |end| !end.is_good());
    ends_without_each(&lives::WAKES_EARLY, that_say(PLACES), |end| !end.is_good());
}

#[test]
fn a_device_whose_memory_comes_later_needs_the_line_for_it() {
    let line = lines("rng").into_iter().filter(|line| line.why == WAKES_EARLY[0]).collect();
    ends_without_each(&lives::WAKES_EARLY_WITH_DEVICES, line, |end| !end.is_good());
}
