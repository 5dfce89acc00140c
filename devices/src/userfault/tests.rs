//! With userfaultfds that see what a test's own instructions do, which need no rights.

use std::os::fd::AsFd;
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn userfault() -> Userfault {
    Userfault::received(sys::open_for_own_instructions().unwrap())
}

fn late(mover: OwnedFd) -> Late {
    Late::new(std::fs::File::open("/dev/null").unwrap().into(), mover)
}

const RANGES: [Mapped; 2] = [
    Mapped { guest: 0x4000_0000, address: 0x7000_0000_0000, size: 1 << 20 },
    Mapped { guest: 0x8000_0000, address: 0x1000, size: 4096 },
];

#[test]
fn an_announcement_arrives_with_its_userfaultfd_and_its_answer_comes_back() {
    let (process, mover) = pair();
    let mover = thread::spawn(move || {
        tell(mover.as_fd(), 77, &Answer::Refused("that was another's".into())).unwrap();
        let announced = Announcement::receive(mover.as_fd(), true).unwrap().unwrap();
        assert_eq!(announced.ranges, RANGES);
        Userfault::received(announced.fd.unwrap()).agree().unwrap();
        tell(mover.as_fd(), announced.number, &Answer::Registered).unwrap();
        let again = Announcement::receive(mover.as_fd(), true).unwrap().unwrap();
        tell(mover.as_fd(), again.number, &Answer::Refused("no".into())).unwrap();
        tell(mover.as_fd(), 0, &Answer::Complete).unwrap();
    });
    let mut late = late(process);
    late.number = 76 - 1;
    late.announce_as(userfault(), &RANGES).unwrap();
    let refused = late.announce_as(userfault(), &RANGES).unwrap_err();
    assert!(matches!(refused, LateError::Refused(reason) if reason == "no"));
    mover.join().unwrap();
    late.announce_as(userfault(), &RANGES).unwrap();
    late.announce(&RANGES).unwrap();
    late.wait(|| panic!("it was complete"));
}

#[test]
fn a_mover_that_is_gone_before_memory_is_complete_is_told_apart() {
    let (process, mover) = pair();
    drop(mover);
    let mut late = late(process);
    assert!(matches!(late.announce_as(userfault(), &RANGES), Err(LateError::Gone)));
    let mut lost = false;
    late.wait(|| lost = true);
    assert!(lost);
}

#[test]
fn what_is_no_announcement_is_refused_and_a_process_that_does_not_read_is_not_waited_for() {
    let (process, mover) = pair();
    for garbage in [&b"abc"[..], &[0; 5], &[0; 4 + 25]] {
        rustix::net::send(&process, garbage, rustix::net::SendFlags::empty()).unwrap();
        let error = Announcement::receive(mover.as_fd(), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    let none = Announcement::receive(mover.as_fd(), false).unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    while tell(mover.as_fd(), 0, &Answer::Complete).is_ok() {}
    drop(process);
    assert!(tell(mover.as_fd(), 0, &Answer::Complete).is_err());
}

#[test]
fn a_descriptor_that_is_no_userfaultfd_is_found_out() {
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(Userfault::received(null.into()).agree().is_err());
}
