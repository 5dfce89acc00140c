//! One connection with a device process: requests, each within its time, and what their failures mean.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{
    Error as ProtocolError, Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserDirtyLogRegion};

use super::deadline::Deadlines;
use crate::dirty::{F_LOG_ALL, LogFile};
use crate::virtio::fault::{DeviceFault, Fault};
use crate::virtio::spec::F_VERSION_1;

/// The feature bit of a back end that has protocol features.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// A connection whose handshake has succeeded.
pub(super) struct Session {
    frontend: Frontend,
    socket: Arc<UnixStream>,
    deadlines: Arc<Deadlines>,
    limit: Duration,
    broken: bool,
    features: u64,
    protocol: VhostUserProtocolFeatures,
}

impl Session {
    /// Introduces us, and checks that the process has `queues` queues.
    pub fn open(
        stream: UnixStream,
        deadlines: Arc<Deadlines>,
        limit: Duration,
        queues: usize,
    ) -> Result<Self, Fault> {
        let socket = stream
            .try_clone()
            .map_err(|source| Fault::Host { what: "duplicate a device process's socket", source })?;
        let mut session = Self {
            frontend: Frontend::from_stream(stream, queues as u64),
            socket: Arc::new(socket),
            deadlines,
            limit,
            broken: false,
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
        };
        session.ask("SET_OWNER", |frontend| frontend.set_owner())?;
        session.features = session.ask("GET_FEATURES", |frontend| frontend.get_features())?;
        if session.features & F_VERSION_1 == 0 {
            return Err(DeviceFault::Lacks("VIRTIO_F_VERSION_1").into());
        }
        if session.features & PROTOCOL_FEATURES == 0 {
            return Err(DeviceFault::Lacks("VHOST_USER_F_PROTOCOL_FEATURES").into());
        }
        session.agree_on_protocol(queues)?;
        Ok(session)
    }

    fn agree_on_protocol(&mut self, queues: usize) -> Result<(), Fault> {
        let known = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD;
        let offered = self.ask("GET_PROTOCOL_FEATURES", |frontend| frontend.get_protocol_features())?;
        let agreed = offered & known;
        self.ask("SET_PROTOCOL_FEATURES", |frontend| frontend.set_protocol_features(agreed))?;
        self.protocol = agreed;
        if agreed.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        // Without the feature nobody can say how many there are; a queue too many is refused when it is set up.
        if agreed.contains(VhostUserProtocolFeatures::MQ)
            && self.ask("GET_QUEUE_NUM", |frontend| frontend.get_queue_num())? < queues as u64
        {
            return Err(DeviceFault::Lacks("as many queues as are configured").into());
        }
        Ok(())
    }

    /// Whether the process gives and takes state of its own.
    pub fn keeps_state(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::DEVICE_STATE)
    }

    /// How long each request may take from now on.
    pub fn limit_to(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Whether the process notes what is in flight where its successor finds it.
    pub fn notes_in_flight(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    }

    /// The virtio features that the process has.
    pub fn features(&self) -> u64 {
        self.features & !(PROTOCOL_FEATURES | F_LOG_ALL)
    }

    /// Whether the process can log what it writes to guest memory.
    pub fn logs_writes(&self) -> bool {
        self.features & F_LOG_ALL != 0 && self.protocol.contains(VhostUserProtocolFeatures::LOG_SHMFD)
    }

    /// Gives it the log.
    pub fn set_log(&mut self, log: &LogFile) -> Result<(), Fault> {
        let region = VhostUserDirtyLogRegion {
            mmap_size: log.size,
            mmap_offset: 0,
            mmap_handle: log.file.as_raw_fd(),
        };
        self.ask("SET_LOG_BASE", |frontend| frontend.set_log_base(0, Some(region)))
    }

    /// Whether the process has a device-specific configuration to read and write.
    pub fn has_config(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::CONFIG)
    }

    /// Fills `data` from `offset` of the device-specific configuration on; with zeros where the process has none.
    pub fn read_config_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        data.fill(0);
        let Some(offset) = u32::try_from(offset).ok().filter(|_| self.has_config()) else { return Ok(()) };
        let (room, flags) = (vec![0; data.len()], VhostUserConfigFlags::empty());
        let answer = self.ask("GET_CONFIG", |frontend| {
            match frontend.get_config(offset, room.len() as u32, flags, &room) {
                Ok((_, config)) => Ok(Some(config)),
                // The guest reads where the process has nothing, and that is the guest's business.
                Err(vhost::Error::VhostUserProtocol(ProtocolError::BackendInternalError)) => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        if let Some(config) = answer.filter(|config| config.len() == data.len()) {
            data.copy_from_slice(&config);
        }
        Ok(())
    }

    /// Reads the first `size` bytes of the device-specific configuration.
    pub fn read_config(&mut self, size: usize) -> Result<Vec<u8>, Fault> {
        if size == 0 {
            return Ok(Vec::new());
        }
        if !self.has_config() {
            return Err(DeviceFault::Lacks("VHOST_USER_PROTOCOL_F_CONFIG").into());
        }
        let room = vec![0; size];
        let flags = VhostUserConfigFlags::empty();
        let (_, config) =
            self.ask("GET_CONFIG", |frontend| frontend.get_config(0, size as u32, flags, &room))?;
        Ok(config)
    }

    /// Accepts `features` of those that the process has; `log`: with all writes logged.
    pub fn set_features(&mut self, features: u64, log: bool) -> Result<(), Fault> {
        let features = features & self.features() | PROTOCOL_FEATURES | if log { F_LOG_ALL } else { 0 };
        self.ask("SET_FEATURES", |frontend| frontend.set_features(features))
    }

    /// Makes one request, and ends the connection if it is answered late, wrongly or not at all.
    pub fn ask<T>(
        &mut self,
        request: &'static str,
        make: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, Fault> {
        if self.broken {
            return Err(DeviceFault::Gone.into());
        }
        let armed = self.deadlines.arm(&self.socket, self.limit);
        let answer = make(&mut self.frontend);
        let expired = armed.expired();
        drop(armed);
        let fault = match answer {
            _ if expired => DeviceFault::Silent { request, limit: self.limit },
            Ok(answer) => return Ok(answer),
            Err(vhost::Error::VhostUserProtocol(error)) => blame(request, error),
            Err(source) => DeviceFault::Protocol { request, source },
        };
        self.broken = true;
        // The only error is that the other side was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
        Err(fault.into())
    }
}

fn blame(request: &'static str, error: ProtocolError) -> DeviceFault {
    match error {
        ProtocolError::Disconnected | ProtocolError::PartialMessage | ProtocolError::SocketBroken(_) => {
            DeviceFault::Gone
        }
        ProtocolError::BackendInternalError => DeviceFault::Refused { request },
        other => DeviceFault::Protocol { request, source: other.into() },
    }
}
