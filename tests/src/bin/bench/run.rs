//! One measured run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use granule_tests::client::Client;
use granule_tests::{lab, memory, wait};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::contender::{Guest, MEMORY_MIB, Material, cmdline};

/// A run from start to end; milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    /// Until the guest's mark came out of the serial port.
    pub mark: f64,
    /// Until the process ended.
    pub end: f64,
    /// CPU time of all its processes outside of the guest.
    pub cpu: f64,
}

/// Milliseconds from the start of the process until each call of the API was answered.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    pub connected: f64,
    pub pinged: f64,
    pub created: f64,
    pub booted: f64,
}

/// Runs a guest that powers off by itself.
pub fn to_the_end(mut command: Command, mark: &str) -> Result<Whole, String> {
    let begun = Instant::now();
    let mut running = Running::start(&mut command)?;
    running.wait_for(mark)?;
    let at_mark = ms(begun);
    let ended = running.end()?;
    Ok(Whole { mark: at_mark, end: ms(begun), cpu: ended.cpu_ms })
}

/// Runs a guest that idles, and looks at the memory of each process: role and KiB besides guest memory.
pub fn at_rest(command: Command, mark: &str) -> Result<BTreeMap<String, u64>, String> {
    observe(command, mark).map(|(_, memory)| memory)
}

/// As [`at_rest`], with all that the guest has said until then.
pub fn observe(mut command: Command, mark: &str) -> Result<(String, BTreeMap<String, u64>), String> {
    let mut running = Running::start(&mut command)?;
    running.wait_for(mark)?;
    // Until init sleeps and what the boot woke has settled.
    sleep(Duration::from_millis(200));
    let mut found = BTreeMap::new();
    for pid in family(running.child.id()) {
        let kib = memory::beyond_guest(pid).ok_or(format!("no memory map of process {pid}"))?;
        found.insert(role(pid), kib);
    }
    running.child.kill().map_err(|e| format!("kill: {e}"))?;
    let said = String::from_utf8_lossy(&running.heard).into_owned();
    running.end()?;
    Ok((said, found))
}

/// Creates and boots a guest with tags by the API, and ends it when the boot is answered.
pub fn over_rest(material: &Material) -> Result<Api, String> {
    let socket = material.folder.file("api.sock");
    let mut command = Command::new(lab::granule());
    command.args(["--api-socket", &socket]);
    let body = json!({
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "features": {"mte": true}},
        "memory": {"size": MEMORY_MIB << 20},
        "payload": {
            "kernel": material.kernel(Guest::Linux), "initramfs": material.initramfs(), "cmdline": cmdline(Guest::Idle),
        },
        "serial": {"mode": "Tty"}, "console": {"mode": "Off"},
    });
    let begun = Instant::now();
    let mut running = Running::start(&mut command)?;
    let path = std::path::Path::new(&socket);
    // In steps that are short beside what is measured.
    let mut client = loop {
        match Client::connect(path) {
            Ok(client) => break client,
            Err(error) if begun.elapsed() > wait::SHORT => return Err(format!("{socket}: {error}")),
            Err(_) => sleep(Duration::from_micros(200)),
        }
    };
    let connected = ms(begun);
    let mut call = |method, endpoint: &str, body: Option<&str>| {
        let answer = client
            .call(method, &format!("/api/v1/{endpoint}"), body)
            .map_err(|e| format!("{endpoint}: {e}"))?;
        match answer.code {
            200 | 204 => Ok(ms(begun)),
            code => Err(format!("{endpoint} was answered by {code}: {}", answer.body)),
        }
    };
    let pinged = call("GET", "vmm.ping", None)?;
    let created = call("PUT", "vm.create", Some(&body.to_string()))?;
    let booted = call("PUT", "vm.boot", None)?;
    running.child.kill().map_err(|e| format!("kill: {e}"))?;
    running.end()?;
    let _ = fs::remove_file(&socket);
    Ok(Api { connected, pinged, created, booted })
}

struct Running {
    child: Child,
    heard: Vec<u8>,
}

struct Ended {
    cpu_ms: f64,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        Ok(Self { child, heard: Vec::new() })
    }

    fn wait_for(&mut self, mark: &str) -> Result<(), String> {
        let mut output = self.child.stdout.take().ok_or("the output is gone")?;
        let mut chunk = [0; 4096];
        while !String::from_utf8_lossy(&self.heard).contains(mark) {
            match output.read(&mut chunk) {
                Ok(0) | Err(_) => {
                    let text = String::from_utf8_lossy(&self.heard).into_owned();
                    return Err(format!("it ended before the guest said {mark:?}:\n{text}"));
                }
                Ok(n) => self.heard.extend(&chunk[..n]),
            }
        }
        self.child.stdout = Some(output);
        Ok(())
    }

    /// Waits for the end, and reads what the kernel knows of the process before it is forgotten.
    fn end(&mut self) -> Result<Ended, String> {
        let pid = self.child.id();
        sys::wait_for_end(pid).map_err(|e| format!("waitid: {e}"))?;
        let guest_ms = guest_ms(pid).ok_or("no /proc/PID/stat")?;
        let all = sys::reap(pid).map_err(|e| format!("wait4: {e}"))?;
        Ok(Ended { cpu_ms: all.as_secs_f64() * 1000.0 - guest_ms })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already reaped after a good run.
        let _ = self.child.kill();
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Time in the guest, of the process and the children that it waited for: by the kernel's tick, so ±4 ms.
fn guest_ms(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: state is field 3, guest_time 43, cguest_time 44, in 1/100 s.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let hundredths: u64 = fields.get(40)?.parse::<u64>().ok()? + fields.get(41)?.parse::<u64>().ok()?;
    Some(hundredths as f64 * 10.0)
}

/// A process and all its descendants.
pub fn family(first: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![first];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| pid));
        next += 1;
    }
    family
}

/// Has a process stand still.
pub fn stop(pid: u32) -> Result<(), String> {
    let named = Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
    kill_process(named, Signal::STOP).map_err(|e| format!("process {pid}: {e}"))
}

/// Has the programs that are started from now on inherit a file, under the same number.
pub fn inherit(file: &fs::File) -> Result<(), String> {
    fcntl_setfd(file, FdFlags::empty()).map_err(|e| format!("F_SETFD: {e}"))
}

/// What a process was started as.
fn role(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        line.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "control", ..] => "control".to_owned(),
        [_, "device", kind, ..] => format!("device {kind}"),
        _ => "machine".to_owned(),
    }
}

mod sys {
    //! Waiting in two steps, which std does not do.

    use std::io;
    use std::time::Duration;

    /// Waits until the process has ended, and leaves it to be looked at.
    pub(super) fn wait_for_end(pid: u32) -> io::Result<()> {
        // SAFETY: an all-zero siginfo is valid, and the call fills it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is ours and live.
        let done = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reaps it; gives the CPU time of it and of all descendants that were waited for.
    pub(super) fn reap(pid: u32) -> io::Result<Duration> {
        // SAFETY: an all-zero rusage is valid, and the call fills it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is ours and live; the status is not wanted.
        let reaped = unsafe { libc::wait4(pid.cast_signed(), std::ptr::null_mut(), 0, &raw mut usage) };
        if reaped < 0 {
            return Err(io::Error::last_os_error());
        }
        let micros = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
        Ok(Duration::from_micros(micros(usage.ru_utime) + micros(usage.ru_stime)))
    }
}
