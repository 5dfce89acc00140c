//! Kata Containers' Rust runtime: one connection for everything, pretty-printed bodies without a type, descriptors with the head
//! of a request and its body later, `connect` in small letters.

use std::os::fd::AsFd;

use granule_tests::client::{Client, Response};
use serde_json::{Value, json};

use crate::pod::{Pod, alone, monitor, shutdown};

const BODY: &str = include_str!("../../recorded/kata-rust.json");

fn head(method: &str, name: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n{length}\r\n")
}

fn ask(client: &mut Client, method: &str, name: &str, body: &str) -> Response {
    client.send(head(method, name, body).as_bytes()).unwrap();
    client.send(body.as_bytes()).unwrap();
    client.receive().unwrap()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn a_sandbox_of_the_rust_runtime_lives_on_one_connection() {
    let _alone = alone();
    let pod = Pod::new("kata-rust", 2);
    let monitor = monitor();
    let mut client = monitor.client();
    assert!(ask(&mut client, "GET", "vmm.ping", "").json()["features"].is_array());

    let mut body = pod.body(BODY);
    // The interface is added behind vm.create, with the number that its tap has in the runtime's own process.
    let net = body.as_object_mut().unwrap().remove("net").unwrap()[0].take();
    let created = ask(&mut client, "PUT", "vm.create", &pretty(&body));
    assert!(created.code < 300, "{created:?}");
    let net = pretty(&net);
    client.send_with(head("PUT", "vm.add-net", &net).as_bytes(), &[pod.taps[0].as_fd()]).unwrap();
    client.send(net.as_bytes()).unwrap();
    let added = client.receive().unwrap();
    assert!([200, 204].contains(&added.code), "{added:?}");
    let booted = ask(&mut client, "PUT", "vm.boot", "");
    assert!(booted.code < 300, "{booted:?}; {}", monitor.errors());

    pod.is_whole("connect");
    let info = ask(&mut client, "GET", "vm.info", "").json();
    assert_eq!((&info["state"], &info["config"]["cpus"]["max_phys_bits"]), (&json!("Running"), &json!(46)));
    let resize = json!({"desired_vcpus": 1, "desired_ram": null, "desired_balloon": null});
    let resized = ask(&mut client, "PUT", "vm.resize", &pretty(&resize));
    assert!(resized.code < 300, "what it has already: {resized:?}");
    for name in ["vm.pause", "vm.resume"] {
        assert!(ask(&mut client, "PUT", name, "").code < 300, "{name}");
    }
    shutdown(monitor, &mut client, head("PUT", "vmm.shutdown", "").as_bytes());
}
