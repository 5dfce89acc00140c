//! Our disk and entropy processes serve QEMU, which knows nothing of us: they are vhost-user back ends like any other.
//!
//! ```text
//!  granule device blk ──┐  vhost-user sockets   ┌── qemu-system-x86_64, a Debian kernel, an /init of busybox
//!  granule device rng ──┴───────────────────────┘     └─ its serial port is what this test hears
//! ```
//! `scripts/setup` brings QEMU, the kernel and busybox on x86-64 machines.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too: a panic is how they fail")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use granule_tests::initramfs::Initramfs;
use granule_tests::wait;

/// An emulated guest boots in a few seconds; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(240);
const MIB: u64 = 1 << 20;
/// Blocks of 64 KiB that the guest writes one after the other from the second MiB on.
const BLOCKS: u64 = 48;

const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do $b insmod $module; done
echo "GRANULE disk $($b cat /sys/block/vda/serial) $($b cat /sys/block/vda/size) $($b ls /sys/block/vda/mq | $b wc -l)"
echo "GRANULE rng $($b cat /sys/class/misc/hw_random/rng_current) $($b head -c 4096 /dev/hwrng | $b wc -c)"
echo "GRANULE sum $($b md5sum </dev/vda | $b cut -d' ' -f1)"
$b yes granule | $b head -c 65536 >/tmp/block
i=0
while [ $i -lt 48 ]; do
    $b dd if=/tmp/block of=/dev/vda bs=64k seek=$((16 + i)) conv=fsync,notrunc 2>/dev/null || echo "GRANULE failed $i"
    echo "GRANULE block $i"
    i=$((i + 1))
done
echo 3 >/proc/sys/vm/drop_caches
echo "GRANULE again $($b md5sum </dev/vda | $b cut -d' ' -f1)"
$b poweroff -f
"#;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that goes with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What scripts/setup keeps.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let base = || std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    std::env::var_os("GRANULE_CACHE").map_or_else(|| base().join("granule"), PathBuf::from)
}

fn initramfs(kernel: &Path) -> Vec<u8> {
    let mut archive = Initramfs::for_guest(INIT.as_bytes());
    archive.program("bin/busybox", &cache().join("busybox-amd64/bin/busybox")).unwrap();
    let release = std::fs::read_dir(kernel.join("lib/modules")).unwrap().next().unwrap().unwrap().path();
    for name in ["block/virtio_blk", "char/hw_random/virtio-rng"] {
        let packed = release.join(format!("kernel/drivers/{name}.ko.xz"));
        let module = Command::new("xz").arg("-dc").arg(&packed).output().unwrap();
        assert!(module.status.success(), "{}", packed.display());
        archive.file(&format!("modules/{}.ko", name.rsplit('/').next().unwrap()), 0o644, &module.stdout);
    }
    archive.finish()
}

/// Starts `granule device KIND --socket FOLDER/KIND …`, and waits until it listens.
fn device(folder: &Path, kind: &str, more: &[&str]) -> Running {
    let socket = folder.join(kind);
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(env!("CARGO_BIN_EXE_granule"));
    command.args(["device", kind, "--socket"]).arg(&socket).args(more);
    let running = Running(command.spawn().unwrap());
    assert!(wait::until(PATIENCE, || socket.exists().then_some(())).is_some(), "{kind} does not listen");
    running
}

/// The lines of the guest, from a thread that reads them.
fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The rest of the next line with `mark`.
fn hear(guest: &Receiver<String>, mark: &str) -> String {
    loop {
        let line = guest.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{mark:?} was not heard: {e}"));
        assert!(!line.contains("GRANULE failed"), "the guest: {line}");
        if let Some((_, rest)) = line.split_once(mark) {
            return rest.trim().to_owned();
        }
    }
}

fn sum(path: &Path) -> String {
    let output = Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().to_owned()
}

#[test]
fn qemu_boots_a_guest_whose_disk_and_entropy_are_ours() {
    let kernel = cache().join("kernels/6.12-cloud-amd64");
    if !kernel.join("Image").exists() {
        // Past the harness, which keeps the output of tests that pass to itself.
        let text = format!("SKIPPED: qemu: {} is missing: run scripts/setup\n", kernel.display());
        let _ = std::io::stderr().write_all(text.as_bytes());
        return;
    }
    let folder = Folder(std::env::temp_dir().join(format!("granule-qemu-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    let image = folder.0.join("image");
    let content: Vec<u8> = (0..8 * MIB).map(|at| ((at * 31) >> 5) as u8 ^ (at >> 12) as u8).collect();
    std::fs::write(&image, content).unwrap();
    std::fs::write(folder.0.join("initramfs"), initramfs(&kernel)).unwrap();
    let arguments = ["--image", image.to_str().unwrap(), "--serial", "from-granule", "--queues", "2"];
    let disk = device(&folder.0, "blk", &arguments);
    let _rng = device(&folder.0, "rng", &[]);

    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-machine",
        "q35,memory-backend=ram",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "256M",
    ]);
    qemu.args(["-object", "memory-backend-memfd,id=ram,size=256M,share=on"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    qemu.arg("-kernel").arg(kernel.join("Image")).arg("-initrd").arg(folder.0.join("initramfs"));
    for (kind, options) in [("blk", ",reconnect=1"), ("rng", "")] {
        let socket = folder.0.join(kind);
        qemu.arg("-chardev").arg(format!("socket,id={kind},path={}{options}", socket.display()));
    }
    qemu.args(["-device", "vhost-user-blk-pci,chardev=blk,num-queues=2"]);
    qemu.args(["-device", "vhost-user-rng-pci,chardev=rng"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut qemu = Running(qemu.spawn().unwrap());
    let guest = lines(qemu.0.stdout.take().unwrap());

    assert_eq!(hear(&guest, "GRANULE disk "), "from-granule 16384 2");
    assert_eq!(hear(&guest, "GRANULE rng "), "virtio_rng.0 4096");
    assert_eq!(hear(&guest, "GRANULE sum "), sum(&image));
    // In the midst of its writes the disk's process dies; QEMU takes up its successor, the guest notices nothing.
    assert_eq!(hear(&guest, "GRANULE block "), "0");
    drop(disk);
    let _disk = device(&folder.0, "blk", &arguments);
    let again = hear(&guest, "GRANULE again ");
    assert!(wait::until(PATIENCE, || qemu.0.try_wait().unwrap()).is_some(), "QEMU does not end");
    assert_eq!(again, sum(&image));
    let mut written = vec![0; (BLOCKS << 16) as usize];
    let mut file = File::open(&image).unwrap();
    file.seek(SeekFrom::Start(MIB)).unwrap();
    file.read_exact(&mut written).unwrap();
    assert!(written.chunks(1 << 16).all(|block| block.chunks(8).all(|word| word == b"granule\n")));
}
