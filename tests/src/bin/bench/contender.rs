//! Who is measured, and with what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use granule_tests::folder::Folder;
use granule_tests::initramfs::{Initramfs, write_program};
use granule_tests::lab;
use granule_tests::vm::pack_modules;

use crate::io::{CID, DISK, HOST};

/// Guest memory in MiB.
pub const MEMORY_MIB: u64 = 256;

/// The tap between guest and host.
const TAP: &str = "bench0";
/// What the guest of `bench io` loads, in this order.
const IO_DRIVERS: &[&str] = &[
    "block/virtio_blk",
    "net/core/failover",
    "net/net_failover",
    "net/virtio_net",
    "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common",
    "net/vmw_vsock/vmw_vsock_virtio_transport",
];

/// What the guest is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Says a word and powers off at its first instructions.
    Stub,
    /// Linux; its `/init` powers off.
    Linux,
    /// Linux; its `/init` sleeps.
    Idle,
}

/// Files that all contenders read, in memory: the lab's shared folders would be measured too.
pub struct Material {
    pub folder: Folder,
}

impl Material {
    /// Copies and makes them.
    pub fn prepare() -> Result<Self, String> {
        let folder = Folder::new();
        let kernel = read(&lab::kernel())?;
        let own = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
        write(&folder.file("initramfs"), &Initramfs::for_guest(&read(&own)?).finish())?;
        write(&folder.file("kernel"), &kernel)?;
        write(&folder.file("stub"), &super::stub::of(kernel))?;
        Ok(Self { folder })
    }

    /// The kernel's path.
    pub fn kernel(&self, guest: Guest) -> String {
        self.folder.file(if guest == Guest::Stub { "stub" } else { "kernel" })
    }

    /// The initramfs's path.
    pub fn initramfs(&self) -> String {
        self.folder.file("initramfs")
    }
}

/// What the guest of `bench io` needs besides: drivers, a disk, a way to configure a tap.
pub struct IoMaterial {
    pub material: Material,
}

impl IoMaterial {
    /// Makes it, in memory like the rest.
    pub fn prepare() -> Result<Self, String> {
        let material = Material::prepare()?;
        let own = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
        let mut archive = Initramfs::for_guest(&read(&own)?);
        archive.program("bin/busybox", &lab::busybox()).map_err(|e| format!("busybox: {e}"))?;
        pack_modules(&mut archive, "modules", IO_DRIVERS);
        write(&material.initramfs(), &archive.finish())?;
        // Written and not only sized: a hole is read faster than data.
        write(&material.folder.file("disk"), &vec![0x5a; DISK as usize])?;
        let up = format!("#!/bin/sh\nifconfig \"$1\" {HOST} netmask 255.255.255.0 up\n");
        write_program(&material.folder.file("tap-up"), up.as_bytes()).map_err(|e| format!("tap-up: {e}"))?;
        Ok(Self { material })
    }

    /// The socket that vsock comes out of.
    pub fn socket(&self) -> String {
        self.material.folder.file("vsock")
    }

    /// Removes what a monitor that was killed has left.
    pub fn clear(&self) {
        // Not every contender has one.
        let _ = fs::remove_file(self.socket());
    }
}

/// The kernel's command line.
pub fn cmdline(guest: Guest) -> String {
    let then = if guest == Guest::Idle { " -- idle" } else { "" };
    format!("console=ttyAMA0 quiet panic=-1{then}")
}

/// A monitor in one configuration.
pub struct Contender {
    pub name: String,
    /// Whether [`super::run::over_rest`] is for it.
    pub has_api: bool,
    kind: Kind,
}

enum Kind {
    Granule { mte: &'static str },
    Qemu { program: Vec<String>, vhost_net: bool },
}

impl Contender {
    /// All that are there: QEMU where scripts/setup has put it.
    pub fn all(material: &Material) -> Result<Vec<Self>, String> {
        let mut all = vec![
            Self { name: "granule, tags".to_owned(), has_api: true, kind: Kind::Granule { mte: "on" } },
            Self { name: "granule".to_owned(), has_api: false, kind: Kind::Granule { mte: "off" } },
        ];
        if let Some(root) = std::env::var_os("GRANULE_PEERS").map(PathBuf::from) {
            let program = qemu(&root.join("qemu"), &material.folder)?;
            let output = Command::new(&program[0]).args(&program[1..]).arg("--version").output();
            let text = output.map_err(|e| format!("QEMU: {e}"))?.stdout;
            let text = String::from_utf8_lossy(&text).into_owned();
            let version = text.split_whitespace().nth(3).unwrap_or("?").to_owned();
            all.push(Self {
                name: format!("QEMU {version}"),
                has_api: false,
                kind: Kind::Qemu { program, vhost_net: false },
            });
        }
        Ok(all)
    }

    /// Those whose devices are measured: tags make no difference to them, but QEMU has two ways to serve a network.
    pub fn all_io(material: &Material) -> Result<Vec<Self>, String> {
        let mut all = Self::all(material)?;
        all.retain(|contender| !matches!(contender.kind, Kind::Granule { mte: "off" }));
        let vhost = all.iter().find_map(|contender| match &contender.kind {
            Kind::Qemu { program, .. } => Some(Self {
                name: format!("{}, vhost-net", contender.name),
                has_api: false,
                kind: Kind::Qemu { program: program.clone(), vhost_net: true },
            }),
            Kind::Granule { .. } => None,
        });
        all.extend(vhost);
        Ok(all)
    }

    /// How it is started with the guest of `bench io` and its devices.
    pub fn io_command(&self, io: &IoMaterial, rounds: usize, rows: &str) -> Command {
        let (disk, socket) = (io.material.folder.file("disk"), io.socket());
        let rows = if rows.is_empty() { String::new() } else { format!(" rows={rows}") };
        let cmdline = format!("console=ttyAMA0 quiet panic=-1 -- io={rounds}{rows}");
        let mut command = self.start(&io.material, Guest::Linux, &cmdline);
        match &self.kind {
            Kind::Granule { .. } => {
                command.args(["--disk", &format!("path={disk},image_type=raw")]);
                command.args(["--net", &format!("tap={TAP},ip={HOST},mask=255.255.255.0")]);
                command.args(["--vsock", &format!("cid={CID},socket={socket}")]);
            }
            Kind::Qemu { vhost_net, .. } => {
                let vhost = if *vhost_net { "on" } else { "off" };
                let up = io.material.folder.file("tap-up");
                command.args(["-drive", &format!("file={disk},if=none,id=disk,format=raw,cache=writeback")]);
                command.args([
                    "-object",
                    "iothread,id=io",
                    "-device",
                    "virtio-blk-pci,drive=disk,iothread=io",
                ]);
                command.args([
                    "-netdev",
                    &format!("tap,id=net,ifname={TAP},script={up},downscript=no,vhost={vhost}"),
                ]);
                command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
                command.args(["-device", &format!("vhost-vsock-pci,guest-cid={CID}")]);
            }
        }
        command
    }

    /// How it is started with this guest, its serial port on standard output.
    pub fn command(&self, material: &Material, guest: Guest) -> Command {
        self.start(material, guest, &cmdline(guest))
    }

    /// Whether it is QEMU.
    pub fn is_qemu(&self) -> bool {
        matches!(self.kind, Kind::Qemu { .. })
    }

    /// How it is started, to take a guest that was saved: QEMU has to be told what that was.
    pub fn empty_command(&self, material: &Material, memory_mib: u64) -> Command {
        match &self.kind {
            Kind::Granule { .. } => Command::new(lab::granule()),
            Kind::Qemu { .. } => self.start_with(material, Guest::Linux, "", memory_mib),
        }
    }

    fn start(&self, material: &Material, guest: Guest, cmdline: &str) -> Command {
        self.start_with(material, guest, cmdline, MEMORY_MIB)
    }

    /// How it is started with another command line and other memory.
    pub fn start_with(&self, material: &Material, guest: Guest, cmdline: &str, memory_mib: u64) -> Command {
        let (kernel, initramfs) = (material.kernel(guest), material.initramfs());
        let mut command;
        match &self.kind {
            Kind::Granule { mte } => {
                command = Command::new(lab::granule());
                command.args(["--kernel", &kernel, "--initramfs", &initramfs, "--cmdline", cmdline]);
                command.args([
                    "--cpus",
                    &format!("boot=1,mte={mte}"),
                    "--memory",
                    &format!("size={memory_mib}M"),
                ]);
                command.args(["--serial", "tty", "--console", "off"]);
            }
            Kind::Qemu { program, .. } => {
                command = Command::new(&program[0]);
                command.args(&program[1..]);
                command.args(["-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host", "-smp", "1"]);
                command.args([
                    "-m",
                    &memory_mib.to_string(),
                    "-nodefaults",
                    "-no-user-config",
                    "-nic",
                    "none",
                ]);
                command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
                command.args(["-device", "virtio-rng-pci"]);
                command.args(["-kernel", &kernel, "-initrd", &initramfs, "-append", cmdline]);
            }
        }
        command
    }
}

/// Copies QEMU and the libraries it needs to memory; gives how it is started there.
fn qemu(root: &Path, folder: &Folder) -> Result<Vec<String>, String> {
    let libraries: Vec<PathBuf> = ["lib", "usr/lib", "usr/lib/aarch64-linux-gnu/pulseaudio"]
        .iter()
        .map(|path| root.join(path))
        .flat_map(|path| [path.join("aarch64-linux-gnu"), path])
        .collect();
    let paths: Vec<_> = libraries.iter().map(|path| path.display().to_string()).collect();
    let loader = root.join("lib/ld-linux-aarch64.so.1");
    let program = root.join("usr/bin/qemu-system-aarch64");
    let listed =
        Command::new(&loader).args(["--library-path", &paths.join(":"), "--list"]).arg(&program).output();
    let listed = listed.map_err(|e| format!("{}: {e}", loader.display()))?;
    // NAME => PATH (ADDRESS)
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let needed = text.lines().filter_map(|line| line.split(" => ").nth(1)?.split(' ').next());
    let place = folder.file("qemu");
    fs::create_dir(&place).map_err(|e| format!("{place}: {e}"))?;
    let all = needed.map(PathBuf::from).chain([loader, program]);
    for file in all {
        let Some(name) = file.file_name() else { continue };
        fs::copy(&file, Path::new(&place).join(name)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let [loader, program] =
        ["ld-linux-aarch64.so.1", "qemu-system-aarch64"].map(|name| format!("{place}/{name}"));
    Ok(vec![loader, "--library-path".to_owned(), place, program])
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| format!("{path}: {e}"))
}
