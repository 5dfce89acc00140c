//! When pages come for which nobody waits.
//!
//! A guest that begins to run waits for one page after the other, and each turn of the mover's that is not for it makes it
//! wait longer. So for a while after each wait nothing else is done; but not for ever, since a guest may always wait for
//! something, and memory must become complete.

use std::time::{Duration, Instant};

/// At the beginning: the machine has yet to be put together, and the guest to take its first steps.
const BEGINNING: Duration = Duration::from_millis(100);
/// After somebody has waited.
const QUIET: Duration = Duration::from_millis(2);
/// However often somebody waits.
const MOST: Duration = Duration::from_millis(10);

/// Turns of work in the background, once it has been put off for as long as it may be.
const OVERDUE_TURNS: usize = 16;

/// See the module's description.
pub struct Calm {
    quiet_until: Instant,
    due: Instant,
}

impl Calm {
    /// Nothing has been done yet.
    pub fn new(now: Instant) -> Self {
        Self { quiet_until: now + BEGINNING, due: now + 2 * BEGINNING }
    }

    /// How long to wait whether somebody waits, before work in the background.
    pub fn wait(&self, now: Instant) -> Duration {
        self.quiet_until.min(self.due).saturating_duration_since(now)
    }

    /// Somebody has waited.
    pub fn disturbed(&mut self, now: Instant) {
        self.quiet_until = self.quiet_until.max(now + QUIET);
    }

    /// How many turns of background work to do now.
    pub fn turns(&self, now: Instant) -> usize {
        if now < self.quiet_until.min(self.due) {
            0
        } else if now < self.quiet_until {
            OVERDUE_TURNS
        } else {
            1
        }
    }

    /// They are done.
    pub fn worked(&mut self, now: Instant) {
        self.due = self.due.max(now + MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_puts_the_background_off_but_not_for_ever() {
        let begin = Instant::now();
        let mut calm = Calm::new(begin);
        assert_eq!((calm.turns(begin), calm.wait(begin)), (0, BEGINNING));
        let mut now = begin + BEGINNING;
        assert_eq!((calm.turns(now), calm.wait(now)), (1, Duration::ZERO));
        calm.worked(now);
        calm.disturbed(now);
        assert_eq!((calm.turns(now), calm.wait(now)), (0, QUIET));
        assert_eq!(calm.turns(now + QUIET), 1);
        let mut waits = 0;
        while calm.turns(now) == 0 {
            calm.disturbed(now);
            now += QUIET / 2;
            waits += 1;
            assert!(waits < 1000, "the background never has its turn");
        }
        assert_eq!(calm.turns(now), OVERDUE_TURNS);
        calm.worked(now);
        assert_eq!(calm.turns(now), 0);
    }
}
