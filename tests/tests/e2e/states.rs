//! Each cell of the table in docs/api.md, on a monitor with a guest: a request that runs in a state is carried out there, and one that
//! does not is refused with the code that the table says, and changes nothing.

use std::collections::BTreeSet;

use granule_tests::client::Response;
use granule_tests::folder::Folder;
use granule_tests::monitor::Monitor;
use granule_tests::vm::MIB;
use serde_json::{Value, json};

use crate::disks::Images;
use crate::guest;

const DOCUMENT: &str = include_str!("../../../docs/api.md");
const STATES: [&str; 4] = ["Absent", "Created", "Running", "Paused"];

/// A row: the request, and for each state the code of its refusal; `None` where it runs.
type Row = (String, [Option<u16>; 4]);

fn table() -> Vec<Row> {
    let (_, rest) = DOCUMENT.split_once("<!-- the admission table -->").unwrap();
    let (table, _) = rest.split_once("<!-- end -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| v"));
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(cells).map(|row| (row[0].clone(), [1, 2, 3, 4].map(|column| row[column].parse().ok()))).collect()
}

/// A monitor, and what the bodies of requests name.
struct Bench {
    monitor: Monitor,
    body: Value,
    images: Images,
    saved: Folder,
    snapshots: u32,
}

impl Bench {
    fn new() -> Self {
        let (monitor, images, saved) = (Monitor::start(), Images::new(), Folder::new());
        let disk = json!({"id": "d", "path": images.empty("first", 4 * MIB), "image_type": "Raw"});
        let body = guest().set("/disks", json!([disk])).body(&monitor);
        let mut bench = Self { monitor, body, images, saved, snapshots: 0 };
        // A snapshot to restore.
        bench.come_to("Paused");
        assert_eq!(bench.ask("vm.snapshot").code, 204);
        bench.monitor.must("vm.delete");
        bench
    }

    fn state(&self) -> String {
        let answer = self.monitor.get("vm.info");
        if answer.code == 404 { "Absent".into() } else { answer.json()["state"].as_str().unwrap().into() }
    }

    /// Brings the machine to a state, whatever it is in.
    fn come_to(&self, wanted: &str) {
        loop {
            let now = self.state();
            if now == wanted {
                return;
            }
            match (now.as_str(), wanted) {
                (_, "Absent") => self.monitor.must("vm.delete"),
                ("Absent", _) => assert_eq!(self.monitor.send("vm.create", &self.body).code, 204),
                ("Created", _) => self.monitor.must("vm.boot"),
                (_, "Created") => self.monitor.must("vm.shutdown"),
                ("Running", _) => self.monitor.must("vm.pause"),
                _ => self.monitor.must("vm.resume"),
            }
        }
    }

    /// Sends the request with a body that is right.
    fn ask(&mut self, name: &str) -> Response {
        let send = |body: Value| self.monitor.send(name.split(',').next().unwrap_or(name), &body);
        let image = || self.images.empty("more", 2 * MIB);
        match name {
            "vmm.ping" | "vm.info" | "vm.counters" => self.monitor.get(name),
            "vm.create" => send(self.body.clone()),
            "vm.resize" => send(json!({"desired_vcpus": 1})),
            "vm.resize-disk" => send(json!({"id": "d", "desired_size": 8 * MIB})),
            "vm.resize-zone" => send(json!({"id": "z", "desired_ram": MIB})),
            "vm.add-disk" => send(json!({"path": image(), "image_type": "Raw"})),
            "vm.add-pmem" => send(json!({"file": image()})),
            "vm.add-fs" => send(json!({"tag": "t", "socket": self.saved.file("nobody")})),
            "vm.add-generic-vhost-user" => {
                send(json!({"socket": self.saved.file("nobody"), "queue_sizes": [64], "device_type": 26}))
            }
            "vm.add-net" => send(json!({})),
            "vm.add-vsock" => send(json!({"cid": 3, "socket": self.saved.file("v.sock")})),
            "vm.add-device" | "vm.add-vdpa" => send(json!({"path": "/dev/null"})),
            "vm.add-user-device" => send(json!({"socket": "/dev/null"})),
            "vm.remove-device" if ["Running", "Paused"].contains(&self.state().as_str()) => {
                // Of what was there at boot a guest by device tree cannot let go.
                let hot = json!({"id": "hot", "path": image(), "image_type": "Raw"});
                assert_eq!(self.monitor.send("vm.add-disk", &hot).code, 200);
                send(json!({"id": "hot"}))
            }
            "vm.remove-device" => send(json!({"id": "d"})),
            "vm.snapshot" | "vm.snapshot, live" => {
                self.snapshots += 1;
                let url = format!("file://{}", self.saved.file(&self.snapshots.to_string()));
                send(json!({"destination_url": url, "live": name.contains("live")}))
            }
            "vm.coredump" | "vm.send-migration" => send(json!({"destination_url": "file:///nowhere/at/all"})),
            "vm.restore" => send(json!({"source_url": format!("file://{}", self.saved.file("1"))})),
            "vm.receive-migration" => send(json!({"receiver_url": "unix:/nowhere/at/all"})),
            _ => self.monitor.put(name),
        }
    }
}

/// Requests that run and are then refused for what this version or these bodies lack: there is no back end at that socket.
fn may_be_refused(name: &str) -> bool {
    ["vm.add-fs", "vm.add-generic-vhost-user", "vm.add-pmem"].contains(&name)
}

#[test]
fn every_request_in_every_state_is_answered_as_the_table_says() {
    let table = table();
    let names: BTreeSet<&str> = table.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((table.len(), names.len()), (32, 32), "31 endpoints, one of them twice");
    let mut bench = Bench::new();
    let mut wrong = Vec::new();
    for (column, state) in STATES.into_iter().enumerate() {
        for (name, codes) in table.iter().filter(|(name, _)| name != "vmm.shutdown") {
            bench.come_to(state);
            let refused = codes[column];
            let before = refused.map(|_| bench.monitor.get("vm.info"));
            let answer = bench.ask(name);
            let right = match refused {
                Some(code) => answer.code == code && before == Some(bench.monitor.get("vm.info")),
                None => answer.code < 300 || (may_be_refused(name) && [400, 500].contains(&answer.code)),
            };
            println!("{state} {name}: {}", answer.code);
            if !right {
                wrong.push(format!("{name} in {state}: {answer:?}, the table has {refused:?}"));
            }
            // A configuration of its own each time it was changed.
            if refused.is_none() && name.contains("device") | name.contains("add-") | name.contains("resize")
            {
                bench.come_to("Absent");
            }
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
    bench.monitor.shutdown();
}
