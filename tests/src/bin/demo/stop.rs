//! Ctrl-C: the tour ends at the next wait, and takes its monitor and its folder with it.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    ASKED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM are noted rather than fatal; programs that are started get the default again.
pub fn listen() {
    let handler = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Whether the reader has had enough.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
