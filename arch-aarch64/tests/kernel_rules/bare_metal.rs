//! A guest of a few instructions, with its MMU on: without it all memory is untagged.
//!
//! ```text
//!  RAM + 0        vectors (each tells its syndrome and stops), then the operations
//!  RAM + 64 KiB   the translation table: 1 GiB of device memory, 1 GiB of tagged memory
//!  RAM + 1 MiB    for the rules
//! ```
//! The host sets registers and the program counter, the guest does one operation and stores its result where no memory
//! is; that ends the run. The guest is built by this crate's own path from VM to GIC.

use std::arch::global_asm;
use std::fs::File;
use std::sync::Arc;

use granule_arch::boot::BootRegisters;
use granule_arch::kvm::{
    CoreRegister, CpuFeatures, Exit, NewVm, RunError, SystemRegister, Vcpu, Vm, install_kick_handler,
};
use granule_arch::layout::{Gpa, Layout, RAM_BASE};
use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::host::kvm;
use super::sys::memfd;

/// The guest's memory.
pub const RAM: usize = 4 << 20;
/// Where the rules' data begins, as an offset into RAM.
pub const DATA: usize = 1 << 20;
const TABLE: u64 = 64 << 10;

/// Where a result goes, and where a syndrome goes; no memory is there.
const RESULT: u64 = 0x0a00_0000;
const SYNDROME: u64 = RESULT + 8;

global_asm!(
    ".arch_extension memtag",
    ".pushsection .rodata.bare_metal, \"a\"",
    ".balign 4096",
    ".global bare_metal",
    "bare_metal:",
    ".rept 16",
    ".balign 128",
    "mrs x0, esr_el1",
    "movz x9, #0x0a00, lsl #16",
    "str x0, [x9, #8]",
    "b .",
    ".endr",
    ".balign 2048",
    ".global bare_metal_stg",
    "bare_metal_stg: stg x1, [x1]",
    "b 9f",
    ".global bare_metal_ldg",
    "bare_metal_ldg: mov x0, x1",
    "ldg x0, [x1]",
    "b 9f",
    ".global bare_metal_str",
    "bare_metal_str: str x2, [x1]",
    "b 9f",
    ".global bare_metal_ldr",
    "bare_metal_ldr: ldr x0, [x1]",
    "b 9f",
    ".global bare_metal_ldp",
    "bare_metal_ldp: ldp x0, x3, [x1]",
    "b 9f",
    ".global bare_metal_hvc",
    "bare_metal_hvc: hvc #0",
    "b 9f",
    ".global bare_metal_spin",
    "bare_metal_spin: b .",
    "9: dsb sy",
    "movz x9, #0x0a00, lsl #16",
    "str x0, [x9]",
    "b .",
    ".global bare_metal_end",
    "bare_metal_end:",
    ".popsection",
);

unsafe extern "C" {
    static bare_metal: u8;
    static bare_metal_stg: u8;
    static bare_metal_ldg: u8;
    static bare_metal_str: u8;
    static bare_metal_ldr: u8;
    static bare_metal_ldp: u8;
    static bare_metal_hvc: u8;
    static bare_metal_spin: u8;
    static bare_metal_end: u8;
}

/// What the guest is to do. Addresses may carry a tag in bits 56 to 59.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    /// Store the address's own tag to its granule.
    Stg(u64),
    /// Load the granule's tag; the result is the address with it.
    Ldg(u64),
    Str(u64, u64),
    Ldr(u64),
    /// Load a pair, which KVM cannot decode for a device.
    Ldp(u64),
    /// Call the firmware.
    Hvc(u64),
    /// Go round for ever.
    Spin,
}

/// What the guest answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Did {
    Result(u64),
    /// An exception, with its syndrome.
    Exception(u64),
}

/// How the guest's memory is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    SharedMemfd,
    Anonymous,
}

/// The guest.
pub struct BareMetal {
    pub vm: Vm,
    pub vcpus: Vec<Vcpu>,
    pub memory: GuestMemoryMmap<()>,
    /// What backs the memory, if a file does.
    pub file: Option<File>,
}

impl BareMetal {
    pub fn new(mte: bool, backing: Backing) -> Self {
        Self::with_vcpus(mte, backing, 1)
    }

    pub fn with_vcpus(mte: bool, backing: Backing, vcpus: u32) -> Self {
        install_kick_handler().expect("a handler");
        let kvm = kvm();
        let layout = Layout::new(RAM as u64, vcpus, 1, 40).expect("a layout");
        let (memory, file) = memory(backing);
        let new = NewVm::create(&kvm, 40).expect("a VM");
        let decided = if mte { new.with_mte().expect("tags") } else { new.without_mte() };
        let (with_vcpus, vcpus) = decided
            .with_memory(&memory)
            .and_then(|vm| vm.with_vcpus(&layout, CpuFeatures::of_host(&kvm)))
            .expect("memory and vCPUs");
        let vm = with_vcpus.with_gic(&vcpus).expect("a GIC");
        let guest = Self { vm, vcpus, memory, file };
        guest.install();
        guest
    }

    /// The host's address of an offset into RAM.
    pub fn host_address(&self, offset: usize) -> *mut u8 {
        self.memory.get_host_address(Gpa(RAM_BASE.0 + offset as u64)).expect("RAM")
    }

    /// Code, table and system registers.
    fn install(&self) {
        let length = offset_of_code(&raw const bare_metal_end);
        // SAFETY: the code lies between two labels of this program; RAM is larger; no guest runs yet.
        unsafe { self.host_address(0).copy_from_nonoverlapping(&raw const bare_metal, length) };
        // Blocks of 1 GiB at level 1: valid, accessed, inner shareable; index 1 of MAIR is device memory.
        let block = |address: u64, attribute: u64| address | 1 << 10 | 3 << 8 | attribute << 2 | 1;
        for (index, entry) in [block(0, 1), block(RAM_BASE.0, 0)].into_iter().enumerate() {
            // SAFETY: two words of RAM that nothing else uses.
            unsafe { self.host_address(TABLE as usize).cast::<u64>().add(index).write(entry) };
        }
        let registers = [
            // 0: normal, write-back, tagged; 1: device.
            (SystemRegister::MAIR_EL1, 0x00f0),
            // 4 GiB of addresses, cacheable and shareable walks, no upper range, 40 bits out, top byte ignored.
            (SystemRegister::TCR_EL1, 32 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32 | 1 << 37),
            (SystemRegister::TTBR0_EL1, RAM_BASE.0 + TABLE),
            (SystemRegister::VBAR_EL1, RAM_BASE.0),
            // MMU, caches, tags allowed, synchronous tag checks, and what is always set.
            (SystemRegister::SCTLR_EL1, 0x30d0_0800 | 1 | 1 << 2 | 1 << 12 | 1 << 40 | 1 << 43),
        ];
        for (register, value) in registers {
            self.vcpus[0].set_register(register.id(), value).expect("a register is set");
        }
    }

    /// Sets the first vCPU to an operation.
    pub fn prepare(&self, operation: Do) {
        let (code, x0, x1, x2) = match operation {
            Do::Stg(address) => (&raw const bare_metal_stg, 0, address, 0),
            Do::Ldg(address) => (&raw const bare_metal_ldg, 0, address, 0),
            Do::Str(address, value) => (&raw const bare_metal_str, 0, address, value),
            Do::Ldr(address) => (&raw const bare_metal_ldr, 0, address, 0),
            Do::Ldp(address) => (&raw const bare_metal_ldp, 0, address, 0),
            Do::Hvc(function) => (&raw const bare_metal_hvc, function, 0, 0),
            Do::Spin => (&raw const bare_metal_spin, 0, 0, 0),
        };
        let pc = RAM_BASE.0 + offset_of_code(code) as u64;
        let vcpu = &self.vcpus[0];
        vcpu.set_boot_registers(&BootRegisters { pc, x0, pstate: BootRegisters::PSTATE }).expect("registers");
        vcpu.set_register(CoreRegister::x(1).id(), x1).expect("x1");
        vcpu.set_register(CoreRegister::x(2).id(), x2).expect("x2");
    }

    /// Does one operation on the first vCPU.
    pub fn run(&mut self, operation: Do) -> Result<Did, RunError> {
        self.prepare(operation);
        self.answer()
    }

    /// Runs until the guest answers.
    pub fn answer(&mut self) -> Result<Did, RunError> {
        loop {
            let did = match self.vcpus[0].run()? {
                Exit::MmioWrite { address: Gpa(RESULT), data } => Did::Result(word(data)),
                Exit::MmioWrite { address: Gpa(SYNDROME), data } => Did::Exception(word(data)),
                Exit::Interrupted => continue,
                other => panic!("the guest left for {other:?}"),
            };
            self.complete();
            return Ok(did);
        }
    }

    /// Lets KVM finish the store that ended the run, so that registers can be set anew.
    fn complete(&mut self) {
        let vcpu = &mut self.vcpus[0];
        let kick = Arc::clone(vcpu.kick());
        kick.interrupt().expect("a flag is set");
        let exit = vcpu.run().expect("nothing is run");
        assert!(matches!(exit, Exit::Interrupted), "{exit:?}");
        kick.acknowledge();
    }
}

/// The guest's address of the rules' data, with a tag.
pub fn data(offset: usize, tag: u8) -> u64 {
    (RAM_BASE.0 + (DATA + offset) as u64) | (u64::from(tag) << 56)
}

fn word(data: &[u8]) -> u64 {
    u64::from_le_bytes(data.try_into().expect("eight bytes"))
}

fn offset_of_code(label: *const u8) -> usize {
    label as usize - &raw const bare_metal as usize
}

fn memory(backing: Backing) -> (GuestMemoryMmap<()>, Option<File>) {
    let file = (backing == Backing::SharedMemfd).then(|| memfd(RAM));
    let region = match &file {
        Some(file) => MmapRegion::from_file(FileOffset::new(file.try_clone().expect("a copy"), 0), RAM),
        None => MmapRegion::new(RAM),
    }
    .expect("guest memory");
    let region = GuestRegionMmap::new(region, RAM_BASE).expect("a region");
    (GuestMemoryMmap::from_regions(vec![region]).expect("guest memory"), file)
}
