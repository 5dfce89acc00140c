//! What a runtime has around its VM: an image, a shared directory and who serves it, a tap, sockets; and the agent in the
//! guest, for which our guest's first program stands in.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use granule_tests::client::{Client, Response};
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::server::Server;
use granule_tests::session::value;
use granule_tests::vm::{Guest, MIB};
use granule_tests::{pattern, tap, tree, wait};
use serde_json::{Value, json};

use crate::INIT;

/// What the image is full of.
const SEED: u64 = 9;
const IMAGE: u64 = 4 * MIB;

/// Everything beside the monitor.
pub struct Pod {
    pub folder: Folder,
    pub shared: Folder,
    pub taps: Vec<OwnedFd>,
    network: u8,
    _virtiofsd: Server,
}

impl Pod {
    /// Makes it, with a tap that leads to the network 10.8.N.0.
    pub fn new(name: &str, network: u8) -> Self {
        let (folder, shared) = (Folder::new(), Folder::new());
        fs::create_dir(shared.file("rootfs")).unwrap();
        fs::write(shared.file("rootfs/etc"), "a container's").unwrap();
        let mut content = vec![0; IMAGE as usize];
        pattern::fill(&mut content, SEED, 0);
        File::create(folder.file("image")).unwrap().write_all_at(&content, 0).unwrap();
        let virtiofsd = Server::virtiofsd(shared.path(), &folder.file("virtiofsd.sock"));
        let taps = tap::open(name, 1).unwrap();
        tap::switch_on(name, &format!("10.8.{network}.1"));
        Self { folder, shared, taps, network, _virtiofsd: virtiofsd }
    }

    /// A recorded body with the paths of this pod. The lab's guest kernel needs drivers before it can have a root file
    /// system, so an initramfs goes along, and on its command line the word for what listens where the agent would.
    pub fn body(&self, recorded: &str) -> Value {
        let lab = Guest::new(&INIT).body_in(&self.folder);
        let mut body: Value = serde_json::from_str(recorded).unwrap();
        let cmdline = body["payload"]["cmdline"].as_str().unwrap();
        body["payload"]["cmdline"] = format!("{cmdline} rdinit=/init granule.start=vsock").into();
        // A copy in memory: while the host waits for the lab's share, the clock that counts instructions leaps.
        fs::copy(granule_tests::lab::kernel(), self.folder.file("kernel")).unwrap();
        body["payload"]["kernel"] = self.folder.file("kernel").into();
        body["payload"]["initramfs"] = lab["payload"]["initramfs"].clone();
        body["disks"][0]["path"] = self.folder.file("image").into();
        body["fs"][0]["socket"] = self.folder.file("virtiofsd.sock").into();
        body["vsock"]["socket"] = self.folder.file("vsock.sock").into();
        body
    }

    /// Says a line to the agent by the hybrid protocol, whose first word runtimes spell as they like, and returns its answer.
    pub fn agent(&self, connect: &str, line: &str) -> String {
        let path = self.folder.file("vsock.sock");
        let mut came_to = "nobody accepted";
        let answer = wait::until(wait::LONG, || {
            let mut stream = UnixStream::connect(&path).ok()?;
            // Longer than a device gives a guest: until the guest listens there is an end without an answer, and runtimes
            // dial again.
            stream.set_read_timeout(Some(wait::SHORT)).unwrap();
            writeln!(stream, "{connect} 7").ok()?;
            came_to = "accepted, and not connected";
            first_line(&mut stream).starts_with("OK ").then_some(())?;
            writeln!(stream, "{line}").ok()?;
            came_to = "connected, and not answered";
            Some(first_line(&mut stream)).filter(|answer| !answer.is_empty())
        });
        answer.unwrap_or_else(|| panic!("the agent does not answer {line:?}: {came_to}"))
    }

    /// Has the agent make a check.
    pub fn check(&self, connect: &str, name: &str) -> Value {
        let line = self.agent(connect, &format!("run {name}"));
        value(line.strip_prefix(&format!("GRANULE ok {name} ")).unwrap_or_else(|| panic!("{name}: {line:?}")))
    }

    /// The guest has the image as its first disk, the shared directory, and a network.
    pub fn is_whole(&self, connect: &str) {
        let disks = self.check(connect, "disk:list");
        let first = &disks[0];
        assert_eq!((&first["name"], &first["sectors"]), (&json!("vda"), &json!(IMAGE / 512)), "{disks}");
        assert_eq!(first["readonly"], 1, "{disks}");
        let read = self.check(connect, &format!("disk:read:vda:{SEED}:0:{IMAGE}"));
        assert_eq!(read["wrong"], 0, "{read}");
        let shared = json!(tree::read(self.shared.path()).unwrap());
        assert_eq!(self.check(connect, "fs:kataShared"), shared);
        let started = self.agent(connect, &format!("start tcp 10.8.{}.2", self.network));
        assert_eq!(started.trim(), "GRANULE started");
        let mut stream = std::net::TcpStream::connect((format!("10.8.{}.2", self.network), 7)).unwrap();
        stream.set_read_timeout(Some(wait::LONG)).unwrap();
        stream.write_all(b"echo\nover the tap").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut echoed = String::new();
        stream.read_to_string(&mut echoed).unwrap();
        assert_eq!(echoed, "over the tap");
    }
}

fn first_line(stream: &mut UnixStream) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while let Ok(1) = stream.read(&mut byte) {
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// One test at a time: what they measure is not what they do to each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the monitor with the words that both of Kata's runtimes use.
pub fn monitor() -> Monitor {
    let monitor =
        Monitor::spawn(Stdio::null(), |folder| vec!["--api-socket".to_owned(), folder.file("api.sock")]);
    monitor.wait_ready();
    monitor
}

/// Sends a request, and waits for its answer no longer than the runtime does.
pub fn within(limit: Duration, what: &str, ask: impl FnOnce() -> Response) -> Response {
    let began = Instant::now();
    let answer = ask();
    let took = began.elapsed();
    println!("{what}: {} ms", took.as_millis());
    assert!(took < limit, "{what} took {took:?}, and the runtime waits for {limit:?}");
    answer
}

/// `vmm.shutdown`, after which the process has three seconds.
pub fn shutdown(monitor: Monitor, client: &mut Client, request: &[u8]) {
    let began = Instant::now();
    client.send(request).unwrap();
    assert_eq!(client.receive().unwrap().code, 200);
    assert_eq!(monitor.finish().code(), Some(0));
    let took = began.elapsed();
    println!("vmm.shutdown: {} ms until the process was gone", took.as_millis());
    assert!(took < Duration::from_secs(3), "it took {took:?}");
}
