//! What becomes of tags when memory is written, copied, dropped, freed or split.
//!
//! No VM is needed: a guest's memory is a memfd, and its tags are those of the memfd's pages.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libtest_mimic::Trial;

use super::host::Host;
use super::sys::{GRANULES, Map, PAGE, PROT_MTE, RW, errno, memfd, punch, tags_of, window};

const HUGE: usize = 2 << 20;
const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.rule("data_written_past_the_tags_leaves_them", data_keeps_tags),
        host.rule("a_plain_mapping_neither_shows_nor_changes_tags", plain_mapping),
        host.rule("any_holder_of_the_memfd_can_forge_tags", forged),
        host.rule("a_freed_page_loses_its_tags_and_a_dropped_mapping_does_not", freed),
        host.rule("a_private_copy_of_a_page_copies_its_tags", private_copy),
        host.rule("a_page_of_zeros_can_have_tags", zeros_with_tags),
        host.rule("a_checked_process_breaks_on_guest_memory", checked_process),
        host.rule("splitting_a_huge_page_of_a_memfd_loses_tags", split_memfd),
        host.rule("memory_without_huge_pages_keeps_its_tags", no_huge_page),
    ]
}

fn data_keeps_tags(_: &Host) {
    let file = memfd(PAGE);
    let (tags, plain) = (window(&file, PAGE), Map::shared(&file, PAGE));
    tags.write(0, &[0xc; GRANULES]).expect("tags are set");
    plain.fill(0, PAGE, 0x11);
    assert_eq!(file.write_at(&[0x22; 64], 128).expect("written"), 64);
    assert_eq!(tags_of(&tags, 0, GRANULES), vec![0xc; GRANULES]);
    assert_eq!((plain.load(0), plain.load(128)), (0x11, 0x22));
}

fn plain_mapping(_: &Host) {
    let file = memfd(PAGE);
    let (tags, plain) = (window(&file, PAGE), Map::shared(&file, PAGE));
    tags.write(0, &[0xa; 2]).expect("tags are set");
    plain.fill(0, 32, 0x33);
    assert_eq!(plain.tag(0), 0);
    plain.set_tag(0, 5);
    plain.set_tag_and_zero(16, 5);
    assert_eq!(tags_of(&tags, 0, 2), [0xa, 0xa]);
    assert_eq!((plain.load(0), plain.load(16)), (0x33, 0), "only the data of the second was zeroed");
}

fn forged(_: &Host) {
    let file = memfd(PAGE);
    let tags = window(&file, PAGE);
    tags.write(0, &[1; GRANULES]).expect("tags are set");
    let plain = Map::shared(&file, PAGE);
    // What a device process could do, if seccomp let it.
    plain.protect(0, PAGE, RW | PROT_MTE).expect("allowed by the kernel");
    plain.set_tag(0, 2);
    assert_eq!(tags_of(&tags, 0, 1), [2]);
}

fn freed(_: &Host) {
    let file = memfd(4 * PAGE);
    let (tags, plain) = (window(&file, 4 * PAGE), Map::shared(&file, 4 * PAGE));
    for page in 0..4 {
        tags.write(page * PAGE, &[7; GRANULES]).expect("tags are set");
        plain.fill(page * PAGE, PAGE, 0x44);
    }
    plain.advise(0, PAGE, libc::MADV_DONTNEED).expect("dropped");
    plain.advise(PAGE, PAGE, libc::MADV_REMOVE).expect("freed");
    punch(&file, 2 * PAGE, PAGE);
    punch(&file, 3 * PAGE, PAGE / 2);
    let state = |page: usize| (tags_of(&tags, page * PAGE, 1)[0], plain.load(page * PAGE));
    assert_eq!(state(0), (7, 0x44), "a dropped mapping is mapped again");
    assert_eq!(state(1), (0, 0));
    assert_eq!(state(2), (0, 0));
    assert_eq!(state(3), (7, 0), "half a page is zeroed, not freed, and keeps its tags");
}

fn private_copy(_: &Host) {
    let file = memfd(PAGE);
    let tags = window(&file, PAGE);
    tags.write(0, &[3; GRANULES]).expect("tags are set");
    let copy = Map::new(PAGE, RW | PROT_MTE, libc::MAP_PRIVATE, Some((&file, 0)));
    copy.store(PAGE - 1, 1);
    assert_eq!(copy.tag(0), 3);
    copy.set_tag(0, 4);
    assert_eq!((copy.tag(0), tags_of(&tags, 0, 1)[0]), (4, 3));
}

fn zeros_with_tags(_: &Host) {
    let file = memfd(PAGE);
    window(&file, PAGE).write(PAGE - 16, &[9]).expect("a tag is set");
    let mut data = [0xff; PAGE];
    file.read_exact_at(&mut data, 0).expect("read");
    assert!(data.iter().all(|&byte| byte == 0));
    assert_eq!(window(&file, PAGE).read(PAGE - 16, &mut [0]).ok(), Some(()));
    assert_eq!(tags_of(&window(&file, PAGE), PAGE - 16, 1), [9]);
}

/// A thread of its own, since checks are a thread's matter. It makes a system call on the memory, and no access.
fn checked_process(_: &Host) {
    const PR_TAGGED_ADDR_ENABLE: u64 = 1;
    const PR_MTE_TCF_SYNC: u64 = 1 << 1;
    std::thread::spawn(|| {
        let file = memfd(PAGE);
        let tagged = Map::new(PAGE, RW | PROT_MTE, libc::MAP_SHARED, Some((&file, 0)));
        tagged.set_tag(0, 5);
        let source = fs::File::open("/proc/version").expect("a file with some bytes");
        // SAFETY: the buffer is a live mapping; whether the kernel may write to it is what is asked.
        let read = || match unsafe { libc::pread(source.as_raw_fd(), tagged.at(0).cast(), 16, 0) } {
            n if n < 0 => Err(errno()),
            n => Ok(n),
        };
        let check = |mode: u64| {
            // SAFETY: changes how this thread's own accesses are checked.
            let done = unsafe { libc::prctl(libc::PR_SET_TAGGED_ADDR_CTRL, mode, 0_u64, 0_u64, 0_u64) };
            assert_eq!(done, 0, "prctl: {}", io::Error::last_os_error());
        };
        check(PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC);
        let checked = read();
        check(0);
        assert_eq!(checked, Err(libc::EFAULT));
        assert_eq!(read(), Ok(16));
    })
    .join()
    .expect("the thread's assertions hold");
}

/// Chooses a setting of huge pages for shared memory and puts the old one back; one rule at a time.
struct ShmemHuge {
    old: String,
    _alone: MutexGuard<'static, ()>,
}

impl ShmemHuge {
    fn advise() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let text = fs::read_to_string(SHMEM_HUGE).expect("the kernel has huge pages");
        let old = text.split(['[', ']']).nth(1).expect("a choice").to_owned();
        fs::write(SHMEM_HUGE, "advise").expect("the rules are shown as root");
        Self { old, _alone: alone }
    }
}

impl Drop for ShmemHuge {
    fn drop(&mut self) {
        let _ = fs::write(SHMEM_HUGE, &self.old);
    }
}

/// A mapping of a memfd at an address where a huge page can be, and the offset of that place.
fn aligned(file: &fs::File) -> (Map, usize) {
    // Offset and address must agree modulo the huge page: one that is long enough and a fixed one in it.
    let map = Map::new(2 * HUGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None);
    let start = (map.at(0) as usize).next_multiple_of(HUGE) - map.at(0) as usize;
    // SAFETY: replaces a part of the mapping made above, which nobody else knows.
    let at = unsafe {
        libc::mmap(map.at(start).cast(), HUGE, RW, libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd(), 0)
    };
    assert_eq!(at, map.at(start).cast(), "mmap: {}", io::Error::last_os_error());
    (map, start)
}

/// The kernel keeps one flag "has tags" for a page. When it splits a huge page, it gives the flag of the first small page
/// to all. A page that alone was tagged is then untagged, and the next who maps it clears its tags.
fn split_memfd(_: &Host) {
    let _setting = ShmemHuge::advise();
    let file = memfd(HUGE);
    let (map, start) = aligned(&file);
    map.advise(start, HUGE, libc::MADV_HUGEPAGE).expect("advised");
    map.store(start, 1);
    assert!(has_huge_pages(map.at(start)), "the kernel made no huge page");

    let (page, hole) = (5, 300);
    let small = Map::new(PAGE, RW | PROT_MTE, libc::MAP_SHARED, Some((&file, page * PAGE)));
    small.set_tag(0, 9);
    assert_eq!(small.tag(0), 9);
    punch(&file, hole * PAGE, PAGE);
    drop(small);
    let small = Map::new(PAGE, RW | PROT_MTE, libc::MAP_SHARED, Some((&file, page * PAGE)));
    assert_eq!(small.tag(0), 0, "the kernel no longer loses tags: docs/kernel-hazards.md can be relaxed");
}

fn no_huge_page(_: &Host) {
    let _setting = ShmemHuge::advise();
    let file = memfd(HUGE);
    let (map, start) = aligned(&file);
    map.advise(start, HUGE, libc::MADV_NOHUGEPAGE).expect("advised");
    map.store(start, 1);
    let tags = window(&file, HUGE);
    tags.write(5 * PAGE, &[9]).expect("a tag is set");
    punch(&file, 300 * PAGE, PAGE);
    assert_eq!(tags_of(&window(&file, HUGE), 5 * PAGE, 1), [9]);
}

/// Whether a huge page is mapped at this address.
fn has_huge_pages(address: *const u8) -> bool {
    let maps =
        fs::read_to_string(format!("/proc/{}/smaps", process::id())).expect("the kernel lists mappings");
    let start = format!("{:x}-", address as usize);
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
    lines.find(|line| line.starts_with("ShmemPmdMapped")).is_some_and(|line| !line.contains(" 0 kB"))
}
