//! A server with a fake machine behind it, and a client that sends bytes and reads bytes.
#![allow(dead_code, reason = "no test program uses all of it")]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use granule_api::call::Call;
use granule_api::error::{ApiError, ErrorKind};
use granule_api::server::{Listener, Reply, Request, ServerLimits, serve};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::sync::watch;

/// No answer takes this long; a test that waits for it has failed.
pub const LONG: Duration = Duration::from_secs(20);

/// A folder of a test's own, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("granule-api-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that runs in a thread of its own until it is dropped.
pub struct Server {
    pub folder: Folder,
    stop: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(ServerLimits::default(), answer)
    }

    pub fn with(limits: ServerLimits, mut machine: impl FnMut(Request) + Send + 'static) -> Self {
        let folder = Folder::new();
        let path = folder.path().join("api.sock");
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = Listener::bind(&path).expect("the API socket");
                ready.send(()).expect("the test waits");
                let (driver, mut requests) = tokio::sync::mpsc::channel(16);
                let machine = tokio::spawn(async move {
                    while let Some(request) = requests.recv().await {
                        machine(request);
                    }
                });
                serve(listener, driver, limits, stopped).await;
                machine.await.expect("the fake machine does not panic");
            });
        });
        is_ready.recv().expect("the server starts");
        Self { folder, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.socket()).expect("the server listens");
        stream.set_read_timeout(Some(LONG)).expect("a socket has a timeout");
        stream.set_write_timeout(Some(LONG)).expect("a socket has a timeout");
        Client(stream)
    }

    /// Sends some bytes on a connection of their own, and reads what comes until `answers` are whole.
    pub fn exchange(&self, request: &[u8], answers: usize) -> String {
        let mut client = self.connect();
        client.send(request);
        (0..answers).map(|_| client.answer()).collect()
    }

    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.join();
    }
}

/// The fake machine: says what was asked, and how many descriptors came along.
pub fn answer(request: Request) {
    let fds = request.fds.len();
    let reply = match &request.call {
        Call::VmmPing => Reply::json(&serde_json::json!({"version": "51.1.0"})),
        Call::VmInfo => Reply::json(&serde_json::json!({"name": "grün"})),
        Call::VmmShutdown => Ok(Reply::Empty200),
        Call::VmAddNet(_) => Reply::json(&serde_json::json!({"fds": fds})),
        Call::VmPause => Err(ApiError::new(ErrorKind::WrongState, "The VM is not running")),
        Call::VmResume => return, // dropped without an answer
        _ => Ok(Reply::Empty204),
    };
    request.answer(reply);
}

/// A client that knows nothing of HTTP but where an answer ends.
pub struct Client(pub UnixStream);

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server reads");
    }

    pub fn send_with_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.expect("the server reads"), bytes.len());
    }

    pub fn no_more(&self) {
        self.0.shutdown(Shutdown::Write).expect("the socket is open");
    }

    /// One whole answer, bytes as they came.
    pub fn answer(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(1) => bytes.push(byte[0]),
                other => panic!("{other:?} in the middle of a head: {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        let head = String::from_utf8(bytes.clone()).expect("heads are ASCII");
        let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.map_or(0, |length| length.parse().expect("a length is a number"));
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body as long as it says");
        head + &String::from_utf8(body).expect("bodies are ASCII")
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            // The server closed with bytes of ours unread; what it had said was delivered before.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server does not close: {error}"),
        }
        String::from_utf8(bytes).expect("answers are ASCII")
    }
}

/// Some descriptors to send.
pub fn pipes(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| rustix::pipe::pipe().expect("a pipe").0).collect()
}

pub fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(OwnedFd::as_fd).collect()
}
