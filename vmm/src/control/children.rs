//! The device processes: spawned here, watched through their pidfds, reaped here.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use granule_jail::{Child, Executable, SeccompMode, Spawn};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::devices::{Argument, Recipe};
use super::driver::Event;
use super::orders::Orders;
use super::outside::Outsiders;

/// The flag by which a device process is given `/dev/userfaultfd`.
pub const USERFAULT_FD: &str = "--userfault-fd";
/// The flag by which it is given the way to the mover.
pub const MOVER_FD: &str = "--mover-fd";

/// Why a device process did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the device process of {id:?}")]
pub struct SpawnError {
    id: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// A device process ended.
#[derive(Debug)]
pub struct Death {
    /// The device it served.
    pub id: String,
    /// Which of the processes that served it, counted from 1.
    pub generation: u32,
    /// How it ended, for the log and the event.
    pub how: String,
}

/// The device processes of one machine.
#[derive(Debug)]
pub struct Children {
    executable: Executable,
    seccomp: SeccompMode,
    post: mpsc::UnboundedSender<Event>,
    alive: HashMap<String, Running>,
    leaving: Vec<Running>,
    outsiders: Outsiders,
}

#[derive(Debug)]
struct Running {
    recipe: Recipe,
    generation: u32,
    child: Arc<Child>,
    watcher: tokio::task::JoinHandle<()>,
    orders: Orders,
}

impl Children {
    /// Nobody yet. Deaths are told through `post`.
    pub fn new(seccomp: SeccompMode, post: mpsc::UnboundedSender<Event>) -> io::Result<Self> {
        Ok(Self {
            executable: Executable::own()?,
            seccomp,
            outsiders: Outsiders::new(post.clone()),
            post,
            alive: HashMap::new(),
            leaving: Vec::new(),
        })
    }

    /// Starts the process that serves `recipe`; answers the front end's end of its socket.
    pub fn start(&mut self, recipe: Recipe) -> Result<OwnedFd, SpawnError> {
        let generation = 1;
        self.launch(recipe, generation)
    }

    /// Starts a successor for a process that died.
    pub fn restart(&mut self, id: &str) -> Option<Result<OwnedFd, SpawnError>> {
        let old = self.alive.remove(id)?;
        Some(self.launch(old.recipe, old.generation + 1))
    }

    /// The devices that other programs serve.
    pub fn outsiders(&mut self) -> &mut Outsiders {
        &mut self.outsiders
    }

    /// Ends the process that serves `id`, or the connection with the program that does; its death is told like any other.
    pub fn kill(&self, id: &str) {
        self.outsiders.hang_up(id);
        if let Some(Err(error)) = self.alive.get(id).map(|running| running.child.kill()) {
            tracing::warn!(id, %error, "a device process could not be ended");
        }
    }

    /// Ends the process that serves `id` and waits for it, as [`Self::end_all`] does, or lets go of the program that does;
    /// nobody is told of its death.
    pub fn end(&mut self, id: &str) {
        self.outsiders.forget(id);
        if let Some(running) = self.alive.remove(id) {
            end(running);
        }
    }

    /// Has a successor of the process that serves `id` be started with another value behind `flag`.
    pub fn amend(&mut self, id: &str, flag: &str, value: String) {
        let Some(running) = self.alive.get_mut(id) else { return };
        let arguments = &mut running.recipe.arguments;
        let flag =
            arguments.iter().position(|argument| matches!(argument, Argument::Text(text) if text == flag));
        if let Some(place) = flag.and_then(|flag| arguments.get_mut(flag + 1)) {
            *place = Argument::Text(value);
        }
    }

    /// All of guest memory is there: successors need not announce what they map.
    pub fn memory_is_there(&mut self) {
        let late = |each: &Argument| matches!(each, Argument::Fd(USERFAULT_FD | MOVER_FD, _));
        for running in self.alive.values_mut() {
            running.recipe.arguments.retain(|argument| !late(argument));
        }
    }

    /// The way to give orders to the process that serves `id`.
    pub fn orders(&self, id: &str) -> Option<Orders> {
        self.alive.get(id).map(|running| running.orders.clone())
    }

    /// The way to every process.
    pub fn all_orders(&self) -> Vec<(String, Orders)> {
        self.alive.iter().map(|(id, running)| (id.clone(), running.orders.clone())).collect()
    }

    /// Why processes could not begin, of those that have said so.
    pub fn last_words(&self) -> Vec<String> {
        self.alive.values().flat_map(|running| running.orders.last_words()).take(16).collect()
    }

    /// Our own binary, for what is started beside them.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// What seccomp does in them with a call that is not on the list.
    pub fn seccomp(&self) -> SeccompMode {
        self.seccomp
    }

    /// The processes and what they serve.
    pub fn pids(&self) -> impl Iterator<Item = (&str, u32)> {
        self.alive.iter().map(|(id, running)| (id.as_str(), running.child.pid()))
    }

    /// The number of the process that now serves `id`.
    pub fn generation(&self, id: &str) -> Option<u32> {
        self.alive.get(id).map(|running| running.generation)
    }

    /// From now on an end is expected: the machine is about to let go of its devices, which then end by themselves.
    pub fn expect_end(&mut self) {
        self.leaving.extend(self.alive.drain().map(|(_, running)| running));
    }

    /// Ends all of them and waits for each: SIGKILL cannot be refused, so this takes no time worth the name.
    pub fn end_all(&mut self) {
        self.expect_end();
        self.outsiders.forget_all();
        self.leaving.drain(..).for_each(end);
    }

    fn launch(&mut self, recipe: Recipe, generation: u32) -> Result<OwnedFd, SpawnError> {
        let id = recipe.id.clone();
        let failed = |source: io::Error| SpawnError { id: id.clone(), source: source.into() };
        let (front, back) = UnixStream::pair().map_err(failed)?;
        let (orders, theirs) = Orders::pair().map_err(failed)?;
        let mut spawn = Spawn::new(&self.executable, &format!("granule-{}", recipe.kind.name()));
        let numbers = [back.as_fd(), theirs.as_fd()].map(|fd| spawn.descriptor(fd).to_string());
        let seccomp = self.seccomp.to_string();
        let [socket, theirs_number] = &numbers;
        let common = ["--fd", socket, "--orders-fd", theirs_number, "--seccomp", &seccomp];
        for argument in ["device", recipe.kind.name()].into_iter().chain(common) {
            spawn.argument(argument);
        }
        for argument in &recipe.arguments {
            match argument {
                Argument::Text(text) => {
                    spawn.argument(text);
                }
                Argument::Fd(flag, fd) => {
                    let number = spawn.descriptor(fd.as_fd()).to_string();
                    spawn.argument(flag).argument(number);
                }
                Argument::Kept(_) => {}
            }
        }
        spawn.alone();
        let child = spawn.start().map_err(|source| SpawnError { id: id.clone(), source: source.into() })?;
        let child = Arc::new(child);
        let watcher = tokio::spawn(watch(child.clone(), id.clone(), generation, self.post.clone()));
        tracing::info!(id, pid = child.pid(), generation, "device process started");
        self.alive.insert(id, Running { recipe, generation, child, watcher, orders });
        Ok(front.into())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Ends a process and reaps it.
fn end(Running { child, watcher, recipe, .. }: Running) {
    watcher.abort();
    match child.kill().and_then(|()| child.wait()) {
        Ok(_) => {}
        // The watcher was faster.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {}
        Err(error) => tracing::warn!(id = recipe.id, %error, "a device process could not be ended"),
    }
}

/// Waits for a process's end, reaps it and tells the driver.
async fn watch(child: Arc<Child>, id: String, generation: u32, post: mpsc::UnboundedSender<Event>) {
    let how = match wait(&child).await {
        Ok(how) => how,
        Err(error) => format!("cannot be waited for: {error}"),
    };
    // The driver is gone only when everything ends.
    let _ = post.send(Event::Death(Death { id, generation, how }));
}

async fn wait(child: &Child) -> io::Result<String> {
    let pidfd = child.as_fd().try_clone_to_owned()?;
    // SAFETY: the registration owns this descriptor and gives it to nobody, so it stays the same file until it is dropped.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
    let _ = pidfd.readable().await?;
    Ok(child.wait()?.to_string())
}
