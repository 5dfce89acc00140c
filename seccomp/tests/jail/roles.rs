//! What the started processes do. Each writes its report, one JSON value a line, to descriptor 3.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc;

use granule_jail::attempts::{self, Tools};
use granule_jail::rules::Table;
use granule_jail::{Executable, JailKind, Kind, SeccompMode, Spawn};
use serde_json::{Value, json};

/// What came of a role: its report and its end.
pub struct Played {
    pub report: Vec<Value>,
    pub status: ExitStatus,
}

/// Starts this binary in a role and waits for its end.
pub fn start(role: &[&str]) -> Played {
    start_as(role, |_| ())
}

/// The same, in a PID namespace of its own where that is allowed.
pub fn start_alone(role: &[&str]) -> Played {
    start_as(role, |spawn| {
        spawn.alone();
    })
}

fn start_as(role: &[&str], with: impl FnOnce(&mut Spawn<'_>)) -> Played {
    let executable = Executable::own().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut spawn = Spawn::new(&executable, "jail-role");
    spawn.argument("role");
    for word in role {
        spawn.argument(word);
    }
    spawn.descriptor(writer.as_fd());
    with(&mut spawn);
    let child = spawn.start().unwrap();
    drop(writer);
    Played { report: values(reader), status: child.wait().unwrap() }
}

/// Plays a role in a forked copy of this process: a few hundred of these must not take minutes on an emulated processor.
pub fn start_copy(role: &[&str]) -> Played {
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: this process has one thread, so the copy may do anything; it never returns from here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(reader);
        // SAFETY: whatever number 3 is in the parent, the copy does not use it.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 3) }, 3);
        let played = catch_unwind(|| play(role));
        std::process::exit(if played.is_ok() { 0 } else { 101 });
    }
    drop(writer);
    let report = values(reader);
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    Played { report, status: ExitStatus::from_raw(status) }
}

fn values(reader: impl Read) -> Vec<Value> {
    BufReader::new(reader).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

/// Plays a role, in the started process.
pub fn play(words: &[&str]) -> ExitCode {
    // SAFETY: `start` put the report's pipe there and nothing else owns the number.
    let report = unsafe { File::from(OwnedFd::from_raw_fd(3)) };
    match words {
        ["attempt", kind, mode, index] => {
            let attempt = &attempts::ALL[index.parse::<usize>().unwrap()];
            let tools = Tools::gather().unwrap();
            inside(kind, mode, move || {
                let errno = attempt.make(&tools).err().map(|error| error.raw_os_error().unwrap_or(-1));
                say(&report, &json!(errno.unwrap_or(0)));
            });
        }
        ["refused", index] => {
            let rule = Table::of(JailKind::Control).rules[index.parse::<usize>().unwrap()];
            inside("control", "true", move || match attempts::provoke(&rule) {
                Err(error) if error.kind() == ErrorKind::Unsupported => say(&report, &json!("no such call")),
                made => say(&report, &json!(format!("{made:?}"))),
            });
        }
        ["work", kind, mode] => {
            let work = kind.parse().unwrap();
            unheard();
            inside(kind, mode, move || {
                crate::work::of(work);
                say(&report, &json!("done"));
            });
        }
        ["abort", kind, mode] => inside(kind, mode, || std::process::abort()),
        ["panic", kind, mode] => {
            unheard();
            inside(kind, mode, || panic!("as the test wants"));
        }
        _ => return crate::spawning::play(words, report),
    }
    ExitCode::SUCCESS
}

/// What is written to standard error from here on is written only to show that it can be.
fn unheard() {
    let null = File::options().write(true).open("/dev/null").unwrap();
    // SAFETY: both are descriptors; number 2 stays one.
    assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), 2) }, 2);
}

pub fn say(mut report: &File, value: &Value) {
    report.write_all(format!("{value}\n").as_bytes()).unwrap();
}

/// Enters the jail of a kind, that of a thread on a thread of a jailed machine, and does something there.
fn inside(kind: &str, mode: &str, act: impl FnOnce() + Send + 'static) {
    let mode: SeccompMode = mode.parse().unwrap();
    match kind.parse().unwrap() {
        Kind::Process(kind) => {
            granule_jail::enter(kind, mode).unwrap();
            act();
        }
        Kind::Thread(kind) => {
            granule_jail::enter(JailKind::Machine, mode).unwrap();
            let (sender, receiver) = mpsc::channel();
            let thread = std::thread::Builder::new().name("vcpu0".to_owned());
            let thread = thread.spawn(move || {
                granule_jail::enter_thread(kind, mode).unwrap();
                act();
                sender.send(()).unwrap();
            });
            receiver.recv().unwrap();
            thread.unwrap().join().unwrap();
        }
    }
}
