//! QEMU, as the peer: it has no tags to save. `migrate` to a file, which is what `virsh save` does too.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use granule_tests::client::send_with;
use granule_tests::wait;
use serde_json::{Value, json};

use super::process::{Process, ms};
use super::{Figures, Subject};
use crate::contender::{Contender, Guest, Material};
use crate::run::inherit;

/// How often it is asked whether it is done: short beside what is measured.
const PACE: Duration = Duration::from_micros(500);
/// Bytes per second that are no limit.
const UNLIMITED: u64 = 1 << 40;

/// A QEMU and its QMP socket.
struct Qmp {
    process: Process,
    stream: BufReader<UnixStream>,
}

impl Qmp {
    fn start(mut command: Command, material: &Material) -> Result<Self, String> {
        let socket = material.folder.file("qmp");
        let _ = std::fs::remove_file(&socket);
        command.args(["-qmp", &format!("unix:{socket},server=on,wait=off")]);
        let process = Process::start(command)?;
        let stream = wait::until(wait::LONG, || UnixStream::connect(Path::new(&socket)).ok());
        let stream = stream.ok_or_else(|| format!("{socket}: nobody listens"))?;
        let mut qmp = Self { process, stream: BufReader::new(stream) };
        qmp.line()?;
        qmp.call("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|e| format!("QMP: {e}"))?;
        serde_json::from_str(&line).map_err(|e| format!("QMP: {e} in {line:?}"))
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        self.call_with(command, arguments, &[])
    }

    fn call_with(
        &mut self,
        command: &str,
        arguments: &Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, String> {
        let order = json!({"execute": command, "arguments": arguments}).to_string();
        let sent = if fds.is_empty() {
            self.stream.get_mut().write_all(order.as_bytes())
        } else {
            send_with(self.stream.get_ref(), order.as_bytes(), fds)
        };
        sent.map_err(|e| format!("{command}: {e}"))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(format!("{command}: {error}"));
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Asks until `done` finds what it looks for.
    fn ask_until(&mut self, command: &str, done: impl Fn(&Value) -> bool) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let answer = self.call(command, &json!({}))?;
            if done(&answer) {
                return Ok(());
            }
            if answer["status"] == "failed" || begun.elapsed() > wait::LONG * 4 {
                return Err(format!("{command}: {answer}"));
            }
            std::thread::sleep(PACE);
        }
    }
}

/// Measures one guest.
pub fn measure(
    contender: &Contender,
    material: &Material,
    subject: &Subject,
    runs: usize,
) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let path = material.folder.file("stream");
    let file = File::create(&path).map_err(|e| format!("{path}: {e}"))?;
    let command = contender.start_with(material, Guest::Linux, &subject.cmdline(), subject.memory_mib);
    let mut qmp = Qmp::start(command, material)?;
    qmp.process.wait_filled()?;
    qmp.call_with("getfd", &json!({"fdname": "stream"}), &[file.as_fd()])?;
    qmp.call("migrate-set-parameters", &json!({"max-bandwidth": UNLIMITED}))?;
    qmp.call("stop", &json!({}))?;
    let begun = Instant::now();
    qmp.call("migrate", &json!({"uri": "fd:stream"}))?;
    qmp.ask_until("query-migrate", |answer| answer["status"] == "completed")?;
    figures.add("full", ms(begun, Instant::now()));
    drop(qmp);
    for _ in 0..runs {
        let file = File::open(&path).map_err(|e| format!("{path}: {e}"))?;
        let mut command = contender.empty_command(material, subject.memory_mib);
        command.args(["-incoming", &format!("fd:{}", file.as_raw_fd())]);
        inherit(&file)?;
        let mut qmp = Qmp::start(command, material)?;
        qmp.ask_until("query-status", |answer| answer["status"] == "paused")?;
        qmp.call("cont", &json!({}))?;
        figures.add("copy answered", ms(qmp.process.begun, Instant::now()));
        figures.add("copy alive", ms(qmp.process.begun, qmp.process.wait_alive()?));
    }
    std::fs::remove_file(&path).map_err(|e| format!("{path}: {e}"))?;
    Ok(figures)
}
