//! Who is measured, and with what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use granule_tests::folder::Folder;
use granule_tests::initramfs::Initramfs;
use granule_tests::lab;

/// Guest memory in MiB.
pub const MEMORY_MIB: u64 = 256;

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
    Qemu { program: Vec<String> },
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
            all.push(Self { name: format!("QEMU {version}"), has_api: false, kind: Kind::Qemu { program } });
        }
        Ok(all)
    }

    /// How it is started with this guest, its serial port on standard output.
    pub fn command(&self, material: &Material, guest: Guest) -> Command {
        let (kernel, initramfs, cmdline) = (material.kernel(guest), material.initramfs(), cmdline(guest));
        let mut command;
        match &self.kind {
            Kind::Granule { mte } => {
                command = Command::new(lab::granule());
                command.args(["--kernel", &kernel, "--initramfs", &initramfs, "--cmdline", &cmdline]);
                command.args([
                    "--cpus",
                    &format!("boot=1,mte={mte}"),
                    "--memory",
                    &format!("size={MEMORY_MIB}M"),
                ]);
                command.args(["--serial", "tty", "--console", "off"]);
            }
            Kind::Qemu { program } => {
                command = Command::new(&program[0]);
                command.args(&program[1..]);
                command.args(["-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host", "-smp", "1"]);
                command.args([
                    "-m",
                    &MEMORY_MIB.to_string(),
                    "-nodefaults",
                    "-no-user-config",
                    "-nic",
                    "none",
                ]);
                command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
                command.args(["-device", "virtio-rng-pci"]);
                command.args(["-kernel", &kernel, "-initrd", &initramfs, "-append", &cmdline]);
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
