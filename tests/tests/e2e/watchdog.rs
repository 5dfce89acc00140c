//! The watchdog: a guest that has pinged once and then never again is reset, but not while it stands still.

use std::time::{Duration, Instant};

use granule_tests::wait;

use crate::guest;
use crate::serial::{join, talk};

/// After the last ping, by the driver's interval of 15 seconds and 5 seconds of patience.
const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_guest_that_falls_silent_is_reset_and_a_paused_one_is_not() {
    let (vm, mut session) = talk(&guest().set("/watchdog", true));
    assert_eq!(session.check("watchdog")["answer"], 1);
    vm.monitor.must("vm.pause");
    // Time in which nothing may happen can only be waited for.
    let bitten = || vm.monitor.events().all().into_iter().find(|e| e.event == "watchdog");
    assert_eq!(wait::until(TIMEOUT + Duration::from_secs(5), bitten), None, "a paused guest cannot ping");
    assert_eq!(vm.monitor.state(), "Paused");

    vm.monitor.must("vm.resume");
    let resumed = Instant::now();
    vm.monitor.events().wait_for("vm:rebooting");
    assert!(resumed.elapsed() > TIMEOUT / 2, "it was given no new time: {:?}", resumed.elapsed());
    assert!(vm.monitor.events().all().iter().any(|e| e.name() == "virtio-device:watchdog"));
    vm.monitor.events().wait_for("vm:rebooted");
    drop(session);
    let mut session = join(&vm);
    session.line("GRANULE serving");
    assert_eq!(session.check("watchdog")["answer"], 1);
    vm.monitor.shutdown();
}
