//! A device with all its queues, served by hand on the test's own thread: what happens in one turn and what does not is
//! the test's to say.

use std::ops::Deref;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_user_backend::{VringMutex, VringT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic};

use super::driver::{Driver, NEXT, RAM, SIZE, WRITE, guest_memory};
use crate::serve::{Device, Memory, Progress, Ring, RingFault, Wake};
use crate::virtio::GuestMemory;

/// Bytes of a buffer, as Linux has them.
pub(crate) const BUFFER: u64 = 4096;

/// Where they begin: behind the rings of as many queues as a test may want.
const BENCH_BUFFERS: u64 = RAM + 0x4_0000;

/// A device and its queues.
pub(crate) struct Bench<D> {
    pub(crate) device: D,
    memory: GuestMemory,
    queues: Vec<BenchQueue>,
}

struct BenchQueue {
    ring: VringMutex<GuestMemoryAtomic<Memory>>,
    driver: Driver,
    buffers: u64,
    offered: u16,
    seen: u16,
}

impl<D: Device> Bench<D> {
    /// Starts all queues of `device`.
    pub(crate) fn new(device: D) -> Self {
        let memory = guest_memory();
        let count = device.queue_sizes().len() as u16;
        let queues = (0..count).map(|index| BenchQueue::new(&memory, index)).collect();
        Self { device, memory, queues }
    }

    /// The driver goes away, and another starts.
    pub(crate) fn renew_driver(&mut self) {
        let memory = self.memory.memory();
        for (index, queue) in (0..).zip(&mut self.queues) {
            self.device.drain(index, &mut Ring::new(queue.ring.get_mut()), &memory).unwrap();
            *queue = BenchQueue::new(&self.memory, index);
        }
    }

    /// Another process takes the queues up where this one has left them.
    pub(crate) fn replace(&mut self, device: D) {
        self.device = device;
    }

    /// Gives up to `count` buffers to be written, as many as the ring has room for.
    pub(crate) fn give(&mut self, queue: u16, count: u16) {
        for _ in 0..count {
            let queue = &mut self.queues[usize::from(queue)];
            if queue.offered.wrapping_sub(queue.driver.used()) == SIZE {
                break;
            }
            let head = queue.offered % SIZE;
            queue.driver.describe(head, (queue.buffer(head), BUFFER as u32, WRITE, 0));
            queue.offer(head);
        }
        self.serve(queue).unwrap();
    }

    /// Sends `bytes` in two buffers, and returns how it went.
    pub(crate) fn try_send(&mut self, queue: u16, bytes: &[u8]) -> Result<(), RingFault> {
        let (memory, at) = (self.memory.memory(), usize::from(queue));
        let sender = &mut self.queues[at];
        let head = sender.offered % (SIZE / 2) * 2;
        let (first, second) = bytes.split_at(bytes.len().min(44));
        let room = sender.buffer(head);
        memory.write_slice(bytes, GuestAddress(room)).unwrap();
        sender.driver.describe(head, (room, first.len() as u32, NEXT, head + 1));
        sender.driver.describe(head + 1, (room + first.len() as u64, second.len() as u32, 0, 0));
        sender.offer(head);
        self.serve(queue)
    }

    /// Sends `bytes`.
    pub(crate) fn send(&mut self, queue: u16, bytes: &[u8]) {
        self.try_send(queue, bytes).unwrap();
    }

    /// How many chains of `queue` were used.
    pub(crate) fn used(&self, queue: u16) -> u16 {
        self.queues[usize::from(queue)].driver.used()
    }

    /// Offers a command with room for `room` bytes of an answer, and returns where that will be.
    pub(crate) fn ask(&mut self, queue: u16, command: &[u8], room: u32) -> u64 {
        let memory = self.memory.memory();
        let queue = &mut self.queues[usize::from(queue)];
        let head = queue.offered % (SIZE / 2) * 2;
        let (at, answer) = (queue.buffer(head), queue.buffer(head + 1));
        memory.write_slice(command, GuestAddress(at)).unwrap();
        queue.driver.describe(head, (at, command.len() as u32, NEXT, head + 1));
        queue.driver.describe(head + 1, (answer, room, WRITE, 0));
        queue.offer(head);
        answer
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> impl Deref<Target = Memory> + use<D> {
        self.memory.memory()
    }

    /// The first byte of an answer.
    pub(crate) fn read_answer(&self, at: u64) -> u8 {
        self.memory.memory().read_obj(GuestAddress(at)).unwrap()
    }

    /// What was written to buffers of `queue` since the last look.
    pub(crate) fn taken(&mut self, queue: u16) -> Vec<Vec<u8>> {
        let memory = self.memory.memory();
        let queue = &mut self.queues[usize::from(queue)];
        let mut taken = Vec::new();
        while queue.seen != queue.driver.used() {
            let (head, length) = queue.driver.used_element(queue.seen);
            queue.seen = queue.seen.wrapping_add(1);
            let mut bytes = vec![0; length as usize];
            memory.read_slice(&mut bytes, GuestAddress(queue.buffer(head as u16))).unwrap();
            taken.push(bytes);
        }
        taken
    }

    /// Serves a queue until it has nothing left over.
    pub(crate) fn serve(&mut self, queue: u16) -> Result<(), RingFault> {
        let memory = self.memory.memory();
        let ring = &self.queues[usize::from(queue)].ring;
        while self.device.serve(queue, &mut Ring::new(ring.get_mut()), &memory)? == Progress::More {}
        Ok(())
    }

    /// Takes turns as the loop of a process does, until nothing is ready.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1000 {
            let ready = self.ready_files();
            let mut wake = Wake::default();
            for (token, flags) in &ready {
                self.device.ready(*token, *flags, &mut wake);
            }
            let late = self.device.deadline().is_some_and(|deadline| deadline <= Instant::now());
            if late {
                self.device.elapsed(&mut wake);
            }
            for queue in (0..self.queues.len() as u16).filter(|queue| wake.contains(*queue)) {
                self.serve(queue).unwrap();
            }
            if ready.is_empty() && !late {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    fn ready_files(&self) -> Vec<(u64, PollFlags)> {
        let mut watches = Vec::new();
        self.device.watches(&mut watches);
        let mut fds: Vec<_> =
            watches.iter().map(|watch| PollFd::from_borrowed_fd(watch.fd, watch.flags)).collect();
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        let found = watches.iter().zip(&fds).map(|(watch, fd)| (watch.token, fd.revents()));
        found.filter(|(_, flags)| !flags.is_empty()).collect()
    }
}

impl BenchQueue {
    fn new(memory: &GuestMemory, index: u16) -> Self {
        let driver = Driver::of_queue(memory.clone(), index);
        let ring: VringMutex<GuestMemoryAtomic<Memory>> = VringMutex::new(memory.clone(), SIZE).unwrap();
        let (descriptors, available, used) = driver.own_areas();
        ring.set_queue_info(descriptors, available, used).unwrap();
        ring.set_queue_ready(true);
        ring.set_enabled(true);
        let buffers = BENCH_BUFFERS + u64::from(index) * u64::from(SIZE) * BUFFER;
        Self { ring, driver, buffers, offered: 0, seen: 0 }
    }

    fn buffer(&self, head: u16) -> u64 {
        self.buffers + u64::from(head) * BUFFER
    }

    fn offer(&mut self, head: u16) {
        self.driver.offer(head);
        self.offered = self.offered.wrapping_add(1);
    }
}
