//! A device process, a front end, and a driver made by hand.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use granule_devices::serve::NUMBER;
use granule_devices::virtio::{Deadlines, DeviceProcess, Expected, GuestMemory, QueueSetup, VirtioBackend};
use granule_jail::{DeviceKind, JailKind, Kind};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::process::{self, FIRST, Failed, LIMIT};

/// Where memory begins.
pub const RAM: u64 = 0x4000_0000;
/// Where buffers are, behind the rings of all queues.
pub const BUFFERS: u64 = 0x8_0000;
const SIZE: usize = 1 << 20;
/// Descriptors of each queue.
const DESCRIPTORS: u16 = 16;

/// What a device is started with.
#[derive(Default)]
pub struct Setup {
    /// Its own arguments; the first passed descriptor has the number [`FIRST`] + 2.
    pub arguments: Vec<String>,
    /// Descriptors for it.
    pub passed: Vec<OwnedFd>,
    /// How many queues it has.
    pub queues: usize,
}

/// A running process and what is on its other side.
pub struct Bench {
    memory: GuestMemory,
    process: DeviceProcess,
    orders: OwnedFd,
    queues: Vec<Queue>,
    child: Child,
}

struct Queue {
    kick: EventFd,
    call: EventFd,
    offered: u16,
    rings: u64,
}

/// Has a device do some work, less the line of its table that `dropped` names; answers how it ended.
pub fn run(
    kind: DeviceKind,
    setup: Setup,
    dropped: Option<&str>,
    work: impl FnOnce(&mut Bench) -> Result<(), Failed>,
) -> Result<ExitStatus, Failed> {
    let mut bench = Bench::start(kind, setup, dropped)?;
    let worked = work(&mut bench).and_then(|()| bench.order("counters")).and_then(|()| bench.save());
    let status = bench.end();
    worked.and(status)
}

impl Bench {
    fn start(kind: DeviceKind, setup: Setup, dropped: Option<&str>) -> Result<Self, Failed> {
        let Setup { arguments, passed, queues } = setup;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (orders, their_orders) = process::pair();
        let name = Kind::Process(JailKind::Device(kind)).name();
        let fds = ["--fd".to_owned(), FIRST.to_string(), "--orders-fd".to_owned(), (FIRST + 1).to_string()];
        let words = ["device".to_owned(), name.to_owned()].into_iter().chain(fds).chain(arguments);
        let passed = [OwnedFd::from(theirs), their_orders].into_iter().chain(passed).collect();
        let child = process::start(&words.collect::<Vec<_>>(), passed, dropped);
        let memory = memory();
        let expected = Expected { queue_sizes: vec![DESCRIPTORS; queues], limit: LIMIT, ..Expected::rng() };
        let deadlines = Deadlines::start(|| ()).unwrap();
        let connected = DeviceProcess::connect(ours, deadlines, memory.clone(), expected);
        let Ok(process) = connected else { return reap(child) };
        let queues = (0..queues as u64).map(|index| Queue::new(RAM + 0x1_0000 * index)).collect();
        let mut bench = Self { memory, process, orders, queues, child };
        match bench.start_queues() {
            Ok(()) => Ok(bench),
            Err(Failed) => {
                let Self { process, child, .. } = bench;
                drop(process);
                reap(child)
            }
        }
    }

    fn start_queues(&mut self) -> Result<(), Failed> {
        let setups: Vec<_> = (0..).zip(&self.queues).map(|(index, queue)| queue.setup(index)).collect();
        // Without VIRTIO_F_EVENT_IDX: an interrupt for each chain.
        let features = self.process.features() & !(1 << 29);
        self.process.start(features, &setups).map_err(|_| Failed)
    }

    /// Offers a chain of buffers (address within memory, length, written by the device), and waits until it is used.
    pub fn ask(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> Result<(), Failed> {
        self.offer(queue, buffers);
        self.wait(queue)
    }

    /// Offers a chain.
    pub fn offer(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) {
        let memory = self.memory.memory();
        let queue = &mut self.queues[queue];
        let put = |bytes: &[u8], at: u64| memory.write_slice(bytes, GuestAddress(at)).unwrap();
        for (index, &(address, length, written)) in (0u16..).zip(buffers) {
            let at = queue.rings + 16 * u64::from(index);
            let more = usize::from(index) + 1 < buffers.len();
            put(&(RAM + address).to_le_bytes(), at);
            put(&length.to_le_bytes(), at + 8);
            put(&(u16::from(more) | u16::from(written) << 1).to_le_bytes(), at + 12);
            put(&(index + 1).to_le_bytes(), at + 14);
        }
        let slot = queue.rings + 0x1000 + 4 + 2 * u64::from(queue.offered % DESCRIPTORS);
        put(&0u16.to_le_bytes(), slot);
        queue.offered += 1;
        put(&queue.offered.to_le_bytes(), queue.rings + 0x1002);
        queue.kick.write(1).unwrap();
    }

    /// Waits until all that was offered is used.
    pub fn wait(&mut self, queue: usize) -> Result<(), Failed> {
        let Self { queues, memory, child, .. } = self;
        let queue = &queues[queue];
        let memory = memory.memory();
        process::until(child, || {
            let mut index = [0; 2];
            memory.read_slice(&mut index, GuestAddress(queue.rings + 0x2002)).unwrap();
            (u16::from_le_bytes(index) == queue.offered).then_some(())
        })
    }

    /// Waits for something else than a queue.
    pub fn until<T>(&mut self, look: impl FnMut() -> Option<T>) -> Result<T, Failed> {
        process::until(&mut self.child, look)
    }

    /// Gives an order, which has to be carried out.
    pub fn order(&mut self, order: &str) -> Result<(), Failed> {
        let message = [&[0; NUMBER], order.as_bytes()].concat();
        rustix::net::send(&self.orders, &message, rustix::net::SendFlags::NOSIGNAL).map_err(|_| Failed)?;
        let mut answer = [0; 256];
        match rustix::net::recv(&self.orders, &mut answer, rustix::net::RecvFlags::empty()) {
            Ok((length, _)) if length > NUMBER && answer[NUMBER] == 0 => Ok(()),
            _ => Err(Failed),
        }
    }

    /// Has the device save what it remembers and take it back, as for a snapshot.
    fn save(&mut self) -> Result<(), Failed> {
        self.process.stop().map_err(|_| Failed)?;
        let state = self.process.save().map_err(|_| Failed)?;
        self.process.restore(&state).map_err(|_| Failed)?;
        self.start_queues()
    }

    /// Writes to memory.
    pub fn put(&self, bytes: &[u8], address: u64) {
        self.memory.memory().write_slice(bytes, GuestAddress(RAM + address)).unwrap();
    }

    /// Reads from memory.
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.memory().read_slice(&mut bytes, GuestAddress(RAM + address)).unwrap();
        bytes
    }

    /// Hangs up, and waits for the process's end.
    fn end(mut self) -> Result<ExitStatus, Failed> {
        let stopped = self.process.stop();
        drop(self.process);
        let status = self.child.wait().map_err(|_| Failed)?;
        stopped.map_err(|_| Failed).and(Ok(status))
    }
}

fn reap<T>(mut child: Child) -> Result<T, Failed> {
    // Dead of SIGSYS, or about to find its front end gone.
    child.wait().unwrap();
    Err(Failed)
}

impl Queue {
    fn new(rings: u64) -> Self {
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self { kick: eventfd(), call: eventfd(), offered: 0, rings }
    }

    fn setup(&self, index: u16) -> QueueSetup<'_> {
        QueueSetup {
            index,
            size: DESCRIPTORS,
            descriptors: self.rings,
            available: self.rings + 0x1000,
            used: self.rings + 0x2000,
            next_available: 0,
            kick: &self.kick,
            call: Some(&self.call),
        }
    }
}

/// A file in memory.
pub fn memfd(size: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("rules", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

fn memory() -> GuestMemory {
    let file = FileOffset::from_arc(Arc::new(memfd(SIZE as u64)), 0);
    let region = GuestRegionMmap::new(MmapRegion::from_file(file, SIZE).unwrap(), GuestAddress(RAM)).unwrap();
    GuestMemory::new(GuestMemoryMmap::from_regions(vec![region]).unwrap())
}
