//! The thread that carries the PL011's bytes between the guest and a descriptor.
//!
//! ```text
//!  vCPU ── push ──► Outlet (bounded) ──► serial thread ──► file, terminal, socket
//!                                        serial thread ◄── input, only while the UART's FIFO has room
//! ```
//!
//! No vCPU ever waits for a reader: what does not fit the outlet is dropped and counted. The descriptor's own flags
//! stay as they are (it may be the terminal of the shell that started us), so the thread polls before it writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

/// Bytes that wait for a slow reader: several screens, and a whole boot log.
const CAPACITY: usize = 256 * 1024;

/// Largest single write. A pipe that polls writable takes this many bytes without blocking (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// How long a closing thread waits for a reader that does not read.
const CLOSING_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Where guest input goes: the UART's receive side.
pub trait Inlet: Send + Sync {
    /// How many bytes it takes now.
    fn space(&self) -> usize;
    /// Readable when there is space again after there was none.
    fn space_again(&self) -> &EventFd;
    /// Takes bytes, at most [`Inlet::space`] of them.
    fn feed(&self, bytes: &[u8]);
}

/// The bounded queue between the guest and the serial thread.
#[derive(Debug)]
pub struct Outlet {
    state: Mutex<State>,
    wake: EventFd,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    dropped: u64,
    keep_without_reader: bool,
    output: Option<Arc<File>>,
    input: Option<Arc<File>>,
    asleep: bool,
    closing: bool,
}

impl Outlet {
    /// A queue towards `output`; without one, bytes are dropped until [`Outlet::attach`].
    pub fn new(output: Option<OwnedFd>, input: Option<OwnedFd>) -> io::Result<Arc<Self>> {
        let state = State {
            bytes: VecDeque::new(),
            dropped: 0,
            keep_without_reader: output.is_some(),
            output: output.map(|fd| Arc::new(File::from(fd))),
            input: input.map(|fd| Arc::new(File::from(fd))),
            asleep: false,
            closing: false,
        };
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        }))
    }

    /// Queues bytes from the guest; never waits.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.output.is_none() && !state.keep_without_reader {
            state.dropped += bytes.len() as u64;
            return;
        }
        let room = CAPACITY - state.bytes.len();
        let taken = bytes.len().min(room);
        state.bytes.extend(&bytes[..taken]);
        state.dropped += (bytes.len() - taken) as u64;
        self.wake_if_asleep(state);
    }

    /// Makes a newly connected client both reader and writer; the one before is hung up on.
    pub fn attach(&self, connection: OwnedFd) {
        let file = Arc::new(File::from(connection));
        let mut state = self.lock();
        state.output = Some(file.clone());
        state.input = Some(file);
        state.bytes.clear();
        self.wake_if_asleep(state);
    }

    /// Ends the thread after what is queued has been offered once to the reader.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.wake_if_asleep(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking holder aborts the process, so a poisoned lock is never seen; its data would be whole anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_if_asleep(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            // The counter cannot overflow: it is only raised by whoever finds the thread asleep.
            let _ = self.wake.write(1);
        }
    }
}

/// Starts the thread. `on_start` runs in it first (its jail).
pub fn start(
    outlet: Arc<Outlet>,
    inlet: Arc<dyn Inlet>,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("serial".into()).stack_size(64 * 1024).spawn(move || {
        on_start();
        while turn(&outlet, &*inlet) {}
    })
}

/// One round: wait until something can move, move it. Answers false when it is time to end.
fn turn(outlet: &Outlet, inlet: &dyn Inlet) -> bool {
    let (output, input, pending, closing) = {
        let mut state = outlet.lock();
        state.asleep = true;
        let pending = !state.bytes.is_empty();
        (state.output.clone().filter(|_| pending), state.input.clone(), pending, state.closing)
    };
    // Rung anew when the guest makes room; the look at the space comes after, so that no ring is missed.
    let _ = inlet.space_again().read();
    let input = input.filter(|_| inlet.space() > 0);
    if closing && (!pending || output.is_none()) {
        return false;
    }
    let (writable, readable) = wait(outlet, inlet, output.as_deref(), input.as_deref(), closing);
    outlet.lock().asleep = false;
    // EAGAIN only says that nobody had woken us.
    let _ = outlet.wake.read();
    if closing && !writable {
        return false;
    }
    if let Some(output) = output.filter(|_| writable) {
        write_some(outlet, &output);
    }
    if let Some(input) = input.filter(|_| readable) {
        read_some(outlet, inlet, &input);
    }
    true
}

/// Polls; answers whether output is writable and input readable. When closing it does not wait for a slow reader.
fn wait(
    outlet: &Outlet,
    inlet: &dyn Inlet,
    output: Option<&File>,
    input: Option<&File>,
    closing: bool,
) -> (bool, bool) {
    // SAFETY: the eventfds are owned by `outlet` and `inlet`, which outlive these borrows.
    let (wake, space) = unsafe {
        (
            BorrowedFd::borrow_raw(outlet.wake.as_raw_fd()),
            BorrowedFd::borrow_raw(inlet.space_again().as_raw_fd()),
        )
    };
    // Without output the second slot asks for nothing; without room for input the third waits for room.
    let mut fds = [
        PollFd::from_borrowed_fd(wake, PollFlags::IN),
        PollFd::from_borrowed_fd(
            output.map_or(wake, AsFd::as_fd),
            output.map_or(PollFlags::empty(), |_| PollFlags::OUT),
        ),
        PollFd::from_borrowed_fd(input.map_or(space, AsFd::as_fd), PollFlags::IN),
    ];
    let limit = closing.then_some(&CLOSING_PATIENCE);
    if poll(&mut fds, limit).is_err() {
        return (false, false);
    }
    (!fds[1].revents().is_empty(), input.is_some() && !fds[2].revents().is_empty())
}

/// Writes at most one chunk; a reader that has gone is forgotten.
fn write_some(outlet: &Outlet, output: &Arc<File>) {
    let chunk: Vec<u8> = {
        let state = outlet.lock();
        state.bytes.iter().copied().take(CHUNK).collect()
    };
    let written = match (&**output).write(&chunk) {
        Ok(written) => written,
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => 0,
        Err(_) => {
            let mut state = outlet.lock();
            // The guest runs on without its console; a full disk or a closed pipe is not its fault.
            state.dropped += state.bytes.len() as u64;
            state.bytes.clear();
            state.keep_without_reader = false;
            if state.output.as_ref().is_some_and(|now| Arc::ptr_eq(now, output)) {
                state.output = None;
            }
            return;
        }
    };
    let mut state = outlet.lock();
    let drained = written.min(state.bytes.len());
    state.bytes.drain(..drained);
}

/// Reads what the UART has room for; end of input is forgotten, not spun on.
fn read_some(outlet: &Outlet, inlet: &dyn Inlet, input: &Arc<File>) {
    let mut buffer = [0u8; 64];
    let room = inlet.space().min(buffer.len());
    if room == 0 {
        return;
    }
    match (&**input).read(&mut buffer[..room]) {
        Ok(count) if count > 0 => inlet.feed(&buffer[..count]),
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
        Ok(_) | Err(_) => {
            let mut state = outlet.lock();
            if state.input.as_ref().is_some_and(|now| Arc::ptr_eq(now, input)) {
                state.input = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    struct Fifo {
        bytes: Mutex<Vec<u8>>,
        size: usize,
        again: EventFd,
    }

    impl Fifo {
        fn new(size: usize) -> Arc<Self> {
            Arc::new(Self { bytes: Mutex::default(), size, again: EventFd::new(libc::EFD_NONBLOCK).unwrap() })
        }

        /// Waits until it is full, then empties it, as a guest would.
        fn take_full(&self) -> Vec<u8> {
            while self.bytes.lock().unwrap().len() < self.size {
                std::thread::yield_now();
            }
            let taken = std::mem::take(&mut *self.bytes.lock().unwrap());
            self.again.write(1).unwrap();
            taken
        }
    }

    impl Inlet for Fifo {
        fn space(&self) -> usize {
            self.size - self.bytes.lock().unwrap().len()
        }
        fn space_again(&self) -> &EventFd {
            &self.again
        }
        fn feed(&self, bytes: &[u8]) {
            self.bytes.lock().unwrap().extend_from_slice(bytes);
        }
    }

    #[test]
    fn bytes_reach_the_reader_and_closing_flushes() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::new(Some(theirs.into()), None).unwrap();
        let thread = start(outlet.clone(), Fifo::new(16), || {}).unwrap();
        for _ in 0..1000 {
            outlet.push(b"0123456789");
        }
        outlet.close();
        drop(outlet);
        thread.join().unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), 10_000);
    }

    #[test]
    fn a_stalled_reader_costs_bytes_and_never_time_or_memory() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::new(Some(theirs.into()), None).unwrap();
        let thread = start(outlet.clone(), Fifo::new(16), || {}).unwrap();
        for _ in 0..200_000 {
            outlet.push(b"0123456789");
        }
        assert!(outlet.lock().bytes.len() <= CAPACITY);
        assert!(outlet.lock().dropped > 0);
        outlet.close();
        thread.join().unwrap();
    }

    #[test]
    fn input_is_taken_only_while_the_uart_has_room() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::new(None, None).unwrap();
        let fifo = Fifo::new(4);
        let thread = start(outlet.clone(), fifo.clone(), || {}).unwrap();
        outlet.attach(theirs.into());
        ours.write_all(b"abcdefgh").unwrap();
        assert_eq!(fifo.take_full(), b"abcd");
        assert_eq!(fifo.take_full(), b"efgh");
        outlet.close();
        thread.join().unwrap();
    }
}
