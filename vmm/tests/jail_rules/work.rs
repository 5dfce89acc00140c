//! The work of each kind of device: all that its rules are for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use granule_jail::DeviceKind;

use super::bench::{BUFFERS, Bench, Setup, memfd, run};
use super::process::{FIRST, Failed};
use super::vsock;

/// The number of the first descriptor of a device's own.
const OWN: i32 = FIRST + 2;
const IMAGE: u64 = 2 << 20;

/// Has a device do all of its work, which is more than one process for some; answers how the last one ended.
pub fn of(kind: DeviceKind, dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    match kind {
        DeviceKind::Rng => run(kind, setup("--source /dev/urandom", 1), dropped, one_chain),
        DeviceKind::Watchdog => run(kind, setup("--timeout 0", 1), dropped, one_chain),
        DeviceKind::Balloon => run(kind, setup("--size 4096", 2), dropped, balloon),
        DeviceKind::Mem => pluggable(dropped),
        DeviceKind::Console => console(dropped),
        DeviceKind::Net => net(dropped),
        DeviceKind::Pmem => pmem(dropped),
        DeviceKind::Blk => {
            disk("raw", memfd(IMAGE), dropped)?;
            disk("qcow2", qcow2(), dropped)
        }
        DeviceKind::Vsock => vsock::run(dropped),
    }
}

/// Words, and how many queues.
pub fn setup(arguments: &str, queues: usize) -> Setup {
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    Setup { arguments, queues, passed: Vec::new() }
}

/// A listener, and the way to it.
pub fn listener() -> (UnixListener, SocketAddr) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("granule-rules-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    (UnixListener::bind_addr(&address).unwrap(), address)
}

fn one_chain(bench: &mut Bench) -> Result<(), Failed> {
    bench.ask(0, &[(BUFFERS, 64, true)])
}

/// A page is given back.
fn balloon(bench: &mut Bench) -> Result<(), Failed> {
    let page = u32::try_from((super::bench::RAM + BUFFERS + 0x1_0000) / 4096).unwrap();
    bench.put(&page.to_le_bytes(), BUFFERS);
    bench.ask(0, &[(BUFFERS, 4, false)])
}

/// A block is plugged, noted by a predecessor as well, and unplugged.
fn pluggable(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let block = super::bench::RAM + BUFFERS + 0x1_0000;
    let words = format!("--notes-fd {OWN} --address {block} --block 4096 --size 8192 --requested 8192");
    // The second of its two blocks is plugged.
    let notes = memfd(33);
    std::os::unix::fs::FileExt::write_all_at(&notes, &[2], 32).unwrap();
    let setup = Setup { passed: vec![notes.into()], ..setup(&words, 1) };
    run(DeviceKind::Mem, setup, dropped, |bench| {
        for (kind, at) in [(0u16, block), (1, block + 4096)] {
            let head = [kind.to_le_bytes().to_vec(), vec![0; 6]].concat();
            bench.put(&[head, at.to_le_bytes().to_vec(), vec![1, 0, 0, 0, 0, 0, 0, 0]].concat(), BUFFERS);
            bench.ask(0, &[(BUFFERS, 24, false), (BUFFERS + 0x1000, 10, true)])?;
        }
        Ok(())
    })
}

/// Read, write, flush, discard, zeroes, a new size.
fn disk(format: &str, image: File, dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let words = format!("--image-fd {OWN} --image-type {format} --queue-size 16");
    let setup = Setup { passed: vec![image.into()], ..setup(&words, 1) };
    run(DeviceKind::Blk, setup, dropped, |bench| {
        let range = [8u64.to_le_bytes().to_vec(), 8u32.to_le_bytes().to_vec(), vec![0; 4]].concat();
        bench.put(&range, BUFFERS + 0x2000);
        for (kind, data) in [
            (1u32, Some((BUFFERS + 0x1000, 512, false))),
            (0, Some((BUFFERS + 0x1000, 512, true))),
            (4, None),
            (11, Some((BUFFERS + 0x2000, 16, false))),
            (13, Some((BUFFERS + 0x2000, 16, false))),
        ] {
            bench.put(&[kind.to_le_bytes().to_vec(), vec![0; 12]].concat(), BUFFERS);
            let chain = [Some((BUFFERS, 16, false)), data, Some((BUFFERS + 0x3000, 1, true))];
            bench.ask(0, &chain.into_iter().flatten().collect::<Vec<_>>())?;
        }
        bench.order(&format!("resize {}", 2 * IMAGE))
    })
}

fn qcow2() -> File {
    use imago::FormatCreateBuilder;
    let file = memfd(0);
    let storage: imago::file::File = file.try_clone().unwrap().try_into().unwrap();
    imago::qcow2::Qcow2::<imago::file::File>::create_builder(storage).size(IMAGE).create().unwrap();
    file
}

/// A client, a line each way.
fn console(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let (listener, address) = listener();
    let mut client = UnixStream::connect_addr(&address).unwrap();
    client.write_all(b"typed").unwrap();
    listener.set_nonblocking(true).unwrap();
    let setup = Setup { passed: vec![listener.into()], ..setup(&format!("--listener-fd {OWN}"), 2) };
    run(DeviceKind::Console, setup, dropped, |bench| {
        bench.ask(0, &[(BUFFERS, 64, true)])?;
        bench.put(b"said", BUFFERS + 0x1000);
        bench.ask(1, &[(BUFFERS + 0x1000, 4, false)])?;
        let mut heard = [0; 4];
        client.read_exact(&mut heard).map_err(|_| Failed)?;
        if &heard == b"said" { Ok(()) } else { Err(Failed) }
    })
}

/// A packet each way; a socket that keeps packets apart stands in for the tap.
fn net(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let (wire, tap) = super::process::pair();
    let flags = rustix::fs::fcntl_getfl(&tap).unwrap() | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&tap, flags).unwrap();
    let setup = Setup {
        passed: vec![tap],
        ..setup(&format!("--tap-fd {OWN} --mac 52:54:00:12:34:56 --queue-size 16"), 3)
    };
    run(DeviceKind::Net, setup, dropped, |bench| {
        rustix::io::write(&wire, &[0; 80]).map_err(|_| Failed)?;
        // Room for the longest packet, which may be any.
        bench.ask(0, &[(BUFFERS + 0x1_0000, 12, true), (BUFFERS + 0x2_0000, 0x1_8000, true)])?;
        bench.ask(1, &[(BUFFERS + 0x1000, 80, false)])?;
        let mut packet = [0; 2048];
        let sent = rustix::net::recv(&wire, &mut packet, rustix::net::RecvFlags::empty());
        sent.is_ok_and(|(length, _)| length == 80).then_some(()).ok_or(Failed)
    })
}

/// A flush of a page that has changed.
fn pmem(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let (image, memory) = (memfd(IMAGE), memfd(IMAGE));
    let words = format!("--image-fd {OWN} --memory-fd {} --write-back --size {IMAGE}", OWN + 1);
    let passed: Vec<OwnedFd> = vec![image.into(), memory.try_clone().unwrap().into()];
    run(DeviceKind::Pmem, Setup { passed, ..setup(&words, 1) }, dropped, |bench| {
        std::os::unix::fs::FileExt::write_all_at(&memory, b"stored", 8192).unwrap();
        bench.put(&[0; 4], BUFFERS);
        bench.ask(0, &[(BUFFERS, 4, false), (BUFFERS + 0x1000, 4, true)])
    })
}
