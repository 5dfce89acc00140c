//! Every attempt in every kind of jail, with seccomp and without.

use std::os::unix::process::ExitStatusExt;

use granule_jail::attempts::{self, Expected};
use granule_jail::rules::Table;
use granule_jail::{JailKind, JailReport, Kind, SeccompMode};

use serde_json::{Value, json};

use crate::harness::{End, Test};
use crate::roles;

pub const TESTS: &[Test] = &[
    (
        "seccomp_refuses_every_attempt_in_every_kind_of_jail",
        seccomp_refuses_every_attempt_in_every_kind_of_jail,
    ),
    ("landlock_refuses_paths_networks_and_peers_without_seccomp", landlock_refuses_without_seccomp),
    ("each_refusal_of_control_ends_its_process", each_refusal_of_control_ends_its_process),
    ("mode_log_lets_attempts_through", mode_log_lets_attempts_through),
];

const SIGSYS: i32 = 31;
const ENOENT: i64 = 2;

/// What holds the process of a kind.
fn report_of(kind: Kind, mode: SeccompMode) -> JailReport {
    match kind {
        Kind::Process(kind) => JailReport::of(kind, mode),
        Kind::Thread(_) => JailReport::of(JailKind::Machine, mode),
    }
}

/// Makes every attempt whose outcome is certain; returns how many those were.
fn all_end_as_expected(kind: Kind, mode: SeccompMode) -> usize {
    let report = report_of(kind, mode);
    let mut certain = 0;
    for (index, attempt) in attempts::ALL.iter().enumerate() {
        let expected = attempt.expected(kind, &report);
        if expected == Expected::Either {
            continue;
        }
        certain += 1;
        let played = roles::start_copy(&["attempt", kind.name(), &mode.to_string(), &index.to_string()]);
        let (status, errno) = (played.status, played.report.first().cloned());
        let told = format!("{kind}, seccomp {mode}, tries to {}: {status}, errno {errno:?}", attempt.name);
        match expected {
            Expected::Killed => assert_eq!(status.signal(), Some(SIGSYS), "{told}"),
            Expected::Errno(wanted) => {
                // A device that root started sees an empty file tree: what landlock would refuse is not even there.
                let gone = matches!(kind, Kind::Process(JailKind::Device(_) | JailKind::Mover));
                let answer = errno.as_ref().and_then(Value::as_i64);
                assert!(answer == Some(wanted.into()) || gone && answer == Some(ENOENT), "{told}");
            }
            Expected::Either => {}
        }
    }
    certain
}

fn seccomp_refuses_every_attempt_in_every_kind_of_jail() -> End {
    for kind in Kind::all() {
        let certain = all_end_as_expected(kind, SeccompMode::Enforce);
        assert!(certain >= 13, "{kind}: only {certain} attempts have a certain outcome");
    }
    End::Passed
}

fn landlock_refuses_without_seccomp() -> End {
    let mut certain = 0;
    for kind in Kind::all().filter(|kind| matches!(kind, Kind::Process(_))) {
        certain += all_end_as_expected(kind, SeccompMode::Off);
    }
    if certain == 0 { End::Skipped("this kernel has no landlock".to_owned()) } else { End::Passed }
}

/// That none of them is there for nothing, the unit tests of the tables say.
fn each_refusal_of_control_ends_its_process() -> End {
    let refusals = Table::of(JailKind::Control).rules;
    for (index, rule) in refusals.iter().enumerate() {
        let played = roles::start_copy(&["refused", &index.to_string()]);
        let here = !played.report.contains(&json!("no such call"));
        let ended = played.status.signal() == Some(SIGSYS);
        assert_eq!(ended, here, "{}: {}, {:?}", rule.call.name(), played.status, played.report);
    }
    End::Passed
}

fn mode_log_lets_attempts_through() -> End {
    let socket = attempts::ALL.iter().position(|attempt| attempt.name == "make a socket").unwrap();
    for kind in Kind::all() {
        let played = roles::start_copy(&["attempt", kind.name(), "log", &socket.to_string()]);
        assert_eq!(played.report, [0], "{kind}: {}", played.status);
        assert!(played.status.success(), "{kind}: {}", played.status);
    }
    End::Passed
}
