//! A device process on a thread, the front end, and a driver.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::driver::{Driver, RAM, RAM_SIZE, SIZE, guest_memory};
use crate::dirty::{DirtyLog, LOG_PAGE, LogFile};
use crate::serve::{self, Device, Endpoint, Entry, ServeError};
use crate::sys::borrow;
use crate::virtio::{
    Deadlines, DeviceProcess, Expected, GuestMemory, QueueSetup, VirtioBackend, spec::F_EVENT_IDX,
    spec::F_INDIRECT_DESC, spec::F_VERSION_1,
};

/// Nothing in a test takes longer, unless it hangs.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A running device.
pub(crate) struct Rig {
    pub(crate) driver: Driver,
    memory: GuestMemory,
    process: DeviceProcess,
    thread: JoinHandle<Result<(), ServeError>>,
    line: UnixStream,
    successor: Box<dyn Fn() -> Spawned>,
    kick: EventFd,
    call: EventFd,
    errors: EventFd,
    another: UnixStream,
}

/// The front end's end of a socket, and the thread at the other.
type Spawned = (UnixStream, JoinHandle<Result<(), ServeError>>);

/// Starts a device on a thread, as its process does.
pub(crate) fn spawn<D: Device>(build: impl FnOnce() -> D + Send + 'static) -> Spawned {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let endpoint = Endpoint::Connected(theirs);
        serve::run(Entry { endpoint, orders: None, late: None, enter_jail: || Ok(()) }, build)
    });
    (ours, thread)
}

/// A second instance, to which nothing but wrong requests are made.
fn spawn_another<D: Device>(build: impl FnOnce() -> D + Send + 'static) -> UnixStream {
    spawn(build).0
}

impl Rig {
    pub(crate) fn start<D: Device>(build: impl FnOnce() -> D + Clone + Send + 'static) -> Self {
        let (stream, thread) = spawn(build.clone());
        let line = stream.try_clone().unwrap();
        let another = build.clone();
        let memory = guest_memory();
        let deadlines = Deadlines::start(|| ()).unwrap();
        let expected = Expected { limit: Duration::from_secs(20), ..Expected::rng() };
        let process = DeviceProcess::connect(stream, deadlines, memory.clone(), expected).unwrap();
        let errors = process.errors().unwrap();
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            driver: Driver::new(memory.clone()),
            memory,
            process,
            thread,
            line,
            successor: Box::new(move || spawn(build.clone())),
            kick: eventfd(),
            call: eventfd(),
            errors,
            another: spawn_another(another),
        }
    }

    /// Starts queue 0 from `next` of the available ring on.
    pub(crate) fn start_queue(&mut self, next: u16) {
        let (descriptors, available, used) = Driver::areas();
        let setup = QueueSetup {
            index: 0,
            size: SIZE,
            descriptors,
            available,
            used,
            next_available: next,
            kick: &self.kick,
            call: Some(&self.call),
        };
        let features = self.process.features() & (F_VERSION_1 | F_INDIRECT_DESC);
        assert_eq!(self.process.features() & F_EVENT_IDX, F_EVENT_IDX);
        self.process.start(features, &[setup]).unwrap();
    }

    /// Ends the process, whatever it is doing.
    pub(crate) fn die(&mut self) {
        self.line.shutdown(std::net::Shutdown::Both).unwrap();
        let (stream, thread) = (self.successor)();
        self.line = stream.try_clone().unwrap();
        let dead = std::mem::replace(&mut self.thread, thread);
        dead.join().unwrap().unwrap();
        self.process.reconnect(stream).unwrap();
    }

    /// Has the successor of a dead process go on behind the last chain that was used.
    pub(crate) fn succeed(&mut self) {
        self.start_queue(self.driver.used());
    }

    pub(crate) fn stop(&mut self) {
        self.process.stop().unwrap();
    }

    /// A fresh driver, as after a reset of the device.
    pub(crate) fn renew_driver(&mut self) {
        self.process.renew();
        self.driver = Driver::new(self.memory.clone());
        let _ = (self.kick.read(), self.call.read(), self.errors.read());
    }

    /// Has the process log what it writes.
    pub(crate) fn log_writes(&mut self) -> DirtyLog {
        let log = LogFile::create(RAM + RAM_SIZE).unwrap();
        self.process.log_writes(Some(&log)).unwrap();
        log.map().unwrap()
    }

    /// Has it no longer do so.
    pub(crate) fn log_no_more(&mut self) {
        self.process.log_writes(None).unwrap();
    }

    /// The pages that `log` names, by their numbers in RAM.
    pub(crate) fn logged(log: &DirtyLog) -> Vec<u64> {
        let mut pages = Vec::new();
        log.take(RAM..RAM + RAM_SIZE, |address| pages.push((address - RAM) / LOG_PAGE));
        pages
    }

    /// RAM, page by page.
    pub(crate) fn pages(&self) -> Vec<Vec<u8>> {
        let read = |page: u64| {
            let mut bytes = vec![0; LOG_PAGE as usize];
            self.memory.memory().read_slice(&mut bytes, GuestAddress(RAM + page * LOG_PAGE)).unwrap();
            bytes
        };
        (0..RAM_SIZE / LOG_PAGE).map(read).collect()
    }

    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Offers the chain at `head`, kicks, and returns what was used.
    pub(crate) fn round_trip(&mut self, head: u16) -> (u32, u32) {
        let before = self.driver.used();
        self.driver.offer(head);
        self.kick();
        self.wait_used(before.wrapping_add(1));
        self.driver.used_element(before)
    }

    /// Waits for the interrupts until `count` chains were used.
    pub(crate) fn wait_used(&self, count: u16) {
        while self.driver.used() != count {
            assert!(ready(&self.call), "{} of {count} chains were used", self.driver.used());
            self.call.read().unwrap();
        }
        // Leave one interrupt to be seen, as there was at least one.
        self.call.write(1).unwrap();
    }

    /// Whether the guest was interrupted.
    pub(crate) fn called(&self) -> bool {
        ready(&self.call) && self.call.read().is_ok()
    }

    pub(crate) fn wait_error(&self) {
        assert!(ready(&self.errors), "the broken ring was not reported");
        self.errors.read().unwrap();
    }

    /// Has the process answer requests, so that all it was kicked for before is done or will never be.
    pub(crate) fn round_of_requests(&mut self) {
        let features = self.process.features();
        for _ in 0..2 {
            self.process.start(features, &[]).unwrap();
        }
    }

    /// Whether the process refuses to set up a queue that it does not have.
    pub(crate) fn refuses_queue(&self, index: usize) -> bool {
        let frontend = Frontend::from_stream(self.another.try_clone().unwrap(), 64);
        frontend.set_owner().unwrap();
        frontend.get_features().unwrap();
        // Without acknowledgements the refusal is the end of the conversation.
        frontend.set_vring_num(index, 16).is_err() || frontend.get_features().is_err()
    }

    /// Goes away, and returns how the process took it.
    pub(crate) fn hang_up(self) -> Result<(), ServeError> {
        let Self { process, thread, line, .. } = self;
        drop((process, line));
        thread.join().unwrap()
    }

    /// Says `bytes` to a process, which must not outlive the conversation.
    pub(crate) fn babble<D: Device + 'static>(build: fn() -> D, bytes: &[u8]) {
        let (mut stream, thread) = spawn(build);
        // It may hang up before all is said.
        let _ = stream.write_all(bytes);
        drop(stream);
        let _: Result<(), ServeError> = thread.join().unwrap();
    }
}

/// Waits for an eventfd to become readable; false if it did not within any reasonable time.
pub(crate) fn ready(eventfd: &EventFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(borrow(eventfd), PollFlags::IN)];
    poll(&mut fds, Some(&PATIENCE)).unwrap() > 0
}
