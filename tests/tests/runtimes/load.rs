//! Many clients at once.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use granule_tests::client::Client;
use granule_tests::monitor::Monitor;

use crate::pod::{alone, monitor};

const CLIENTS: usize = 64;
const REQUESTS: usize = 10_000;
/// Between two requests of one client: 640 requests a second, a third of what the emulated machine can do, the clients included.
const PAUSE: Duration = Duration::from_millis(100);
/// An idle machine that is faster than this is no measure of a busy one.
const LEAST: Duration = Duration::from_micros(400);
/// Pings whose time is taken.
const TAKEN: usize = 500;

fn ping(client: &mut Client) -> Duration {
    let began = Instant::now();
    assert_eq!(client.call("GET", "/api/v1/vmm.ping", None).unwrap().code, 200);
    began.elapsed()
}

/// The time that 99 of 100 pings stay below.
fn percentile(monitor: &Monitor) -> Duration {
    let mut client = monitor.client();
    let mut times: Vec<_> = (0..TAKEN)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            ping(&mut client)
        })
        .collect();
    times.sort_unstable();
    times[TAKEN * 99 / 100]
}

#[test]
fn sixty_four_clients_lose_nothing_and_do_not_hold_each_other_up() {
    let _alone = alone();
    let monitor = monitor();
    let idle = percentile(&monitor);
    let (done, answered) = mpsc::channel();
    let loaded = std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (done, mut client) = (done.clone(), monitor.client());
            scope.spawn(move || {
                for request in 0..REQUESTS.div_ceil(CLIENTS) {
                    std::thread::sleep(PAUSE);
                    let (name, code) = [("vmm.ping", 200), ("vm.info", 404)][(number + request) % 2];
                    let answer = client.call("GET", &format!("/api/v1/{name}"), None).unwrap();
                    assert_eq!(answer.code, code);
                    done.send(()).unwrap();
                }
            });
        }
        percentile(&monitor)
    });
    drop(done);
    let answered = answered.iter().count();
    assert!(answered >= REQUESTS, "{answered}");
    println!("p99 of vmm.ping: {idle:?} idle, {loaded:?} under load");
    assert!(loaded < idle.max(LEAST) * 5, "p99 is {loaded:?} under load and {idle:?} without");
    monitor.shutdown();
}
