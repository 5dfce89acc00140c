//! Network interfaces: packets between guest and lab host over taps.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Instant;

use granule_tests::monitor::Monitor;
use granule_tests::pattern;
use granule_tests::session::Session;
use granule_tests::vm::{MIB, Vm};
use granule_tests::wait;
use serde_json::{Value, json};

use crate::guest;
use crate::serial::talk;

const CHUNK: usize = 1 << 16;
const MAC: &str = "02:00:ca:fe:00:01";

/// A guest on a tap of this name, in a network of this number: the host is 10.9.N.1, the guest 10.9.N.2.
fn start(tap: &str, network: u8, vcpus: u32, more: &Value) -> (Vm, Session) {
    let mut net = json!({"tap": tap, "ip": format!("10.9.{network}.1"), "mask": "255.255.255.0", "mac": MAC});
    net.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (vm, mut session) = talk(&guest().vcpus(vcpus).set("/net", json!([net])));
    session.say(&format!("start tcp {}", address(network)));
    session.line("GRANULE started tcp");
    (vm, session)
}

pub fn address(network: u8) -> String {
    format!("10.9.{network}.2")
}

/// A connection to the guest's service, which was told `command`.
fn command(network: u8, command: &str) -> TcpStream {
    let mut stream = TcpStream::connect((address(network), 7)).unwrap();
    stream.set_read_timeout(Some(wait::LONG)).unwrap();
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
    stream
}

fn send(mut stream: &TcpStream, seed: u64, bytes: u64) {
    let mut chunk = vec![0; CHUNK];
    for at in (0..bytes).step_by(CHUNK) {
        let count = (bytes - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut chunk[..count], seed, at);
        stream.write_all(&chunk[..count]).unwrap_or_else(|e| panic!("{e} at byte {at}"));
    }
}

/// Everything that is sent comes back.
pub fn echoes(network: u8, seed: u64, bytes: u64) {
    let stream = command(network, "echo");
    let sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        send(&sender, seed, bytes);
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let (mut chunk, mut wrong) = (vec![0; CHUNK], 0);
    for at in (0..bytes).step_by(CHUNK) {
        let chunk = &mut chunk[..(bytes - at).min(CHUNK as u64) as usize];
        (&stream).read_exact(chunk).unwrap_or_else(|e| panic!("{e} at byte {at}"));
        wrong += pattern::wrong(chunk, seed, at);
    }
    assert_eq!(wrong, 0);
    sending.join().unwrap();
}

pub fn ping(network: u8) {
    let output = Command::new("ping").args(["-c", "3", "-W", "20", &address(network)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

pub fn interface(tap: &str, file: &str) -> String {
    fs::read_to_string(format!("/sys/class/net/{tap}/{file}")).unwrap_or_default().trim().to_owned()
}

#[test]
fn packets_and_streams_go_both_ways_over_a_tap_that_is_made_and_goes_with_the_guest() {
    let (vm, mut session) = start("granule-a", 1, 1, &json!({"host_mac": "02:00:00:00:09:01"}));
    assert_eq!(interface("granule-a", "address"), "02:00:00:00:09:01");
    ping(1);
    let began = Instant::now();
    echoes(1, 1, 32 * MIB);
    println!("32 MiB to the guest and back in {:?}", began.elapsed());
    let seen = session.check("nic:eth0");
    assert_eq!((&seen["address"], &seen["mtu"]), (&json!(MAC), &json!("1500")), "{seen}");
    let info = vm.monitor.info();
    let id = info["config"]["net"][0]["id"].as_str().unwrap();
    assert!(id.starts_with("_net"), "{id}");
    assert!(info["device_tree"][format!("_virtio-pci-{id}")]["pci_bdf"].is_string(), "{info}");
    vm.monitor.shutdown();
    assert_eq!(interface("granule-a", "address"), "", "the tap stays behind");
}

#[test]
fn several_queues_carry_several_streams_and_the_mtu_is_the_configured_one() {
    let (vm, mut session) = start("granule-b", 2, 2, &json!({"num_queues": 4, "mtu": 1400}));
    assert_eq!(interface("granule-b", "mtu"), "1400");
    let seen = session.check("nic:eth0");
    assert_eq!((&seen["mtu"], &seen["queues"]), (&json!("1400"), &json!(4)), "two each way: {seen}");
    let clients: Vec<_> = (0..8).map(|seed| std::thread::spawn(move || echoes(2, seed, 2 * MIB))).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    vm.monitor.shutdown();
}

#[test]
fn without_offloads_the_guest_prepares_its_packets_itself() {
    let off = json!({"offload_csum": false, "offload_tso": false, "offload_ufo": false});
    let (vm, _session) = start("granule-c", 3, 1, &off);
    echoes(3, 5, 4 * MIB);
    vm.monitor.shutdown();
}

#[test]
fn what_is_received_changes_data_and_no_tags() {
    let (vm, _session) = start("granule-d", 4, 1, &json!({}));
    let mut stream = command(4, &format!("sink 5 {}", 2 * MIB));
    send(&stream, 5, 2 * MIB);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e} in {answer:?}"));
    assert_eq!(answer, json!({"bytes": 2 * MIB, "wrong": 0, "wrong_tags": 0, "blocks": 512}));
    vm.monitor.shutdown();
}

#[test]
fn a_killed_process_costs_packets_and_no_connection() {
    let (vm, _session) = start("granule-e", 5, 1, &json!({}));
    let busy = std::thread::spawn(|| echoes(5, 6, 16 * MIB));
    for _ in 0..3 {
        let first = vm.monitor.process("device net");
        first.kill();
        let next = wait::until(wait::LONG, || {
            let all = vm.monitor.processes();
            all.into_iter().find(|p| p.role() == "device net" && p.pid != first.pid)
        });
        assert!(next.is_some(), "no new process: {:?}", vm.monitor.processes());
    }
    busy.join().unwrap();
    ping(5);
    vm.monitor.shutdown();
}

#[test]
fn taps_that_cannot_be_had_are_refused_with_the_fields_name() {
    let (vm, _session) = start("granule-f", 6, 1, &json!({}));
    let monitor = Monitor::start();
    for (net, field) in [
        (json!({"tap": "granule-f"}), "net[0].tap"),
        (json!({"tap": "lo"}), "net[0].tap"),
        (json!({"tap": "a/b"}), "net[0].tap"),
        (json!({"num_queues": 3}), "net[0].num_queues"),
        (json!({"mtu": 1}), "net[0].mtu"),
    ] {
        let mut body = guest().body(&monitor);
        body["net"] = json!([net]);
        let answer = monitor.send("vm.create", &body);
        let answer = if answer.code == 204 { monitor.put("vm.boot") } else { answer };
        assert_eq!(answer.code, 400, "{net}: {answer:?}");
        assert!(answer.causes().iter().any(|cause| cause.contains(field)), "{net}: {answer:?}");
        monitor.put("vm.delete");
    }
    monitor.shutdown();
    vm.monitor.shutdown();
}
