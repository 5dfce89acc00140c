//! What the guest says on its serial port, and what that means.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use granule_tests::wait;
use serde_json::Value;

use crate::{Step, page};

/// How long one look at the port blocks.
const GLANCE: Duration = Duration::from_millis(20);

/// SEGV_MTESERR: a synchronous tag check fault.
const TAG_FAULT: u64 = 9;

/// The guest's serial port.
pub struct Serial {
    stream: UnixStream,
    heard: Vec<u8>,
    /// Bytes of `heard` that were looked at.
    read: usize,
}

impl Serial {
    /// Connects to the port's socket.
    pub fn connect(path: &str) -> Step<Self> {
        let ready = UnixStream::connect(path).and_then(|s| s.set_read_timeout(Some(GLANCE)).map(|()| s));
        let stream = ready.map_err(|e| format!("the guest's serial port at {path}: {e}"))?;
        Ok(Self { stream, heard: Vec::new(), read: 0 })
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) -> Step<()> {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|e| format!("the guest's serial port: {e}"))
    }

    /// Has the guest run a check and returns what it saw.
    pub fn check(&mut self, name: &str, alive: impl FnMut() -> Step<()>) -> Step<Value> {
        self.say(&format!("run {name}"))?;
        self.json(&format!("ok {name}"), alive)
    }

    /// Waits for the guest's line `GRANULE MARK {json}`.
    pub fn json(&mut self, mark: &str, mut alive: impl FnMut() -> Step<()>) -> Step<Value> {
        let mark = format!("GRANULE {mark} ");
        let end = Instant::now() + wait::LONG;
        loop {
            let line = match self.line() {
                // The monitor's end, if it comes to that, is the better reason.
                Err(closed) => {
                    std::thread::sleep(GLANCE * 10);
                    return alive().and(Err(closed));
                }
                Ok(line) => line,
            };
            if let Some(line) = line {
                if let Some(json) = line.strip_prefix(&mark) {
                    return serde_json::from_str(json).map_err(|e| format!("{e} in {line:?}"));
                }
                if let Some(failure) = line.strip_prefix("GRANULE fail ") {
                    return Err(format!("the guest says: {failure}"));
                }
                continue;
            }
            alive()?;
            if Instant::now() > end {
                return Err(format!("the guest does not say {:?} within {:?}", mark.trim(), wait::LONG));
            }
        }
    }

    /// Whether the guest says `GRANULE TEXT` in this time.
    pub fn hears(&mut self, text: &str, patience: Duration) -> Step<bool> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.line()?.is_some_and(|line| line.strip_prefix("GRANULE ") == Some(text)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A failure with the guest's last words.
    pub fn with_tail(&self, failure: &str) -> String {
        let text = String::from_utf8_lossy(&self.heard).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("{failure}\n--- the guest's last words ---\n{tail}")
    }

    /// The next whole line, if there is one after a glance.
    fn line(&mut self) -> Step<Option<String>> {
        let fresh = &self.heard[self.read..];
        if let Some(length) = fresh.iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&fresh[..length]).trim_end().to_owned();
            self.read += length + 1;
            return Ok(Some(line));
        }
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err("the guest's serial port was closed".to_owned()),
            Ok(n) => self.heard.extend(&chunk[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(format!("the guest's serial port: {e}")),
        }
        Ok(None)
    }
}

/// Tags by hand: set, read back, and checked by the processor.
pub fn tags(seen: &Value, expected: bool) -> Step<()> {
    if seen["present"] != expected {
        return Err(format!("the guest should{} have tags: {seen}", if expected { "" } else { " not" }));
    }
    if !expected {
        page::row("memory tagging", "none, as vm.info says: the host has none to give");
        return Ok(());
    }
    page::row("memory tagging", &format!("level {}; IRG drew {} tags of 15", seen["level"], seen["drawn"]));
    for (kind, label) in [("anonymous", "its private memory"), ("shared", "its shared memory")] {
        let held = &seen[kind];
        page::row(
            label,
            &format!("{} granules tagged, {} tags read back wrong", held["granules"], held["wrong_tags"]),
        );
        if held["wrong_tags"] != 0 || held["wrong_data"] != 0 {
            return Err(format!("tags or data of {label} were lost: {held}"));
        }
    }
    victims(&seen["victims"], "")
}

/// Tags by the C library, in programs that know nothing of them.
pub fn heap(seen: &Value) -> Step<()> {
    let tunables = "GLIBC_TUNABLES=glibc.mem.tagging=3";
    if seen["tagged"]["result"].is_null() || seen["tagged"]["result"] != seen["plain"]["result"] {
        return Err(format!("busybox under {tunables} does not work: {seen}"));
    }
    page::row("an ordinary program", &format!("runs on a tagged heap ({tunables})"));
    victims(&seen["victims_tagged"], " on a tagged heap")
}

/// The entropy device.
pub fn entropy(seen: &Value) -> Step<()> {
    let current = seen["current"].as_str().unwrap_or("?");
    page::row("entropy", &format!("{} bytes of {current}", seen["bytes"]));
    match current.starts_with("virtio") {
        true => Ok(()),
        false => Err(format!("the guest's source of entropy is {current}, not virtio")),
    }
}

fn victims(seen: &Value, place: &str) -> Step<()> {
    for (kind, end) in seen.as_object().into_iter().flatten() {
        if end["signal"] != libc::SIGSEGV || end["si_code"] != TAG_FAULT {
            return Err(format!("{kind}{place} was not caught: {end}"));
        }
        page::row(&kind.replace('-', " "), &format!("caught{place}: SIGSEGV, SEGV_MTESERR"));
    }
    Ok(())
}
