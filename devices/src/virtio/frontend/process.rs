//! A device process as a back end of the transport.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserInflight};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Address, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::deadline::Deadlines;
use super::session::Session;
use crate::dirty::LogFile;
use crate::virtio::backend::{QueueSetup, VirtioBackend, read_slice};
use crate::virtio::fault::{DeviceFault, Fault};
use crate::virtio::transport::GuestMemory;

/// What a device process must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The most descriptors that each queue may have.
    pub queue_sizes: Vec<u16>,
    /// Bytes of device-specific configuration, at most 256.
    pub config_size: usize,
    /// What becomes of it.
    pub config: ConfigSource,
    /// Features of the process that the guest is not offered.
    pub withheld: u64,
    /// Features that the guest is offered whatever the process has: they are about the configuration, which is given.
    pub ours: u64,
    /// How long each request may take.
    pub limit: Duration,
}

impl Expected {
    /// How long a request may take unless there is a reason: a loaded host is slow, a hung process forever.
    pub const LIMIT: Duration = Duration::from_secs(5);

    /// What is expected of an entropy device: one queue, nothing to configure.
    pub fn rng() -> Self {
        Self {
            queue_sizes: vec![256],
            config_size: 0,
            config: ConfigSource::Read,
            withheld: 0,
            ours: 0,
            limit: Self::LIMIT,
        }
    }
}

/// Where the device-specific configuration comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConfigSource {
    /// From the process, as a whole.
    #[default]
    Read,
    /// From the process, at each access of the guest: nobody but the process knows how long it is.
    OnDemand,
    /// From us; the process is not asked.
    Given(Vec<u8>),
}

/// A device process, over its vhost-user socket.
pub struct DeviceProcess {
    session: Session,
    deadlines: Arc<Deadlines>,
    expected: Expected,
    memory: GuestMemory,
    config: Vec<u8>,
    started: Vec<u16>,
    /// The features that the driver has accepted.
    features: u64,
    /// Where its writes are logged, while they are.
    log: Option<LogFile>,
    /// What is in flight, kept for the process's successor. It is never mapped here.
    in_flight: Option<(VhostUserInflight, File)>,
    silent: EventFd,
    errors: EventFd,
}

impl DeviceProcess {
    /// Gets to know the process at the other end of `stream`.
    ///
    /// `memory` is what it will be given to map; each region must know its file.
    pub fn connect(
        stream: UnixStream,
        deadlines: Arc<Deadlines>,
        memory: GuestMemory,
        expected: Expected,
    ) -> Result<Self, Fault> {
        let (session, config) = open(stream, &deadlines, &expected)?;
        let eventfd = || {
            EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .map_err(|source| Fault::Host { what: "make an eventfd", source })
        };
        let (silent, errors) = (eventfd()?, eventfd()?);
        Ok(Self {
            session,
            deadlines,
            expected,
            memory,
            config,
            started: Vec::new(),
            features: 0,
            log: None,
            in_flight: None,
            silent,
            errors,
        })
    }

    /// Has requests from now on take no longer than `limit`, where the first ones may wait for a process that gets ready.
    pub fn limit_to(&mut self, limit: Duration) {
        self.expected.limit = limit;
        self.session.limit_to(limit);
    }

    /// Signalled when the process finds a ring that it cannot go on with (the guest's doing, not its own): the
    /// driver is then owed a [`demand_reset`](crate::virtio::VirtioPciDevice::demand_reset).
    pub fn errors(&self) -> io::Result<EventFd> {
        self.errors.try_clone()
    }

    fn send_memory(&mut self) -> Result<(), Fault> {
        let memory = self.memory.memory();
        let mut regions = Vec::with_capacity(memory.num_regions());
        for region in memory.iter() {
            let Some(file) = region.file_offset() else {
                let source = io::ErrorKind::InvalidInput.into();
                return Err(Fault::Host { what: "share guest memory that is no file", source });
            };
            let start = region.start_addr().raw_value();
            regions.push(VhostUserMemoryRegionInfo {
                guest_phys_addr: start,
                memory_size: region.len(),
                // The process needs a name for each address, not the place of our own mapping.
                userspace_addr: start,
                mmap_offset: file.start(),
                mmap_handle: file.file().as_raw_fd(),
            });
        }
        self.session.ask("SET_MEM_TABLE", |frontend| frontend.set_mem_table(&regions).map(drop))
    }

    /// The in-flight region, by its inode.
    #[cfg(test)]
    pub(super) fn region(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        self.in_flight.as_ref().map(|(_, file)| file.metadata().unwrap().ino())
    }

    /// Says which features the driver has accepted, and what is logged.
    fn send_log(&mut self) -> Result<(), Fault> {
        if let Some(log) = &self.log {
            self.session.set_log(log)?;
        }
        self.session.set_features(self.features, self.log.is_some())
    }

    /// Hands over the in-flight region: a new one, or the one that a predecessor has left.
    fn send_in_flight(&mut self) -> Result<(), Fault> {
        if !self.session.notes_in_flight() {
            return Ok(());
        }
        let sizes = &self.expected.queue_sizes;
        let wanted = VhostUserInflight {
            // There are no more than a virtio device may have.
            num_queues: sizes.len() as u16,
            queue_size: sizes.iter().copied().max().unwrap_or(0),
            ..VhostUserInflight::default()
        };
        let (told, file) = match self.in_flight.take() {
            Some(kept) => kept,
            None => self.session.ask("GET_INFLIGHT_FD", |frontend| frontend.get_inflight_fd(&wanted))?,
        };
        let (_, file) = self.in_flight.insert((told, file));
        self.session.ask("SET_INFLIGHT_FD", |frontend| frontend.set_inflight_fd(&told, file.as_raw_fd()))
    }

    fn start_queue(&mut self, queue: &QueueSetup<'_>) -> Result<(), Fault> {
        let index = usize::from(queue.index);
        let addresses = VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: queue.descriptors,
            used_ring_addr: queue.used,
            avail_ring_addr: queue.available,
            log_addr: None,
        };
        let Self { session, silent, errors, .. } = self;
        let call = queue.call.unwrap_or(silent);
        session.ask("SET_VRING_NUM", |frontend| frontend.set_vring_num(index, queue.size))?;
        session.ask("SET_VRING_BASE", |frontend| frontend.set_vring_base(index, queue.next_available))?;
        session.ask("SET_VRING_ADDR", |frontend| frontend.set_vring_addr(index, &addresses))?;
        session.ask("SET_VRING_ERR", |frontend| frontend.set_vring_err(index, errors))?;
        session.ask("SET_VRING_CALL", |frontend| frontend.set_vring_call(index, call))?;
        session.ask("SET_VRING_KICK", |frontend| frontend.set_vring_kick(index, queue.kick))?;
        session.ask("SET_VRING_ENABLE", |frontend| frontend.set_vring_enable(index, true))?;
        self.started.push(queue.index);
        Ok(())
    }
}

impl VirtioBackend for DeviceProcess {
    fn features(&self) -> u64 {
        self.session.features() & !self.expected.withheld | self.expected.ours
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.expected.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn read_config(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        if self.expected.config == ConfigSource::OnDemand {
            return self.session.read_config_at(offset, data);
        }
        read_slice(&self.config, offset, data);
        Ok(())
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        if !self.session.has_config() {
            // Read-only, as far as we know.
            return Ok(());
        }
        let flags = VhostUserConfigFlags::empty();
        self.session.ask("SET_CONFIG", |frontend| frontend.set_config(offset as u32, flags, data))?;
        self.refresh_config()
    }

    fn refresh_config(&mut self) -> Result<(), Fault> {
        self.config = configuration(&mut self.session, &self.expected)?;
        Ok(())
    }

    fn renew(&mut self) {
        self.in_flight = None;
    }

    fn start(&mut self, features: u64, queues: &[QueueSetup<'_>]) -> Result<(), Fault> {
        self.started.clear();
        self.features = features;
        self.send_log()?;
        self.send_memory()?;
        self.send_in_flight()?;
        queues.iter().try_for_each(|queue| self.start_queue(queue))
    }

    fn remap(&mut self) -> Result<(), Fault> {
        // One that does not run hears of it when it is started.
        if self.started.is_empty() { Ok(()) } else { self.send_memory() }
    }

    fn set_call(&mut self, queue: u16, call: Option<&EventFd>) -> Result<(), Fault> {
        let Self { session, silent, .. } = self;
        let call = call.unwrap_or(silent);
        session.ask("SET_VRING_CALL", |frontend| frontend.set_vring_call(usize::from(queue), call))
    }

    fn log_writes(&mut self, log: Option<&LogFile>) -> Result<(), Fault> {
        if log.is_some() && !self.session.logs_writes() {
            return Err(DeviceFault::Lacks("a log of what it writes to memory (VHOST_F_LOG_ALL)").into());
        }
        self.log = log.cloned();
        // One that does not run hears of it when it is started.
        if self.started.is_empty() { Ok(()) } else { self.send_log() }
    }

    fn stop(&mut self) -> Result<Vec<(u16, u16)>, Fault> {
        let mut bases = Vec::with_capacity(self.started.len());
        for queue in std::mem::take(&mut self.started) {
            let index = usize::from(queue);
            self.session.ask("SET_VRING_ENABLE", |frontend| frontend.set_vring_enable(index, false))?;
            let base = self.session.ask("GET_VRING_BASE", |frontend| frontend.get_vring_base(index))?;
            // Of a split ring's index there are 16 bits.
            bases.push((queue, base as u16));
        }
        Ok(bases)
    }

    fn keeps_state(&self) -> bool {
        self.session.keeps_state()
    }

    fn save(&mut self) -> Result<Vec<u8>, Fault> {
        self.session.save_state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Fault> {
        self.session.restore_state(state)
    }

    fn reconnect(&mut self, stream: UnixStream) -> Result<(), Fault> {
        let (session, config) = open(stream, &self.deadlines, &self.expected)?;
        if self.session.features() & !self.expected.withheld & !session.features() != 0 {
            return Err(DeviceFault::Lacks("features that its predecessor had").into());
        }
        self.session = session;
        self.config = config;
        self.started.clear();
        Ok(())
    }
}

fn open(
    stream: UnixStream,
    deadlines: &Arc<Deadlines>,
    expected: &Expected,
) -> Result<(Session, Vec<u8>), Fault> {
    let queues = expected.queue_sizes.len();
    let mut session = Session::open(stream, Arc::clone(deadlines), expected.limit, queues)?;
    let config = configuration(&mut session, expected)?;
    Ok((session, config))
}

/// The device-specific configuration as far as it is kept here; zeros stand in for what is read on demand.
fn configuration(session: &mut Session, expected: &Expected) -> Result<Vec<u8>, Fault> {
    match &expected.config {
        ConfigSource::Read => session.read_config(expected.config_size),
        ConfigSource::OnDemand => Ok(vec![0; expected.config_size]),
        ConfigSource::Given(config) => Ok(config.clone()),
    }
}
