//! The event monitor: one pretty JSON object and an empty line per event, in Cloud Hypervisor's format.
//!
//! A reader that is slow loses events; it never slows the machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use granule_api::types::Event;

/// Where events go, and since when their time stamps count.
#[derive(Debug)]
pub struct EventMonitor {
    sink: Option<File>,
    started: Instant,
}

impl EventMonitor {
    /// A monitor without a reader.
    pub fn silent() -> Self {
        Self { sink: None, started: Instant::now() }
    }

    /// Writes to a file, or to a FIFO once its reader has opened it.
    pub fn to_path(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)?;
        Self::to_file(file)
    }

    /// Writes to an inherited descriptor.
    pub fn to_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::to_file(File::from(fd))
    }

    fn to_file(file: File) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self { sink: Some(file), started: Instant::now() })
    }

    /// Tells an event without properties.
    pub fn tell(&mut self, source: &str, event: &str) {
        self.write(&Event::new(self.started.elapsed(), source, event));
    }

    /// Tells an event of one device.
    pub fn tell_device(&mut self, event: &str, id: &str) {
        self.write(&Event::new(self.started.elapsed(), "virtio-device", event).with("id", id));
    }

    /// Tells that a live snapshot is there, for which the guest stood still for a while.
    pub fn tell_live_snapshot(&mut self, paused_us: u64, rounds: usize, last_pages: u64) {
        let event = Event::new(self.started.elapsed(), "vm", "snapshotted");
        let event = event.with("paused_us", paused_us.to_string()).with("rounds", rounds.to_string());
        self.write(&event.with("pages_while_paused", last_pages.to_string()));
    }

    /// Tells that a vCPU cannot go on.
    pub fn tell_vcpu_failed(&mut self, vcpu: u8, reason: &str) {
        let event = Event::new(self.started.elapsed(), "vm", "failed").with("vcpu", vcpu.to_string());
        self.write(&event.with("reason", reason));
    }

    /// Tells how far a snapshot or a restore has come, in pages.
    pub fn tell_progress(&mut self, what: &str, done: u64, of: u64) {
        let event = Event::new(self.started.elapsed(), "vm", "progress").with("what", what);
        self.write(&event.with("done", done.to_string()).with("of", of.to_string()));
    }

    /// Tells an event of the machine, and why.
    pub fn tell_why(&mut self, event: &str, reason: &str) {
        self.write(&Event::new(self.started.elapsed(), "vm", event).with("reason", reason));
    }

    fn write(&mut self, event: &Event) {
        tracing::debug!(source = event.source, event = event.event, properties = ?event.properties, "event");
        let Some(sink) = &mut self.sink else { return };
        match sink.write(&event.to_stream()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.sink = None,
            // Half an event would garble the next one: a pipe takes all of so short a text or nothing (pipe(7)).
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_event_is_a_pretty_object_and_an_empty_line() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut monitor = EventMonitor::to_fd(writer.into()).unwrap();
        monitor.tell("vm", "booted");
        monitor.tell_device("activated", "__rng");
        drop(monitor);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let events: Vec<serde_json::Value> =
            text.split_terminator("\n\n").map(|event| serde_json::from_str(event).unwrap()).collect();
        assert_eq!(events[0]["source"], "vm");
        assert_eq!(events[0]["event"], "booted");
        assert!(events[0]["properties"].is_null());
        assert!(events[0]["timestamp"]["secs"].is_u64() && events[0]["timestamp"]["nanos"].is_u64());
        assert_eq!(events[1]["properties"]["id"], "__rng");
        assert!(text.starts_with("{\n  \"timestamp\": {\n    \"secs\": "));
    }

    #[test]
    fn a_reader_that_does_not_read_costs_events_and_nothing_else() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut monitor = EventMonitor::to_fd(writer.into()).unwrap();
        for _ in 0..10_000 {
            monitor.tell("vm", "booted");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_forgotten() {
        let (reader, writer) = io::pipe().unwrap();
        let mut monitor = EventMonitor::to_fd(writer.into()).unwrap();
        drop(reader);
        monitor.tell("vm", "booted");
        assert!(monitor.sink.is_none());
    }
}
