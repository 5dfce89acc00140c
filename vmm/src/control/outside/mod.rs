//! Devices that other programs serve: we connect to their vhost-user sockets, and notice when they hang up.
//!
//! ```text
//!           boot: connect, within LIMIT
//!  (socket) ───────────────────────────► connected ── hangs up ──► sought ── comes back ──► connected
//!                                                                   │ GRACE
//!                                                                   └─► the guest is told (DEVICE_NEEDS_RESET),
//!                                                                       and the program is sought on
//! ```
//! Such a program is not ours: it is in no jail of ours, it is not ended by us, and it has guest memory mapped for as long
//! as it likes. All that is asked of it comes with a time limit, and nothing here waits for it but tasks of their own.

mod connect;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::children::Death;
use super::driver::Event;

pub use connect::{ConnectError, Connections, Target, connect_all};

/// How long a program that has hung up may stay away before the guest is told.
const GRACE: Duration = Duration::from_secs(3);
/// Between two attempts to find it; longer with each time that it was found and hung up again.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What has become of a program that had hung up.
#[derive(Debug)]
pub enum Sought {
    /// It is there again.
    Back {
        /// The device that it serves.
        id: String,
        /// How often it had been connected to when it hung up.
        generation: u32,
        /// The new connection.
        socket: OwnedFd,
    },
    /// It stays away.
    Away {
        /// The device that it serves.
        id: String,
        /// As above.
        generation: u32,
    },
}

/// The programs that serve devices of one machine.
#[derive(Debug)]
pub struct Outsiders {
    post: mpsc::UnboundedSender<Event>,
    known: HashMap<String, Outsider>,
}

#[derive(Debug)]
struct Outsider {
    target: Target,
    generation: u32,
    /// The connection that `machine` uses.
    socket: Option<OwnedFd>,
    /// Waits for its end, or for the program to come back.
    task: JoinHandle<()>,
}

impl Drop for Outsider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outsiders {
    /// Nobody yet. What happens is told through `post`.
    pub fn new(post: mpsc::UnboundedSender<Event>) -> Self {
        Self { post, known: HashMap::new() }
    }

    /// Keeps an eye on a new connection; answers the end for `machine`.
    pub fn take_up(&mut self, id: &str, target: Target, socket: OwnedFd) -> std::io::Result<OwnedFd> {
        let generation = self.generation(id).unwrap_or(0) + 1;
        let (ours, watched) = (socket.try_clone()?, socket.try_clone()?);
        let task = tokio::spawn(watch(watched, id.to_owned(), generation, self.post.clone()));
        tracing::info!(id, path = ?target.path, generation, "connected to the program that serves the device");
        self.known.insert(id.to_owned(), Outsider { target, generation, socket: Some(ours), task });
        Ok(socket)
    }

    /// Takes up a program that has come back; `None` if nobody waits for it any more.
    pub fn take_back(&mut self, id: &str, socket: OwnedFd) -> Option<std::io::Result<OwnedFd>> {
        let target = self.known.get(id)?.target.clone();
        Some(self.take_up(id, target, socket))
    }

    /// Ends the connection with a program that breaks the protocol; its end is told like any other.
    pub fn hang_up(&self, id: &str) {
        let socket = self.known.get(id).and_then(|outsider| outsider.socket.as_ref());
        if let Some(Err(error)) = socket.map(|socket| rustix::net::shutdown(socket, Shutdown::Both)) {
            tracing::debug!(id, %error, "the program was faster");
        }
    }

    /// How often the program that serves `id` has been connected to.
    pub fn generation(&self, id: &str) -> Option<u32> {
        self.known.get(id).map(|outsider| outsider.generation)
    }

    /// Looks for the program that served `id` and has hung up.
    pub fn seek(&mut self, id: &str) {
        if let Some(outsider) = self.known.get_mut(id) {
            outsider.socket = None;
            let (target, generation) = (outsider.target.clone(), outsider.generation);
            outsider.task = tokio::spawn(seek(target, id.to_owned(), generation, self.post.clone()));
        }
    }

    /// Lets go of the program that serves `id`.
    pub fn forget(&mut self, id: &str) {
        self.hang_up(id);
        self.known.remove(id);
    }

    /// Lets go of all of them.
    pub fn forget_all(&mut self) {
        let ids: Vec<String> = self.known.keys().cloned().collect();
        ids.iter().for_each(|id| self.hang_up(id));
        self.known.clear();
    }
}

/// Waits for the other side to hang up, and tells the driver.
async fn watch(socket: OwnedFd, id: String, generation: u32, post: mpsc::UnboundedSender<Event>) {
    let how = match hung_up(socket).await {
        Ok(()) => "it has hung up".to_owned(),
        Err(error) => format!("its socket cannot be watched: {error}"),
    };
    // The driver is gone only when everything ends.
    let _ = post.send(Event::Death(Death { id, generation, how }));
}

async fn hung_up(socket: OwnedFd) -> std::io::Result<()> {
    // Nobody sends urgent bytes over a Unix socket, and what else there is to read is for `machine`: but for the end of
    // the stream, which is always told, this waits for nothing.
    // SAFETY: the registration owns this descriptor and gives it to nobody, so it stays the same file until it is dropped.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::PRIORITY)? };
    loop {
        let mut ready = socket.ready(Interest::PRIORITY).await?;
        if ready.ready().is_read_closed() || ready.ready().is_error() {
            return Ok(());
        }
        ready.clear_ready();
    }
}

/// Looks for a program until it is there, and tells the driver of it, and before that of a long absence.
async fn seek(target: Target, id: String, generation: u32, post: mpsc::UnboundedSender<Event>) {
    let since = tokio::time::Instant::now();
    let pause = PAUSE.saturating_mul(generation).min(LONGEST_PAUSE);
    let mut told = false;
    loop {
        tokio::time::sleep(pause).await;
        if let Ok(socket) = connect::attempt(&target) {
            let _ = post.send(Event::Sought(Sought::Back { id, generation, socket }));
            return;
        }
        if !told && since.elapsed() >= GRACE {
            told = true;
            let _ = post.send(Event::Sought(Sought::Away { id: id.clone(), generation }));
        }
    }
}

impl Drop for Outsiders {
    fn drop(&mut self) {
        self.forget_all();
    }
}
