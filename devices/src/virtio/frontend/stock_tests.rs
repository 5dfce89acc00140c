//! The front end against a back end that is not ours: the daemon of `vhost-user-backend`, on which virtiofsd and the
//! vhost-device family are built.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::{Listener, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringMutex, VringT};
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::contract::driver::{BUFFERS, Driver, SIZE, WRITE, guest_memory};
use crate::contract::rig::ready;
use crate::serve::serve_chains;
use crate::virtio::spec::F_VERSION_1;
use crate::virtio::{QueueSetup, VirtioBackend};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// Fills buffers with sevens, and has two bytes of configuration.
struct Sevens {
    memory: Memory,
    config: [u8; 2],
}

impl VhostUserBackendMut for Sevens {
    type Bitmap = ();
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.config[offset as usize..(offset + size) as usize].to_vec()
    }

    fn set_config(&mut self, offset: u32, data: &[u8]) -> io::Result<()> {
        self.config[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &mut self,
        queue: u16,
        _events: EventSet,
        rings: &[VringMutex<Memory>],
        _thread: usize,
    ) -> io::Result<()> {
        let memory = self.memory.memory();
        let sevens = |chain: crate::serve::Chain<'_>| {
            let Some(buffer) = chain.writable().next() else { return 0 };
            memory.write_slice(&[7; 16], buffer.addr()).map_or(0, |()| 16)
        };
        let mut ring = crate::serve::Ring::new(rings[usize::from(queue)].get_mut());
        serve_chains(&mut ring, &memory, 64, sevens).map(drop).map_err(io::Error::other)
    }
}

/// Runs the daemon for one front end.
fn daemon() -> UnixStream {
    // A listening socket that needs no path: a name in the abstract space, made unique by an open file.
    let unique = File::from(memfd_create("name", MemfdFlags::CLOEXEC).unwrap());
    let name = format!("granule-{}-{}", std::process::id(), rustix::fs::fstat(&unique).unwrap().st_ino);
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
            .unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let stream = UnixStream::connect_addr(&address).unwrap();
    std::thread::spawn(move || {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let backend = Arc::new(RwLock::new(Sevens { memory: memory.clone(), config: [3, 4] }));
        let mut daemon = VhostUserDaemon::new("sevens".to_owned(), backend, memory).unwrap();
        daemon.start(&mut Listener::from(listener)).unwrap();
        // However it ends: the test is about the front end.
        let _ = daemon.wait();
    });
    stream
}

#[test]
fn a_daemon_of_vhost_user_backend_is_driven_like_our_own() {
    let memory = guest_memory();
    let expected = Expected {
        queue_sizes: vec![256; 2],
        config_size: 2,
        limit: Duration::from_secs(20),
        ..Expected::rng()
    };
    let deadlines = Deadlines::start(|| ()).unwrap();
    let mut process = DeviceProcess::connect(daemon(), deadlines, memory.clone(), expected).unwrap();
    assert_eq!(process.config(), [3, 4]);
    process.write_config(1, &[9]).unwrap();
    assert_eq!(process.config(), [3, 9]);

    let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
    let (kick, call) = (eventfd(), eventfd());
    let mut driver = Driver::new(memory);
    let (descriptors, available, used) = Driver::areas();
    for round in 0..3 {
        // The second queue alone, as of a device whose first the driver has left off.
        let setup = QueueSetup {
            index: 1,
            size: SIZE,
            descriptors,
            available,
            used,
            next_available: round,
            kick: &kick,
            call: Some(&call),
        };
        process.start(F_VERSION_1, &[setup]).unwrap();
        driver.write([0u8; 16], BUFFERS);
        driver.describe(0, (BUFFERS, 16, WRITE, 0));
        driver.offer(0);
        kick.write(1).unwrap();
        assert!(ready(&call));
        call.read().unwrap();
        assert_eq!(driver.used_element(round), (0, 16));
        assert_eq!(driver.read::<[u8; 16]>(BUFFERS), [7; 16]);
        process.stop().unwrap();
    }
}
