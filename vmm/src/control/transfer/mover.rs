//! The mover as control sees it: started for one job, told what to do, listened to, ended with the job.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use granule_jail::{Child, Executable, SeccompMode, Spawn};
use granule_snapshot::memory::MemoryFiles;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::control::driver::Event;
use crate::wire::{Channel, ChannelError, Failure, FdSlot, FileSlots, FromMover, MoverOrder};

/// What a mover says: how far it has come where that is asked, and its last word.
#[derive(Debug)]
pub struct Moved {
    /// The id under which it was started.
    pub id: u32,
    /// What became of the job, or of a part of it.
    pub message: FromMover,
}

/// What a mover is started with.
#[derive(Debug)]
pub struct MoverStart<'a> {
    /// Our own binary.
    pub executable: &'a Executable,
    /// What seccomp does in it.
    pub seccomp: SeccompMode,
    /// What its last word is told under.
    pub id: u32,
    /// Where that goes.
    pub post: mpsc::UnboundedSender<Event>,
}

/// A mover at work. Dropping it ends it.
#[derive(Debug)]
pub struct Mover {
    /// The id under which it was started, or was given its last order.
    pub id: u32,
    /// What it has said that nobody waited for yet.
    pub result: Option<FromMover>,
    started: u32,
    channel: Arc<AsyncFd<Channel>>,
    child: Child,
    listener: tokio::task::JoinHandle<()>,
}

impl Mover {
    /// Starts it with its order. Descriptors in `fds` are those that the order numbers.
    pub fn start(start: MoverStart<'_>, order: &MoverOrder, fds: &[BorrowedFd<'_>]) -> Result<Self, Failure> {
        let MoverStart { executable, seccomp, id, post } = start;
        let (ours, theirs) = Channel::pair()?;
        let mut spawn = Spawn::new(executable, "granule-mover");
        let number = spawn.descriptor(theirs.as_fd()).to_string();
        spawn.argument("mover").argument("--fd").argument(number);
        spawn.argument("--seccomp").argument(seccomp.to_string());
        spawn.alone();
        let child = spawn.start()?;
        drop(theirs);
        ours.send(order, fds)?;
        let ours = ours.into_nonblocking()?;
        // SAFETY: the registration owns the channel, and `Channel` never changes its descriptor.
        let channel = Arc::new(unsafe { AsyncFd::register(ours)? });
        let listener = tokio::spawn(listen(Arc::clone(&channel), id, post));
        tracing::info!(pid = child.pid(), "mover started");
        Ok(Self { id, result: None, started: id, channel, child, listener })
    }

    /// Whether a word is this one's.
    pub fn said(&self, moved: &Moved) -> bool {
        self.started == moved.id
    }

    /// Gives it another order, whose answer is awaited as `id`.
    pub fn order(&mut self, id: u32, order: &MoverOrder) -> Result<(), Failure> {
        // One that has died has said so already, and that says more than a socket that is shut.
        if let Some(FromMover::Failed(failure)) = self.result.take() {
            return Err(failure);
        }
        self.channel.get_ref().send(order, &[])?;
        self.id = id;
        Ok(())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.listener.abort();
        // SIGKILL cannot be refused, so this takes no time worth the name.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::warn!(%error, "the mover could not be ended");
        }
    }
}

/// Passes on what it says, up to its last word.
async fn listen(channel: Arc<AsyncFd<Channel>>, id: u32, post: mpsc::UnboundedSender<Event>) {
    loop {
        let message = next_word(&channel).await;
        let more = matches!(
            message,
            FromMover::Copied { .. } | FromMover::Placed { .. } | FromMover::Progress { .. }
        );
        // The driver is gone only when everything ends.
        let _ = post.send(Event::Moved(Moved { id, message }));
        if !more {
            return;
        }
    }
}

async fn next_word(channel: &AsyncFd<Channel>) -> FromMover {
    match receive(channel).await {
        Ok(message) => message,
        Err(ChannelError::Closed) => FromMover::Failed(Failure::of("the process that moves memory died")),
        Err(error) => FromMover::Failed(error.into()),
    }
}

async fn receive(channel: &AsyncFd<Channel>) -> Result<FromMover, ChannelError> {
    loop {
        let mut ready = channel.readable().await.map_err(ChannelError::Io)?;
        match ready.get_inner().receive() {
            Ok(received) => return Ok(received.message),
            Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => return Err(error),
        }
    }
}

/// Adds the files of a snapshot to the descriptors of an order.
pub(super) fn files_of<'a>(files: &'a MemoryFiles<File>, fds: &mut Vec<BorrowedFd<'a>>) -> FileSlots {
    let mut add = |file: &'a File| {
        fds.push(file.as_fd());
        // The channel refuses more than 253.
        FdSlot(u8::try_from(fds.len() - 1).unwrap_or(u8::MAX))
    };
    FileSlots {
        memory: add(&files.memory),
        pages: add(&files.pages),
        tags: files.tags.as_ref().map(&mut add),
    }
}

/// The two ends of a socket between mover and machine; neither stays here.
pub fn between() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = Channel::pair()?;
    Ok((one.into(), other.into()))
}
