//! What a disk has done, by the names that Cloud Hypervisor's `vm.counters` has.

use std::time::Duration;

use crate::serve::Counters;

/// Operations of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Direction {
    operations: u64,
    bytes: u64,
    /// Microseconds: all together, the least, the most.
    total: u64,
    least: u64,
    most: u64,
}

impl Direction {
    /// An operation of `bytes` has taken `time`.
    pub fn done(&mut self, bytes: u64, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.least = if self.operations == 0 { micros } else { self.least.min(micros) };
        self.most = self.most.max(micros);
        self.operations += 1;
        self.bytes = self.bytes.wrapping_add(bytes);
        self.total = self.total.saturating_add(micros);
    }

    fn average(&self) -> u64 {
        self.total.checked_div(self.operations).unwrap_or(0)
    }
}

/// What a disk has done since its process began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub read: Direction,
    pub written: Direction,
    pub flushes: u64,
    pub errors: u64,
}

impl Work {
    /// By their names.
    pub fn counters(&self) -> Counters {
        let Self { read, written, flushes, errors } = self;
        vec![
            ("read_ops", read.operations),
            ("read_bytes", read.bytes),
            ("read_latency_min", read.least),
            ("read_latency_max", read.most),
            ("read_latency_avg", read.average()),
            ("write_ops", written.operations),
            ("write_bytes", written.bytes),
            ("write_latency_min", written.least),
            ("write_latency_max", written.most),
            ("write_latency_avg", written.average()),
            ("flush_ops", *flushes),
            ("errors", *errors),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_disk_counts_nothing_and_latencies_are_those_of_what_was_done() {
        let mut work = Work::default();
        assert!(work.counters().iter().all(|(_, value)| *value == 0));
        work.read.done(512, Duration::from_micros(30));
        work.read.done(1024, Duration::from_micros(10));
        let expected = [2, 1536, 10, 30, 20];
        assert!(work.counters().iter().zip(expected).all(|((_, value), expected)| *value == expected));
    }
}
