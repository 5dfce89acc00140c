//! `granule ctl` against a server whose machine is a fake: what is sent, what is printed, how it exits.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use granule_api::call::Call;
use granule_api::error::{ApiError, ErrorKind};
use granule_api::server::{Listener, Reply, Request, ServerLimits, serve};
use granule_api::types::{HostMte, Ping};

/// The folder of a server, which runs in a thread of its own until the test program ends.
struct Served(PathBuf);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn server(name: &str) -> (Served, PathBuf) {
    let folder = std::env::temp_dir().join(format!("granule-ctl-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    let path = folder.join("s");
    let socket = path.clone();
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = Listener::bind(&socket).expect("the API socket");
            ready.send(()).expect("the test waits");
            let (driver, mut requests) = tokio::sync::mpsc::channel(4);
            let (_run, stop) = tokio::sync::watch::channel(false);
            tokio::spawn(serve(listener, driver, ServerLimits::default(), stop));
            while let Some(request) = requests.recv().await {
                answer(request);
            }
        });
    });
    is_ready.recv().expect("the server starts");
    (Served(folder), path)
}

fn answer(request: Request) {
    let fds = request.fds.len();
    let reply = match &request.call {
        Call::VmmPing => Reply::json(&Ping::new(7, vec!["kvm".into()], HostMte::default())),
        Call::VmCreate(config) if config.payload.kernel.as_deref() == Some(Path::new("/k")) => {
            Ok(Reply::Empty204)
        }
        Call::VmAddNet(_) => {
            Reply::json(&serde_json::json!({"id": "_net0", "bdf": format!("0000:00:0{fds}.0")}))
        }
        _ => Err(ApiError::new(ErrorKind::NotFound, "VM is not created").because("größer")),
    };
    request.answer(reply);
}

fn granule(socket: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_granule"))
        .args(["ctl", "--api-socket"])
        .arg(socket)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that reads nothing may have ended before.
    let _ = child.stdin.take().expect("it is a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what is printed is text")
}

#[test]
fn an_answer_is_printed_for_people() {
    let (_served, socket) = server("ping");
    let output = granule(&socket, &["ping"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed: Ping = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed.pid, Some(7));
    assert!(text(&output.stdout).contains("\n  \"version\": \"51.1.0\""), "{}", text(&output.stdout));
}

#[test]
fn an_answer_without_a_body_prints_nothing() {
    let (_served, socket) = server("create");
    let output = granule(&socket, &["create", "-"], r#"{"payload":{"kernel":"/k"}}"#);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", text(&output.stderr));
}

#[test]
fn a_refusal_is_printed_as_its_causes_and_exits_1() {
    let (_served, socket) = server("boot");
    let output = granule(&socket, &["boot"], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "granule: Error from API\n  VM is not created\n  größer\n");
}

#[test]
fn where_nobody_listens_it_says_so_and_exits_2() {
    let output = granule(Path::new("/nowhere/s"), &["ping"], "");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.starts_with("granule: cannot connect to /nowhere/s\n  No such file"), "{said}");
    let (_served, socket) = server("file");
    let output = granule(&socket, &["create", "/nowhere/vm.json"], "");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.starts_with("granule: the body cannot be read: "), "{said}");
}

#[test]
fn descriptors_go_along() {
    let (_served, socket) = server("net");
    // Standard output and error are descriptors that the child has for certain.
    let output = granule(&socket, &["add-net", "fd=[1,2],num_queues=4"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("0000:00:02.0"), "{}", text(&output.stdout));
    let output = granule(&socket, &["add-net", "fd=[999]"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is not open here"), "{}", text(&output.stderr));
}
