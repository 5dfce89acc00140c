use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn bucket(size: u64, one_time_burst: u64, refill_time: Duration) -> Option<BucketSettings> {
    Some(BucketSettings { size, one_time_burst, refill_time })
}

fn bandwidth(size: u64, burst: u64, refill: Duration, now: Instant) -> Limiter {
    Limiter::new(LimiterSettings { bandwidth: bucket(size, burst, refill), operations: None }, now)
}

#[test]
fn a_full_bucket_gives_what_it_holds_and_then_one_refill_per_time() {
    let start = Instant::now();
    let mut limiter = bandwidth(1000, 0, SECOND, start);
    limiter.take(600, start).unwrap();
    limiter.take(400, start).unwrap();
    assert_eq!(limiter.take(500, start), Err(start + SECOND / 2));
    limiter.take(500, start + SECOND / 2).unwrap();
    assert_eq!(limiter.take(1000, start + SECOND), Err(start + SECOND * 3 / 2));
}

#[test]
fn the_burst_is_given_once() {
    let start = Instant::now();
    let mut limiter = bandwidth(1000, 5000, SECOND, start);
    limiter.take(5000, start).unwrap();
    limiter.take(1000, start).unwrap();
    limiter.take(1, start).unwrap_err();
    let later = start + 100 * SECOND;
    limiter.take(1000, later).unwrap();
    limiter.take(1, later).unwrap_err();
}

#[test]
fn an_operation_larger_than_the_bucket_goes_when_it_is_full_and_is_paid_for_afterwards() {
    let start = Instant::now();
    let mut limiter = bandwidth(1000, 0, SECOND, start);
    limiter.take(4000, start).unwrap();
    assert_eq!(limiter.take(1000, start), Err(start + 4 * SECOND));
    limiter.take(1000, start + 4 * SECOND).unwrap();
}

#[test]
fn both_limits_must_have_room_and_nothing_is_taken_of_one_alone() {
    let start = Instant::now();
    let settings = LimiterSettings { bandwidth: bucket(1000, 0, SECOND), operations: bucket(2, 0, SECOND) };
    let mut limiter = Limiter::new(settings, start);
    limiter.take(1, start).unwrap();
    limiter.take(1, start).unwrap();
    assert_eq!(limiter.take(1, start), Err(start + SECOND / 2));
    let later = start + SECOND / 2;
    limiter.take(1000, later).unwrap();
}

#[test]
fn no_size_or_no_time_is_no_limit() {
    let start = Instant::now();
    for mut limiter in [bandwidth(0, 0, SECOND, start), bandwidth(5, 0, Duration::ZERO, start)] {
        for _ in 0..1000 {
            limiter.take(u64::MAX, start).unwrap();
        }
    }
}

/// Buckets of every size and speed, mostly of those that somebody would want.
fn settings() -> impl Strategy<Value = (u64, u64, u64)> {
    let size = prop::num::u64::ANY.prop_map(|size| (size >> (size % 64)).max(1));
    let refill = prop::num::u64::ANY.prop_map(|time| (time >> (time % 64)).max(1));
    (size.clone(), size, refill)
}

proptest! {
    #[test]
    fn no_more_is_given_in_any_time_than_bucket_burst_and_refill_allow(
        (size, burst, refill_ms) in settings(),
        asks in prop::collection::vec((0u64..1 << 20, 0u64..10_000), 1..200),
    ) {
        let start = Instant::now();
        let mut limiter = bandwidth(size, burst, Duration::from_millis(refill_ms), start);
        let (mut now, mut given, mut largest) = (start, 0u128, 0);
        for (bytes, pause_us) in asks {
            now += Duration::from_micros(pause_us);
            if limiter.take(bytes, now).is_ok() {
                given += u128::from(bytes);
                largest = largest.max(bytes);
            }
            let elapsed = now.duration_since(start).as_nanos();
            let refilled = u128::from(size) * elapsed / (u128::from(refill_ms) * 1_000_000);
            // The last operation may be larger than what was left, and leave a debt.
            let most = u128::from(size) + u128::from(burst) + refilled + u128::from(largest);
            prop_assert!(given <= most, "{given} of {most}");
        }
    }

    #[test]
    fn whoever_waits_as_long_as_told_gets_through(
        (size, burst, refill_ms) in settings(),
        asks in prop::collection::vec(any::<u64>(), 1..50),
    ) {
        let mut now = Instant::now();
        let mut limiter = bandwidth(size, burst, Duration::from_millis(refill_ms), now);
        for bytes in asks {
            // Not so large that paying for it takes longer than one wait may be.
            let bytes = bytes % size.saturating_mul(2).max(1) % 100_000_000;
            if let Err(later) = limiter.take(bytes, now) {
                prop_assert!(later > now);
                now = later;
                let patience = Duration::from_millis(refill_ms) * 3 > Duration::from_secs(60 * 60);
                if !patience {
                    prop_assert_eq!(limiter.take(bytes, now), Ok(()));
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_backwards_gives_nothing(bytes in 1u64..1000, back_ms in 1u64..1000) {
        let start = Instant::now() + 10 * SECOND;
        let mut limiter = bandwidth(1000, 0, SECOND, start);
        limiter.take(1000, start).unwrap();
        prop_assert!(limiter.take(bytes, start - Duration::from_millis(back_ms)).is_err());
        prop_assert!(limiter.take(1000, start + SECOND).is_ok());
    }
}
