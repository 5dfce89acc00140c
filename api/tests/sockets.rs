//! The API socket: whom it belongs to, whose place it takes, and that it goes.

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use granule_api::server::{ListenError, Listener};
use harness::Folder;

fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    work()
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_listener() {
    let folder = Folder::new();
    let path = folder.path().join("s");
    in_runtime(|| {
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        drop(listener);
    });
    assert!(!path.exists());
}

#[test]
fn a_dead_socket_is_replaced_a_live_one_is_not() {
    let folder = Folder::new();
    let path = folder.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the standard library leaves the file behind");
    in_runtime(|| {
        let live = Listener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)));
        assert!(error.to_string().ends_with("s: in use by another process"), "{error}");
        assert!(path.exists());
        drop(live);
    });
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path().join("file");
    std::fs::write(&path, "precious").unwrap();
    let error = in_runtime(|| Listener::bind(&path).unwrap_err());
    assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_socket_that_took_the_place_of_ours_is_not_removed() {
    let folder = Folder::new();
    let path = folder.path().join("s");
    in_runtime(|| {
        let ours = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    });
}

#[test]
fn paths_that_cannot_be_are_refused_with_the_reason() {
    let long = format!("/{}", "s".repeat(107));
    let error = in_runtime(|| Listener::bind(long.as_ref()).unwrap_err());
    assert!(error.to_string().contains("108 bytes long, a socket address takes 107"), "{error}");
    assert!(matches!(in_runtime(|| Listener::bind("".as_ref())).unwrap_err(), ListenError::Empty));
    let error = in_runtime(|| Listener::bind("/nowhere/at/all".as_ref()).unwrap_err());
    assert!(matches!(error, ListenError::System { .. }), "{error}");
}

#[test]
fn a_socket_may_be_handed_over_if_it_listens() {
    let folder = Folder::new();
    let path = folder.path().join("s");
    in_runtime(|| {
        let listener = Listener::from_fd(UnixListener::bind(&path).unwrap().into()).unwrap();
        drop(listener);
        assert!(path.exists(), "it is its maker's to remove");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Listener::from_fd(file.into()).unwrap_err(), ListenError::NotListening { .. }));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Listener::from_fd(one.into()).is_err());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Listener::from_fd(tcp.into()).is_err());
    });
}
