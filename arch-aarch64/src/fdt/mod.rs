//! The flattened device tree: what the guest's kernel is told about its machine.
//!
//! [`build`] is a pure function of [`Machine`]; the same machine gives the same bytes. Bindings are those of
//! the Linux kernel's `Documentation/devicetree/bindings`.
//!
//! The names of the PCI host bridges matter to Kata's agent: on arm64 it looks in sysfs for a bridge whose name ends
//! in `.pcie`, so segment 0 is `pcie@…` and the others are `pci@…`.
//!
//! SVE, pointer authentication and memory tagging have no place here: the guest reads them from its ID registers.

mod cpus;
mod devices;
mod pci;
#[cfg(test)]
mod tests;

pub use cpus::{Mpidr, Topology};

use thiserror::Error;
use vm_fdt::FdtWriter;

use crate::layout::{Layout, Window};

/// The most that a device tree may take (Documentation/arch/arm64/booting.rst, section 2).
pub const MAX_SIZE: usize = 2 << 20;
/// The longest command line that an arm64 kernel keeps (`COMMAND_LINE_SIZE` with its final zero).
pub const MAX_CMDLINE: usize = 2047;

/// `phandle` numbers, by which nodes refer to each other. CPUs follow [`Phandle::FIRST_CPU`].
struct Phandle;

impl Phandle {
    const GIC: u32 = 1;
    const ITS: u32 = 2;
    const CLOCK: u32 = 3;
    const GPIO: u32 = 4;
    const FIRST_CPU: u32 = 16;
}

/// What the device tree says.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Where everything is.
    pub layout: &'a Layout,
    /// How the vCPUs form threads, cores, clusters and sockets; nothing is said where this is `None`.
    pub topology: Option<Topology>,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Where the initramfs lies.
    pub initramfs: Option<Window>,
    /// Whether there is a serial port (which is then the console that the kernel takes by default).
    pub serial: bool,
    /// Whether vCPUs have performance counters.
    pub pmu: bool,
    /// Fresh random numbers for the guest's first secrets.
    pub seeds: Option<Seeds>,
}

/// Randomness for the guest, from the host's generator. The kernel wipes both from the tree once read.
#[derive(Clone, Copy)]
pub struct Seeds {
    /// Where the kernel puts itself (`kaslr-seed`).
    pub kaslr: u64,
    /// What starts its random number generator (`rng-seed`).
    pub rng: [u8; 32],
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A log line must not tell where a guest's kernel lies.
        f.write_str("Seeds(…)")
    }
}

/// Why there is no device tree.
#[derive(Debug, Error)]
pub enum FdtError {
    /// The kernel would cut it silently.
    #[error("the kernel command line has {0} bytes; arm64 kernels keep {MAX_CMDLINE}")]
    CmdlineTooLong(usize),
    /// Not a C string.
    #[error("the kernel command line contains a zero byte")]
    CmdlineZeroByte,
    /// The numbers of a topology do not multiply to the number of vCPUs.
    #[error("the CPU topology {topology} has {product} CPUs but the VM has {vcpus}")]
    Topology {
        /// What was asked for.
        topology: Topology,
        /// Its threads.
        product: u32,
        /// The VM's vCPUs.
        vcpus: u8,
    },
    /// The tree is larger than a kernel would map.
    #[error("the device tree has {0} bytes; a kernel takes {MAX_SIZE}")]
    TooLarge(usize),
    /// The writer refused a node or a property.
    #[error("cannot write the device tree")]
    Write(#[from] vm_fdt::Error),
}

/// The device tree of a machine, ready to be copied into its memory.
///
/// # Errors
/// Where the command line or the topology cannot be expressed.
pub fn build(machine: &Machine) -> Result<Vec<u8>, FdtError> {
    check(machine)?;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", Phandle::GIC)?;
    chosen(&mut fdt, machine)?;
    aliases(&mut fdt, machine)?;
    cpus::write(&mut fdt, machine)?;
    memory(&mut fdt, machine.layout.ram())?;
    devices::write(&mut fdt, machine)?;
    for segment in machine.layout.segments() {
        pci::write(&mut fdt, segment)?;
    }
    fdt.end_node(root)?;
    let blob = fdt.finish()?;
    if blob.len() > MAX_SIZE {
        return Err(FdtError::TooLarge(blob.len()));
    }
    Ok(blob)
}

fn check(machine: &Machine) -> Result<(), FdtError> {
    if machine.cmdline.len() > MAX_CMDLINE {
        return Err(FdtError::CmdlineTooLong(machine.cmdline.len()));
    }
    if machine.cmdline.contains('\0') {
        return Err(FdtError::CmdlineZeroByte);
    }
    let vcpus = machine.layout.vcpus();
    match machine.topology {
        Some(topology) if topology.cpus() != u32::from(vcpus) => {
            Err(FdtError::Topology { topology, product: topology.cpus(), vcpus })
        }
        _ => Ok(()),
    }
}

fn chosen(fdt: &mut FdtWriter, machine: &Machine) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    if machine.serial {
        fdt.property_string("stdout-path", &devices::uart_path())?;
    }
    if let Some(initramfs) = machine.initramfs {
        fdt.property_u64("linux,initrd-start", initramfs.base().0)?;
        fdt.property_u64("linux,initrd-end", initramfs.end().0)?;
    }
    if let Some(seeds) = machine.seeds {
        fdt.property_u64("kaslr-seed", seeds.kaslr)?;
        fdt.property("rng-seed", &seeds.rng)?;
    }
    fdt.end_node(node)
}

fn aliases(fdt: &mut FdtWriter, machine: &Machine) -> Result<(), vm_fdt::Error> {
    if !machine.serial {
        return Ok(());
    }
    let node = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &devices::uart_path())?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, ram: Window) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&format!("memory@{:x}", ram.base().0))?;
    fdt.property_string("device_type", "memory")?;
    reg(fdt, &[ram])?;
    fdt.end_node(node)
}

/// The `reg` property: where a device's registers are.
fn reg(fdt: &mut FdtWriter, windows: &[Window]) -> Result<(), vm_fdt::Error> {
    let cells: Vec<u64> = windows.iter().flat_map(|w| [w.base().0, w.size()]).collect();
    fdt.property_array_u64("reg", &cells)
}

/// The `compatible` property: the most specific name first.
fn compatible(fdt: &mut FdtWriter, names: &[&str]) -> Result<(), vm_fdt::Error> {
    fdt.property_string_list("compatible", names.iter().map(ToString::to_string).collect())
}
