//! Telling the guest that its connections are no more (virtio 1.2, §5.10.6.7), and waiting until it has heard.
//!
//! ```text
//!   nothing owed ── guest of another process ──► owed ── a buffer for the event ──► told ── the driver gives another ──► heard
//!                                                  └───────────── PATIENCE ──────────┴──► packets pass all the same
//! ```
//! Whatever the guest has connected when it hears the event is ended by its driver without a word to the host: Linux does
//! so with connections that were made a moment before. Such a client would have its `OK`, and wait for ever. So
//! packets rest until the driver has taken the event, which is seen by the buffer that it gives for the next.

use std::time::{Duration, Instant};

/// How long packets rest for a driver that does not give a buffer again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the event queue is looked at: drivers give the buffer back without a kick, as the queue holds others.
const PACE: Duration = Duration::from_millis(2);

/// How far the guest has been told.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// It believes in nothing that is not there.
    #[default]
    Clear,
    /// It has yet to be told.
    Owed,
    /// It was told; its available index was this then, and is to be looked at next at that time.
    Told(u16, Instant),
}

/// The event for one guest.
#[derive(Debug, Default)]
pub(super) struct Reset {
    stage: Stage,
    /// When packets pass whether the guest has heard or not: the time begins with the first that rests, or the event.
    until: Option<Instant>,
    /// That time is up.
    impatient: bool,
}

impl Reset {
    /// The guest has connections that this process knows nothing of.
    pub fn owe(&mut self) {
        *self = Self { stage: Stage::Owed, ..Self::default() };
    }

    /// The guest has heard, or its driver has begun anew and knows of no connection.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the guest is yet to be told.
    pub fn is_owed(&self) -> bool {
        matches!(self.stage, Stage::Owed)
    }

    /// Whether the driver is yet to give another buffer.
    pub fn is_told(&self) -> bool {
        matches!(self.stage, Stage::Told(..))
    }

    /// The guest has been given the event; its driver's available index is this.
    pub fn tell(&mut self, available: u16) {
        let now = Instant::now();
        self.until.get_or_insert(now + PATIENCE);
        self.stage = Stage::Told(available, now + PACE);
    }

    /// The driver's available index is this by now.
    pub fn look(&mut self, available: u16) {
        match &mut self.stage {
            Stage::Told(then, next) if *then == available => *next = Instant::now() + PACE,
            Stage::Told(..) => self.clear(),
            Stage::Clear | Stage::Owed => {}
        }
    }

    /// Whether packets rest.
    pub fn holds(&self) -> bool {
        !self.impatient && !matches!(self.stage, Stage::Clear)
    }

    /// There may be packets that rest now.
    pub fn hold(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Told(_, next) => Some(next),
            _ => self.until.filter(|_| !self.impatient),
        }
    }

    /// Has nothing rest any longer if its time is up at `now`; what is owed will be told when there is a buffer.
    pub fn expire(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            match self.stage {
                Stage::Owed => self.impatient = true,
                _ => self.clear(),
            }
        }
    }
}
