//! Who is jailed: one kind per process and per thread that has a table of its own.

use std::fmt;
use std::str::FromStr;

/// A process of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JailKind {
    /// The process that runs the guest. Its threads inherit its table, so it is the union of theirs and its own.
    Machine,
    /// The process with the API. It opens files and starts processes: its table says what it may *not* do.
    Control,
    /// The process that moves guest memory with its tags, for a snapshot or out of one.
    Mover,
    /// A process that serves one virtual device.
    Device(DeviceKind),
}

/// What a device process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// virtio-blk.
    Blk,
    /// virtio-console.
    Console,
    /// virtio-net.
    Net,
    /// virtio-rng.
    Rng,
    /// virtio-pmem.
    Pmem,
    /// virtio-vsock.
    Vsock,
    /// The watchdog.
    Watchdog,
    /// virtio-balloon.
    Balloon,
    /// virtio-mem.
    Mem,
}

/// A thread of the machine with a table narrower than its process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs one virtual CPU and whatever the guest's accesses lead to: PCI, virtio transport, interrupt controller.
    Vcpu,
    /// Moves serial output to a sink that may block.
    SerialWriter,
    /// Shuts down connections to device processes that do not answer in time.
    Deadline,
    /// Waits for the mover while guest memory is not all there, and stops the guest if it dies.
    MemoryWatch,
}

impl JailKind {
    /// Every kind of process.
    pub const ALL: [Self; 12] = [
        Self::Machine,
        Self::Control,
        Self::Mover,
        Self::Device(DeviceKind::Blk),
        Self::Device(DeviceKind::Console),
        Self::Device(DeviceKind::Net),
        Self::Device(DeviceKind::Rng),
        Self::Device(DeviceKind::Pmem),
        Self::Device(DeviceKind::Vsock),
        Self::Device(DeviceKind::Watchdog),
        Self::Device(DeviceKind::Balloon),
        Self::Device(DeviceKind::Mem),
    ];
}

impl ThreadKind {
    /// Every kind of thread.
    pub const ALL: [Self; 4] = [Self::Vcpu, Self::SerialWriter, Self::Deadline, Self::MemoryWatch];
}

/// Whatever has a table: a process or a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole process.
    Process(JailKind),
    /// One thread of the machine.
    Thread(ThreadKind),
}

impl Kind {
    /// Every table there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let processes = JailKind::ALL.into_iter().map(Self::Process);
        processes.chain(ThreadKind::ALL.into_iter().map(Self::Thread))
    }

    /// Names the kind in messages, reports and `GRANULE_JAIL_DROP`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process(JailKind::Machine) => "machine",
            Self::Process(JailKind::Control) => "control",
            Self::Process(JailKind::Device(DeviceKind::Blk)) => "blk",
            Self::Process(JailKind::Mover) => "mover",
            Self::Process(JailKind::Device(DeviceKind::Console)) => "console",
            Self::Process(JailKind::Device(DeviceKind::Net)) => "net",
            Self::Process(JailKind::Device(DeviceKind::Rng)) => "rng",
            Self::Process(JailKind::Device(DeviceKind::Pmem)) => "pmem",
            Self::Process(JailKind::Device(DeviceKind::Vsock)) => "vsock",
            Self::Process(JailKind::Device(DeviceKind::Watchdog)) => "watchdog",
            Self::Process(JailKind::Device(DeviceKind::Balloon)) => "balloon",
            Self::Process(JailKind::Device(DeviceKind::Mem)) => "mem",
            Self::Thread(ThreadKind::Vcpu) => "vcpu",
            Self::Thread(ThreadKind::SerialWriter) => "serial-writer",
            Self::Thread(ThreadKind::Deadline) => "deadline",
            Self::Thread(ThreadKind::MemoryWatch) => "memory-watch",
        }
    }
}

impl From<JailKind> for Kind {
    fn from(kind: JailKind) -> Self {
        Self::Process(kind)
    }
}

impl From<ThreadKind> for Kind {
    fn from(kind: ThreadKind) -> Self {
        Self::Thread(kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::all().find(|kind| kind.name() == word).ok_or_else(|| UnknownWord::new(word, "a jail's kind"))
    }
}

/// What seccomp does with a call that no rule allows: `--seccomp true|log|false`.
///
/// Reports name it by what it does: `kill`, `log` or `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum SeccompMode {
    /// `true`: the process is killed with SIGSYS.
    #[default]
    #[serde(rename = "kill")]
    Enforce,
    /// `log`: the call goes through and the kernel's log names it (`audit: type=1326 … syscall=NR`).
    #[serde(rename = "log")]
    Log,
    /// `false`: no filter. Landlock, limits and the rest stay.
    #[serde(rename = "none")]
    Off,
}

impl FromStr for SeccompMode {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "true" => Ok(Self::Enforce),
            "log" => Ok(Self::Log),
            "false" => Ok(Self::Off),
            _ => Err(UnknownWord::new(word, "true, log or false")),
        }
    }
}

impl fmt::Display for SeccompMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "true",
            Self::Log => "log",
            Self::Off => "false",
        })
    }
}

/// A word that none of this crate's types reads.
#[derive(Debug, thiserror::Error)]
#[error("'{word}' is not {expected}")]
pub struct UnknownWord {
    word: String,
    expected: &'static str,
}

impl UnknownWord {
    fn new(word: &str, expected: &'static str) -> Self {
        Self { word: word.to_owned(), expected }
    }
}
