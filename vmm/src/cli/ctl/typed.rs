//! What was typed behind `granule ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Drive a running monitor.
#[derive(Debug, Args)]
pub struct Typed {
    /// Its API socket.
    #[arg(long, value_name = "PATH")]
    pub api_socket: PathBuf,
    /// What it is asked.
    #[command(subcommand)]
    pub command: Command,
}

/// The calls of the API. OPTIONS are those of the monitor's own flag of that device.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Who is there.
    Ping,
    /// The VM as it is now.
    Info,
    /// What its devices have done.
    Counters,
    /// Create a VM from its configuration (a file of JSON, - is standard input).
    Create {
        /// The file.
        #[arg(value_name = "FILE|-")]
        config: String,
    },
    /// Forget the VM.
    Delete,
    /// Boot the VM.
    Boot,
    /// Stop its vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Switch the VM off.
    Shutdown,
    /// Reset the VM.
    Reboot,
    /// Press its power button.
    PowerButton,
    /// Interrupt it where it cannot look away.
    Nmi,
    /// End the monitor.
    ShutdownVmm,
    /// Change its size.
    Resize {
        /// vCPUs.
        #[arg(long, value_name = "N")]
        cpus: Option<u32>,
        /// Memory.
        #[arg(long, value_name = "SIZE")]
        memory: Option<String>,
        /// Balloon.
        #[arg(long, value_name = "SIZE")]
        balloon: Option<String>,
    },
    /// Change the size of a disk.
    ResizeDisk {
        /// Its id.
        #[arg(long, value_name = "ID")]
        disk: String,
        /// Its new size.
        #[arg(long, value_name = "SIZE")]
        size: String,
    },
    /// Change the size of a memory zone.
    ResizeZone {
        /// Its id.
        #[arg(long, value_name = "ID")]
        id: String,
        /// Its new size.
        #[arg(long, value_name = "SIZE")]
        size: String,
    },
    /// Add a VFIO device.
    AddDevice(Device),
    /// Add a disk.
    AddDisk(Device),
    /// Add a shared directory.
    AddFs(Device),
    /// Add a device of another vhost-user server.
    AddGenericVhostUser(Device),
    /// Add persistent memory.
    AddPmem(Device),
    /// Add a network interface; descriptors named by fd=[…] go along.
    AddNet(Device),
    /// Add a vsock.
    AddVsock(Device),
    /// Add a vDPA device.
    AddVdpa(Device),
    /// Add a vfio-user device.
    AddUserDevice(Device),
    /// Remove a device.
    RemoveDevice {
        /// Its id.
        id: String,
    },
    /// Save the paused VM to a directory.
    Snapshot {
        /// file://DIRECTORY
        #[arg(value_name = "URL")]
        destination: String,
        /// Let the guest run on meanwhile
        #[arg(long)]
        live: bool,
        /// Save what has changed since the snapshot in file://DIRECTORY
        #[arg(long, value_name = "URL")]
        parent: Option<String>,
    },
    /// Restore a VM: source_url=file://DIRECTORY,….
    Restore(Device),
    /// Write its memory to a file.
    Coredump {
        /// file://FILE
        #[arg(value_name = "URL")]
        destination: String,
    },
    /// Send the VM elsewhere: destination_url=URL,….
    SendMigration(Device),
    /// Take a VM from elsewhere: receiver_url=URL,….
    ReceiveMigration(Device),
    /// Any call of the API, with any body.
    Raw {
        /// Such as vm.create.
        endpoint: String,
        /// The body, a file of JSON; - is standard input.
        #[arg(value_name = "FILE|-")]
        body: Option<String>,
    },
}

/// A device in the grammar of the monitor's own flags.
#[derive(Debug, Args)]
pub struct Device {
    /// key=value,….
    pub options: String,
}
