//! A few lives of a machine, which together lead to every line of its tables.
//!
//! A machine that dies under way ends them with a panic.

use std::any::Any;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::LazyLock;

use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::session::Session;
use granule_tests::vm::MIB;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::{Value, json};

use crate::disks::{Images, disk};
use crate::hotplug::wait_disks;
use crate::pmem::Images as PmemImages;
use crate::serial::{Following, join_at};
use crate::{guest, hostile, on_demand, tiny};

/// A way to spend a machine's time.
pub struct Life {
    /// What the monitor has on its standard input: a terminal, or a pipe.
    pub terminal: bool,
    /// What it is made to do; the other side of its standard input is here.
    pub course: fn(&Monitor, OwnedFd),
}

/// How a life ended.
#[derive(Debug)]
pub struct End {
    /// Of the process that was started.
    pub status: ExitStatus,
    /// What went wrong before.
    pub wrong: Option<String>,
}

impl End {
    /// By its own will, when all was done.
    pub fn is_good(&self) -> bool {
        self.status.success() && self.wrong.is_none()
    }
}

/// A guest comes up, and uses a device.
pub const BOOTS: Life = Life { terminal: false, course: |monitor, _| drop(boot_linux(monitor, &json!([]))) };

/// The guest stores to what is not to be written.
pub const IS_STORED_TO: Life = Life {
    terminal: false,
    course: |monitor, _| {
        static IMAGE: LazyLock<(PmemImages, String)> = LazyLock::new(|| {
            let images = PmemImages::new();
            let image = images.formatted("image", 5);
            (images, image)
        });
        boot_linux(monitor, &json!([{"file": IMAGE.1, "readonly": true}])).check("pmem:store");
    },
};

/// A device's process leaves the guest's driver without an answer.
pub const IS_LEFT_ALONE: Life = Life {
    terminal: false,
    course: |monitor, _| {
        let mut session = boot_linux(monitor, &json!([]));
        let device = Pid::from_raw(monitor.process("device rng").pid).unwrap();
        kill_process(device, Signal::STOP).unwrap();
        session.check(&format!("hostile:late:{}", hostile::bdf(monitor, "__rng")));
    },
};

/// A port resets the device behind it, whose interrupt waits.
pub const IS_RESET: Life = Life {
    terminal: false,
    course: |monitor, _| {
        let mut session = boot_linux(monitor, &json!([]));
        let images = Images::new();
        let image = images.filled("image", 1, MIB);
        let added = monitor.send("vm.add-disk", &disk(&image));
        let bdf = added.json()["bdf"].as_str().unwrap().to_owned();
        wait_disks(&mut session, &["vda"]);
        session.check(&format!("hostile:bus-reset:{bdf}"));
    },
};

/// Saved while it runs and while it stands, and restored.
pub const TRAVELS: Life = Life { terminal: false, course: |monitor, _| comes_back(monitor, "Copy") };

/// Restored, its memory coming later.
pub const WAKES_EARLY: Life = Life { terminal: false, course: |monitor, _| comes_back(monitor, "OnDemand") };

/// The same with a device at work, whose process has to wait for memory too.
pub const WAKES_EARLY_WITH_DEVICES: Life = Life {
    terminal: false,
    course: |monitor, _| {
        drop(boot_linux(monitor, &json!([])));
        let mut session = leaves_and_returns(monitor, &Folder::new(), "OnDemand");
        settles(monitor, "OnDemand");
        // Else the guest would wait for it in vain.
        assert!(!monitor.errors().contains("a device process died"), "{}", monitor.errors());
        session.check("rng");
    },
};

/// The terminal on its standard input is the guest's.
pub const SPEAKS: Life = Life { terminal: true, course: has_the_standard_input };

/// The guest's is what is on its standard input, which is no terminal.
pub const IS_PIPED_TO: Life = Life { terminal: false, course: has_the_standard_input };

impl Life {
    /// Leads it, with more in the monitor's environment.
    pub fn lead(&self, env: &[(&str, &str)]) -> End {
        let (theirs, ours) = if self.terminal { terminal() } else { rustix::pipe::pipe().unwrap() };
        let arguments = |folder: &Folder| vec!["--api-socket".to_owned(), folder.file("api.sock")];
        let monitor = Monitor::spawn_on(theirs.into(), env, arguments);
        let course = AssertUnwindSafe(|| {
            monitor.wait_ready();
            (self.course)(&monitor, ours);
            assert_eq!(monitor.put("vmm.shutdown").code, 200);
        });
        let wrong = catch_unwind(course).err().map(|payload| text(&*payload));
        if wrong.is_some() && monitor.alive().is_ok() {
            // It goes on without whoever was killed.
            monitor.signal(Signal::TERM);
        }
        End { status: monitor.wait(), wrong }
    }
}

/// What a panic said.
fn text(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().map(ToString::to_string);
    payload.downcast_ref().cloned().or(literal).unwrap_or_default()
}

/// A terminal: the side of who uses it, and ours.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    (ioctl_tiocgptpeer(&ours, flags).unwrap(), ours)
}

fn comes_back(monitor: &Monitor, restore: &str) {
    let store = Folder::new();
    tiny::is_right(&mut boot(monitor, &tiny::guest(monitor.folder())));
    save(monitor, &store, "live", true);
    tiny::is_right(&mut leaves_and_returns(monitor, &store, restore));
    settles(monitor, restore);
}

fn save(monitor: &Monitor, store: &Folder, name: &str, live: bool) -> String {
    let url = format!("file://{}", store.file(name));
    send(monitor, "vm.snapshot", &json!({"destination_url": url, "live": live}));
    url
}

fn leaves_and_returns(monitor: &Monitor, store: &Folder, restore: &str) -> Session {
    monitor.must("vm.pause");
    let url = save(monitor, store, "paused", false);
    monitor.must("vm.delete");
    let body = json!({"source_url": url, "memory_restore_mode": restore, "resume": true});
    send(monitor, "vm.restore", &body);
    join_at(monitor)
}

fn settles(monitor: &Monitor, restore: &str) {
    if restore == "OnDemand" {
        let settled = on_demand::wait_settled(monitor);
        assert_eq!(settled["state"], "Complete", "{settled}");
    }
}

fn has_the_standard_input(monitor: &Monitor, ours: OwnedFd) {
    let mut body = tiny::guest(monitor.folder());
    body["serial"] = json!({"mode": "Tty"});
    send(monitor, "vm.create", &body);
    monitor.must("vm.boot");
    let output = File::open(monitor.folder().file("stdout")).unwrap();
    tiny::is_right(&mut Session::new(Following(output), File::from(ours)));
}

fn boot_linux(monitor: &Monitor, pmem: &Value) -> Session {
    let guest = guest().vcpus(2).set("/serial", json!({"mode": "Socket"})).set("/pmem", pmem.clone());
    let mut session = boot(monitor, &guest.body(monitor));
    session.line("GRANULE serving");
    session.check("rng");
    session
}

fn boot(monitor: &Monitor, body: &Value) -> Session {
    send(monitor, "vm.create", body);
    monitor.must("vm.boot");
    join_at(monitor)
}

fn send(monitor: &Monitor, call: &str, body: &Value) {
    let answer = monitor.send(call, body);
    assert!(answer.code < 300, "{call}: {answer:?}; {}", monitor.errors());
}
