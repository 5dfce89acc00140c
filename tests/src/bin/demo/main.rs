//! A tour of a tagged guest: what `scripts/demo` runs in the lab, and a person reads.
//!
//! ```text
//! granule probe ─► granule --api-socket ─► vm.create ─► vm.boot ─► the guest looks at itself ─► vm.pause ─► vm.resume
//!                                                                            ─► vm.info ─► vm.shutdown ─► vmm.shutdown
//! ```
//! Each call is made by `granule ctl` and shown as the line of curl that does the same. The first step that does not
//! go as it should ends the tour with what failed and the last words of guest and monitor.

mod api;
mod guest;
mod page;
mod stop;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use granule_tests::folder::Folder;
use granule_tests::lab;
use granule_tests::vm::{Guest, MIB};
use granule_tests::{memory, wait};
use serde_json::{Value, json};

use api::Monitor;
use guest::Serial;

/// What a step gives, or what went wrong in words for the reader.
type Step<T> = Result<T, String>;

/// How long a paused guest is given to answer, which it must not.
const SILENCE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    stop::listen();
    let begun = Instant::now();
    // The folder and the monitor end with this scope, whatever happened.
    let outcome = tour();
    match outcome {
        Ok(()) => {
            page::end(&format!("All of it worked, in {:.0} s.", begun.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(_) if stop::asked() => ExitCode::from(130),
        Err(failure) => {
            page::failure(&failure);
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Step<()> {
    page::chapter("What this host can do", "granule probe");
    let tags = probe()?;

    let folder = Folder::new();
    page::chapter("A virtual machine over REST", "granule --api-socket api.sock");
    let mut monitor = Monitor::start(&folder)?;
    let pong = monitor.call("GET", "vmm.ping", None)?;
    page::answer(&format!("version {}, pid {}", text(&pong["version"]), pong["pid"]));
    let mut serial = boot(&mut monitor, &folder, tags)?;
    let seen = look(&mut monitor, &mut serial, tags).map_err(|e| serial.with_tail(&e));
    let processes = seen.map_err(|e| monitor.with_log(&e))?;
    leave(&mut monitor, &folder, &processes).map_err(|e| monitor.with_log(&e))
}

/// Shows what the host can do; gives whether it has tags for guests.
fn probe() -> Step<bool> {
    for line in granule_probe(&[])?.lines() {
        page::line(line);
    }
    let report: Value = serde_json::from_str(&granule_probe(&["--json"])?)
        .map_err(|e| format!("granule probe --json: {e}"))?;
    Ok(report["kvm"]["mte"]["support"] == "shared")
}

fn granule_probe(arguments: &[&str]) -> Step<String> {
    let output = Command::new(lab::granule()).arg("probe").args(arguments).output();
    let output = output.map_err(|e| format!("granule cannot be started: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("guests cannot run here; granule probe says\n{text}")),
    }
}

/// Creates and boots the VM; gives its serial port once the guest's first program runs.
fn boot(monitor: &mut Monitor, folder: &Folder, tags: bool) -> Step<Serial> {
    let init = std::env::current_exe().map(|own| own.with_file_name("guest-init"));
    let init = init.and_then(std::fs::read).map_err(|e| format!("the guest's first program: {e}"))?;
    let guest = Guest::new(init.leak())
        .mte(if tags { json!(true) } else { json!("auto") })
        .set("/serial", json!({"mode": "Socket", "socket": folder.file("serial.sock")}));
    let body = guest.body_in(folder);
    page::config("vm.json", &body);
    monitor.call("PUT", "vm.create", Some(&body))?;
    page::answer("");
    let begun = Instant::now();
    monitor.call("PUT", "vm.boot", None)?;
    page::answer(&format!("in {} ms", begun.elapsed().as_millis()));
    let mut serial = Serial::connect(&folder.file("serial.sock"))?;
    let up = serial.json("init up", || monitor.alive()).map_err(|e| serial.with_tail(&e));
    let up = up.map_err(|e| monitor.with_log(&e))?;
    page::row(
        "guest",
        &format!("Linux {}, {} MiB", text(&up["kernel"]), up["memory_kib"].as_u64().unwrap_or(0) >> 10),
    );
    page::row("its first program", &format!("{:.1} s after vm.boot", begun.elapsed().as_secs_f64()));
    Ok(serial)
}

/// From inside the guest, then from outside; gives the ids of the monitor's processes.
fn look(monitor: &mut Monitor, serial: &mut Serial, tags: bool) -> Step<Vec<u64>> {
    page::chapter("What the guest sees", "programs in the guest, by its serial port");
    guest::tags(&serial.check("mte", || monitor.alive())?, tags)?;
    if tags {
        guest::heap(&serial.check("heap", || monitor.alive())?)?;
    }
    guest::entropy(&serial.check("rng", || monitor.alive())?)?;

    page::chapter("Pause and resume", "");
    monitor.call("PUT", "vm.pause", None)?;
    page::answer("");
    serial.say("echo there you are")?;
    if serial.hears("echo there you are", SILENCE)? {
        return Err("the paused guest answered".to_owned());
    }
    page::row("a line to the guest", "no answer while paused");
    monitor.call("PUT", "vm.resume", None)?;
    page::answer("");
    if !serial.hears("echo there you are", wait::SHORT)? {
        return Err("the resumed guest does not answer".to_owned());
    }
    page::row("the same line", "answered");

    page::chapter("Every process in a jail of its own", "");
    let info = monitor.call("GET", "vm.info", None)?;
    page::answer(&format!(
        "state {}, mte {}, {} MiB",
        text(&info["state"]),
        if info["mte"]["enabled"] == true { "on" } else { "off" },
        info["memory_actual_size"].as_u64().unwrap_or(0) / MIB,
    ));
    processes(&info)
}

fn processes(info: &Value) -> Step<Vec<u64>> {
    let processes = info["jail"]["processes"].as_array().ok_or("vm.info says nothing of processes")?;
    let mut pids = Vec::new();
    for process in processes {
        let pid = process["pid"].as_u64().ok_or("a process without a pid in vm.info")?;
        let landlock = match process["landlock_abi"].as_u64() {
            Some(version) => format!("landlock {version}"),
            None => "-".to_owned(),
        };
        let memory = match memory::beyond_guest(pid as u32) {
            Some(kib) => format!("{:.1} MiB", kib as f64 / 1024.0),
            None => "-".to_owned(),
        };
        let role = text(&process["role"]);
        page::row(
            role,
            &format!(
                "pid {pid:<6} seccomp {:<6} {landlock:<11} {memory:>8} besides guest memory",
                text(&process["seccomp"])
            ),
        );
        pids.push(pid);
    }
    Ok(pids)
}

/// Ends the guest, then the monitor, and looks for what is left of them.
fn leave(monitor: &mut Monitor, folder: &Folder, pids: &[u64]) -> Step<()> {
    page::chapter("Shutdown", "");
    monitor.call("PUT", "vm.shutdown", None)?;
    page::answer("");
    monitor.call("PUT", "vmm.shutdown", None)?;
    page::answer("");
    page::row("exit code", &monitor.ended()?.to_string());
    let left = || pids.iter().filter(|pid| std::fs::exists(format!("/proc/{pid}")).unwrap_or(true)).count();
    if wait::until(wait::SHORT, || (left() == 0).then_some(())).is_none() {
        return Err(format!("{} of the processes {pids:?} are still there", left()));
    }
    match folder.sockets() {
        sockets if sockets.is_empty() => page::row("left behind", "no process, no socket"),
        sockets => return Err(format!("left behind: {}", sockets.join(", "))),
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
