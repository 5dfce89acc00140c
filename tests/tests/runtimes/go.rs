//! Kata Containers' Go runtime, call by call, with the deadlines of its `clh.go`.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use granule_tests::client::{Client, Response};
use granule_tests::monitor::Monitor;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::pod::{Pod, alone, monitor, shutdown, within};

const BODY: &str = include_str!("../../recorded/kata-go.json");
/// As it is on the wire, but for the numbers of the tap.
const ADD_NET: &str = r#"{"iommu":false,"ip":"192.168.249.1","mac":"02:00:ca:fe:00:01","mask":"255.255.255.0","num_queues":2,"offload_csum":true,"offload_tso":true,"offload_ufo":true,"queue_size":256,"vhost_mode":"Client","vhost_user":false}"#;

const SECOND: Duration = Duration::from_secs(1);
/// What is answered whatever is under way.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Two emulated processors at their worst; what waited for a call to end would take longer.
const HELD_UP: Duration = Duration::from_millis(400);
const HOTPLUG: Duration = Duration::from_secs(5);
/// For vm.create and vm.boot together.
const BOOT: Duration = Duration::from_secs(10);

/// A request as the runtime's generated client writes it.
fn request(method: &str, name: &str, body: &str) -> Vec<u8> {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!(
        "{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: OpenAPI-Generator/1.0.0/go\r\n{length}Accept: \
         application/json\r\n{kind}Accept-Encoding: gzip\r\n\r\n{body}"
    )
    .into_bytes()
}

fn ask(monitor: &Monitor, method: &str, name: &str, body: &str) -> Response {
    let mut client = monitor.client();
    client.send(&request(method, name, body)).unwrap();
    client.receive().unwrap()
}

/// One raw connection for the interface: all of the request in one message, the tap with it.
fn add_net(monitor: &Monitor, pod: &Pod) -> Response {
    let request = format!(
        "PUT /api/v1/vm.add-net HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Length: {}\r\nContent-Type: \
         application/json\r\n\r\n{ADD_NET}",
        ADD_NET.len()
    );
    let mut client = monitor.client();
    client.send_with(request.as_bytes(), &[pod.taps[0].as_fd()]).unwrap();
    client.receive().unwrap()
}

fn info(monitor: &Monitor) -> Value {
    let answer = within(SECOND, "vm.info", || ask(monitor, "GET", "vm.info", ""));
    assert_eq!((answer.code, answer.header("Content-Type")), (200, Some("application/json")));
    answer.json()
}

#[test]
fn a_sandbox_of_the_go_runtime_lives_from_its_first_ping_to_its_end() {
    let _alone = alone();
    let pod = Pod::new("kata-go", 1);
    let monitor = monitor();
    let pong = within(SECOND, "vmm.ping", || ask(&monitor, "GET", "vmm.ping", ""));
    assert!(pong.json()["version"].is_string(), "{pong:?}");

    let booting = Instant::now();
    let created = ask(&monitor, "PUT", "vm.create", &pod.body(BODY).to_string());
    assert!(created.code < 300, "{created:?}");
    let known = info(&monitor);
    assert_eq!(known["state"], "Created");
    assert_eq!(known["config"]["platform"]["num_pci_segments"], 2);
    let added = within(HOTPLUG, "vm.add-net", || add_net(&monitor, &pod));
    assert!([200, 204].contains(&added.code), "{added:?}");
    let booted = ask(&monitor, "PUT", "vm.boot", "");
    assert!(booted.code < 300, "{booted:?}; {}", monitor.errors());
    println!("vm.create to vm.boot: {} ms", booting.elapsed().as_millis());
    assert!(booting.elapsed() < BOOT, "{:?}", booting.elapsed());
    assert_eq!(info(&monitor)["state"], "Running");

    pod.is_whole("CONNECT");
    let pci = pod.check("CONNECT", "pci");
    let bridges = pci["bridges"].as_array().unwrap();
    let first = bridges.iter().filter(|name| name.as_str().unwrap().ends_with(".pcie"));
    assert_eq!((first.count(), bridges.len()), (1, 2), "the agent looks for the first by its name: {pci}");
    let threads = monitor.process("machine").threads();
    let vcpus: Vec<_> = threads.iter().filter(|thread| thread.name.starts_with("vcpu")).collect();
    assert_eq!((vcpus.len(), vcpus[0].name.as_str()), (1, "vcpu0"));

    while_it_runs(&monitor, &pod);
    let mut client = monitor.client();
    shutdown(monitor, &mut client, &request("PUT", "vmm.shutdown", ""));
}

/// The calls that follow in the life of a pod.
fn while_it_runs(monitor: &Monitor, pod: &Pod) {
    let disk = json!({"path": pod.folder.file("image"), "readonly": true, "image_type": "Raw", "num_queues": 1, "direct": false,
                      "queue_size": 128, "sparse": true, "vhost_user": false, "iommu": false, "backing_files": false});
    let added = within(HOTPLUG, "vm.add-disk", || ask(monitor, "PUT", "vm.add-disk", &disk.to_string()));
    assert_eq!(added.code, 200, "{added:?}");
    let place = added.json();
    assert!(place["id"].is_string() && place["bdf"].is_string(), "{place}");
    for name in ["vm.pause", "vm.resume"] {
        let answer = within(SECOND, name, || ask(monitor, "PUT", name, ""));
        assert!(answer.code < 300, "{name}: {answer:?}");
    }
    // A guest by device tree cannot be told of more processors: a clear no, in time. Memory it can be told of.
    let resize =
        |body: Value| within(SECOND, "vm.resize", || ask(monitor, "PUT", "vm.resize", &body.to_string()));
    assert_eq!(resize(json!({"desired_vcpus": 2})).code, 400);
    let resized = resize(json!({"desired_ram": (2_u64 << 30) + (128 << 20)}));
    assert!(resized.code < 300, "{resized:?}");
    assert!(info(monitor)["memory_actual_size"].as_u64() >= Some(2 << 30));
    let pong = within(SECOND, "vmm.ping", || ask(monitor, "GET", "vmm.ping", ""));
    assert_eq!(pong.code, 200);
    // The runtime sends all interfaces that it knows again with each: tolerated, refused or not, never fatal.
    let again = within(HOTPLUG, "vm.add-net", || add_net(monitor, pod));
    assert!(again.code < 500, "{again:?}");
    assert_eq!(info(monitor)["state"], "Running");
}

/// Makes a long call, and meanwhile asks for ping and info over and over: they are always answered at once.
fn while_others_ask(monitor: &Monitor, name: &str, body: &str) -> Response {
    let (socket, mut client) = (monitor.socket(), monitor.client());
    let over = AtomicBool::new(false);
    let (answer, waits) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| waits(&socket, || !over.load(Ordering::Acquire)));
        client.send(&request("PUT", name, body)).unwrap();
        let answer = client.receive().unwrap();
        over.store(true, Ordering::Release);
        (answer, asking.join().unwrap())
    });
    at_once(name, waits);
    answer
}

/// Asks for ping and info in turn; answers how long each took.
fn waits(socket: &Path, mut go_on: impl FnMut() -> bool) -> Vec<Duration> {
    let mut client = Client::connect(socket).unwrap();
    let mut waits = Vec::new();
    while go_on() {
        for (name, codes) in [("vmm.ping", &[200][..]), ("vm.info", &[200, 404])] {
            let began = Instant::now();
            client.send(&request("GET", name, "")).unwrap();
            let answer = client.receive().unwrap();
            assert!(codes.contains(&answer.code), "{name}: {answer:?}");
            waits.push(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    waits
}

/// Of ten answers nine came at once, and none waited for the call beside it, which takes many times this long.
fn at_once(what: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let (most, longest) = (waits[(waits.len() - 1) * 9 / 10], waits[waits.len() - 1]);
    println!(
        "{what}: {} pings and infos meanwhile, nine of ten within {most:?}, the longest took {longest:?}",
        waits.len()
    );
    assert!(most < AT_ONCE && longest < HELD_UP, "{what}: {waits:?}");
}

#[test]
fn a_template_is_saved_and_restored_in_time() {
    let _alone = alone();
    let pod = Pod::new("kata-tmpl", 3);
    let mut body = pod.body(BODY);
    body.as_object_mut().unwrap().remove("fs");
    body["memory"]["size"] = (256_u64 << 20).into();
    let first = monitor();
    let created = ask(&first, "PUT", "vm.create", &body.to_string());
    assert!(created.code < 300, "{created:?}");
    assert!(ask(&first, "PUT", "vm.boot", "").code < 300, "{}", first.errors());
    assert_eq!(pod.check("CONNECT", "disk:list")[0]["name"], "vda");
    // How much memory is plugged, vm.info asks this process; one that stands still holds nobody up.
    let held = Pid::from_raw(first.process("device mem").pid).unwrap();
    kill_process(held, Signal::STOP).unwrap();
    let mut turns = 50;
    let stopped = waits(&first.socket(), || {
        turns -= 1;
        turns >= 0
    });
    kill_process(held, Signal::CONT).unwrap();
    at_once("a stopped process", stopped);
    let template = format!("file://{}", pod.folder.file("template"));
    assert!(within(SECOND, "vm.pause", || ask(&first, "PUT", "vm.pause", "")).code < 300);
    let url = json!({"destination_url": template}).to_string();
    let saved = within(SECOND, "vm.snapshot", || while_others_ask(&first, "vm.snapshot", &url));
    assert!(saved.code < 300, "{saved:?}");
    let mut client = first.client();
    shutdown(first, &mut client, &request("PUT", "vmm.shutdown", ""));

    let second = monitor();
    let url = json!({"source_url": template}).to_string();
    let restored = within(BOOT, "vm.restore", || while_others_ask(&second, "vm.restore", &url));
    assert!(restored.code < 300, "{restored:?}; {}", second.errors());
    assert_eq!(info(&second)["state"], "Paused");
    assert!(within(SECOND, "vm.resume", || ask(&second, "PUT", "vm.resume", "")).code < 300);
    assert_eq!(pod.check("CONNECT", "disk:list")[0]["name"], "vda");
    let mut client: Client = second.client();
    shutdown(second, &mut client, &request("PUT", "vmm.shutdown", ""));
}
