//! Where the lab keeps things, and what kind of host this is: environment that `scripts/lab` sets.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// The `granule` binary: `GRANULE_BIN`, or the one on PATH.
pub fn granule() -> OsString {
    env::var_os("GRANULE_BIN").unwrap_or_else(|| "granule".into())
}

/// The guest kernel's Image, from `GRANULE_KERNEL`.
///
/// # Panics
/// Outside of the lab.
pub fn kernel() -> PathBuf {
    let path =
        env::var_os("GRANULE_KERNEL").expect("GRANULE_KERNEL is set: run this by scripts/lab or cargo test");
    PathBuf::from(path)
}

/// A module of the guest kernel's package: a driver, as in `input/evdev`, or any, as in `net/core/failover`.
///
/// # Panics
/// If the package has none of this name.
pub fn driver(name: &str) -> PathBuf {
    let trees = kernel().with_file_name("lib").join("modules");
    let releases = fs::read_dir(&trees).into_iter().flatten().flatten();
    let mut files = releases.flat_map(|release| {
        let places = [format!("kernel/drivers/{name}.ko"), format!("kernel/{name}.ko")];
        places
            .into_iter()
            .flat_map(move |place| ["", ".xz"].map(|end| release.path().join(format!("{place}{end}"))))
    });
    files.find(|file| file.exists()).unwrap_or_else(|| panic!("no driver {name} under {}", trees.display()))
}

/// The static busybox.
///
/// # Panics
/// If this host has none.
pub fn busybox() -> PathBuf {
    let given = env::var_os("GRANULE_BUSYBOX").map(PathBuf::from);
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    given.into_iter().chain(places).find(|p| p.exists()).expect("busybox is installed (scripts/setup)")
}

/// The folder of the kernel's MTE selftests, built for arm64, from `GRANULE_SELFTESTS`.
///
/// # Panics
/// Outside of the lab.
pub fn selftests() -> PathBuf {
    PathBuf::from(
        env::var_os("GRANULE_SELFTESTS")
            .expect("GRANULE_SELFTESTS is set: run this by scripts/lab or cargo test"),
    )
}

/// The folder of virtiofsd, its loader and its libraries, from `GRANULE_VIRTIOFSD`.
///
/// # Panics
/// Outside of the lab.
pub fn virtiofsd() -> PathBuf {
    PathBuf::from(
        env::var_os("GRANULE_VIRTIOFSD")
            .expect("GRANULE_VIRTIOFSD is set: run this by scripts/lab or cargo test"),
    )
}

/// The folder of the Debian image and of the host's iperf3, from `GRANULE_DEBIAN`.
///
/// # Panics
/// Outside of the lab.
pub fn debian() -> PathBuf {
    PathBuf::from(
        env::var_os("GRANULE_DEBIAN").expect("GRANULE_DEBIAN is set: run this by scripts/lab or cargo test"),
    )
}

/// Fails a test that was started on another kind of host than it is about.
///
/// # Panics
/// If the host is another.
pub fn must_be(version: &str, mte: bool) {
    let is =
        (env::var("GRANULE_LAB_HOST").unwrap_or_default(), env::var("GRANULE_LAB_MTE").unwrap_or_default());
    let wanted = (version.to_owned(), if mte { "1" } else { "0" }.to_owned());
    assert_eq!(is, wanted, "(GRANULE_LAB_HOST, GRANULE_LAB_MTE): this test is about another host");
}
