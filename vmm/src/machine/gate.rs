//! The gate that every vCPU thread passes before it enters the guest.
//!
//! ```text
//!            open()                     a thread, between two entries
//!  Shut ◄────────────► Open             ┌──────────────────────────────┐
//!    │     shut()       │               │ pass() ─ Open ─► enter guest │
//!    └──── close() ─────┴──► Closed     │        ─ Shut ─► wait        │
//!                                       │        ─ Closed ─► end       │
//!                                       └──────────────────────────────┘
//! ```
//!
//! A snapshot needs proof that no vCPU runs: [`Gate::shut_and_wait`] answers only when every thread waits here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Open,
    Shut,
    Closed,
}

#[derive(Debug)]
struct State {
    position: Position,
    threads: usize,
    waiting: usize,
}

/// See the module's description.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A shut gate for this many threads.
    pub fn shut(threads: usize) -> Self {
        Self {
            state: Mutex::new(State { position: Position::Shut, threads, waiting: 0 }),
            changed: Condvar::new(),
        }
    }

    /// Waits while the gate is shut. Answers whether the thread may go on; if not, it has been counted out.
    pub fn pass(&self) -> bool {
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while state.position == Position::Shut {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        if state.position == Position::Closed {
            state.threads -= 1;
            self.changed.notify_all();
        }
        state.position == Position::Open
    }

    /// Lets the threads through.
    pub fn open(&self) {
        self.turn(Position::Open);
    }

    /// Shuts the gate without waiting for those who are in the guest.
    pub fn shut_now(&self) {
        self.turn(Position::Shut);
    }

    /// Ends every thread at its next pass.
    pub fn close(&self) {
        self.turn(Position::Closed);
    }

    /// Counts out threads that will never come, because they could not be started.
    pub fn forget(&self, threads: usize) {
        self.lock().threads -= threads;
        self.changed.notify_all();
    }

    /// Shuts the gate, calls everyone back with `kick`, and waits until all wait at the gate. Answers false when some
    /// thread has not come back within `patience`: it is held by something other than the guest.
    pub fn shut_and_wait(&self, kick: impl Fn(), patience: Duration) -> bool {
        self.shut_now();
        kick();
        self.wait_until(patience, |state| state.waiting == state.threads)
    }

    /// Closes the gate, calls everyone back, and waits until all have been counted out.
    pub fn close_and_wait(&self, kick: impl Fn(), patience: Duration) -> bool {
        self.close();
        kick();
        self.wait_until(patience, |state| state.threads == 0)
    }

    fn turn(&self, position: Position) {
        let mut state = self.lock();
        if state.position != Position::Closed {
            state.position = position;
        }
        self.changed.notify_all();
    }

    fn wait_until(&self, patience: Duration, reached: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !reached(&state) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder can panic between two writes of this state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Threads that spin in a "guest" until kicked.
    fn crew(
        gate: &Arc<Gate>,
        size: usize,
        kicked: &Arc<AtomicBool>,
        inside: &Arc<AtomicUsize>,
    ) -> Vec<std::thread::JoinHandle<()>> {
        (0..size)
            .map(|_| {
                let (gate, kicked, inside) = (gate.clone(), kicked.clone(), inside.clone());
                std::thread::spawn(move || {
                    while gate.pass() {
                        inside.fetch_add(1, Ordering::SeqCst);
                        while !kicked.load(Ordering::SeqCst) {
                            std::thread::yield_now();
                        }
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect()
    }

    #[test]
    fn a_shut_gate_means_that_nobody_is_inside() {
        let gate = Arc::new(Gate::shut(3));
        let kicked = Arc::new(AtomicBool::new(false));
        let inside = Arc::new(AtomicUsize::new(0));
        let threads = crew(&gate, 3, &kicked, &inside);
        for _ in 0..100 {
            kicked.store(false, Ordering::SeqCst);
            gate.open();
            while inside.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            assert!(gate.shut_and_wait(|| kicked.store(true, Ordering::SeqCst), PATIENCE));
            assert_eq!(inside.load(Ordering::SeqCst), 0);
        }
        assert!(gate.close_and_wait(|| {}, PATIENCE));
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_reported() {
        let gate = Arc::new(Gate::shut(1));
        let kicked = Arc::new(AtomicBool::new(false));
        let inside = Arc::new(AtomicUsize::new(0));
        let threads = crew(&gate, 1, &kicked, &inside);
        gate.open();
        while inside.load(Ordering::SeqCst) < 1 {
            std::thread::yield_now();
        }
        assert!(!gate.shut_and_wait(|| {}, Duration::from_millis(1)));
        kicked.store(true, Ordering::SeqCst);
        assert!(gate.close_and_wait(|| {}, PATIENCE));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_closed_gate_stays_closed() {
        let gate = Gate::shut(1);
        gate.close();
        gate.open();
        assert!(!gate.pass());
    }
}
