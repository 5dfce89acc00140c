//! The PL011 and the thread behind it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use granule_devices::pl011::Pl011;
use granule_devices::platform::IrqLine;
use granule_jail::{SeccompMode, ThreadKind};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use vmm_sys_util::eventfd::EventFd;

use crate::machine::serial::{self, Inlet, Outlet};

/// The guest's serial port with both its ends.
pub struct Console {
    /// What the bus decodes.
    pub uart: Arc<Mutex<Pl011>>,
    outlet: Option<Arc<Outlet>>,
    thread: Option<JoinHandle<()>>,
    terminal: Option<RawTerminal>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("outlet", &self.outlet).finish_non_exhaustive()
    }
}

/// The descriptors of a serial port on the host.
#[derive(Debug)]
pub struct Ends {
    /// From here to the guest.
    pub input: Option<OwnedFd>,
    /// From the guest to here; without one, output is dropped until a client attaches.
    pub output: Option<OwnedFd>,
    /// Switch the terminal behind `input` to raw mode.
    pub raw_terminal: bool,
}

impl Ends {
    /// Our own standard input and output. They were given to the process that was started, so they are not passed on.
    pub fn terminal() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self { input: Some(input), output: Some(output), raw_terminal: true })
    }
}

impl Console {
    /// A port whose output goes nowhere.
    pub fn null(irq: Arc<dyn IrqLine>) -> io::Result<Self> {
        let uart = Arc::new(Mutex::new(Pl011::new(irq, Box::new(io::sink()))?));
        Ok(Self { uart, outlet: None, thread: None, terminal: None })
    }

    /// A port on descriptors, with its thread.
    pub fn start(irq: Arc<dyn IrqLine>, ends: Ends, seccomp: SeccompMode) -> io::Result<Self> {
        let terminal = match &ends.input {
            Some(input) if ends.raw_terminal => RawTerminal::enter(input)?,
            _ => None,
        };
        let outlet = Outlet::new(ends.output, ends.input)?;
        let uart = Arc::new(Mutex::new(Pl011::new(irq, Box::new(Output(outlet.clone())))?));
        let thread = serial::start(outlet.clone(), Input::of(&uart)?, move || {
            if let Err(error) = granule_jail::enter_thread(ThreadKind::SerialWriter, seccomp) {
                eprintln!("granule: serial: {error}");
                std::process::abort();
            }
        })?;
        Ok(Self { uart, outlet: Some(outlet), thread: Some(thread), terminal })
    }

    /// Gives the port a new client.
    pub fn attach(&self, connection: OwnedFd) {
        if let Some(outlet) = &self.outlet {
            outlet.attach(connection);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(outlet) = &self.outlet {
            outlet.close();
        }
        if let Some(thread) = self.thread.take() {
            // Ends by itself once closed; a panic would have aborted the process.
            let _ = thread.join();
        }
        // Explicit, because it must come after the last output.
        self.terminal = None;
    }
}

/// The guest's side of the outlet.
struct Output(Arc<Outlet>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's side of the UART.
struct Input {
    uart: Arc<Mutex<Pl011>>,
    space_again: EventFd,
}

impl Input {
    fn of(uart: &Arc<Mutex<Pl011>>) -> io::Result<Arc<Self>> {
        let space_again = lock(uart).rx_event().try_clone()?;
        Ok(Arc::new(Self { uart: uart.clone(), space_again }))
    }
}

impl Inlet for Input {
    fn space(&self) -> usize {
        lock(&self.uart).rx_space()
    }

    fn space_again(&self) -> &EventFd {
        &self.space_again
    }

    fn feed(&self, bytes: &[u8]) {
        lock(&self.uart).receive(bytes);
    }
}

fn lock(uart: &Mutex<Pl011>) -> MutexGuard<'_, Pl011> {
    // A panic aborts the process, so no lock is ever found poisoned.
    uart.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A terminal in raw mode, as it was before once this goes.
#[derive(Debug)]
struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Switches to raw mode; nothing to do where `input` is no terminal.
    fn enter(input: &OwnedFd) -> io::Result<Option<Self>> {
        let terminal = input.as_fd().try_clone_to_owned()?;
        let Ok(before) = tcgetattr(&terminal) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Whoever took the terminal away has it in another state anyway.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
