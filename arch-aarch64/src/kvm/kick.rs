//! Gets a vCPU thread out of the guest from another thread, without a lost wake-up.
//!
//! ```text
//!  requester: write the request ─► immediate_exit := 1 ─► signal the thread
//!  vCPU:      KVM_RUN returns EINTR ─► immediate_exit := 0 ─► read the request
//! ```
//!
//! The flag makes a `KVM_RUN` that has not begun yet return at once; the signal makes one return that has. Whichever
//! comes first, the request is seen. The handler of the signal does nothing: being interrupted is all that is wanted.
//!
//! A vCPU that waits for a page under userfaultfd does not come out before the page is there, whatever is done here
//! (docs/kernel-hazards.md).

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// The part of the shared page that is mapped: its first page, of whatever size.
const MAPPED: usize = 4096;
const _: () = assert!(offset_of!(kvm_run, immediate_exit) < MAPPED);

/// Interrupts one vCPU. Stays valid after the vCPU is gone: it owns a mapping of its own.
#[derive(Debug)]
pub struct Kick {
    page: NonNull<u8>,
    /// The thread that runs the vCPU, 0 where none does.
    thread: AtomicI32,
}

// SAFETY: the page is only accessed through an atomic, and unmapped only when the last owner drops it.
unsafe impl Send for Kick {}
// SAFETY: as above; all methods take atomics.
unsafe impl Sync for Kick {}

/// The signal that interrupts a vCPU thread.
#[must_use]
pub fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Installs the handler of [`kick_signal`], once per process and before the first vCPU runs. Without it the
/// signal would end the process.
///
/// # Errors
/// Where the kernel refuses, which it does not.
pub fn install_kick_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: an all-zero sigaction is a valid one: no flags, so system calls are interrupted and not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the handler does nothing, which is safe at any moment; the pointers are to a local and null.
    match unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Kick {
    pub(super) fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice; KVM maps its shared page at offset 0.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MAPPED,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { page, thread: AtomicI32::new(0) })
    }

    /// Makes the vCPU's current `KVM_RUN`, or else its next one, return [`super::Exit::Interrupted`].
    ///
    /// # Errors
    /// Where the signal cannot be sent.
    pub fn interrupt(&self) -> io::Result<()> {
        self.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread == 0 {
            return Ok(());
        }
        // SAFETY: a signal with a handler that does nothing, to a thread of this process.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
        match sent {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // It ended meanwhile; it has no need of an interruption any more.
                e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                e => Err(e),
            },
        }
    }

    /// Lets the vCPU run again. Called by its thread after [`super::Exit::Interrupted`] and *before* it reads what is
    /// requested, so that a later request is not lost.
    pub fn acknowledge(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// Makes the calling thread the one that runs this vCPU, until the guard is dropped.
    #[must_use]
    pub fn attach(&self) -> Attached<'_> {
        // SAFETY: takes nothing and cannot fail.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        // A thread id is a positive int.
        self.thread.store(thread as i32, Ordering::SeqCst);
        Attached { kick: self }
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in a page that is mapped as long as `self` lives; the kernel reads it as a single
        // byte, and KVM's own wrapper in this process writes it only through `set_kvm_immediate_exit`, which is not used.
        unsafe { AtomicU8::from_ptr(self.page.as_ptr().add(offset_of!(kvm_run, immediate_exit))) }
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `new` with this length and nothing refers to it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), MAPPED) };
    }
}

/// The calling thread runs a vCPU.
#[derive(Debug)]
pub struct Attached<'a> {
    kick: &'a Kick,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.kick.thread.store(0, Ordering::SeqCst);
    }
}
