//! The machine's loop: commands in, replies and notices out.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use granule_jail::SeccompMode;

use super::guest::{Guest, Host, Restoring};
use super::mailbox::{Letter, Mailbox};
use super::signals::TerminationSignals;
use crate::wire::{
    BootSpec, Channel, ChannelError, Command, Envelope, Failure, FdSlot, FromMachine, GuestEnd, Notice,
    Outcome, Received, StartSpec,
};

const COMMAND: u32 = 1;
const LETTER: u32 = 2;
const SIGNAL: u32 = 3;
const ALARM: u32 = 4;

/// How the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `control` said so.
    Told(u8),
    /// `control` is gone, or speaks nonsense.
    ControlLost,
}

/// The machine's state: at most one guest, and the ways in and out.
#[derive(Debug)]
pub struct Machine {
    channel: Channel,
    mailbox: Mailbox,
    signals: TerminationSignals,
    seccomp: SeccompMode,
    host: Result<Host, Failure>,
    guest: Option<Guest>,
    restoring: Option<Restoring>,
    end: Option<End>,
}

impl Machine {
    /// A machine without a guest.
    pub fn new(
        channel: Channel,
        mailbox: Mailbox,
        signals: TerminationSignals,
        host: Result<Host, Failure>,
        seccomp: SeccompMode,
    ) -> Self {
        Self { channel, mailbox, signals, seccomp, host, guest: None, restoring: None, end: None }
    }

    /// Serves until it is told to end.
    pub fn serve(self) -> Result<End, event_manager::Error> {
        let mut manager = EventManager::<Self>::new()?;
        let id = manager.add_subscriber(self);
        loop {
            manager.run()?;
            let machine = manager.subscriber_mut(id)?;
            if let Some(end) = machine.end {
                // The guest's threads end here, the terminal is given back.
                machine.restoring = None;
                machine.guest = None;
                return Ok(end);
            }
        }
    }

    fn receive(&mut self) {
        let Received { message: Envelope { id, body }, fds } =
            match self.channel.receive::<Envelope<Command>>() {
                Ok(received) => received,
                Err(ChannelError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::error!(%error, "control is lost");
                    self.end = Some(End::ControlLost);
                    return;
                }
            };
        if let Command::Exit { code } = body {
            self.end = Some(End::Told(code));
            return;
        }
        let outcome = self.obey(body, Descriptors::new(fds));
        self.tell(&FromMachine::Reply(Envelope { id, body: outcome }));
    }

    /// Carries one command out. What it refuses leaves nothing behind.
    fn obey(&mut self, command: Command, mut fds: Descriptors) -> Result<Outcome, Failure> {
        match command {
            Command::Hello => {
                let report = self.host.as_ref().map(|host| host.report().clone()).map_err(Clone::clone)?;
                return Ok(Outcome::Host(Box::new(report)));
            }
            Command::Boot(spec) if matches!(spec.start, StartSpec::Snapshot { .. }) => {
                self.begin_restore(&spec, &mut fds)?;
            }
            Command::Finish => return self.finish_restore(),
            Command::Save { state, mover } => {
                let state = fds.take(state)?;
                let mover = mover.map(|mover| fds.take(mover)).transpose()?;
                self.guest()?.save(state, mover).map_err(|error| {
                    let blame = error.blame();
                    Failure::from(error).blamed(blame)
                })?;
            }
            Command::Track { mover } => {
                let mover = fds.take(mover)?;
                self.guest()?.track(mover).map_err(|error| {
                    let blame = error.blame();
                    Failure::from(error).blamed(blame)
                })?;
            }
            Command::CountExits => return Ok(Outcome::Exits(self.guest()?.exits())),
            Command::Harvest => self.guest()?.harvest()?,
            Command::Release => return Ok(Outcome::Released { paused_us: self.guest()?.release() }),
            Command::Boot(spec) => {
                let host = self.host.as_ref().map_err(Clone::clone)?;
                if self.guest.is_some() {
                    return Err(Failure::of("a guest is already built"));
                }
                let postman = self.mailbox.postman()?;
                let (guest, report) =
                    Guest::build(host, &spec, &mut fds, &postman, self.seccomp).map_err(|error| {
                        let blame = error.blame();
                        Failure::from(error).blamed(blame)
                    })?;
                self.guest = Some(guest);
                return Ok(Outcome::Booted(Box::new(report)));
            }
            Command::Stop => {
                self.restoring = None;
                self.guest = None;
                self.mailbox.alarms().forget_all();
            }
            Command::Exit { .. } => {}
            Command::Pause => self.guest()?.pause()?,
            Command::Resume => self.guest()?.resume(),
            Command::PowerButton => self.guest()?.press_power_button(),
            Command::AttachSerial { connection } => {
                let connection = fds.take(connection)?;
                self.guest()?.attach_serial(connection);
            }
            Command::BackendGone { id } => self.guest()?.backend_gone(&id)?,
            Command::ConfigChanged { id } => self.guest()?.config_changed(&id)?,
            Command::AddDevice(spec) => {
                let report = self.guest()?.add_device(&spec, &mut fds).map_err(|error| {
                    let blame = error.blame();
                    Failure::from(error).blamed(blame)
                })?;
                return Ok(Outcome::Added(Box::new(report)));
            }
            Command::RemoveDevice { id } => {
                let removed = self.guest()?.remove_device(&id).map_err(|error| {
                    let blame = error.blame();
                    Failure::from(error).blamed(blame)
                })?;
                self.tell_removed(removed);
            }
            Command::ReplaceBackend { id, socket } => {
                let socket = fds.take(socket)?;
                self.guest()?.replace_backend(&id, socket)?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Builds a saved guest, up to its memory.
    fn begin_restore(&mut self, spec: &BootSpec, fds: &mut Descriptors) -> Result<(), Failure> {
        let host = self.host.as_ref().map_err(Clone::clone)?;
        if self.guest.is_some() || self.restoring.is_some() {
            return Err(Failure::of("a guest is already built"));
        }
        let postman = self.mailbox.postman()?;
        let restoring = Guest::restore(host, spec, fds, &postman, self.seccomp).map_err(|error| {
            let blame = error.blame();
            Failure::from(error).blamed(blame)
        })?;
        self.restoring = Some(restoring);
        Ok(())
    }

    /// The rest of it.
    fn finish_restore(&mut self) -> Result<Outcome, Failure> {
        let restoring = self.restoring.take().ok_or_else(|| Failure::of("no guest is being restored"))?;
        let postman = self.mailbox.postman()?;
        let (guest, report) = restoring.finish(&postman, self.seccomp).map_err(|error| {
            let blame = error.blame();
            Failure::from(error).blamed(blame)
        })?;
        self.guest = Some(guest);
        Ok(Outcome::Booted(Box::new(report)))
    }

    fn guest(&mut self) -> Result<&mut Guest, Failure> {
        self.guest.as_mut().ok_or_else(|| Failure::of("no guest is built"))
    }

    fn read_letters(&mut self) {
        for letter in self.mailbox.empty() {
            match letter {
                Letter::Notice(notice) => self.forward(notice),
                Letter::Released { segment, home } => {
                    let removed = self.guest.as_mut().and_then(|guest| guest.take_out(segment, home));
                    self.tell_removed(removed);
                }
            }
        }
    }

    fn heed_alarms(&mut self) {
        for id in self.mailbox.alarms().raised() {
            if self.guest.as_ref().is_some_and(|guest| guest.queue_broken(&id)) {
                self.tell(&FromMachine::Notice(Notice::DeviceNeedsReset { id }));
            }
        }
    }

    fn forward(&mut self, notice: Notice) {
        if matches!(
            notice,
            Notice::GuestEnded(GuestEnd::PowerOff | GuestEnd::Reset) | Notice::VcpuFailed { .. }
        ) && let Some(guest) = &mut self.guest
        {
            guest.halt();
        }
        self.tell(&FromMachine::Notice(notice));
    }

    fn tell_removed(&mut self, id: Option<String>) {
        if let Some(id) = id {
            self.tell(&FromMachine::Notice(Notice::DeviceRemoved { id }));
        }
    }

    fn tell(&mut self, message: &FromMachine) {
        if let Err(error) = self.channel.send(message, &[]) {
            tracing::error!(%error, "control cannot be told");
            self.end = Some(End::ControlLost);
        }
    }
}

impl MutEventSubscriber for Machine {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        match events.data() {
            COMMAND => self.receive(),
            LETTER => self.read_letters(),
            ALARM => self.heed_alarms(),
            _ => {
                while let Some(signal) = self.signals.next() {
                    self.tell(&FromMachine::Notice(Notice::Terminate { signal }));
                }
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let sources = [
            (self.channel.as_fd().as_raw_fd(), COMMAND),
            (self.mailbox.as_raw_fd(), LETTER),
            (self.signals.as_raw_fd(), SIGNAL),
            (self.mailbox.alarms().as_raw_fd(), ALARM),
        ];
        for (fd, data) in sources {
            if let Err(error) = ops.add(Events::with_data_raw(fd, data, EventSet::IN)) {
                tracing::error!(?error, fd, "cannot watch a descriptor");
                self.end = Some(End::ControlLost);
            }
        }
    }
}

/// A message refers to a descriptor that did not come with it.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {0} did not come with the message")]
pub struct MissingDescriptor(u8);

/// The descriptors of one command, each taken at most once.
#[derive(Debug)]
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    /// The descriptor that a message refers to.
    pub fn take(&mut self, FdSlot(index): FdSlot) -> Result<OwnedFd, MissingDescriptor> {
        self.0.get_mut(usize::from(index)).and_then(Option::take).ok_or(MissingDescriptor(index))
    }
}
