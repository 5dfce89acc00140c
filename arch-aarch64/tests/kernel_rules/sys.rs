//! System calls of the rules, bare: what is shown is the kernel's behaviour and not this crate's.
//!
//! Errors are the kernel's numbers, so that a rule can name them.

use std::arch::asm;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use granule_arch::mte::{GRANULE, TagWindow};
use kvm_bindings::{KVM_CAP_ARM_MTE, kvm_arm_copy_mte_tags, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

/// A result with the kernel's error number.
pub type Answer<T> = Result<T, i32>;

pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub const PROT_MTE: i32 = 0x20;
pub const PAGE: usize = 4096;
/// Granules of one page.
pub const GRANULES: usize = PAGE / GRANULE;

/// The error number of the call that failed just now.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn number(result: libc::c_int) -> Answer<u64> {
    u64::try_from(result).map_err(|_| errno())
}

/// A mapping, taken away when dropped.
pub struct Map {
    start: *mut u8,
    length: usize,
}

// SAFETY: a mapping belongs to the process; the rules say which thread touches what.
unsafe impl Send for Map {}
// SAFETY: as above; access is volatile.
unsafe impl Sync for Map {}

impl Map {
    pub fn new(length: usize, prot: i32, flags: i32, file: Option<(&File, usize)>) -> Self {
        let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, fd, offset as libc::off_t) };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Self { start: start.cast(), length }
    }

    pub fn anonymous(length: usize) -> Self {
        Self::new(length, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    pub fn shared(file: &File, length: usize) -> Self {
        Self::new(length, RW, libc::MAP_SHARED, Some((file, 0)))
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.length);
        self.start.wrapping_add(offset)
    }

    pub fn length(&self) -> usize {
        self.length
    }

    pub fn store(&self, offset: usize, byte: u8) {
        assert!(offset < self.length);
        // SAFETY: inside of a live, writable mapping.
        unsafe { self.at(offset).write_volatile(byte) };
    }

    pub fn load(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: inside of a live, readable mapping.
        unsafe { self.at(offset).read_volatile() }
    }

    pub fn fill(&self, offset: usize, length: usize, byte: u8) {
        assert!(offset + length <= self.length);
        // SAFETY: inside of a live, writable mapping.
        unsafe { self.at(offset).write_bytes(byte, length) };
    }

    pub fn protect(&self, offset: usize, length: usize, prot: i32) -> Answer<()> {
        assert!(offset + length <= self.length);
        // SAFETY: only this mapping is affected.
        number(unsafe { libc::mprotect(self.at(offset).cast(), length, prot) }).map(drop)
    }

    pub fn advise(&self, offset: usize, length: usize, advice: i32) -> Answer<()> {
        assert!(offset + length <= self.length);
        // SAFETY: only this mapping is affected; its content is test data.
        number(unsafe { libc::madvise(self.at(offset).cast(), length, advice) }).map(drop)
    }

    /// The tag of the granule at `offset`, as this mapping shows it.
    pub fn tag(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        let mut pointer = self.at(offset) as u64;
        // SAFETY: the granule is in a live mapping; the rules that call this run on processors with tags.
        unsafe { asm!(".arch_extension memtag", "ldg {p}, [{p}]", p = inout(reg) pointer, options(nostack)) };
        (pointer >> 56 & 0xf) as u8
    }

    /// Stores a tag through this mapping.
    pub fn set_tag(&self, offset: usize, tag: u8) {
        assert!(offset < self.length);
        let tagged = self.at(offset) as u64 | u64::from(tag) << 56;
        // SAFETY: as above; no data is written.
        unsafe {
            asm!(".arch_extension memtag", "stg {t}, [{p}]", t = in(reg) tagged, p = in(reg) self.at(offset), options(nostack));
        }
    }

    /// Stores a tag and zeroes the granule through this mapping.
    pub fn set_tag_and_zero(&self, offset: usize, tag: u8) {
        assert!(offset < self.length);
        let tagged = self.at(offset) as u64 | u64::from(tag) << 56;
        // SAFETY: the granule is in a live, writable mapping.
        unsafe {
            asm!(".arch_extension memtag", "stzg {t}, [{p}]", t = in(reg) tagged, p = in(reg) self.at(offset), options(nostack));
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

pub fn memfd(length: usize) -> File {
    memfd_with(length, 0)
}

pub fn memfd_with(length: usize, flags: u32) -> File {
    // SAFETY: makes a new descriptor.
    let fd = unsafe { libc::memfd_create(c"kernel-rules".as_ptr(), libc::MFD_CLOEXEC | flags) };
    assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(length as u64).expect("the memfd takes its size");
    file
}

/// A file that is not shared memory: on a ramfs of its own, which goes with the file.
pub fn ramfs_file(length: usize) -> File {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("kernel-rules-{}-{number}", std::process::id()));
    std::fs::create_dir(&folder).expect("a mount point is made");
    let path = std::ffi::CString::new(folder.to_str().expect("a plain path")).expect("a plain path");
    // SAFETY: all arguments are C strings or null.
    let mounted =
        unsafe { libc::mount(c"ramfs".as_ptr(), path.as_ptr(), c"ramfs".as_ptr(), 0, std::ptr::null()) };
    assert_eq!(mounted, 0, "the rules are shown as root: mounting a ramfs: {}", io::Error::last_os_error());
    let file = File::create_new(folder.join("file"))
        .and_then(|_| File::options().read(true).write(true).open(folder.join("file")))
        .expect("a file on the ramfs");
    // SAFETY: a C string. The mount lives on for as long as the file is open.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    std::fs::remove_dir(&folder).expect("the mount point goes");
    file.set_len(length as u64).expect("the file takes its size");
    file
}

/// A window on the tags of a memfd.
pub fn window(file: &File, length: usize) -> TagWindow {
    TagWindow::map(file, 0, length).expect("the memfd is mapped with tags")
}

pub fn tags_of(window: &TagWindow, offset: usize, granules: usize) -> Vec<u8> {
    let mut tags = vec![0xff; granules];
    window.read(offset, &mut tags).expect("inside of the window");
    tags
}

/// Frees a part of a file.
pub fn punch(file: &File, offset: usize, length: usize) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes numbers.
    let done =
        unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as libc::off_t, length as libc::off_t) };
    assert_eq!(done, 0, "fallocate: {}", io::Error::last_os_error());
}

/// Whether the page at this offset of a file is a hole.
pub fn is_hole(file: &File, offset: usize) -> bool {
    // SAFETY: takes numbers.
    let data = unsafe { libc::lseek(file.as_raw_fd(), offset as libc::off_t, libc::SEEK_DATA) };
    data < 0 || data as usize >= offset + PAGE
}

pub fn enable_mte(vm: &VmFd) -> Answer<()> {
    vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_ARM_MTE, ..Default::default() }).map_err(|e| e.errno())
}

pub fn slot(vm: &VmFd, number: u32, address: u64, map: &Map, flags: u32) -> Answer<()> {
    let region = kvm_userspace_memory_region {
        slot: number,
        flags,
        guest_phys_addr: address,
        memory_size: map.length() as u64,
        userspace_addr: map.at(0) as u64,
    };
    // SAFETY: the mapping outlives the VM's use of it in every rule; no guest of these VMs runs.
    unsafe { vm.set_user_memory_region(region) }.map_err(|e| e.errno())
}

const KVM_ARM_MTE_COPY_TAGS: libc::Ioctl = 0x8030_aeb4_u32 as libc::Ioctl;
pub const TO_GUEST: u64 = 0;
pub const FROM_GUEST: u64 = 1;

/// `KVM_ARM_MTE_COPY_TAGS`: bytes of guest memory whose tags were copied.
pub fn copy_tags(vm: &VmFd, flags: u64, address: u64, length: usize, buffer: *mut u8) -> Answer<u64> {
    let request = kvm_arm_copy_mte_tags {
        guest_ipa: address,
        length: length as u64,
        addr: buffer.cast(),
        flags,
        reserved: [0; 2],
    };
    // SAFETY: the kernel checks the buffer; the rules give one that is large enough, or is to be refused.
    number(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_ARM_MTE_COPY_TAGS, &raw const request) })
}

/// The tags of one page of a guest.
pub fn guest_tags(vm: &VmFd, address: u64) -> Answer<Vec<u8>> {
    let mut tags = vec![0xff; GRANULES];
    copy_tags(vm, FROM_GUEST, address, PAGE, tags.as_mut_ptr()).map(|_| tags)
}
