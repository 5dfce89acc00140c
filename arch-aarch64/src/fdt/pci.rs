//! One PCI host bridge per segment (bindings/pci/host-generic-pci.yaml).
//!
//! Functions signal by MSI only, so there is no `interrupt-map`.

use vm_fdt::{Error, FdtWriter};

use super::{Phandle, reg};
use crate::irq::{ItsDeviceId, REQUESTER_IDS_PER_SEGMENT};
use crate::layout::{PCI_BUSES_PER_SEGMENT, PciSegment, Window};

/// The address space bits in the first cell of a PCI address (IEEE 1275 PCI bus binding, section 2.2.1.1).
const MEMORY_32: u32 = 0x0200_0000;
const MEMORY_64: u32 = 0x0300_0000;

pub(super) fn write(fdt: &mut FdtWriter, segment: &PciSegment) -> Result<(), Error> {
    // Kata's agent takes the first bridge whose name ends in `.pcie` for segment 0.
    let kind = if segment.id == 0 { "pcie" } else { "pci" };
    let node = fdt.begin_node(&format!("{kind}@{:x}", segment.ecam.base().0))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("linux,pci-domain", u32::from(segment.id))?;
    fdt.property_array_u32("bus-range", &[0, u32::from(PCI_BUSES_PER_SEGMENT) - 1])?;
    fdt.property_null("dma-coherent")?;
    reg(fdt, &[segment.ecam])?;
    let ranges = [range(MEMORY_32, &segment.mmio32), range(MEMORY_64, &segment.mmio64)].concat();
    fdt.property_array_u32("ranges", &ranges)?;
    let first_id = ItsDeviceId::first_of(segment.id);
    fdt.property_array_u32("msi-map", &[0, Phandle::ITS, first_id, REQUESTER_IDS_PER_SEGMENT])?;
    fdt.end_node(node)
}

/// One entry of `ranges`: PCI address (3 cells), CPU address (2), size (2). Both addresses are the same.
fn range(space: u32, window: &Window) -> [u32; 7] {
    let [high, low] = cells(window.base().0);
    let [size_high, size_low] = cells(window.size());
    [space, high, low, high, low, size_high, size_low]
}

fn cells(n: u64) -> [u32; 2] {
    [(n >> 32) as u32, n as u32]
}
