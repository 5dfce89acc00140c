//! Pages that come after the guest has started: userfaultfd, data and tags.
//!
//! What is to be shown as "still waits" is waited for a moment only ([`PATIENCE`]); a slow host can make such a rule pass
//! in error but not fail in error.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use granule_arch::kvm::{Exit, RunError};
use granule_arch::layout::RAM_BASE;
use granule_arch::mte::GRANULE;
use libtest_mimic::Trial;

use super::bare_metal::{Backing, BareMetal, DATA, Did, Do, RAM, data};
use super::host::Host;
use super::sys::{GRANULES, Map, PAGE, PROT_MTE, RW, guest_tags, memfd, tags_of, window};
use super::uffd::{EVENT_MINOR, MINOR, MISSING, Uffd};

const PATIENCE: Duration = Duration::from_millis(300);

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.shared_rule("a_vcpu_sees_data_and_tags_placed_before_its_page_was_continued", placed),
        host.rule("a_copied_page_has_no_tags", copied),
        host.rule("missing_alone_does_not_protect_a_page_that_the_file_has", missing_alone),
        host.rule("a_page_is_continued_once_and_a_hole_never", continued),
        host.rule("who_waits_goes_on_when_the_pager_dies", pager_dies),
        host.shared_rule("reading_tags_of_a_missing_page_holds_up_the_vm", holds_up),
        host.shared_rule("a_vcpu_that_waits_for_a_page_cannot_be_kicked", cannot_be_kicked),
        host.shared_rule("a_user_mode_userfaultfd_kills_the_guest", user_mode_only),
    ]
}

/// Does something on another thread; what it returns comes by the channel.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, result) = channel();
    thread::spawn(move || done.send(work()));
    result
}

fn still_waits<T>(result: &Receiver<T>) -> bool {
    matches!(result.recv_timeout(PATIENCE), Err(RecvTimeoutError::Timeout))
}

/// A guest with one page of its memory missing, who waits for it in the way asked for.
struct Waiting {
    guest: Receiver<(BareMetal, Result<Did, RunError>)>,
    pager: Uffd,
    file: std::fs::File,
    at: *mut u8,
    kick: Arc<granule_arch::kvm::Kick>,
}

impl Waiting {
    fn new(pager: Uffd, operation: Do) -> Self {
        let mut guest = BareMetal::new(true, Backing::SharedMemfd);
        let file = guest.file.as_ref().and_then(|file| file.try_clone().ok()).expect("a memfd");
        let at = guest.host_address(DATA);
        pager.register(at, PAGE, MISSING | MINOR);
        let kick = Arc::clone(guest.vcpus[0].kick());
        let guest = aside(move || {
            let kick = Arc::clone(guest.vcpus[0].kick());
            let attached = kick.attach();
            let did = guest.run(operation);
            drop(attached);
            (guest, did)
        });
        Self { guest, pager, file, at, kick }
    }
}

fn placed(_: &Host) {
    let waiting = Waiting::new(Uffd::new(), Do::Ldg(data(GRANULE, 0)));
    let fault = waiting.pager.fault();
    assert_eq!((fault.address, fault.flags), (waiting.at as u64, 0));
    // Data and tags, through two other mappings, in any order; the page appears whole.
    let tags = window(&waiting.file, RAM);
    tags.write(DATA, &[0xb; GRANULES]).expect("tags are set");
    Map::shared(&waiting.file, RAM).fill(DATA, PAGE, 0x77);
    assert!(still_waits(&waiting.guest), "the page is not there before it is continued");
    waiting.pager.resume(waiting.at).expect("continued");
    let (mut guest, did) = waiting.guest.recv().expect("the guest goes on");
    assert_eq!(did.expect("an answer"), Did::Result(data(GRANULE, 0xb)));
    assert_eq!(
        guest.run(Do::Ldr(data(GRANULE, 0xb))).expect("an answer"),
        Did::Result(0x7777_7777_7777_7777)
    );
    assert_eq!(tags_of(&tags, DATA, GRANULES), vec![0xb; GRANULES]);
}

fn copied(_: &Host) {
    let source = Map::new(PAGE, RW | PROT_MTE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None);
    source.fill(0, PAGE, 0x44);
    source.set_tag(0, 9);
    let file = memfd(PAGE);
    let map = Map::shared(&file, PAGE);
    let pager = Uffd::new();
    pager.register(map.at(0), PAGE, MISSING);
    pager.copy(map.at(0), source.at(0)).expect("copied");
    assert_eq!(map.load(0), 0x44);
    assert_eq!(tags_of(&window(&file, PAGE), 0, GRANULES), vec![0; GRANULES]);
    assert_eq!(pager.copy(map.at(0), source.at(0)), Err(libc::EEXIST));
}

fn missing_alone(_: &Host) {
    let file = memfd(2 * PAGE);
    let filled = Map::shared(&file, 2 * PAGE);
    filled.store(0, 0x32);
    let guarded = Arc::new(Map::shared(&file, 2 * PAGE));
    let pager = Uffd::new();
    pager.register(guarded.at(0), PAGE, MISSING);
    pager.register(guarded.at(PAGE), PAGE, MISSING | MINOR);
    assert_eq!(guarded.load(0), 0x32, "nobody was asked");

    filled.store(PAGE, 0x33);
    let map = Arc::clone(&guarded);
    let load = aside(move || map.load(PAGE));
    let fault = pager.fault();
    assert_eq!((fault.address, fault.flags), (guarded.at(PAGE) as u64, EVENT_MINOR));
    pager.resume(guarded.at(PAGE)).expect("continued");
    assert_eq!(load.recv(), Ok(0x33));
}

fn continued(_: &Host) {
    let file = memfd(2 * PAGE);
    let map = Map::shared(&file, 2 * PAGE);
    let pager = Uffd::new();
    pager.register(map.at(0), 2 * PAGE, MISSING | MINOR);
    Map::shared(&file, PAGE).store(0, 1);
    assert_eq!(pager.resume(map.at(0)), Ok(()));
    assert_eq!(pager.resume(map.at(0)), Err(libc::EEXIST));
    assert_eq!(pager.resume(map.at(PAGE)), Err(libc::EFAULT));
}

fn pager_dies(_: &Host) {
    let file = memfd(PAGE);
    let map = Arc::new(Map::shared(&file, PAGE));
    let pager = Uffd::new();
    pager.register(map.at(0), PAGE, MISSING | MINOR);
    let load = aside({
        let map = Arc::clone(&map);
        move || map.load(0)
    });
    pager.fault();
    // Half of what should be there.
    Map::shared(&file, PAGE).store(0, 7);
    drop(pager);
    assert_eq!(load.recv(), Ok(7), "the page is taken as it is");
}

fn holds_up(_: &Host) {
    let guest = Arc::new(BareMetal::new(true, Backing::SharedMemfd));
    let pager = Uffd::new();
    let at = guest.host_address(DATA);
    pager.register(at, PAGE, MISSING | MINOR);
    let tags_at = |page: usize| {
        let guest = Arc::clone(&guest);
        aside(move || guest_tags(guest.vm.fd(), RAM_BASE.0 + (DATA + page * PAGE) as u64))
    };
    let first = tags_at(0);
    assert_eq!(pager.fault().address, at as u64);
    // Another page, which is not missing: but the first call has the lock.
    let second = tags_at(1);
    assert!(still_waits(&second));
    assert!(still_waits(&first));
    Map::shared(guest.file.as_ref().expect("a memfd"), RAM).store(DATA, 1);
    pager.resume(at).expect("continued");
    for result in [first, second] {
        assert_eq!(result.recv().expect("an answer"), Ok(vec![0; GRANULES]));
    }
}

fn cannot_be_kicked(_: &Host) {
    let waiting = Waiting::new(Uffd::new(), Do::Ldr(data(0, 0)));
    waiting.pager.fault();
    waiting.kick.interrupt().expect("kicked");
    assert!(
        still_waits(&waiting.guest),
        "the vCPU came out without its page: pausing need not wait any more"
    );
    waiting.kick.acknowledge();
    Map::shared(&waiting.file, RAM).store(DATA, 5);
    waiting.pager.resume(waiting.at).expect("continued");
    let (_, did) = waiting.guest.recv().expect("the guest goes on");
    assert_eq!(did.expect("an answer"), Did::Result(5));
}

fn user_mode_only(_: &Host) {
    let waiting = Waiting::new(Uffd::user_mode_only(), Do::Ldr(data(0, 0)));
    let (mut guest, did) = waiting.guest.recv().expect("the guest does not wait");
    assert!(matches!(did, Err(RunError::Memory(_))), "{did:?}");
    assert!(matches!(guest.vcpus[0].run(), Err(RunError::Memory(_)) | Ok(Exit::Interrupted)));
}
