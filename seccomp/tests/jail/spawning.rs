//! Started processes: what they have, what they see, and how they end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

use granule_jail::{DeviceKind, Error, Executable, JailKind, Kind, Output, SeccompMode, Spawn};
use serde_json::{Value, json};

use crate::harness::{End, Test};
use crate::roles::{self, say};

pub const TESTS: &[Test] = &[
    ("a_child_has_the_listed_descriptors_and_no_other", a_child_has_the_listed_descriptors_and_no_other),
    ("descriptors_may_trade_places", descriptors_may_trade_places),
    ("a_child_sees_few_variables_and_never_glibc_tunables", a_child_sees_few_variables),
    ("a_prepared_process_starts_over_without_glibc_tunables", a_prepared_process_starts_over),
    ("a_prepared_process_has_no_way_back", a_prepared_process_has_no_way_back),
    ("a_child_ignores_what_a_terminal_sends_to_its_group", a_child_ignores_what_a_terminal_sends),
    ("a_child_can_be_killed_and_its_end_is_told", a_child_can_be_killed),
    ("a_jailed_child_dies_with_its_jailed_parent", a_child_dies_with_its_parent),
    ("a_device_started_by_root_leaves_the_host_behind", a_device_started_by_root_leaves_the_host_behind),
    ("no_capability_is_left_in_a_jail", no_capability_is_left_in_a_jail),
    ("a_jail_is_not_entered_by_a_process_with_threads", a_jail_is_not_entered_with_threads),
];

pub fn play(words: &[&str], mut report: File) -> ExitCode {
    match words {
        ["descriptors"] => say(&report, &descriptors()),
        ["variables"] => {
            let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
            say(&report, &json!(names));
        }
        ["prepared"] => {
            granule_jail::prepare_process().unwrap();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let tunables = std::env::var_os(granule_jail::GLIBC_TUNABLES).is_some();
            say(&report, &json!([std::process::id(), tunables, status]));
        }
        ["wait"] => {
            say(&report, &json!(std::process::id()));
            end_of(&mut report);
        }
        ["parent", jail] => return parent_until_killed(jail, &report),
        ["linger", jail] => {
            let Kind::Process(jail) = jail.parse().unwrap() else { panic!("{jail} is no process") };
            granule_jail::prepare_process().unwrap();
            granule_jail::enter(jail, SeccompMode::Enforce).unwrap();
            say(&report, &json!(std::process::id()));
            loop {
                std::thread::park();
            }
        }
        ["left"] => {
            let jail = granule_jail::enter(JailKind::Device(DeviceKind::Rng), SeccompMode::Off).unwrap();
            say(&report, &json!(jail.left));
            // Landlock would refuse to open the same, so what is asked for is what needs no opening.
            let root = rustix::fs::stat("/").unwrap();
            let user = rustix::process::geteuid().as_raw();
            say(&report, &json!([user, root.st_mode & 0o777, std::path::Path::new("/etc").exists()]));
        }
        ["capabilities"] => {
            granule_jail::enter(JailKind::Machine, SeccompMode::Off).unwrap();
            let left = rustix::thread::capabilities(None).unwrap();
            let none = left.effective.is_empty() && left.permitted.is_empty();
            say(&report, &json!(none));
        }
        ["threads"] => {
            let thread = std::thread::spawn(std::thread::park);
            let refused = granule_jail::enter(JailKind::Machine, SeccompMode::Enforce);
            say(&report, &json!(matches!(refused, Err(Error::Threads))));
            thread.thread().unpark();
        }
        _ => panic!("no such role: {words:?}"),
    }
    ExitCode::SUCCESS
}

/// Every open descriptor with what it names, but for the one that this listing itself needs.
fn descriptors() -> Value {
    let listing = std::fs::read_dir("/proc/self/fd").unwrap();
    let named: Vec<(String, String)> = listing
        .map(|entry| entry.unwrap())
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
            let own = target.starts_with("/proc/") && target.ends_with("/fd");
            (!own).then(|| (entry.file_name().to_string_lossy().into_owned(), target))
        })
        .collect();
    json!(named.into_iter().collect::<BTreeMap<_, _>>())
}

/// Waits until the other end of a socket is gone.
fn end_of(socket: &mut File) {
    let _ = socket.read(&mut [0]);
}

fn a_child_has_the_listed_descriptors_and_no_other() -> End {
    let _leaked = File::open("/dev/null").unwrap();
    // SAFETY: a fresh copy that nothing owns, without close-on-exec, as a careless parent leaves it.
    let careless = unsafe { OwnedFd::from_raw_fd(libc::dup(1)) };
    let played = roles::start(&["descriptors"]);
    drop(careless);
    let listed: Vec<&String> = played.report[0].as_object().unwrap().keys().collect();
    assert_eq!(listed, ["0", "1", "2", "3"]);
    assert_eq!(played.report[0]["0"], "/dev/null");
    End::Passed
}

fn descriptors_may_trade_places() -> End {
    let executable = Executable::own().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let files: Vec<File> =
        ["/dev/null", "/dev/zero", "/dev/full"].map(|path| File::open(path).unwrap()).into();
    let mut spawn = Spawn::new(&executable, "jail-role");
    spawn.argument("role").argument("descriptors").output(Output::Null);
    assert_eq!(spawn.descriptor(writer.as_fd()), 3);
    // In reverse, so that the numbers in the parent and those in the child cross.
    for (file, number) in files.iter().rev().zip(4..) {
        assert_eq!(spawn.descriptor(file.as_fd()), number);
    }
    assert_eq!(spawn.descriptor(files[0].as_fd()), 7, "a descriptor may be listed twice");
    let child = spawn.start().unwrap();
    drop(writer);
    let mut report = String::new();
    reader.read_to_string(&mut report).unwrap();
    assert!(child.wait().unwrap().success());
    let mut report: Value = serde_json::from_str(&report).unwrap();
    report.as_object_mut().unwrap().remove("3");
    let names = ["null", "null", "null", "full", "zero", "null", "null"].map(|name| format!("/dev/{name}"));
    let numbers = ["0", "1", "2", "4", "5", "6", "7"];
    let expected = json!(numbers.into_iter().zip(names).collect::<BTreeMap<_, _>>());
    assert_eq!(report, expected);
    End::Passed
}

fn a_child_sees_few_variables() -> End {
    // SAFETY: the tests run on the only thread of this process.
    unsafe {
        std::env::set_var("GRANULE_TEST", "1");
        std::env::set_var("GLIBC_TUNABLES", "glibc.mem.tagging=3");
        std::env::set_var("LD_PRELOAD_TEST", "1");
    }
    let played = roles::start(&["variables"]);
    // SAFETY: as above.
    unsafe {
        std::env::remove_var("GRANULE_TEST");
        std::env::remove_var("GLIBC_TUNABLES");
    }
    let names: Vec<&str> = played.report[0].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"GRANULE_TEST"), "{names:?}");
    let known = ["RUST_BACKTRACE", "RUST_LOG"];
    assert!(names.iter().all(|name| name.starts_with("GRANULE_") || known.contains(name)), "{names:?}");
    End::Passed
}

/// Runs the role `prepared` from outside of `Spawn`, as a person or a container runtime starts the machine.
fn prepared(tunables: &str) -> (u32, Value) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let number = writer.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("granule").args(["role", "prepared"]).env("GLIBC_TUNABLES", tunables);
    // SAFETY: dup2 is async-signal-safe; its copy is not close-on-exec.
    unsafe {
        command.pre_exec(move || {
            if libc::dup2(number, 3) == 3 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    let mut child = command.spawn().unwrap();
    drop(writer);
    let mut report = String::new();
    reader.read_to_string(&mut report).unwrap();
    assert!(child.wait().unwrap().success());
    (child.id(), serde_json::from_str(&report).unwrap())
}

fn a_prepared_process_starts_over() -> End {
    let (pid, report) = prepared("glibc.mem.tagging=3:glibc.malloc.check=0");
    assert_eq!(report[0], pid, "the pid is the one that the caller started");
    assert_eq!(report[1], false, "GLIBC_TUNABLES is gone");
    End::Passed
}

fn a_prepared_process_has_no_way_back() -> End {
    let (_, report) = prepared("");
    let status = report[2].as_str().unwrap();
    for line in ["Name:\tgranule", "Umask:\t0077", "NoNewPrivs:\t1", "THP_enabled:\t0"] {
        assert!(status.lines().any(|known| known == line), "{line:?} is missing in\n{status}");
    }
    End::Passed
}

/// A started process that says its pid and then waits for the other end of its socket to close.
fn waiting() -> (granule_jail::Child, File) {
    let executable = Executable::own().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut spawn = Spawn::new(&executable, "jail-role");
    spawn.argument("role").argument("wait");
    spawn.descriptor(theirs.as_fd());
    let child = spawn.start().unwrap();
    let mut ours = File::from(OwnedFd::from(ours));
    let mut pid = [0; 16];
    let length = ours.read(&mut pid).unwrap();
    assert_eq!(std::str::from_utf8(&pid[..length]).unwrap().trim(), child.pid().to_string());
    (child, ours)
}

fn a_child_ignores_what_a_terminal_sends() -> End {
    let (child, socket) = waiting();
    let pid = i32::try_from(child.pid()).unwrap();
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP, libc::SIGTERM] {
        // SAFETY: signals a child that has not been reaped.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
    assert_eq!(child.try_wait().unwrap(), None);
    drop(socket);
    assert!(child.wait().unwrap().success());
    End::Passed
}

fn a_child_can_be_killed() -> End {
    let (child, _socket) = waiting();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    child.kill().unwrap();
    assert!(child.wait().is_err(), "reaped already");
    End::Passed
}

/// Starts a jailed grandchild that never ends by itself and holds a copy of the report's pipe: control, as the machine
/// does before it enters its jail, or a device, as control does from inside. Then waits to be killed.
fn parent_until_killed(jail: &str, report: &File) -> ExitCode {
    granule_jail::prepare_process().unwrap();
    let executable = Executable::own().unwrap();
    let child = if jail == "machine" { JailKind::Control } else { JailKind::Device(DeviceKind::Rng) };
    if jail == "control" {
        granule_jail::enter(JailKind::Control, SeccompMode::Enforce).unwrap();
    }
    let mut spawn = Spawn::new(&executable, "jail-role");
    spawn.argument("role").argument("linger").argument(Kind::from(child).name());
    spawn.descriptor(report.as_fd());
    if jail == "control" {
        spawn.alone();
    }
    let _child = spawn.start().unwrap();
    if jail == "machine" {
        granule_jail::enter(JailKind::Machine, SeccompMode::Enforce).unwrap();
    }
    say(report, &json!("jailed"));
    loop {
        std::thread::park();
    }
}

fn a_child_dies_with_its_parent() -> End {
    for jail in ["machine", "control"] {
        let executable = Executable::own().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut spawn = Spawn::new(&executable, "jail-role");
        spawn.argument("role").argument("parent").argument(jail);
        spawn.descriptor(writer.as_fd());
        let parent = spawn.start().unwrap();
        drop(writer);
        let mut reader = BufReader::new(reader);
        // In either order: the grandchild lingers, its parent is jailed.
        let mut said = [String::new(), String::new()];
        said.iter_mut().for_each(|line| assert!(reader.read_line(line).unwrap() > 0));
        parent.kill().unwrap();
        assert_eq!(parent.wait().unwrap().signal(), Some(libc::SIGKILL));
        // The grandchild holds the pipe's other end: it closes when, and only when, the grandchild is gone.
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        let pipe = rustix::event::PollFd::new(reader.get_ref(), rustix::event::PollFlags::IN);
        let died = rustix::event::poll(&mut [pipe], Some(&limit)) == Ok(1);
        if !died {
            // One that is alone knows itself as 1 only, and is left to whoever reads this.
            let grandchild = said.iter().find_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 1);
            // SAFETY: its pid cannot have been reused: it still holds the pipe.
            grandchild.map(|grandchild| unsafe { libc::kill(grandchild, libc::SIGKILL) });
        }
        assert!(died, "the child of the {jail} outlives it");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "{jail}");
    }
    End::Passed
}

fn a_device_started_by_root_leaves_the_host_behind() -> End {
    if !rustix::process::geteuid().is_root() {
        return End::Skipped("not root".to_owned());
    }
    let played = roles::start_alone(&["left"]);
    let left: Vec<&str> = played.report[0].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    if !left.contains(&"files") {
        return End::Skipped(format!("this root may leave {left:?} only"));
    }
    assert_eq!(left, ["network", "ipc", "uts", "cgroup", "pid", "mount", "root", "user", "files"]);
    let [user, mode, etc] = [0, 1, 2].map(|index| played.report[1][index].clone());
    assert_eq!((user, mode, etc), (65534.into(), 0o555.into(), false.into()));
    End::Passed
}

fn no_capability_is_left_in_a_jail() -> End {
    let played = roles::start(&["capabilities"]);
    assert_eq!(played.report, [true]);
    End::Passed
}

fn a_jail_is_not_entered_with_threads() -> End {
    let played = roles::start(&["threads"]);
    assert_eq!(played.report, [true]);
    End::Passed
}
