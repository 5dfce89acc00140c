//! `KVM_ARM_MTE_COPY_TAGS`: its unit, its limits, its side effects.

use granule_arch::layout::Gpa;
use granule_arch::mte::{CopyTagsError, TagBuffer, read_tags};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_ioctls::VmFd;
use libtest_mimic::Trial;

use super::host::{Host, NO_COPY_WHILE_LOGGING, SHARED_TAGS, kvm};
use super::sys::{
    FROM_GUEST, GRANULES, Map, PAGE, TO_GUEST, copy_tags, enable_mte, guest_tags, is_hole, memfd, slot,
    tags_of, window,
};

const ADDRESS: u64 = 0x4000_0000;
const PAGES: usize = 16;

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.rule("copy_takes_one_byte_a_granule_and_ignores_its_high_half", low_half),
        host.rule("copy_wants_whole_pages", whole_pages),
        host.rule("copy_past_the_end_of_a_slot_is_short", short),
        host.shared_rule("copy_from_a_hole_allocates_the_page", allocates),
        host.rule("copy_with_a_faulting_buffer_wipes_the_pages_tags", wipes),
        host.rule("copy_to_the_guest_while_logging", while_logging),
        host.shared_rule("copy_by_a_second_vm_is_not_refused_while_the_first_logs", second_vm),
        host.shared_rule("tags_two_to_the_byte_are_those_of_each_granule", packed),
        host.rule("copy_to_a_read_only_slot_is_refused", read_only),
        host.rule("copy_by_another_process_is_refused", other_process),
        host.rule("copy_in_a_vm_without_tags_is_refused", without_tags),
        host.rule("this_crate_reads_tags_in_pieces_and_names_missing_memory", reads_in_pieces),
    ]
}

/// A VM with tags and one slot of anonymous memory, which all kernels allow.
struct Fixture {
    vm: VmFd,
    map: Map,
}

impl Fixture {
    fn new() -> Self {
        let map = Map::anonymous(PAGES * PAGE);
        let vm = vm();
        slot(&vm, 0, ADDRESS, &map, 0).expect("a slot");
        Self { vm, map }
    }

    fn write(&self, address: u64, tag: u8) -> Result<u64, i32> {
        let mut tags = vec![tag; GRANULES];
        copy_tags(&self.vm, TO_GUEST, address, PAGE, tags.as_mut_ptr())
    }
}

fn vm() -> VmFd {
    let vm = kvm().create_vm().expect("a VM");
    enable_mte(&vm).expect("tags");
    vm
}

fn low_half(_: &Host) {
    let fixture = Fixture::new();
    assert_eq!(fixture.write(ADDRESS, 0xa5), Ok(PAGE as u64));
    assert_eq!(guest_tags(&fixture.vm, ADDRESS), Ok(vec![0x05; GRANULES]));
}

fn whole_pages(host: &Host) {
    let fixture = Fixture::new();
    let mut tags = vec![0_u8; PAGES * GRANULES];
    let mut copy = |address, length, flags| copy_tags(&fixture.vm, flags, address, length, tags.as_mut_ptr());
    assert_eq!(copy(ADDRESS + 16, PAGE, FROM_GUEST), Err(libc::EINVAL));
    assert_eq!(copy(ADDRESS, PAGE - 16, FROM_GUEST), Err(libc::EINVAL));
    // Old kernels take a length that their answer, an int, cannot hold, and copy what there is.
    let too_long =
        if host.since(NO_COPY_WHILE_LOGGING) { Err(libc::EINVAL) } else { Ok((PAGES * PAGE) as u64) };
    assert_eq!(copy(ADDRESS, 1 << 31, FROM_GUEST), too_long);
    assert_eq!(copy(ADDRESS, PAGE, 2), Err(libc::EINVAL));
    assert_eq!(copy(ADDRESS, 0, FROM_GUEST), Ok(0));
}

fn short(_: &Host) {
    let fixture = Fixture::new();
    let mut tags = vec![0_u8; 2 * GRANULES];
    let last = ADDRESS + ((PAGES - 1) * PAGE) as u64;
    let mut copy = |address| copy_tags(&fixture.vm, FROM_GUEST, address, 2 * PAGE, tags.as_mut_ptr());
    assert_eq!(copy(last), Ok(PAGE as u64));
    assert_eq!(copy(last + PAGE as u64), Err(libc::EFAULT));
}

fn allocates(_: &Host) {
    let file = memfd(2 * PAGE);
    let map = Map::shared(&file, 2 * PAGE);
    let vm = vm();
    slot(&vm, 0, ADDRESS, &map, 0).expect("a slot");
    assert!(is_hole(&file, 0) && is_hole(&file, PAGE));
    assert_eq!(guest_tags(&vm, ADDRESS), Ok(vec![0; GRANULES]));
    assert!(!is_hole(&file, 0), "the hole is still one");
    assert!(is_hole(&file, PAGE), "a page that was not asked for is there");
}

fn wipes(host: &Host) {
    let fixture = Fixture::new();
    fixture.write(ADDRESS, 9).expect("tags are set");
    // The buffer ends in the middle of the page's tags.
    let buffer = Map::anonymous(2 * PAGE);
    buffer.fill(0, PAGE, 3);
    buffer.protect(PAGE, PAGE, libc::PROT_NONE).expect("protected");
    let faulting = buffer.at(PAGE - GRANULES / 2);
    assert_eq!(copy_tags(&fixture.vm, TO_GUEST, ADDRESS, PAGE, faulting), Err(libc::EFAULT));
    let left = guest_tags(&fixture.vm, ADDRESS).expect("reading is always allowed");
    if host.since(SHARED_TAGS) {
        assert!(left.iter().all(|&tag| tag == 0), "neither the old tags nor the new: {left:?}");
    } else {
        // Before, the page kept what was copied so far and its old tags after that.
        assert_eq!((left[0], left[GRANULES - 1]), (3, 9));
    }
}

fn while_logging(host: &Host) {
    let fixture = Fixture::new();
    let other = Map::anonymous(PAGE);
    slot(&fixture.vm, 1, 2 * ADDRESS, &other, 0).expect("a second slot");
    slot(&fixture.vm, 0, ADDRESS, &fixture.map, KVM_MEM_LOG_DIRTY_PAGES).expect("logging");
    let expected = if host.since(NO_COPY_WHILE_LOGGING) { Err(libc::EBUSY) } else { Ok(PAGE as u64) };
    assert_eq!(fixture.write(ADDRESS, 4), expected);
    assert_eq!(fixture.write(2 * ADDRESS, 4), expected, "one slot that logs is enough");
    // And where it is done, it is not logged. Neither is reading, which always is.
    guest_tags(&fixture.vm, ADDRESS).expect("reading is always allowed");
    let dirty = fixture.vm.get_dirty_log(0, fixture.map.length()).expect("a log");
    assert_eq!(dirty, [0]);
}

fn second_vm(_: &Host) {
    let file = memfd(PAGE);
    let maps = [Map::shared(&file, PAGE), Map::shared(&file, PAGE)];
    let vms = [vm(), vm()];
    slot(&vms[0], 0, ADDRESS, &maps[0], KVM_MEM_LOG_DIRTY_PAGES).expect("a slot that logs");
    slot(&vms[1], 0, ADDRESS, &maps[1], 0).expect("a slot");
    let mut tags = vec![6; GRANULES];
    assert_eq!(copy_tags(&vms[1], TO_GUEST, ADDRESS, PAGE, tags.as_mut_ptr()), Ok(PAGE as u64));
    assert_eq!(guest_tags(&vms[0], ADDRESS), Ok(vec![6; GRANULES]));
    assert_eq!(vms[0].get_dirty_log(0, PAGE).expect("a log"), [0]);
    assert_eq!(tags_of(&window(&file, PAGE), 0, GRANULES), vec![6; GRANULES]);
}

fn packed(_: &Host) {
    let file = memfd(2 * PAGE);
    let window = window(&file, 2 * PAGE);
    let tags: Vec<u8> = (0..GRANULES).map(|granule| (granule * 7 / 3 % 16) as u8).collect();
    let pairs: Vec<u8> = tags.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4).collect();
    window.write(PAGE, &tags).expect("tags are set");
    let mut read = vec![0xff; GRANULES / 2];
    window.read_packed(PAGE, &mut read).expect("tags are read");
    assert_eq!(read, pairs);
    window.write_packed(0, &pairs).expect("tags are set");
    assert_eq!(tags_of(&window, 0, GRANULES), tags);
    assert!(window.read_packed(PAGE, &mut [0; 4]).is_err());
    assert!(window.write_packed(2 * PAGE - 128, &[0; 16]).is_err());
}

fn read_only(_: &Host) {
    let map = Map::anonymous(PAGE);
    let fixture = Fixture { vm: vm(), map };
    slot(&fixture.vm, 0, ADDRESS, &fixture.map, KVM_MEM_READONLY).expect("a slot");
    assert_eq!(fixture.write(ADDRESS, 1), Err(libc::EFAULT));
    assert_eq!(guest_tags(&fixture.vm, ADDRESS), Ok(vec![0; GRANULES]));
}

fn other_process(_: &Host) {
    let fixture = Fixture::new();
    let mut tags = [0_u8; GRANULES];
    // SAFETY: the child makes one system call on memory that it has, and leaves without running anything else.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        let answer = copy_tags(&fixture.vm, FROM_GUEST, ADDRESS, PAGE, tags.as_mut_ptr());
        // SAFETY: leaves at once.
        unsafe { libc::_exit(answer.err().unwrap_or(0)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), libc::EIO);
}

fn without_tags(_: &Host) {
    let map = Map::anonymous(PAGE);
    let vm = kvm().create_vm().expect("a VM");
    slot(&vm, 0, ADDRESS, &map, 0).expect("a slot");
    assert_eq!(guest_tags(&vm, ADDRESS), Err(libc::EINVAL));
}

fn reads_in_pieces(_: &Host) {
    let fixture = Fixture::new();
    fixture.write(ADDRESS + PAGE as u64, 7).expect("tags are set");
    let mut buffer = TagBuffer::new(2).expect("a buffer");
    let mut seen = Vec::new();
    let length = (PAGES * PAGE) as u64;
    read_tags(&fixture.vm, Gpa(ADDRESS), length, &mut buffer, |at, tags| {
        assert_eq!(at.0, ADDRESS + (seen.len() * 16) as u64);
        seen.extend_from_slice(tags);
    })
    .expect("tags are read");
    let mut expected = vec![0; PAGES * GRANULES];
    expected[GRANULES..2 * GRANULES].fill(7);
    assert_eq!(seen, expected);

    let mut beyond = |address, length| read_tags(&fixture.vm, Gpa(address), length, &mut buffer, |_, _| ());
    let end = ADDRESS + length;
    let error = beyond(ADDRESS, length + PAGE as u64).expect_err("there is no memory");
    assert!(matches!(error, CopyTagsError::NoMemory(at) if at == end), "{error}");
    assert!(matches!(beyond(ADDRESS + 1, PAGE as u64), Err(CopyTagsError::Unaligned { .. })));
    assert!(matches!(beyond(!0xfff, 2 * PAGE as u64), Err(CopyTagsError::Unaligned { .. })));
}
