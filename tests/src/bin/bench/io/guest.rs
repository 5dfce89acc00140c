//! The guest's side: this program as its first one measures, and says what came of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::thread;
use std::time::Instant;

use granule_tests::{modules, vsock};
use rustix::mount::{MountFlags, mount};

use super::{DISK, GUEST, HOST, PORT};

/// What a line of results begins with: `BENCH row amount nanoseconds`.
pub const ROW: &str = "BENCH ";
/// The last line.
pub const END: &str = "BENCH-END";

const DEVICE: &str = "/dev/vda";
const LARGE: usize = 128 << 10;
const SMALL: usize = 4 << 10;
/// Where direct I/O wants its buffers.
const ALIGNMENT: usize = 4096;

/// One figure.
pub struct Row {
    /// What it is, its unit last.
    pub name: &'static str,
    what: What,
}

enum What {
    Disk {
        direct: bool,
        write: bool,
        block: usize,
        count: usize,
        threads: usize,
    },
    /// Bytes over TCP or vsock, to the host or from it.
    Stream {
        vsock: bool,
        give: bool,
        bytes: u64,
    },
}

const fn disk(
    name: &'static str,
    direct: bool,
    write: bool,
    block: usize,
    count: usize,
    threads: usize,
) -> Row {
    Row { name, what: What::Disk { direct, write, block, count, threads } }
}

const fn stream(name: &'static str, vsock: bool, give: bool) -> Row {
    Row { name, what: What::Stream { vsock, give, bytes: 32 << 20 } }
}

/// All of them, in their order.
pub const ROWS: [Row; 12] = [
    disk("disk, sequential read, direct, 128 KiB, MiB/s", true, false, LARGE, 256, 1),
    disk("disk, sequential write, direct, 128 KiB, MiB/s", true, true, LARGE, 256, 1),
    disk("disk, sequential read, cached, MiB/s", false, false, LARGE, 256, 1),
    disk("disk, sequential write, cached, then fsync, MiB/s", false, true, LARGE, 256, 1),
    disk("disk, random read, direct, 4 KiB, one at a time, requests/s", true, false, SMALL, 1000, 1),
    disk("disk, random write, direct, 4 KiB, one at a time, requests/s", true, true, SMALL, 1000, 1),
    disk("disk, random read, direct, 4 KiB, by 8 threads, requests/s", true, false, SMALL, 2000, 8),
    disk("disk, random write, direct, 4 KiB, by 8 threads, requests/s", true, true, SMALL, 2000, 8),
    stream("TCP, guest to host, MiB/s", false, false),
    stream("TCP, host to guest, MiB/s", false, true),
    stream("vsock, guest to host, MiB/s", true, false),
    stream("vsock, host to guest, MiB/s", true, true),
];

/// Measures the rows whose name holds `rows` so many times, then idles.
pub fn live(rounds: usize, rows: &str) -> ! {
    if let Err(why) = prepare().and_then(|()| measure(rounds, rows)) {
        say(&format!("{ROW}failed {why}"));
    }
    say(END);
    loop {
        thread::park();
    }
}

fn say(line: &str) {
    // In one write, so that it is one piece on the console; a console that fails shows as an end that never comes.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

fn prepare() -> Result<(), String> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc")] {
        mount(kind, place, kind, MountFlags::empty(), None).map_err(|e| format!("{place}: {e}"))?;
    }
    if let Some((module, why)) = modules::load_all("/modules").into_iter().next() {
        return Err(format!("{module}: {why}"));
    }
    modules::wait_for_device(DEVICE)?;
    let up = ["ifconfig", "eth0", GUEST, "netmask", "255.255.255.0", "up"];
    let status = Command::new("/bin/busybox").args(up).status().map_err(|e| format!("busybox: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("ifconfig: {status}")) }
}

fn measure(rounds: usize, rows: &str) -> Result<(), String> {
    for _ in 0..rounds {
        for Row { name, what } in ROWS.iter().filter(|row| row.name.contains(rows)) {
            fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| format!("drop_caches: {e}"))?;
            let begun = Instant::now();
            let moved = what.carry_out().map_err(|e| format!("{name}: {e}"))?;
            let took = begun.elapsed().as_nanos();
            let amount = if name.ends_with("MiB/s") { moved.0 } else { moved.1 };
            say(&format!("{ROW}{name} {amount} {took}"));
        }
    }
    Ok(())
}

impl What {
    /// How many bytes and how many requests that were.
    fn carry_out(&self) -> Result<(u64, u64), std::io::Error> {
        match *self {
            Self::Disk { direct, write, block, count, threads } => {
                let flags = if direct { libc::O_DIRECT } else { 0 };
                let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(DEVICE)?;
                let each = count / threads;
                thread::scope(|scope| {
                    let work = |seed| {
                        disk_work(&file, write, block, each, (threads > 1 || block == SMALL).then_some(seed))
                    };
                    let all: Vec<_> =
                        (0..threads as u64).map(|seed| scope.spawn(move || work(seed))).collect();
                    all.into_iter()
                        .try_for_each(|one| one.join().map_err(|_| std::io::Error::other("a thread died"))?)
                })?;
                if write {
                    file.sync_data()?;
                }
                Ok(((block * count) as u64, count as u64))
            }
            Self::Stream { vsock, give, bytes } => {
                let stream: OwnedFd = if vsock {
                    vsock::connect(PORT)?
                } else {
                    TcpStream::connect((HOST, PORT as u16))?.into()
                };
                stream_work(File::from(stream), give, bytes)?;
                Ok((bytes, 1))
            }
        }
    }
}

/// Blocks one after the other, or with a seed in no order.
fn disk_work(file: &File, write: bool, block: usize, count: usize, seed: Option<u64>) -> std::io::Result<()> {
    let mut room = vec![7; block + ALIGNMENT];
    let start = room.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut room[start..start + block];
    let blocks = DISK / block as u64;
    let mut random = seed.map(|seed| seed * 7919 + 1);
    for number in 0..count as u64 {
        let at = match &mut random {
            Some(state) => {
                *state =
                    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *state >> 33
            }
            None => number,
        };
        let offset = at % blocks * block as u64;
        if write {
            file.write_all_at(buffer, offset)?;
        } else {
            file.read_exact_at(buffer, offset)?;
        }
    }
    Ok(())
}

fn stream_work(mut stream: File, give: bool, bytes: u64) -> std::io::Result<()> {
    let mut order = vec![if give { b'G' } else { b'T' }];
    order.extend(bytes.to_le_bytes());
    stream.write_all(&order)?;
    let mut chunk = vec![0; LARGE];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(LARGE as u64) as usize;
        let moved = if give { stream.read(&mut chunk[..most])? } else { stream.write(&chunk[..most])? };
        if moved == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= moved as u64;
    }
    if give { Ok(()) } else { stream.read_exact(&mut [0]) }
}
