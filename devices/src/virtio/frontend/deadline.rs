//! Deadlines for conversations over sockets.
//!
//! A thread of its own shuts a socket down when its time is over, and whoever is blocked in it finds it closed. A
//! receive time-out on the socket would not do: the `vhost` crate waits again after each, and a peer that sends a
//! byte now and then would never run into one.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Bytes of stack of the thread, which does next to nothing but may enter a jail first.
const STACK: usize = 64 << 10;

struct Entry {
    id: u64,
    when: Instant,
    socket: Arc<UnixStream>,
    expired: bool,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    next_id: u64,
    /// When the thread wakes up by itself.
    wakes: Option<Instant>,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread that keeps the time; one serves any number of sockets, and ends when this is dropped.
pub struct Deadlines(Arc<Shared>);

impl Deadlines {
    /// Starts the thread, named `deadline`; `prepare` runs on it first, which is where it enters its jail.
    ///
    /// Thereafter it uses `futex` and `shutdown` and no other system call.
    pub fn start(prepare: impl FnOnce() + Send + 'static) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("deadline".to_owned()).stack_size(STACK).spawn(move || {
            prepare();
            keep_time(&theirs);
        })?;
        Ok(Arc::new(Self(shared)))
    }

    /// Shuts `socket` down after `limit`, unless the returned guard is dropped before.
    pub fn arm(&self, socket: &Arc<UnixStream>, limit: Duration) -> Armed<'_> {
        let when = Instant::now() + limit;
        let mut state = lock(&self.0.state);
        let id = state.next_id;
        state.next_id += 1;
        state.entries.push(Entry { id, when, socket: Arc::clone(socket), expired: false });
        // Most deadlines are later than the last one, and the thread finds them when it wakes up for that.
        if state.wakes.is_none_or(|wakes| when < wakes) {
            self.0.changed.notify_one();
        }
        Armed { deadlines: self, id }
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        lock(&self.0.state).closing = true;
        self.0.changed.notify_one();
    }
}

/// A deadline that is running; dropping it calls it off.
pub struct Armed<'a> {
    deadlines: &'a Deadlines,
    id: u64,
}

impl Armed<'_> {
    /// Whether the time is over, and the socket with it.
    pub fn expired(&self) -> bool {
        let state = lock(&self.deadlines.0.state);
        state.entries.iter().any(|entry| entry.id == self.id && entry.expired)
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        lock(&self.deadlines.0.state).entries.retain(|entry| entry.id != self.id);
    }
}

fn keep_time(shared: &Shared) {
    let mut state = lock(&shared.state);
    while !state.closing {
        let now = Instant::now();
        for entry in state.entries.iter_mut().filter(|entry| entry.when <= now && !entry.expired) {
            entry.expired = true;
            // The only error is that the other side was faster.
            let _ = entry.socket.shutdown(Shutdown::Both);
        }
        state.wakes = state.entries.iter().filter(|entry| !entry.expired).map(|entry| entry.when).min();
        state = match state.wakes {
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(wakes) => {
                let wait = wakes.saturating_duration_since(now);
                shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
