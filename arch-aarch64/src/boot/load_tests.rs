use std::io::Write;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::tempfile::TempFile;

use super::*;
use crate::boot::{Initramfs, KernelImage};
use crate::layout::{RAM_BASE, Window};

const RAM: u64 = 16 << 20;

fn file(bytes: &[u8]) -> File {
    let mut file = TempFile::new().expect("a temporary file").into_file();
    file.write_all(bytes).expect("written");
    file
}

fn kernel_bytes() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..0x1_2345_u32).map(|i| (i % 251) as u8).collect();
    bytes[..64].fill(0);
    bytes[16..24].copy_from_slice(&(3_u64 << 20).to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

fn plan(kernel: &File, initramfs: Option<&File>) -> BootPlan {
    let image = KernelImage::inspect(kernel).expect("an Image");
    let initramfs = initramfs.map(|f| Initramfs::inspect(f).expect("an initramfs"));
    BootPlan::new(Window::new(RAM_BASE.0, RAM), &image, initramfs).expect("it fits")
}

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(RAM_BASE, RAM as usize)]).expect("guest memory")
}

fn read(memory: &GuestMemoryMmap<()>, address: Gpa, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory.read_slice(&mut bytes, address).expect("guest memory is read");
    bytes
}

#[test]
fn every_byte_gets_to_its_place() {
    let (kernel, initramfs) = (file(&kernel_bytes()), file(b"an initramfs, more or less"));
    let plan = plan(&kernel, Some(&initramfs));
    let memory = memory();
    load(&plan, &kernel, Some(&initramfs), &memory).expect("loaded");
    write_fdt(&plan, b"a device tree", &memory).expect("written");

    assert_eq!(read(&memory, plan.kernel().base(), 0x1_2345), kernel_bytes());
    assert_eq!(read(&memory, Gpa(plan.kernel().base().0 + 0x1_2345), 64), [0; 64]);
    let place = plan.initramfs().expect("a place").base();
    assert_eq!(read(&memory, place, 26), b"an initramfs, more or less");
    assert_eq!(read(&memory, plan.fdt(), 13), b"a device tree");
}

#[test]
fn both_ways_of_loading_give_the_same_memory() {
    let (kernel, initramfs) = (file(&kernel_bytes()), file(&[0x5a; 70_000]));
    let plan = plan(&kernel, Some(&initramfs));
    let (by_mapping, backing) = (memory(), file(&[]));
    backing.set_len(RAM).expect("its size");
    load(&plan, &kernel, Some(&initramfs), &by_mapping).expect("loaded");
    load_into_file(&plan, &kernel, Some(&initramfs), &backing).expect("loaded");
    let mut by_file = vec![0; RAM as usize];
    std::os::unix::fs::FileExt::read_exact_at(&backing, &mut by_file, 0).expect("read");
    assert!(read(&by_mapping, RAM_BASE, RAM as usize) == by_file);

    kernel.set_len(0x1_0000).expect("truncated");
    let error = load_into_file(&plan, &kernel, Some(&initramfs), &backing).expect_err("refused");
    assert!(matches!(error, LoadError::Truncated { missing: 0x2345, expected: 0x1_2345, .. }), "{error}");
}

#[test]
fn a_file_that_shrank_since_the_plan_is_an_error() {
    let kernel = file(&kernel_bytes());
    let plan = plan(&kernel, None);
    kernel.set_len(0x1_0000).expect("truncated");
    let error = load(&plan, &kernel, None, &memory()).expect_err("refused");
    assert!(matches!(error, LoadError::Truncated { missing: 0x2345, expected: 0x1_2345, .. }), "{error}");
}

#[test]
fn a_plan_for_more_memory_than_there_is_is_an_error() {
    let kernel = file(&kernel_bytes());
    let plan = plan(&kernel, None);
    let small = GuestMemoryMmap::<()>::from_ranges(&[(RAM_BASE, 0x1_0000)]).expect("guest memory");
    assert!(matches!(load(&plan, &kernel, None, &small), Err(LoadError::NoMemory { .. })));
    assert!(matches!(write_fdt(&plan, b"x", &small), Err(LoadError::NoMemory { .. })));
}

#[test]
fn plan_and_files_must_agree_about_the_initramfs() {
    let kernel = file(&kernel_bytes());
    let plan = plan(&kernel, None);
    assert!(matches!(load(&plan, &kernel, Some(&kernel), &memory()), Err(LoadError::InitramfsMismatch)));
}

#[test]
fn a_device_tree_larger_than_its_room_is_refused() {
    let kernel = file(&kernel_bytes());
    let plan = plan(&kernel, None);
    let blob = vec![0; fdt::MAX_SIZE + 1];
    assert!(matches!(write_fdt(&plan, &blob, &memory()), Err(LoadError::FdtTooLarge(_))));
}
