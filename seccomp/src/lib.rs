//! The jail: seccomp tables as data, landlock, resource limits, and processes started with a list of descriptors.
//!
//! Knows nothing of virtio or KVM but the numbers of their system calls, and nothing of what the processes do.
//!
//! # Who attacks whom
//!
//! A guest is hostile. It may take over a vCPU thread (the transport, interrupt controller and PCI code that its accesses
//! run) or a device process (which parses its rings). Both hold guest memory anyway; what they must not reach is the host
//! and other guests. Clients of the API are trusted with what the user who started us may do, and reach only control.
//!
//! | an intruder in | has | and is held by |
//! |---|---|---|
//! | a device process | guest memory, its own backing file or socket, its vhost-user connection | seccomp list of its kind; landlock; limits; no capability; no second thread |
//! | a vCPU thread | the VM's descriptors; requests to control and device processes | seccomp list of the thread *and* of the machine; landlock; no capability |
//! | the machine's other threads | the same, and making VMs | seccomp list of the machine; landlock; no capability |
//! | the mover | guest memory and its tags, the files of one snapshot, sockets to control and machine | seccomp list; landlock; limits; no capability |
//! | control | the user's rights; never guest memory | a list of refusals, as a net: it may open and execute |
//!
//! So nobody who runs what guests write can open a path, make a socket, start a process, reach into another one, make code
//! or touch the tags of guest memory; the mover, which can touch them, interprets nothing that is in that memory. [`attempts`] tries all of that from inside, and the crate's test `jail` demands
//! for each attempt, in each kind of jail, the refusal and the layer it comes from.
//!
//! # Layers, and what each is for
//!
//! 1. **Descriptors** ([`Spawn`]): a process has what is on its list, so there is nothing to reach without a new descriptor.
//! 2. **Seccomp** ([`rules`], [`filter`]): no call that makes one, starts a process or changes what memory is for. The
//!    widest layer and the only one that tells threads apart. `--seccomp log` shows what a table lacks, `false` leaves it
//!    out. mmap and mprotect with PROT_EXEC or PROT_MTE are refused (PROT_MTE to all but the mover): every process that maps
//!    guest memory could otherwise forge the guest's tags.
//! 3. **Landlock**: no path, no TCP, no abstract socket, for devices no signal to outside. Holds with seccomp off, and for
//!    a call that a table allows by mistake.
//! 4. **Capabilities**, [`limits`], PR_SET_MDWE, and what [`prepare_process`] sets: what root gave is gone, a flood of
//!    descriptors stays where it is sent, memory does not become code.
//! 5. [`deployment`]: a user, a file tree and a cgroup for each VM, where whoever starts granule asks for them.
//! 6. With root, a device process also leaves the host's namespaces, file tree and user.
//!
//! # In which order
//!
//! ```text
//! machine: prepare_process → Spawn control → enter(Machine) → serve, each thread: enter_thread
//! control: prepare_process → enter(Control) → serve, open files, Spawn devices
//! device:  prepare_process → open or receive descriptors → enter(Device) → parse the first byte from outside
//! ```
//!
//! # What the kernel makes of it
//!
//! Found while building this, each with a test:
//! - PDEATHSIG is checked against the dying parent's landlock domain: with a signal scope on the machine, control would
//!   outlive it. So the machine has none.
//! - glibc's malloc opens `/proc/sys/vm/overcommit_memory` when the heap of a thread shrinks: jailed processes have one heap.
//! - A memfd is no path: landlock lets it be executed; seccomp alone refuses that.
//! - A filter is inherited through exec: what control refuses itself, device processes are refused while they start.

pub mod arch;
pub mod attempts;
pub mod call;
pub mod deployment;
mod enter;
pub mod filter;
mod ioctl;
mod isolation;
mod kind;
pub mod limits;
mod paths;
mod process;
mod report;
mod rule;
pub mod rules;
mod spawn;
mod sys;

pub use enter::{DROP_RULE, Error, enter, enter_thread};
pub use kind::{DeviceKind, JailKind, Kind, SeccompMode, ThreadKind, UnknownWord};
pub use paths::landlock_abi;
pub use process::{Error as PrepareError, GLIBC_TUNABLES, huge_pages, prepare_process};
pub use report::JailReport;
pub use rule::{Answer, Rule, Test};
pub use spawn::{Child, Error as SpawnError, Executable, Output, Spawn};
