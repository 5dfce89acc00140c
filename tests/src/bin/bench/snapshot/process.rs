//! A monitor whose guest gives signs of life on standard output, and when they came.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use granule_tests::wait;

use super::guest::{DOT, FAILED, FILLED};

/// A running monitor; dropped, it is killed.
pub struct Process {
    child: Child,
    /// When it was started.
    pub begun: Instant,
    said: Receiver<(Instant, Vec<u8>)>,
}

impl Process {
    /// Starts it and listens.
    pub fn start(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let mut output = child.stdout.take().ok_or("no standard output")?;
        let (sender, said) = channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                if sender.send((Instant::now(), chunk[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, begun, said })
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the guest has filled its memory.
    pub fn wait_filled(&self) -> Result<(), String> {
        let mut heard = Vec::new();
        loop {
            heard.extend(self.next()?.1);
            let text = String::from_utf8_lossy(&heard);
            if let Some(at) = text.find(FAILED) {
                return Err(text[at..].trim().to_owned());
            }
            if text.contains(FILLED) {
                return Ok(());
            }
        }
    }

    /// Waits for a sign of life; answers when it came.
    pub fn wait_alive(&self) -> Result<Instant, String> {
        loop {
            let (at, said) = self.next()?;
            if said.contains(&DOT) {
                return Ok(at);
            }
        }
    }

    fn next(&self) -> Result<(Instant, Vec<u8>), String> {
        self.said.recv_timeout(wait::LONG).map_err(|error| match error {
            RecvTimeoutError::Timeout => "the guest gives no sign of life".to_owned(),
            RecvTimeoutError::Disconnected => "it ended".to_owned(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What has ended already needs no more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Milliseconds between two moments.
pub fn ms(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}
