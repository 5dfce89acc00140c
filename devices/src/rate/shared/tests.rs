use std::thread;

use proptest::prelude::{Strategy, any, prop, prop_assert, proptest};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LARGEST: u64 = 1 << 20;

fn bucket(size: u64, one_time_burst: u64) -> Option<BucketSettings> {
    Some(BucketSettings { size, one_time_burst, refill_time: SECOND })
}

/// Members of one group, each with a mapping of its own.
fn members(count: usize, settings: LimiterSettings) -> (File, Vec<Shared>) {
    let memory = File::from(group_memory().unwrap());
    let of = || Shared::new(settings, Group::open(memory.try_clone().unwrap()).unwrap(), LARGEST);
    let members = (0..count).map(|_| of()).collect();
    (memory, members)
}

fn bandwidth(size: u64, burst: u64) -> LimiterSettings {
    LimiterSettings { bandwidth: bucket(size, burst), operations: None }
}

/// What the members get in so much time, each asking whenever it may.
fn given(members: &[Shared], bytes: u64, time: Duration) -> Vec<u64> {
    let start = Instant::now();
    let mut given = vec![0; members.len()];
    let mut next = vec![start; members.len()];
    while let Some((member, now)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at) {
        if now > start + time {
            break;
        }
        match members[member].take(bytes, now) {
            Ok(()) => given[member] += bytes,
            Err(later) => next[member] = later,
        }
    }
    given
}

#[test]
fn two_members_get_together_what_one_would_get() {
    let (_memory, both) = members(2, bandwidth(100_000, 50_000));
    let together: u64 = given(&both, 1000, 10 * SECOND).iter().sum();
    // The burst, a full bucket, ten of them, and the last operation of a member.
    assert!((1_140_000..=1_152_000).contains(&together), "{together}");
    let (_memory, alone) = members(1, bandwidth(100_000, 50_000));
    let alone = given(&alone, 1000, 10 * SECOND)[0];
    assert!(together.abs_diff(alone) <= 2000, "{together}, {alone} alone");
}

#[test]
fn a_bucket_without_tokens_says_when_there_is_one_and_a_successor_finds_it_as_it_was() {
    let settings = LimiterSettings { bandwidth: None, operations: bucket(2, 0) };
    let (memory, mut members) = members(2, settings);
    let start = Instant::now();
    members[0].take(0, start).unwrap();
    // A little later: each has read both clocks one after the other, and not at the same moment.
    let start = start + SECOND / 10;
    members[1].take(0, start).unwrap();
    members[0] = Shared::new(settings, Group::open(memory).unwrap(), LARGEST);
    let later = members[0].take(0, start).unwrap_err();
    assert!(later > start + SECOND / 4 && later < start + SECOND, "{:?}", later - start);
    members[1].take(0, start + SECOND).unwrap();
}

#[test]
fn large_requests_get_their_turn_beside_small_ones_and_are_paid_for() {
    let (_memory, members) = members(2, bandwidth(1000, 0));
    let start = Instant::now();
    members[0].take(900, start).unwrap();
    members[1].take(5000, start).unwrap();
    let later = members[0].take(1, start).unwrap_err();
    assert!(later > start + 4 * SECOND, "{:?}", later - start);
}

#[test]
fn what_one_limit_refuses_is_not_taken_of_the_other() {
    let settings = LimiterSettings { bandwidth: bucket(1000, 500), operations: bucket(1, 0) };
    let (_memory, members) = members(1, settings);
    let start = Instant::now();
    members[0].take(100, start).unwrap();
    for _ in 0..100 {
        members[0].take(1000, start).unwrap_err();
    }
    // The one that is left of the bucket would not let this go, had the others been paid for.
    members[0].take(1399, start + SECOND).unwrap();
}

#[test]
fn threads_that_take_at_once_get_no_more_than_there_is() {
    let (_memory, members) = members(4, bandwidth(10_000, 3_000));
    let now = Instant::now();
    let taking = |member: &Shared| (0..20_000).filter(|_| member.take(7, now).is_ok()).count() as u64;
    let given: u64 = thread::scope(|scope| {
        let threads: Vec<_> = members.iter().map(|member| scope.spawn(move || taking(member))).collect();
        threads.into_iter().map(|thread| 7 * thread.join().unwrap()).sum()
    });
    // All were mapped within a moment, whose tokens are few; the last operation may leave a debt.
    assert!((12_000..=23_000).contains(&given), "{given}");
}

#[test]
fn memory_that_is_too_short_is_refused() {
    let memory = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
    assert!(Group::open(File::from(memory)).is_err());
}

fn numbers() -> impl Strategy<Value = u64> {
    prop::num::u64::ANY.prop_map(|number| number >> (number % 64))
}

proptest! {
    #[test]
    fn whatever_stands_in_the_memory_stops_nobody_for_longer_than_a_debt(
        words in prop::array::uniform4(numbers()),
        (size, burst, bytes) in (1u64..1 << 40, numbers(), numbers()),
    ) {
        let settings = LimiterSettings { bandwidth: bucket(size, burst), operations: bucket(3, burst) };
        let (_memory, members) = members(1, settings);
        let slice = members[0].group.memory.as_volatile_slice();
        for (at, value) in [0, 8, 16, 24].into_iter().zip(words) {
            word(&slice, at).store(value, Ordering::Release);
        }
        let start = Instant::now();
        let debt = |bucket: &Option<Bucket>| bucket.as_ref().map_or(0, |one| one.refill + one.time(one.largest));
        let longest = debt(&members[0].bandwidth).max(debt(&members[0].operations)).min(LONGEST_WAIT);
        if let Err(later) = members[0].take(bytes, start) {
            prop_assert!(later > start);
            prop_assert!(later - start <= Duration::from_nanos(longest) + Duration::from_millis(1));
        }
    }

    #[test]
    fn whoever_waits_as_long_as_told_gets_through(
        full_at in any::<u64>(), size in 1u64..1 << 30, bytes in 1u64..LARGEST,
    ) {
        let (_memory, members) = members(1, bandwidth(size, 0));
        word(&members[0].group.memory.as_volatile_slice(), 0).store(full_at, Ordering::Release);
        let mut now = Instant::now();
        let debt = SECOND + Duration::from_nanos(members[0].bandwidth.as_ref().unwrap().time(LARGEST));
        let waits = debt.as_nanos() / u128::from(LONGEST_WAIT) + 2;
        let mut through = false;
        for _ in 0..waits {
            match members[0].take(bytes, now) {
                Ok(()) => { through = true; break; }
                Err(later) => now = later,
            }
        }
        prop_assert!(through);
    }
}
