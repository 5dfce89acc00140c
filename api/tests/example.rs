//! The example of the client does what it says.

mod harness;

#[path = "../examples/drive.rs"]
#[allow(dead_code, reason = "its `main` is for people")]
mod drive;

use std::path::Path;
use std::sync::{Arc, Mutex};

use granule_api::call::Call;
use granule_api::server::{Reply, Request, ServerLimits};
use granule_api::types::{HostMte, Ping, VmInfo, VmState};
use harness::{Server, pipes};

#[test]
fn the_example_drives_a_whole_life_and_passes_its_taps() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (seen, created) = (Arc::clone(&calls), Mutex::new(None));
    let server = Server::with(ServerLimits::default(), move |request: Request| {
        seen.lock().unwrap().push((request.call.name(), request.fds.len()));
        let reply = match &request.call {
            Call::VmmPing => Reply::json(&Ping::new(7, vec!["kvm".into()], HostMte::default())),
            Call::VmCreate(config) => {
                *created.lock().unwrap() = Some(config.clone());
                Ok(Reply::Empty204)
            }
            Call::VmInfo => Reply::json(&VmInfo {
                config: *created.lock().unwrap().clone().unwrap(),
                state: VmState::Running,
                memory_actual_size: 512 << 20,
                device_tree: None,
                mte: None,
                jail: None,
                memory_restore: None,
                work: None,
            }),
            _ => Ok(Reply::Empty204),
        };
        request.answer(reply);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = runtime.block_on(drive::drive(&server.socket(), Path::new("/k"), pipes(2))).unwrap();
    assert_eq!(told, "Running, 512 MiB");
    let expected = [
        ("vmm.ping", 0),
        ("vm.create", 0),
        ("vm.add-net", 2),
        ("vm.boot", 0),
        ("vm.info", 0),
        ("vm.shutdown", 0),
        ("vm.delete", 0),
    ];
    assert_eq!(*calls.lock().unwrap(), expected);
}
