//! State of the process's own, beyond its queues: SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
//!
//! The file is a memfd, so that neither side waits for the other to read or write: it is whole when the process says so.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase};

use super::session::Session;
use crate::virtio::backend::MAX_STATE;
use crate::virtio::fault::{DeviceFault, Fault};

impl Session {
    /// Asks a process whose queues are stopped for what it remembers.
    pub fn save_state(&mut self) -> Result<Vec<u8>, Fault> {
        if !self.keeps_state() {
            return Ok(Vec::new());
        }
        let file = memory_file(&[])?;
        self.transfer(VhostTransferStateDirection::SAVE, &file)?;
        let length = file.metadata().map_err(unread)?.len();
        if length > MAX_STATE {
            return Err(DeviceFault::Lacks("state of a size that can be saved").into());
        }
        let mut state = vec![0; usize::try_from(length).map_err(io::Error::other).map_err(unread)?];
        file.read_exact_at(&mut state, 0).map_err(unread)?;
        Ok(state)
    }

    /// Gives a process that has not started yet what one of its kind remembered.
    pub fn restore_state(&mut self, state: &[u8]) -> Result<(), Fault> {
        match (self.keeps_state(), state) {
            (_, []) => Ok(()),
            (false, _) => Err(DeviceFault::Lacks("a place for saved state").into()),
            (true, state) => self.transfer(VhostTransferStateDirection::LOAD, &memory_file(state)?),
        }
    }

    fn transfer(&mut self, direction: VhostTransferStateDirection, file: &File) -> Result<(), Fault> {
        let passed = file.as_fd().try_clone_to_owned().map_err(unread)?;
        let stopped = VhostTransferStatePhase::STOPPED;
        self.ask("SET_DEVICE_STATE_FD", |frontend| frontend.set_device_state_fd(direction, stopped, passed))?;
        self.ask("CHECK_DEVICE_STATE", |frontend| frontend.check_device_state())
    }
}

fn memory_file(content: &[u8]) -> Result<File, Fault> {
    let made = memfd_create("granule-device-state", MemfdFlags::CLOEXEC).map_err(io::Error::from);
    let file = File::from(made.map_err(unread)?);
    file.write_all_at(content, 0).map_err(unread)?;
    Ok(file)
}

fn unread(source: io::Error) -> Fault {
    Fault::Host { what: "exchange a device process's state", source }
}
