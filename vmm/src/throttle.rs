//! Lines of the log that a guest can cause as often as it likes: some of each kind, then silence for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// So many lines of one kind go out …
const LINES: u32 = 20;
/// … within this time.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts the lines of each place in the program that logs.
#[derive(Debug, Default)]
pub struct Throttle {
    /// There are no more than there are places in the program.
    places: Mutex<HashMap<Identifier, Count>>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    lines: u32,
}

impl Throttle {
    fn admit(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let count = places.entry(place).or_insert(Count { since: now, lines: 0 });
        if now.duration_since(count.since) >= WINDOW {
            *count = Count { since: now, lines: 0 };
        }
        count.lines = count.lines.saturating_add(1);
        count.lines <= LINES
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.admit(event.metadata().callsite(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_flood_of_one_line_is_cut_off_and_others_are_not() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().with_writer(lines.clone()).finish().with(Throttle::default());
        tracing::subscriber::with_default(log, || {
            for _ in 0..1000 {
                tracing::warn!("flood");
            }
            tracing::warn!("another");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("flood").count(), LINES as usize);
        assert_eq!(text.matches("another").count(), 1);
    }

    #[test]
    fn after_a_while_there_are_lines_again() {
        let throttle = Throttle::default();
        let place = METADATA.callsite();
        let now = Instant::now();
        let admitted = (0..1000).filter(|_| throttle.admit(place.clone(), now)).count();
        assert_eq!(admitted, LINES as usize);
        assert!(throttle.admit(place, now + WINDOW));
    }

    struct Place;

    impl tracing::callsite::Callsite for Place {
        fn set_interest(&self, _interest: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &tracing::Metadata<'_> {
            &METADATA
        }
    }

    static METADATA: tracing::Metadata<'static> = tracing::Metadata::new(
        "test",
        "test",
        tracing::Level::WARN,
        None,
        None,
        None,
        tracing::field::FieldSet::new(&[], Identifier(&Place)),
        tracing::metadata::Kind::EVENT,
    );
}
