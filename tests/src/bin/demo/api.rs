//! The monitor under demonstration, driven by `granule ctl`.

use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};

use granule_tests::folder::Folder;
use granule_tests::{lab, wait};
use serde_json::Value;

use crate::{Step, page, stop};

/// A monitor; killed when dropped.
pub struct Monitor {
    child: Child,
    socket: String,
    config: String,
    log: String,
}

impl Monitor {
    /// Starts it and waits until it answers.
    pub fn start(folder: &Folder) -> Step<Self> {
        let [socket, config, log] = ["api.sock", "vm.json", "log"].map(|name| folder.file(name));
        let stderr = File::create(&log).map_err(|e| format!("{log}: {e}"))?;
        let mut command = Command::new(lab::granule());
        command.args(["--api-socket", &socket]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().map_err(|e| format!("granule cannot be started: {e}"))?;
        let mut monitor = Self { child, socket, config, log };
        let up = wait::until(wait::SHORT, || match monitor.alive() {
            Ok(()) => std::os::unix::net::UnixStream::connect(&monitor.socket).ok().map(|_| Ok(())),
            Err(gone) => Some(Err(gone)),
        });
        up.unwrap_or_else(|| Err("the monitor opens no socket".to_owned()))
            .map_err(|e| monitor.with_log(&e))?;
        Ok(monitor)
    }

    /// Shows a call, makes it, and returns what came back; null if that was nothing.
    pub fn call(&mut self, method: &str, endpoint: &str, body: Option<&Value>) -> Step<Value> {
        self.alive()?;
        page::call(method, endpoint, body.is_some());
        let mut command = Command::new(lab::granule());
        command.args(["ctl", "--api-socket", &self.socket, "raw", endpoint]).stdin(Stdio::null());
        if let Some(body) = body {
            fs::write(&self.config, body.to_string()).map_err(|e| format!("{}: {e}", self.config))?;
            command.arg(&self.config);
        }
        let output = command.output().map_err(|e| format!("granule ctl cannot be started: {e}"))?;
        if !output.status.success() {
            let causes = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(self.with_log(&format!("{endpoint} was refused\n{causes}")));
        }
        match output.stdout.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&output.stdout)
                .map_err(|e| format!("{endpoint} answered no JSON: {e}")),
        }
    }

    /// An error once it is gone, or the reader has had enough.
    pub fn alive(&mut self) -> Step<()> {
        if stop::asked() {
            return Err("interrupted".to_owned());
        }
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the monitor has ended with {status}")),
            Err(error) => Err(format!("the monitor cannot be waited for: {error}")),
        }
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> Step<i32> {
        let status: Option<ExitStatus> = wait::until(wait::SHORT, || self.child.try_wait().ok().flatten());
        let status = status.ok_or("the monitor does not end")?;
        status.code().ok_or_else(|| format!("the monitor was killed: {status}"))
    }

    /// A failure with what the monitor said on standard error.
    pub fn with_log(&self, failure: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        match log.trim() {
            "" => format!("{failure}\n(the monitor wrote nothing to standard error)"),
            log => format!("{failure}\n--- the monitor's standard error ---\n{log}"),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Its other processes die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
