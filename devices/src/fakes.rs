//! A machine made of lists, for tests: it records what devices ask of it.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::dirty::LogFile;
use crate::platform::{Doorbells, IrqLine, MsiMessage, MsiVectors};
use crate::sync::lock;
use crate::virtio::{DeviceFault, Fault, QueueSetup, VirtioBackend};

/// Vectors whose routes can be looked at.
pub(crate) struct FakeVectors {
    eventfds: Vec<EventFd>,
    routes: Mutex<Vec<Option<MsiMessage>>>,
    routings: AtomicUsize,
}

impl FakeVectors {
    pub(crate) fn new(count: u16) -> Self {
        let eventfds = (0..count).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        Self { eventfds, routes: Mutex::new(vec![None; usize::from(count)]), routings: AtomicUsize::new(0) }
    }

    pub(crate) fn routed(&self, vector: u16) -> Option<MsiMessage> {
        lock(&self.routes)[usize::from(vector)]
    }

    pub(crate) fn routings(&self) -> usize {
        self.routings.load(Ordering::SeqCst)
    }

    /// How often the vector was raised since the last call.
    pub(crate) fn raised(&self, vector: u16) -> u64 {
        self.eventfds[usize::from(vector)].read().unwrap_or(0)
    }
}

impl MsiVectors for FakeVectors {
    fn count(&self) -> u16 {
        self.eventfds.len() as u16
    }

    fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        self.eventfds.get(usize::from(vector))
    }

    fn route(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        self.routings.fetch_add(1, Ordering::SeqCst);
        let mut routes = lock(&self.routes);
        *routes.get_mut(usize::from(vector)).ok_or(io::ErrorKind::InvalidInput)? = message;
        Ok(())
    }
}

/// Doorbells as a list of (address, fd); detaching what was never attached fails, as in KVM.
#[derive(Default)]
pub(crate) struct FakeDoorbells(Mutex<Vec<(u64, i32)>>);

impl FakeDoorbells {
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let mut addresses: Vec<u64> = lock(&self.0).iter().map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses
    }
}

impl Doorbells for FakeDoorbells {
    fn attach(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        let mut list = lock(&self.0);
        if list.iter().any(|(taken, _)| *taken == address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        list.push((address, fd.as_raw_fd()));
        Ok(())
    }

    fn detach(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        let mut list = lock(&self.0);
        let at = list.iter().position(|entry| *entry == (address, fd.as_raw_fd()));
        list.swap_remove(at.ok_or(io::ErrorKind::NotFound)?);
        Ok(())
    }
}

/// What a [`FakeBackend`] was asked, and how it is to answer.
#[derive(Default)]
pub(crate) struct BackendLog {
    pub(crate) calls: Vec<String>,
    pub(crate) hung: bool,
}

/// A back end that serves nothing and remembers everything.
pub(crate) struct FakeBackend {
    pub(crate) log: Arc<Mutex<BackendLog>>,
    pub(crate) features: u64,
    pub(crate) queue_sizes: Vec<u16>,
    pub(crate) config: Vec<u8>,
}

impl FakeBackend {
    pub(crate) fn new(queues: usize) -> (Arc<Mutex<BackendLog>>, Self) {
        let log = Arc::new(Mutex::new(BackendLog::default()));
        let features = u64::MAX;
        let backend =
            Self { log: Arc::clone(&log), features, queue_sizes: vec![256; queues], config: vec![1, 2, 3] };
        (log, backend)
    }

    fn answer(&self, call: String) -> Result<(), Fault> {
        let mut log = lock(&self.log);
        log.calls.push(call);
        if log.hung {
            return Err(DeviceFault::Silent { request: "anything", limit: Duration::ZERO }.into());
        }
        Ok(())
    }
}

impl VirtioBackend for FakeBackend {
    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.config[offset as usize..][..data.len()].copy_from_slice(data);
        self.answer(format!("write_config {offset} {data:?}"))
    }

    fn refresh_config(&mut self) -> Result<(), Fault> {
        self.answer("refresh_config".to_owned())
    }

    fn start(&mut self, features: u64, queues: &[QueueSetup<'_>]) -> Result<(), Fault> {
        let queue = |queue: &QueueSetup<'_>| {
            let call = if queue.call.is_some() { "call" } else { "silent" };
            format!(" {}:{}@{:x}+{} {call}", queue.index, queue.size, queue.descriptors, queue.next_available)
        };
        self.answer(format!("start {features:x}{}", queues.iter().map(queue).collect::<String>()))
    }

    fn set_call(&mut self, queue: u16, call: Option<&EventFd>) -> Result<(), Fault> {
        self.answer(format!("set_call {queue} {}", call.is_some()))
    }

    fn log_writes(&mut self, log: Option<&LogFile>) -> Result<(), Fault> {
        self.answer(format!("log_writes {}", log.is_some()))
    }

    fn stop(&mut self) -> Result<Vec<(u16, u16)>, Fault> {
        let running = (0..).zip(&self.queue_sizes).map(|(index, _)| (index, 100 + index)).collect();
        self.answer("stop".to_owned()).map(|()| running)
    }

    fn save(&mut self) -> Result<Vec<u8>, Fault> {
        self.answer("save".to_owned()).map(|()| vec![0xfa])
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Fault> {
        self.answer(format!("restore {state:x?}"))
    }

    fn reconnect(&mut self, _stream: UnixStream) -> Result<(), Fault> {
        lock(&self.log).hung = false;
        self.answer("reconnect".to_owned())
    }
}

/// A line whose level can be looked at.
#[derive(Default)]
pub(crate) struct FakeLine(AtomicBool);

impl FakeLine {
    pub(crate) fn asserted(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl IrqLine for FakeLine {
    fn set(&self, asserted: bool) -> io::Result<()> {
        self.0.store(asserted, Ordering::SeqCst);
        Ok(())
    }
}
