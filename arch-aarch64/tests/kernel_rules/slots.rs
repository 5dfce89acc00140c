//! Which memory may back a guest with tags, and when the kernel checks it.

use std::fs::File;

use granule_arch::kvm::{KvmError, NewVm};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use libtest_mimic::Trial;
use vm_memory::GuestMemoryMmap;

use super::host::{HUGE_TAGS, Host, SHARED_TAGS, kvm};
use super::sys::{Answer, Map, PAGE, PROT_MTE, RW, enable_mte, memfd, memfd_with, ramfs_file, slot};

const ADDRESS: u64 = 0x4000_0000;
const HUGE: usize = 2 << 20;
const REFUSED: Answer<()> = Err(libc::EINVAL);

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.rule("slots_over_anonymous_memory", anonymous),
        host.rule("slots_over_a_memfd", over_memfd),
        host.rule("slots_over_an_ordinary_file_are_refused", ordinary_file),
        host.rule("slots_over_huge_pages", huge_pages),
        host.plain_rule("slots_of_a_vm_without_tags_take_any_memory", without_tags),
        host.rule("slots_before_the_capability_are_never_checked", order_trap),
        host.rule("the_capability_is_refused_after_the_first_vcpu", capability_after_vcpu),
        host.rule("switching_the_dirty_log_checks_the_memory_again", checked_again),
        host.rule("this_crate_names_memory_that_cannot_be_tagged", named_error),
        host.rule("a_read_only_slot_needs_taggable_memory_too", read_only),
    ]
}

/// The answer of a VM with tags to a slot over this memory.
fn with_tags(map: &Map, flags: u32) -> Answer<()> {
    let vm = kvm().create_vm().expect("a VM");
    enable_mte(&vm).expect("tags");
    slot(&vm, 0, ADDRESS, map, flags)
}

fn private(file: &File, length: usize) -> Map {
    Map::new(length, RW, libc::MAP_PRIVATE, Some((file, 0)))
}

/// What a kernel says to shared memory.
fn to_shared(host: &Host) -> Answer<()> {
    if host.since(SHARED_TAGS) { Ok(()) } else { REFUSED }
}

fn anonymous(host: &Host) {
    assert_eq!(with_tags(&Map::anonymous(PAGE), 0), Ok(()));
    let shared = Map::new(PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None);
    assert_eq!(with_tags(&shared, 0), to_shared(host));
}

fn over_memfd(host: &Host) {
    let file = memfd(PAGE);
    assert_eq!(with_tags(&Map::shared(&file, PAGE), 0), to_shared(host));
    assert_eq!(with_tags(&private(&file, PAGE), 0), Ok(()));
    let tagged = Map::new(PAGE, RW | PROT_MTE, libc::MAP_SHARED, Some((&file, 0)));
    assert_eq!(with_tags(&tagged, 0), to_shared(host));
}

fn ordinary_file(host: &Host) {
    let file = ramfs_file(PAGE);
    let shared = Map::shared(&file, PAGE);
    assert_eq!(with_tags(&shared, 0), REFUSED);
    assert_eq!(shared.protect(0, PAGE, RW | PROT_MTE), REFUSED);
    // A private copy too, since the kernel looks at the file; before, it looked at the sharing only.
    let expected = if host.since(SHARED_TAGS) { REFUSED } else { Ok(()) };
    assert_eq!(with_tags(&private(&file, PAGE), 0), expected);
}

fn huge_pages(host: &Host) {
    let expected = if host.since(HUGE_TAGS) { Ok(()) } else { REFUSED };
    let file = memfd_with(HUGE, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB);
    let shared = Map::new(HUGE, RW, libc::MAP_SHARED | libc::MAP_NORESERVE, Some((&file, 0)));
    assert_eq!(with_tags(&shared, 0), expected);
}

fn without_tags(_: &Host) {
    let files = [memfd(PAGE), ramfs_file(PAGE)];
    let maps = [Map::anonymous(PAGE), Map::shared(&files[0], PAGE), Map::shared(&files[1], PAGE)];
    for map in &maps {
        let vm = kvm().create_vm().expect("a VM");
        assert_eq!(slot(&vm, 0, ADDRESS, map, 0), Ok(()));
    }
}

fn order_trap(_: &Host) {
    let file = ramfs_file(PAGE);
    let map = Map::shared(&file, PAGE);
    let vm = kvm().create_vm().expect("a VM");
    assert_eq!(slot(&vm, 0, ADDRESS, &map, 0), Ok(()));
    // The guest would run, and die of its first touch of this slot (see the rule about memory that goes away).
    assert_eq!(enable_mte(&vm), Ok(()));
}

fn capability_after_vcpu(_: &Host) {
    let vm = kvm().create_vm().expect("a VM");
    let _vcpu = vm.create_vcpu(0).expect("a vCPU");
    assert_eq!(enable_mte(&vm), REFUSED);
}

fn checked_again(_: &Host) {
    let file = ramfs_file(PAGE);
    let map = Map::shared(&file, PAGE);
    let vm = kvm().create_vm().expect("a VM");
    slot(&vm, 0, ADDRESS, &map, 0).expect("not checked");
    enable_mte(&vm).expect("tags");
    assert_eq!(slot(&vm, 0, ADDRESS, &map, KVM_MEM_LOG_DIRTY_PAGES), REFUSED);
}

fn named_error(_: &Host) {
    let file = ramfs_file(PAGE);
    let range = (granule_arch::layout::RAM_BASE, PAGE, Some(vm_memory::FileOffset::new(file, 0)));
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files([range]).expect("memory");
    let error = NewVm::create(&kvm(), 40)
        .and_then(NewVm::with_mte)
        .and_then(|vm| vm.with_memory(&memory))
        .err()
        .expect("refused");
    assert!(matches!(error, KvmError::MemoryNotTaggable { address: ADDRESS, .. }), "{error}");
}

fn read_only(_: &Host) {
    assert_eq!(with_tags(&Map::shared(&ramfs_file(PAGE), PAGE), KVM_MEM_READONLY), REFUSED);
    assert_eq!(with_tags(&Map::anonymous(PAGE), KVM_MEM_READONLY), Ok(()));
}
