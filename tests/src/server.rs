//! Programs that serve: virtiofsd and our own device processes a device over a socket, iperf3 the other end of a network.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::lab;
use crate::monitor::is_socket;
use crate::wait;

/// A program that serves; dropping it kills it.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Has virtiofsd serve `folder` on `socket`.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn virtiofsd(folder: &Path, socket: &str) -> Self {
        let home = lab::virtiofsd();
        let mut command = Command::new(home.join("ld.so"));
        command.arg("--library-path").arg(home.join("lib")).arg(home.join("virtiofsd"));
        command.args(["--sandbox", "none", "--cache", "auto", "--socket-path", socket]);
        command.arg("--shared-dir").arg(folder);
        Self::start(command, socket)
    }

    /// Has `granule device KIND…` serve on `socket`.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn granule_device(arguments: &[&str], socket: &str) -> Self {
        let mut command = Command::new(lab::granule());
        command.arg("device").args(arguments).args(["--socket", socket]);
        Self::start(command, socket)
    }

    /// Has iperf3 wait for clients, on this address of the host.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn iperf3(address: &str) -> Self {
        let home = lab::debian().join("iperf3");
        let mut command = Command::new(home.join("ld.so"));
        command.arg("--library-path").arg(&home).arg(home.join("iperf3"));
        command.args(["--server", "--forceflush", "--bind", address]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Server listening"));
        assert!(listens, "{command:?} ended: {:?}", child.wait());
        // It says more, to nobody; a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn start(mut command: Command, socket: &str) -> Self {
        command.stdin(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let up = wait::until(wait::SHORT, || {
            if let Some(status) = child.try_wait().ok().flatten() {
                panic!("{command:?}: {status}");
            }
            is_socket(Path::new(socket)).then_some(())
        });
        assert!(up.is_some(), "no socket {socket}: {command:?}");
        Self(child)
    }

    /// Ends it at once.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
