//! A guest to be, and a guest that runs.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::console::Console;
use crate::folder::Folder;
use crate::initramfs::Initramfs;
use crate::lab;
use crate::monitor::Monitor;
use crate::wait;

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// Modules of the guest's kernel that its first program loads, in this order.
const DRIVERS: &[&str] = &["char/hw_random/virtio-rng", "input/evdev", "block/virtio_blk"];

/// Modules that the guest's first program loads only where a check needs them, by folder.
const LATER: &[(&str, &[&str])] = &[
    (
        "pmem-modules",
        &["nvdimm/libnvdimm", "nvdimm/nd_btt", "nvdimm/nd_pmem", "nvdimm/nd_virtio", "nvdimm/virtio_pmem"],
    ),
    (
        "vsock",
        &[
            "net/vmw_vsock/vsock",
            "net/vmw_vsock/vmw_vsock_virtio_transport_common",
            "net/vmw_vsock/vmw_vsock_virtio_transport",
        ],
    ),
    ("tcp", &["net/core/failover", "net/net_failover", "net/virtio_net"]),
    ("balloon-modules", &["virtio/virtio_balloon"]),
    ("mem-modules", &["virtio/virtio_mem"]),
];

/// What is to be booted: the body of `vm.create`, and what goes into the initramfs.
#[derive(Debug, Clone)]
pub struct Guest {
    config: Value,
    cmdline: Vec<String>,
    init: &'static [u8],
    selftests: bool,
}

impl Guest {
    /// One vCPU with tags, 256 MiB, an entropy device, the serial port to a file; `init` is the guest's first program.
    pub fn new(init: &'static [u8]) -> Self {
        let config = json!({
            "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "features": {"mte": true}},
            "memory": {"size": 256 * MIB},
            "payload": {"kernel": lab::kernel().display().to_string()},
            "rng": {"src": "/dev/urandom"},
            "serial": {"mode": "File"},
            "console": {"mode": "Off"},
        });
        let cmdline = ["console=ttyAMA0", "rdinit=/init", "quiet"].map(str::to_owned).to_vec();
        Self { config, cmdline, init, selftests: false }
    }

    /// Replaces a value of the configuration, named as a JSON pointer (`/cpus/features/mte`).
    ///
    /// # Panics
    /// If the parent of the value is missing.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
        let parent =
            self.config.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent} in the configuration"));
        parent[name] = value.into();
        self
    }

    /// Sets the number of vCPUs.
    #[must_use]
    pub fn vcpus(self, count: u32) -> Self {
        self.set("/cpus/boot_vcpus", count).set("/cpus/max_vcpus", count)
    }

    /// Sets `cpus.features.mte`.
    #[must_use]
    pub fn mte(self, wanted: impl Into<Value>) -> Self {
        self.set("/cpus/features/mte", wanted)
    }

    /// Adds a word to the kernel's command line.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.cmdline.push(word.to_owned());
        self
    }

    /// Packs the kernel's MTE selftests too.
    #[must_use]
    pub fn with_selftests(mut self) -> Self {
        self.selftests = true;
        self
    }

    /// The body of `vm.create` for this guest in the folder of `monitor`, where the initramfs is written and the
    /// console will be.
    ///
    /// # Panics
    /// If the initramfs cannot be made.
    pub fn body(&self, monitor: &Monitor) -> Value {
        self.body_in(monitor.folder())
    }

    /// As [`Self::body`], in any folder.
    ///
    /// # Panics
    /// If the initramfs cannot be made.
    pub fn body_in(&self, folder: &Folder) -> Value {
        std::fs::write(folder.file("initramfs"), self.initramfs()).expect("the test's folder can be written");
        let mut config = self.config.clone();
        config["payload"]["initramfs"] = folder.file("initramfs").into();
        config["payload"]["cmdline"] = self.cmdline.join(" ").into();
        match config["serial"]["mode"].as_str() {
            Some("File") if config["serial"]["file"].is_null() => {
                config["serial"]["file"] = folder.file("console").into();
            }
            Some("Socket") if config["serial"]["socket"].is_null() => {
                config["serial"]["socket"] = folder.file("serial.sock").into();
            }
            _ => {}
        }
        config
    }

    /// The arguments that say the same as [`Self::body`] where a flag exists, with `serial` as given.
    ///
    /// # Panics
    /// If the initramfs cannot be made.
    pub fn flags(&self, folder: &Folder, serial: &str) -> Vec<String> {
        std::fs::write(folder.file("initramfs"), self.initramfs()).expect("the test's folder can be written");
        let text = |pointer: &str| self.config.pointer(pointer).map(ToString::to_string).unwrap_or_default();
        let mte = if self.config["cpus"]["features"]["mte"] == true { "on" } else { "off" };
        let pairs = [
            ("--kernel", lab::kernel().display().to_string()),
            ("--initramfs", folder.file("initramfs")),
            ("--cmdline", self.cmdline.join(" ")),
            ("--cpus", format!("boot={},mte={mte}", text("/cpus/boot_vcpus"))),
            ("--memory", format!("size={}", text("/memory/size"))),
            ("--serial", serial.to_owned()),
            ("--console", "off".to_owned()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// The initramfs; each kind is packed once, since what goes into it comes from slow shared folders.
    fn initramfs(&self) -> &'static [u8] {
        static PACKED: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
        PACKED[usize::from(self.selftests)].get_or_init(|| self.pack())
    }

    fn pack(&self) -> Vec<u8> {
        let mut archive = Initramfs::for_guest(self.init);
        let added = archive.program("bin/busybox", &lab::busybox());
        pack_modules(&mut archive, "modules", DRIVERS);
        for (folder, names) in LATER {
            archive.folder(folder);
            pack_modules(&mut archive, folder, names);
        }
        let added = match self.selftests {
            true => added.and_then(|()| archive.copy_folder("selftests", &lab::selftests())),
            false => added,
        };
        added.expect("busybox and selftests can be read");
        archive.finish()
    }
}

/// Packs modules so that the order of their names is the one in which they are loaded.
///
/// # Panics
/// If the kernel's package has one of them not.
pub fn pack_modules(archive: &mut Initramfs, folder: &str, names: &[&str]) {
    for (order, name) in names.iter().enumerate() {
        let module = lab::driver(name);
        let content = std::fs::read(&module).unwrap_or_else(|e| panic!("{}: {e}", module.display()));
        let file = module.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        archive.file(&format!("{folder}/{order}-{file}"), 0o644, &content);
    }
}

/// A monitor with a VM.
#[derive(Debug)]
pub struct Vm {
    /// The monitor.
    pub monitor: Monitor,
    /// The guest's serial port, if it goes to a file.
    pub console: Console,
}

impl Vm {
    /// Starts a monitor and creates the VM.
    ///
    /// # Panics
    /// If `vm.create` is not answered by 204.
    pub fn create(guest: &Guest) -> Self {
        let monitor = Monitor::start();
        let answer = monitor.send("vm.create", &guest.body(&monitor));
        assert_eq!(answer.code, 204, "vm.create: {answer:?}; {}", monitor.errors());
        let console = Console::new(monitor.folder().path().join("console"));
        Self { monitor, console }
    }

    /// [`Self::create`], then boots it; the guest's first program may not run yet.
    ///
    /// # Panics
    /// If a call fails.
    pub fn boot(guest: &Guest) -> Self {
        let vm = Self::create(guest);
        vm.monitor.must("vm.boot");
        vm
    }

    /// [`Self::boot`], then waits for the guest's first program.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn up(guest: &Guest) -> Self {
        let mut vm = Self::boot(guest);
        vm.wait_up();
        vm
    }

    /// Waits until the guest's first program runs (again) and returns what it says about the boot.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn wait_up(&mut self) -> Value {
        let line = self.line("GRANULE init up ");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }

    /// Waits until the guest's first program runs in another boot than `before`, and returns what it says.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn wait_up_after(&mut self, before: &Value) -> Value {
        const MARK: &str = "GRANULE init up ";
        let found = wait::until(wait::LONG, || {
            let text = self.console.text();
            let boots =
                text.match_indices(MARK).filter_map(|(at, _)| text[at + MARK.len()..].split_once('\n'));
            let mut boots = boots.filter_map(|(line, _)| serde_json::from_str::<Value>(line).ok());
            boots.find(|boot| boot["boot_id"] != before["boot_id"])
        });
        found.unwrap_or_else(|| panic!("no second boot; {:?}\n{}", self.monitor.alive(), self.console.tail()))
    }

    /// Waits for the next line with `mark`, and returns what follows it.
    ///
    /// # Panics
    /// If it does not come.
    pub fn line(&mut self, mark: &str) -> String {
        let monitor = &self.monitor;
        self.console.wait_for(mark, || monitor.alive())
    }

    /// Waits for the result of a check.
    ///
    /// # Panics
    /// If it failed or does not come.
    pub fn check(&mut self, name: &str) -> Value {
        let monitor = &self.monitor;
        self.console.check(name, || monitor.alive())
    }

    /// Waits until `vm.info` tells this state.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_state(&self, state: &str) {
        if wait::until(wait::LONG, || (self.monitor.state() == state).then_some(())).is_none() {
            panic!("the state is {}, not {state}\n{}", self.monitor.state(), self.console.tail());
        }
    }
}
