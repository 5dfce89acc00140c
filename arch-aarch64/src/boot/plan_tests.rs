use super::*;
use crate::layout::RAM_BASE;

const MIB: u64 = 1 << 20;

fn ram(size: u64) -> Window {
    Window::new(RAM_BASE.0, size)
}

fn kernel(text_offset: u64, image_size: u64) -> KernelImage {
    let mut head = [0; 64];
    head[8..16].copy_from_slice(&text_offset.to_le_bytes());
    head[16..24].copy_from_slice(&image_size.to_le_bytes());
    head[56..60].copy_from_slice(b"ARM\x64");
    KernelImage::parse(&head, image_size / 2).expect("an Image")
}

#[test]
fn everything_lies_in_order_and_aligned_as_the_kernel_wants() {
    let plan = BootPlan::new(ram(256 * MIB), &kernel(0, 37 * MIB), Some(Initramfs { size: 5 * MIB + 3 }))
        .expect("it fits");
    assert_eq!(plan.kernel(), Window::new(0x4000_0000, 37 * MIB));
    assert_eq!(plan.kernel_bytes(), 37 * MIB / 2);
    assert_eq!(plan.fdt(), Gpa(0x4000_0000 + 38 * MIB));
    assert_eq!(plan.initramfs(), Some(Window::new(0x4000_0000 + 40 * MIB, 5 * MIB + 3)));
    assert_eq!(plan.registers(), BootRegisters { pc: 0x4000_0000, x0: plan.fdt().0, pstate: 0x3c5 });
}

#[test]
fn a_text_offset_is_kept() {
    let plan = BootPlan::new(ram(64 * MIB), &kernel(0x8_0000, 16 * MIB), None).expect("it fits");
    assert_eq!(plan.kernel().base(), Gpa(0x4008_0000));
    assert_eq!(plan.registers().pc, 0x4008_0000);
    assert_eq!(plan.initramfs(), None);
}

#[test]
fn memory_that_is_just_enough_boots_and_one_page_less_does_not() {
    let kernel = kernel(0, 10 * MIB);
    let initramfs = Some(Initramfs { size: MIB + 1 });
    let needed = 10 * MIB + 2 * MIB + MIB + PAGE;
    BootPlan::new(ram(needed), &kernel, initramfs).expect("it fits");
    match BootPlan::new(ram(needed - PAGE), &kernel, initramfs) {
        Err(PlanError::TooLargeForRam { needed: said, .. }) => assert_eq!(said, needed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_initramfs_of_absurd_size_is_refused() {
    for size in [u64::MAX, u64::MAX - 64 * MIB, 1 << 40] {
        let result = BootPlan::new(ram(256 * MIB), &kernel(0, MIB), Some(Initramfs { size }));
        assert!(matches!(result, Err(PlanError::TooLargeForRam { .. })), "{result:?}");
    }
    let result = BootPlan::new(ram(64 << 30), &kernel(0, MIB), Some(Initramfs { size: 33 << 30 }));
    assert!(matches!(result, Err(PlanError::InitramfsTooLarge(_))), "{result:?}");
}

#[test]
fn an_initramfs_that_is_no_file_or_empty_is_refused() {
    let directory = File::open("/").expect("the root directory opens");
    assert!(matches!(Initramfs::inspect(&directory), Err(PlanError::InitramfsNotRegular)));
    let empty = vmm_sys_util::tempfile::TempFile::new().expect("a temporary file").into_file();
    assert!(matches!(Initramfs::inspect(&empty), Err(PlanError::InitramfsEmpty)));
}
