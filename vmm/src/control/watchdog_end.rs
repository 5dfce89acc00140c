//! Our end of the watchdog: hears it bite, and tells it when the machine stands still.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::driver::Event;

/// The one name that it has.
pub const ID: &str = "__watchdog";

/// Waits for a bite; dropped, it hears no more.
#[derive(Debug)]
pub struct WatchdogEnd(JoinHandle<()>);

impl Drop for WatchdogEnd {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes the eventfd that the process signals, and listens at it on behalf of the guest of that number.
pub fn open(guest: u64, post: &mpsc::UnboundedSender<Event>) -> io::Result<(OwnedFd, WatchdogEnd)> {
    let bite = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    // SAFETY: the registration owns this descriptor and gives it to nobody, so it stays the same file until it is dropped.
    let heard = unsafe { AsyncFd::register_with_interest(bite.try_clone()?, Interest::READABLE)? };
    let post = post.clone();
    let task = tokio::spawn(async move {
        if heard.readable().await.is_ok() {
            // The driver is gone only when everything ends.
            let _ = post.send(Event::WatchdogBite { guest });
        }
    });
    Ok((bite, WatchdogEnd(task)))
}
