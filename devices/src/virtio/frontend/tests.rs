use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::contract::driver::guest_memory;
use crate::contract::rig::spawn;
use crate::rng::{RngDevice, Source};
use crate::virtio::{DeviceFault, Fault, VirtioBackend};

const LIMIT: Duration = Duration::from_millis(100);
/// Much later than any limit, much earlier than never.
const LATE: Duration = Duration::from_secs(20);

/// For processes that do answer, however loaded the host.
fn patient() -> Expected {
    Expected { limit: LATE, ..Expected::rng() }
}

fn connect(stream: UnixStream, expected: Expected) -> Result<DeviceProcess, Fault> {
    DeviceProcess::connect(stream, Deadlines::start(|| ()).unwrap(), guest_memory(), expected)
}

/// What becomes of a handshake with somebody who answers with `answer`, again and again.
fn handshake_with(limit: Duration, answer: impl Fn(&mut UnixStream) + Send + 'static) -> DeviceFault {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = thread::spawn(move || {
        let mut request = [0; 4096];
        while theirs.read(&mut request).is_ok_and(|count| count > 0) {
            answer(&mut theirs);
        }
    });
    let started = Instant::now();
    let fault = connect(ours, Expected { limit, ..Expected::rng() })
        .err()
        .expect("nobody could take that for a device process");
    assert!(started.elapsed() < 2 * LATE);
    peer.join().unwrap();
    match fault {
        Fault::Device(fault) => fault,
        other => panic!("the device process is at fault, not {other}"),
    }
}

/// A vhost-user reply: the request's code, version 1 and the reply flag, the size, the body.
fn reply(code: u32, body: &[u8]) -> Vec<u8> {
    let mut message: Vec<u8> =
        [code, 0x5, body.len() as u32].iter().flat_map(|word| word.to_le_bytes()).collect();
    message.extend(body);
    message
}

const GET_FEATURES: u32 = 1;

#[test]
fn a_silent_process_is_cut_off_in_time() {
    let fault = handshake_with(LIMIT, |_| ());
    assert!(matches!(fault, DeviceFault::Silent { request: "GET_FEATURES", limit: LIMIT }), "{fault:?}");
}

#[test]
fn a_process_that_sends_a_byte_now_and_then_is_cut_off_too() {
    let fault = handshake_with(LIMIT, |stream| {
        let message = reply(GET_FEATURES, &[0; 8]);
        for byte in message.iter().take(19) {
            // Slow enough to be late, fast enough that no single wait is.
            thread::park_timeout(LIMIT / 8);
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    assert!(matches!(fault, DeviceFault::Silent { .. }), "{fault:?}");
}

#[test]
fn a_process_that_hangs_up_is_gone() {
    let fault = handshake_with(LATE, |stream| stream.shutdown(std::net::Shutdown::Both).unwrap());
    assert!(matches!(fault, DeviceFault::Gone), "{fault:?}");
}

#[test]
fn nonsense_is_a_protocol_fault() {
    let wrong_code = reply(2, &[0xff; 8]);
    let no_reply = [GET_FEATURES, 1, 8, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    let huge: Vec<u8> =
        [GET_FEATURES, 5, u32::MAX, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    for answer in [wrong_code, no_reply, huge, vec![0xff; 64]] {
        let told = answer.clone();
        let fault = handshake_with(LATE, move |stream| {
            let _ = stream.write_all(&told);
        });
        assert!(matches!(fault, DeviceFault::Protocol { .. }), "{answer:?}: {fault:?}");
    }
}

#[test]
fn a_process_without_version_1_or_protocol_features_is_refused() {
    for features in [0u64, 1 << 30, 1 << 32] {
        let fault = handshake_with(LATE, move |stream| {
            let _ = stream.write_all(&reply(GET_FEATURES, &features.to_le_bytes()));
        });
        assert!(matches!(fault, DeviceFault::Lacks(_)), "{features:#x}: {fault:?}");
    }
}

#[test]
fn a_process_with_too_few_queues_is_refused() {
    let (stream, device) = spawn(|| RngDevice::new(Source::Kernel));
    let fault = connect(stream, Expected { queue_sizes: vec![256; 2], ..patient() }).err().unwrap();
    assert!(matches!(fault, Fault::Device(DeviceFault::Lacks(_))), "{fault:?}");
    device.join().unwrap().unwrap();
}

#[test]
fn after_a_fault_nothing_is_asked_any_more_until_there_is_a_new_process() {
    let (stream, device) = spawn(|| RngDevice::new(Source::Kernel));
    let hang_up = stream.try_clone().unwrap();
    let mut process = connect(stream, patient()).unwrap();
    hang_up.shutdown(std::net::Shutdown::Both).unwrap();
    device.join().unwrap().unwrap();
    for _ in 0..2 {
        let fault = process.start(0, &[]).unwrap_err();
        assert!(matches!(fault, Fault::Device(DeviceFault::Gone)), "{fault:?}");
    }
    let (stream, _device) = spawn(|| RngDevice::new(Source::Kernel));
    process.reconnect(stream).unwrap();
    process.start(crate::virtio::spec::F_VERSION_1, &[]).unwrap();
}

#[test]
fn one_thread_keeps_many_deadlines_and_only_those_that_are_due() {
    let deadlines = Deadlines::start(|| ()).unwrap();
    let pairs: Vec<_> = (0..8).map(|_| UnixStream::pair().unwrap()).collect();
    let sockets: Vec<_> = pairs.iter().map(|(socket, _)| Arc::new(socket.try_clone().unwrap())).collect();
    // The later one first, so that the thread must change its mind.
    let kept = deadlines.arm(&sockets[0], LATE);
    let _due: Vec<_> = sockets[1..].iter().map(|socket| deadlines.arm(socket, LIMIT)).collect();
    for (_, peer) in &pairs[1..] {
        assert_eq!((&*peer).read(&mut [0]).unwrap(), 0, "shut down");
    }
    assert!(!kept.expired());
    (&pairs[0].1).write_all(b"x").unwrap();
    assert_eq!((&*sockets[0]).read(&mut [0]).unwrap(), 1, "still open");
}

#[test]
fn a_deadline_that_was_called_off_does_nothing() {
    let deadlines = Deadlines::start(|| ()).unwrap();
    let (ours, peer) = UnixStream::pair().unwrap();
    let ours = Arc::new(ours);
    drop(deadlines.arm(&ours, LIMIT));
    let (other, witness) = UnixStream::pair().unwrap();
    let other = Arc::new(other);
    let armed = deadlines.arm(&other, LIMIT * 2);
    assert_eq!((&witness).read(&mut [0]).unwrap(), 0);
    assert!(armed.expired());
    (&peer).write_all(b"x").unwrap();
    assert_eq!((&*ours).read(&mut [0]).unwrap(), 1, "still open");
}

#[test]
fn a_process_that_notes_what_is_in_flight_hands_it_to_its_successor_until_the_driver_starts_anew() {
    let features = crate::virtio::spec::F_VERSION_1;
    let (stream, _device) = spawn(|| RngDevice::new(Source::Kernel));
    let hang_up = stream.try_clone().unwrap();
    let mut process = connect(stream, patient()).unwrap();
    process.start(features, &[]).unwrap();
    let region = |process: &DeviceProcess| process.region().expect("the device keeps order");
    let first = region(&process);
    hang_up.shutdown(std::net::Shutdown::Both).unwrap();
    let (stream, _device) = spawn(|| RngDevice::new(Source::Kernel));
    process.reconnect(stream).unwrap();
    process.start(features, &[]).unwrap();
    assert_eq!(region(&process), first);
    process.renew();
    process.start(features, &[]).unwrap();
    assert_ne!(region(&process), first);
}
