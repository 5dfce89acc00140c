//! What was typed: every flag as text, nothing believed.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::ctl;

/// Run Linux microVMs with Arm memory tagging.
#[derive(Debug, Parser)]
#[command(name = "granule", disable_version_flag = true, args_conflicts_with_subcommands = true)]
#[command(subcommand_precedence_over_arg = true, disable_help_subcommand = true)]
pub struct Typed {
    /// Print the version.
    #[arg(short = 'V', long)]
    pub version: bool,
    /// The flags of a monitor.
    #[command(flatten)]
    pub run: Run,
    /// To do something else.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program can be besides a monitor.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Drive a running monitor.
    Ctl(ctl::Typed),
    /// Tell what this host can do.
    Probe {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what completes this command line in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// The flags of a monitor.
#[derive(Debug, Default, Args)]
pub struct Run {
    /// Socket of the REST API: PATH, path=PATH or fd=N.
    #[arg(long, value_name = "SOCKET")]
    pub api_socket: Option<String>,
    /// Where events are written: path=PATH or fd=N.
    #[arg(long, value_name = "SINK")]
    pub event_monitor: Option<String>,
    /// Memory tagging of VMs that say nothing about it: on, off or auto.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub mte: String,
    /// What happens at a system call that is not allowed: true (killed), log or false (no filter).
    #[arg(long, value_name = "MODE", default_value = "true")]
    pub seccomp: String,
    /// More of the log; may be repeated.
    #[arg(short = 'v', action = ArgAction::Count)]
    pub verbose: u8,
    /// Write the log there and not to standard error.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// How a line of the log looks: text or json (one object a line).
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
    /// Where root starts it, what to be before anything else: id=NAME,uid=N,gid=N,root=DIR,cgroup=DIR.
    #[arg(long, value_name = "OPTIONS")]
    pub jail: Option<String>,
    /// Accepted: every process is jailed anyway.
    #[arg(long)]
    pub landlock: bool,

    /// Kernel to boot, an arm64 Image.
    #[arg(long, value_name = "FILE", help_heading = "VM")]
    pub kernel: Option<String>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE", help_heading = "VM")]
    pub initramfs: Option<String>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "VM")]
    pub cmdline: Option<String>,
    /// Firmware to start in place of a kernel.
    #[arg(long, value_name = "FILE", help_heading = "VM")]
    pub firmware: Option<String>,
    /// x86 only.
    #[arg(long, value_name = "FILE", hide = true)]
    pub igvm: Option<String>,
    /// x86 only.
    #[arg(long, value_name = "TEXT", hide = true)]
    pub host_data: Option<String>,
    /// vCPUs: boot=N,max=N,mte=on|off|auto,….
    #[arg(long, value_name = "OPTIONS", help_heading = "VM")]
    pub cpus: Option<String>,
    /// Memory: size=SIZE,….
    #[arg(long, value_name = "OPTIONS", help_heading = "VM")]
    pub memory: Option<String>,
    /// Memory zones: id=NAME,size=SIZE,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "VM")]
    pub memory_zone: Vec<String>,
    /// Platform: num_pci_segments=N,….
    #[arg(long, value_name = "OPTIONS", help_heading = "VM")]
    pub platform: Option<String>,
    /// Serial line: off, null, pty, tty, file=PATH or socket=PATH.
    #[arg(long, value_name = "OUTPUT", help_heading = "VM")]
    pub serial: Option<String>,
    /// Virtio console: off, null, pty, tty, file=PATH or socket=PATH.
    #[arg(long, value_name = "OUTPUT", help_heading = "VM")]
    pub console: Option<String>,
    /// x86 only.
    #[arg(long, value_name = "OUTPUT", hide = true)]
    pub debug_console: Option<String>,
    /// Entropy device: src=PATH,….
    #[arg(long, value_name = "OPTIONS", help_heading = "VM")]
    pub rng: Option<String>,

    /// Disks: path=PATH,readonly=on|off,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub disk: Vec<String>,
    /// Network interfaces: tap=NAME,mac=ADDRESS,fd=[N,…],….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub net: Vec<String>,
    /// Shared directories: tag=NAME,socket=PATH,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub fs: Vec<String>,
    /// Persistent memory: file=PATH,size=SIZE,discard_writes=on|off,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub pmem: Vec<String>,
    /// Sockets between guest and host: cid=N,socket=PATH,….
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub vsock: Option<String>,
    /// Balloon: size=SIZE,deflate_on_oom=on|off,free_page_reporting=on|off.
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub balloon: Option<String>,
    /// Devices of other vhost-user servers: socket=PATH,device_type=N,queue_sizes=[N,…].
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub generic_vhost_user: Vec<String>,
    /// VFIO devices: path=PATH,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub device: Vec<String>,
    /// vfio-user devices: socket=PATH,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub user_device: Vec<String>,
    /// vDPA devices: path=PATH,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub vdpa: Vec<String>,
    /// Limits that disks share: id=NAME,bw_size=N,bw_refill_time=MS,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub rate_limit_group: Vec<String>,
    /// Shares of the PCI windows: pci_segment=N,….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub pci_segment: Vec<String>,
    /// NUMA nodes: guest_numa_id=N,cpus=[…],….
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub numa: Vec<String>,
    /// TPM: socket=PATH.
    #[arg(long, value_name = "OPTIONS", help_heading = "Devices")]
    pub tpm: Option<String>,
    /// A watchdog.
    #[arg(long, help_heading = "Devices")]
    pub watchdog: bool,
    /// A pvpanic device.
    #[arg(long, help_heading = "Devices")]
    pub pvpanic: bool,
    /// Accepted: no process opens a path of its own anyway.
    #[arg(long, value_name = "OPTIONS", num_args = 1.., help_heading = "Devices")]
    pub landlock_rules: Vec<String>,
    /// Restore a snapshot: source_url=file://PATH,….
    #[arg(long, value_name = "OPTIONS", help_heading = "VM")]
    pub restore: Option<String>,
}
