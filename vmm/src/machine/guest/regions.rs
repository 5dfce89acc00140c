//! Memory that devices bring into the guest's address space, beside RAM: images of persistent memory.
//!
//! Each is a slot of the VM and a region of the memory that every device process maps, so that its pages are good buffers
//! for all devices. `control` opens the files; what is read-only comes open for reading alone, and can be mapped no other
//! way.

use std::fs::File;
use std::io;
use std::sync::Arc;

use granule_arch::kvm::{KvmError, Vm};
use granule_arch::layout::{Layout, Window};
use rustix::mm::{Advice, madvise};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::state::RegionState;
use crate::machine::turn::{Descriptors, MissingDescriptor};
use crate::wire::{Contents, DeviceSpec, RegionSpec};

/// Why a device's memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The file ends before the memory does: touching its end would be a SIGBUS.
    #[error("device {id:?}: its memory of {size} bytes is longer than the file behind it")]
    Short {
        /// Which device.
        id: String,
        /// Bytes wanted.
        size: u64,
    },
    /// The mapping.
    #[error("device {id:?}: its memory cannot be mapped")]
    Map {
        /// Which device.
        id: String,
        /// The system's answer.
        #[source]
        source: MmapRegionError,
    },
    /// The file.
    #[error("device {id:?}: the file of its memory cannot be used")]
    File {
        /// Which device.
        id: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Two ranges overlap: a mistake in the memory map.
    #[error("device {id:?}: its memory is where other memory is")]
    Overlap {
        /// Which device.
        id: String,
    },
    /// No address for one that comes later.
    #[error(
        "device {id:?}: there is no room for its {size} bytes of memory between what the VM has and its PCI windows; boot \
         it with the image, or with more bits of address (cpus.max_phys_bits)"
    )]
    NoRoom {
        /// Which device.
        id: String,
        /// Bytes.
        size: u64,
    },
    /// A slot for it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The specification and its descriptors do not fit each other.
    #[error(transparent)]
    Descriptor(#[from] MissingDescriptor),
}

/// The memory of all devices.
#[derive(Debug)]
pub struct Regions {
    all: Vec<DeviceRegion>,
    /// Where memory of devices may go that come later.
    spare: Option<Window>,
}

#[derive(Debug)]
struct DeviceRegion {
    id: String,
    window: Window,
    memory: Arc<GuestRegionMmap<()>>,
    read_only: bool,
    contents: Contents,
}

/// The sizes of the memory that devices bring along, in the order of the memory map.
pub fn sizes(specs: &[DeviceSpec]) -> Vec<u64> {
    specs.iter().filter_map(|spec| Some(spec.memory?.size)).collect()
}

impl Regions {
    /// Maps what the devices bring along to where `layout` has it.
    pub fn map(specs: &[DeviceSpec], fds: &mut Descriptors, layout: &Layout) -> Result<Self, RegionError> {
        let with_memory = specs.iter().filter_map(|spec| Some((&spec.id, spec.memory?)));
        let regions = with_memory
            .zip(layout.pmem())
            .map(|((id, spec), &window)| DeviceRegion::map(id, spec, window, fds));
        Ok(Self { all: regions.collect::<Result<_, _>>()?, spare: layout.spare() })
    }

    /// Gives the VM the memory that a device brings along which comes while the guest runs.
    pub fn add(
        &mut self,
        id: &str,
        spec: RegionSpec,
        fds: &mut Descriptors,
        vm: &Vm,
    ) -> Result<(), RegionError> {
        let no_room = || RegionError::NoRoom { id: id.into(), size: spec.size };
        let window = self.place(spec.size).ok_or_else(no_room)?;
        let region = DeviceRegion::map(id, spec, window, fds)?;
        region.give_to(vm)?;
        self.all.push(region);
        self.all.sort_by_key(|region| region.window.base());
        Ok(())
    }

    /// Takes a device's memory away, which nobody maps any more; answers whether it had any.
    pub fn remove(&mut self, id: &str) -> Option<Window> {
        let index = self.all.iter().position(|region| region.id == id)?;
        Some(self.all.remove(index).window)
    }

    fn place(&self, size: u64) -> Option<Window> {
        let taken: Vec<Window> = self.all.iter().map(|region| region.window).collect();
        self.spare?.first_fit(&taken, size)
    }

    /// Gives the VM a slot for each.
    pub fn give_to(&self, vm: &Vm) -> Result<(), KvmError> {
        self.all.iter().try_for_each(|region| region.give_to(vm))
    }

    /// RAM and all of these: what our own devices may read and write.
    pub fn beside(&self, ram: &GuestMemoryMmap<()>) -> Result<GuestMemoryMmap<()>, RegionError> {
        self.joined(ram, |_| true)
    }

    /// RAM and what may be written to: other programs map all that they get for writing, and fail where they may not.
    pub fn beside_for_outsiders(
        &self,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<GuestMemoryMmap<()>, RegionError> {
        self.joined(ram, |region| !region.read_only)
    }

    fn joined(
        &self,
        ram: &GuestMemoryMmap<()>,
        wanted: impl Fn(&DeviceRegion) -> bool,
    ) -> Result<GuestMemoryMmap<()>, RegionError> {
        self.all.iter().filter(|region| wanted(region)).try_fold(ram.clone(), |memory, region| {
            let overlap = |_| RegionError::Overlap { id: region.id.clone() };
            memory.insert_region(region.memory.clone()).map_err(overlap)
        })
    }

    /// Those whose contents nobody but the guest has, in the order of the memory map: the id of the device, and memory.
    pub fn own(&self) -> impl Iterator<Item = (&str, &GuestRegionMmap<()>)> {
        let own = self.all.iter().filter(|region| region.contents == Contents::Own);
        own.map(|region| (region.id.as_str(), &*region.memory))
    }

    /// What a snapshot keeps of the memory of a device.
    pub fn saved(&self, id: &str) -> Option<RegionState> {
        let region = self.all.iter().find(|region| region.id == id)?;
        let DeviceRegion { id: _, window, memory: _, read_only, contents } = region;
        Some(RegionState {
            gpa: window.base().0,
            size: window.size(),
            read_only: *read_only,
            contents: *contents,
        })
    }

    /// Where the memory of a device is.
    pub fn window(&self, id: &str) -> Option<Window> {
        self.all.iter().find(|region| region.id == id).map(|region| region.window)
    }
}

impl DeviceRegion {
    /// Maps what the device brings along.
    fn map(id: &str, spec: RegionSpec, window: Window, fds: &mut Descriptors) -> Result<Self, RegionError> {
        let mapping = map(id, File::from(fds.take(spec.file)?), spec)?;
        let memory = GuestRegionMmap::new(mapping, window.base());
        let memory = Arc::new(memory.ok_or_else(|| RegionError::Overlap { id: id.into() })?);
        let RegionSpec { read_only, contents, .. } = spec;
        Ok(Self { id: id.into(), window, memory, read_only, contents })
    }

    fn give_to(&self, vm: &Vm) -> Result<(), KvmError> {
        let memory = GuestMemoryMmap::from_arc_regions(vec![self.memory.clone()]);
        // One region overlaps nothing.
        let memory = memory.map_err(|error| KvmError::Memory {
            address: self.window.base().0,
            source: io::Error::other(error),
        })?;
        vm.add_memory(&memory, self.read_only)
    }
}

fn map(id: &str, file: File, spec: RegionSpec) -> Result<MmapRegion, RegionError> {
    let failed = |source: rustix::io::Errno| RegionError::File { id: id.into(), source: source.into() };
    let short = || RegionError::Short { id: id.into(), size: spec.size };
    let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(failed)?;
    let size = usize::try_from(spec.size).ok().filter(|_| spec.size <= end).ok_or_else(short)?;
    let writable = if spec.read_only { 0 } else { libc::PROT_WRITE };
    let mapping = MmapRegionBuilder::new(size)
        .with_file_offset(FileOffset::new(file, 0))
        .with_mmap_prot(libc::PROT_READ | writable)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
        .build()
        .map_err(|source| RegionError::Map { id: id.into(), source })?;
    // SAFETY: the range is exactly the mapping that `mapping` owns; the advice keeps its contents.
    let advised = unsafe { madvise(mapping.as_ptr().cast(), mapping.size(), Advice::LinuxNoHugepage) };
    match advised {
        // A kernel without transparent huge pages has none to advise against.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(mapping),
        Err(errno) => Err(failed(errno)),
    }
}
