//! The `cpus` node, and `cpu-map` where a topology is given.

use std::fmt;

use vm_fdt::FdtWriter;

use super::{Machine, Phandle};

/// A CPU's affinity number (the bits of `MPIDR_EL1` that name it), as KVM gives it to a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mpidr(u32);

impl Mpidr {
    /// That of the vCPU with this index: sixteen to an Aff0, the rest in Aff1 and Aff2 (`reset_mpidr` in KVM).
    #[must_use]
    pub const fn of_vcpu(index: u8) -> Self {
        let index = index as u32;
        Self((index & 0xf) | ((index >> 4) & 0xff) << 8)
    }

    /// Aff2, Aff1 and Aff0 in the low 24 bits.
    #[must_use]
    pub const fn affinity(self) -> u32 {
        self.0
    }
}

/// How the vCPUs are grouped. vCPU numbers count threads first, then cores, dies and packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Threads of one core.
    pub threads_per_core: u8,
    /// Cores of one die.
    pub cores_per_die: u8,
    /// Dies of one package; told to the guest as clusters.
    pub dies_per_package: u8,
    /// Packages; told to the guest as sockets.
    pub packages: u8,
}

impl Topology {
    /// The number of threads in all.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        u32::from(self.threads_per_core)
            .saturating_mul(u32::from(self.cores_per_die))
            .saturating_mul(u32::from(self.dies_per_package))
            .saturating_mul(u32::from(self.packages))
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads_per_core, cores_per_die, dies_per_package, packages } = self;
        write!(f, "{threads_per_core}:{cores_per_die}:{dies_per_package}:{packages}")
    }
}

pub(super) fn write(fdt: &mut FdtWriter, machine: &Machine) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..machine.layout.vcpus() {
        let affinity = Mpidr::of_vcpu(index).affinity();
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        fdt.property_phandle(Phandle::FIRST_CPU + u32::from(index))?;
        fdt.end_node(cpu)?;
    }
    if let Some(topology) = machine.topology {
        cpu_map(fdt, topology)?;
    }
    fdt.end_node(node)
}

/// `cpu-map` (bindings/cpu/cpu-topology.txt): sockets hold clusters, clusters cores, cores threads.
fn cpu_map(fdt: &mut FdtWriter, topology: Topology) -> Result<(), vm_fdt::Error> {
    let mut next = (Phandle::FIRST_CPU..).take(topology.cpus() as usize);
    let map = fdt.begin_node("cpu-map")?;
    for package in 0..topology.packages {
        let socket = fdt.begin_node(&format!("socket{package}"))?;
        for die in 0..topology.dies_per_package {
            let cluster = fdt.begin_node(&format!("cluster{die}"))?;
            for core in 0..topology.cores_per_die {
                write_core(fdt, core, topology.threads_per_core, &mut next)?;
            }
            fdt.end_node(cluster)?;
        }
        fdt.end_node(socket)?;
    }
    fdt.end_node(map)
}

fn write_core(
    fdt: &mut FdtWriter,
    core: u8,
    threads: u8,
    next: &mut impl Iterator<Item = u32>,
) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&format!("core{core}"))?;
    if threads == 1 {
        // A core with one thread names its CPU itself.
        for cpu in next.take(1) {
            fdt.property_u32("cpu", cpu)?;
        }
    } else {
        for (thread, cpu) in next.take(usize::from(threads)).enumerate() {
            let node = fdt.begin_node(&format!("thread{thread}"))?;
            fdt.property_u32("cpu", cpu)?;
            fdt.end_node(node)?;
        }
    }
    fdt.end_node(node)
}
