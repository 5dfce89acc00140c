//! Our client against our server.

mod harness;

use granule_api::call::{Call, Method};
use granule_api::client::{Client, ClientError};
use granule_api::config::{NetConfig, PayloadConfig, VmConfig};
use granule_api::error::{ApiError, ErrorKind};
use granule_api::json;
use granule_api::server::{Reply, Request, ServerLimits};
use granule_api::types::{HostMte, PciDeviceInfo, Ping};
use harness::{Server, pipes};

fn machine(request: Request) {
    let fds = request.fds.len();
    let reply = match &request.call {
        Call::VmmPing => Reply::json(&Ping::new(7, vec!["kvm".into()], HostMte::default())),
        Call::VmAddNet(_) if fds == 0 => Ok(Reply::Empty204),
        Call::VmAddNet(_) => {
            Reply::json(&PciDeviceInfo { id: format!("fds{fds}"), bdf: "0000:00:05.0".into() })
        }
        Call::VmCreate(config) if config.payload.kernel.is_some() => Ok(Reply::Empty204),
        Call::VmPause => return,
        _ => Err(ApiError::new(ErrorKind::NotFound, "größer").because("because")),
    };
    request.answer(reply);
}

fn with_client<F: Future<Output = ()>>(work: impl FnOnce(Client) -> F) {
    let server = Server::with(ServerLimits::default(), machine);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&server.socket()).await.expect("the server listens");
        work(client).await;
    });
}

#[test]
fn a_whole_conversation_goes_over_one_connection() {
    with_client(async |mut client: Client| {
        let ping = client.ping().await.unwrap();
        assert_eq!((ping.version.as_str(), ping.pid), ("51.1.0", Some(7)));
        assert!(ping.build_version.unwrap().starts_with("granule-v"));
        let payload = PayloadConfig { kernel: Some("/k".into()), ..PayloadConfig::default() };
        client.create(&VmConfig { payload, ..VmConfig::default() }).await.unwrap();
        let net: NetConfig = json::parse(b"{}").unwrap();
        assert_eq!(client.add_net(&net, Vec::new()).await.unwrap(), None);
        for taps in [1, 2, 253] {
            let added = client.add_net(&net, pipes(taps)).await.unwrap().unwrap();
            assert_eq!(added.id, format!("fds{taps}"));
        }
        assert_eq!(client.add_net(&net, Vec::new()).await.unwrap(), None, "descriptors go once");
    });
}

#[test]
fn a_refusal_is_an_error_with_its_causes() {
    with_client(async |mut client: Client| {
        let error = client.put("vm.boot").await.unwrap_err();
        assert_eq!(error.to_string(), "vm.boot: Error from API: größer: because");
        let ClientError::Refused { status, causes, .. } = error else { panic!("{error}") };
        assert_eq!((status, causes.len()), (404, 3));
        let response = client.request(Method::Get, "vm.nonsense", None, Vec::new()).await.unwrap();
        assert_eq!((response.status, response.causes()), (404, Some(vec!["Not Found".to_owned()])));
        let error = client.put("vm.pause").await.unwrap_err();
        assert!(error.to_string().contains("shutting down"), "{error}");
    });
}

#[test]
fn what_cannot_be_asked_is_said_before_it_is_sent() {
    with_client(async |mut client: Client| {
        let error = client.put("vm boot").await.unwrap_err();
        assert_eq!(error.to_string(), "`vm boot` is not the name of an endpoint");
        let net: NetConfig = json::parse(b"{}").unwrap();
        let error = client.add_net(&net, pipes(254)).await.unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    });
}

#[test]
fn nobody_there_is_said_so() {
    let folder = harness::Folder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let path = folder.path().join("nobody");
    let error = runtime.block_on(Client::connect(&path)).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {}", path.display()));
}
