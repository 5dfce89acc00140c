//! The lab's agent: runs one command inside the emulated Arm host and relays its streams over a virtio port.
//!
//! ```text
//! Hello ──► Start ──► relay: stdin ◄─ port, stdout ─► port, stderr ─► port
//!              │         └─ child gone and its pipes drained ──► Exit
//!              └─ cannot start ──► Failed
//! ```
//! The lab's `/init` starts it with the port as its only argument. One thread, one `poll`: nothing is lost between the last
//! byte of output and the exit status. A daemon that the command left behind may hold the pipes open for ever, so the end is
//! "the child has ended and nothing is left to read", not "end of file".

mod command;
mod frame;
mod report;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitCode};

use frame::Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Input that the command has not read yet; beyond this the port is not read either.
const MAX_PENDING_INPUT: usize = 4 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The console is all that is left to tell.
            eprintln!("lab agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: granule-lab-agent PORT"))?;
    let mut port = OpenOptions::new().read(true).write(true).open(path)?;
    frame::write(&mut port, Kind::Hello, b"")?;
    loop {
        match frame::read(&mut port)? {
            (Kind::Start, payload) => match command::start(&payload) {
                Ok(child) => return Relay::new(port, child)?.run(),
                Err(error) => {
                    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                    let mut answer = error.status().to_le_bytes().to_vec();
                    write!(answer, "{error}{}", source.unwrap_or_default())?;
                    return frame::write(&mut port, Kind::Failed, &answer);
                }
            },
            (Kind::Inspect, _) => inspect(&mut port)?,
            _ => {}
        }
    }
}

fn inspect(port: &mut File) -> io::Result<()> {
    let mut text = report::processes(Path::new("/proc")).into_bytes();
    text.truncate(frame::MAX_PAYLOAD);
    frame::write(port, Kind::Report, &text)
}

/// A running command and the ends of its pipes. An end that is `None` has been closed.
struct Relay {
    port: File,
    child: Child,
    ended: OwnedFd,
    stdin: Option<OwnedFd>,
    pending: Vec<u8>,
    input_over: bool,
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Relay {
    fn new(port: File, mut child: Child) -> io::Result<Self> {
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let stdin = child.stdin.take().map(OwnedFd::from);
        if let Some(stdin) = &stdin {
            rustix::io::ioctl_fionbio(stdin, true)?;
        }
        let stdout = child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        let stderr = child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        Ok(Self { port, child, ended, stdin, pending: Vec::new(), input_over: false, stdout, stderr })
    }

    fn run(mut self) -> io::Result<()> {
        let mut child_gone = false;
        loop {
            let ready = self.wait(child_gone)?;
            if ready.contains(&Source::Stdout) {
                relay_output(&mut self.stdout, &mut self.port, Kind::Stdout)?;
            }
            if ready.contains(&Source::Stderr) {
                relay_output(&mut self.stderr, &mut self.port, Kind::Stderr)?;
            }
            if child_gone && !ready.contains(&Source::Stdout) && !ready.contains(&Source::Stderr) {
                break;
            }
            if ready.contains(&Source::Stdin) {
                self.feed();
            }
            if ready.contains(&Source::Port) {
                self.take_frame()?;
            }
            child_gone |= ready.contains(&Source::Ended);
        }
        let status = command::shell_status(self.child.wait()?);
        // What the command wrote to the shared folder must be there when the lab is told that it has ended.
        rustix::fs::sync();
        frame::write(&mut self.port, Kind::Exit, &status.to_le_bytes())
    }

    /// Waits until something can be done; once the child has gone, only looks.
    fn wait(&self, child_gone: bool) -> io::Result<Vec<Source>> {
        let mut sources = Vec::with_capacity(5);
        let mut fds = Vec::with_capacity(5);
        let stdin = self.stdin.as_ref().filter(|_| !self.pending.is_empty());
        let watched = [
            (Source::Stdout, self.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (Source::Stderr, self.stderr.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (Source::Stdin, stdin.map(AsFd::as_fd), PollFlags::OUT),
            (
                Source::Port,
                (self.pending.len() < MAX_PENDING_INPUT).then(|| self.port.as_fd()),
                PollFlags::IN,
            ),
            (Source::Ended, (!child_gone).then(|| self.ended.as_fd()), PollFlags::IN),
        ];
        for (source, fd, flags) in watched {
            if let Some(fd) = fd {
                sources.push(source);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        let only_look = Timespec { tv_sec: 0, tv_nsec: 0 };
        while let Err(error) = poll(&mut fds, child_gone.then_some(&only_look)) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let ready = |(source, fd): (Source, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(source);
        Ok(sources.into_iter().zip(&fds).filter_map(ready).collect())
    }

    fn take_frame(&mut self) -> io::Result<()> {
        match frame::read(&mut self.port)? {
            (Kind::Stdin, payload) if payload.is_empty() => self.input_over = true,
            (Kind::Stdin, payload) if self.stdin.is_some() => self.pending.extend_from_slice(&payload),
            (Kind::Inspect, _) => inspect(&mut self.port)?,
            _ => {}
        }
        self.close_fed_input();
        Ok(())
    }

    /// Gives the command as much input as it takes. One that no longer reads has its input dropped.
    fn feed(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        match rustix::io::write(stdin, &self.pending) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => {
                self.stdin = None;
                self.pending.clear();
            }
        }
        self.close_fed_input();
    }

    fn close_fed_input(&mut self) {
        if self.input_over && self.pending.is_empty() {
            self.stdin = None;
        }
    }
}

/// What the relay waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
    Stdin,
    Port,
    Ended,
}

fn relay_output(pipe: &mut Option<File>, port: &mut File, kind: Kind) -> io::Result<()> {
    let Some(file) = pipe else { return Ok(()) };
    let mut buffer = [0; 64 << 10];
    match file.read(&mut buffer)? {
        0 => *pipe = None,
        length => frame::write(port, kind, &buffer[..length])?,
    }
    Ok(())
}
