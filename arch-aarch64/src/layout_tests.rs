use super::*;

fn all_windows(layout: &Layout) -> Vec<Window> {
    let mut all = vec![GIC_DISTRIBUTOR, GIC_ITS, layout.redistributors(), UART, RTC, GPIO, layout.ram()];
    for s in layout.segments() {
        all.extend([s.ecam, s.mmio32, s.mmio64]);
    }
    all
}

#[test]
fn no_two_windows_overlap_and_all_fit_in_the_address_space() {
    for ipa_bits in [36, 40, 44, 48, 52] {
        for segments in 1..=MAX_PCI_SEGMENTS {
            for ram in [64 * KIB, 256 * MIB, 3 * GIB + 64 * KIB, most_ram(segments, ipa_bits)] {
                let layout =
                    Layout::new(ram, u32::from(MAX_VCPUS), segments, ipa_bits).expect("all of these fit");
                let windows = all_windows(&layout);
                for (i, a) in windows.iter().enumerate() {
                    assert!(a.size() > 0);
                    assert!(a.end().0 <= 1 << ipa_bits, "{a:x?} in {ipa_bits} bits");
                    for b in &windows[i + 1..] {
                        assert!(!a.overlaps(b), "{a:x?} and {b:x?}");
                    }
                }
            }
        }
    }
}

#[test]
fn sixty_four_bit_windows_stay_in_place_while_ram_grows() {
    let of = |ram| Layout::new(ram, 1, 2, 40).expect("fits").segments()[0].mmio64;
    assert_eq!(of(256 * MIB), of(128 * GIB));
    assert_eq!(of(256 * MIB).base(), Gpa(256 * GIB));
    assert_eq!(of(256 * MIB).size(), 384 * GIB);
}

#[test]
fn sixty_four_bit_windows_are_directly_above_ram_in_a_small_address_space() {
    let layout = Layout::new(2 * GIB + 64 * KIB, 1, 1, 36).expect("fits");
    let window = layout.segments()[0].mmio64;
    assert_eq!(window.base(), Gpa(4 * GIB));
    assert_eq!(window.end(), Gpa(64 * GIB));
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    assert_eq!(Layout::new(0, 1, 1, 40), Err(LayoutError::NoRam));
    assert_eq!(Layout::new(1, 1, 1, 40), Err(LayoutError::RamUnaligned { size: 1 }));
    assert_eq!(Layout::new(MIB, 0, 1, 40), Err(LayoutError::VcpuCount(0)));
    assert_eq!(Layout::new(MIB, 33, 1, 40), Err(LayoutError::VcpuCount(33)));
    assert_eq!(Layout::new(MIB, 1000, 1, 40), Err(LayoutError::VcpuCount(1000)));
    assert_eq!(Layout::new(MIB, 1, 0, 40), Err(LayoutError::SegmentCount(0)));
    assert_eq!(Layout::new(MIB, 1, 17, 40), Err(LayoutError::SegmentCount(17)));
    let size = u64::MAX - RAM_GRANULARITY + 1;
    assert!(matches!(Layout::new(size, 1, 1, 40), Err(LayoutError::RamTooLarge { .. })));
    assert!(matches!(Layout::new(MIB, 1, 1, 0), Err(LayoutError::RamTooLarge { most: 0, .. })));
}

#[test]
fn windows_know_their_edges() {
    let w = Window::new(0x1000, 0x1000);
    assert!(w.contains(Gpa(0x1000)) && w.contains(Gpa(0x1fff)));
    assert!(!w.contains(Gpa(0xfff)) && !w.contains(Gpa(0x2000)));
    assert!(w.encloses(&Window::new(0x1800, 0x800)) && !w.encloses(&Window::new(0x1800, 0x801)));
    assert!(Window::checked(u64::MAX, 2).is_none());
}

#[test]
fn persistent_memory_lies_between_ram_and_the_pci_windows() {
    for (ipa_bits, ram, sizes) in [
        (48, 256 * MIB, vec![2 * MIB, 64 * MIB, 3 * GIB]),
        (40, 400 * GIB, vec![100 * GIB, 2 * MIB]),
        (36, 4 * GIB, vec![40 * GIB, GIB]),
        (33, 2 * GIB, vec![2 * GIB]),
    ] {
        let layout = Layout::new(ram, 1, 2, ipa_bits).unwrap().with_pmem(&sizes, ipa_bits).unwrap();
        let mut all = vec![layout.ram()];
        all.extend(layout.pmem());
        all.extend(layout.segments().iter().map(|segment| segment.mmio64));
        for pair in all.windows(2) {
            assert!(pair[0].end() <= pair[1].base(), "{all:x?}");
        }
        assert!(all.last().unwrap().end().0 <= 1 << ipa_bits, "{all:x?}");
        assert_eq!(layout.pmem().iter().map(Window::size).collect::<Vec<_>>(), sizes);
        assert!(layout.pmem().iter().all(|window| window.base().0.is_multiple_of(GIB)));
    }
}

#[test]
fn pluggable_memory_lies_behind_ram_in_blocks_that_any_kernel_has() {
    for (ram, size, base, bytes) in [
        (256 * MIB, 2 * MIB, GIB + 512 * MIB, 128 * MIB),
        (512 * MIB, 128 * MIB, GIB + 512 * MIB, 128 * MIB),
        (513 * MIB, 129 * MIB, 2 * GIB, 256 * MIB),
    ] {
        let layout = Layout::new(ram, 1, 1, 40).unwrap().with_hotplug(size, 40).unwrap();
        assert_eq!(layout.hotplug(), Some(Window::new(base, bytes)));
        assert_eq!(layout.memory(), Window::new(GIB, base + bytes - GIB));
        assert_eq!(layout.ram(), Window::new(GIB, ram));
        let with_pmem = layout.with_pmem(&[2 * MIB], 40).unwrap();
        assert!(with_pmem.pmem()[0].base().0 >= base + bytes);
    }
    let plain = Layout::new(GIB, 1, 1, 40).unwrap();
    assert_eq!(plain.clone().with_hotplug(0, 40).unwrap(), plain);
    assert_eq!(plain.memory(), plain.ram());
}

#[test]
fn pluggable_memory_that_cannot_be_placed_is_refused() {
    let with = |size| Layout::new(GIB, 1, 1, 36).unwrap().with_hotplug(size, 36);
    let most = 61 * GIB;
    assert!(with(most).is_ok());
    for size in [most + 1, u64::MAX] {
        assert_eq!(with(size), Err(LayoutError::HotplugTooLarge { size, ipa_bits: 36, most }));
    }
}

#[test]
fn persistent_memory_that_cannot_be_placed_is_refused() {
    let with = |sizes: &[u64]| Layout::new(GIB, 1, 1, 36).unwrap().with_pmem(sizes, 36);
    assert_eq!(with(&[0]), Err(LayoutError::PmemUnaligned { size: 0 }));
    assert_eq!(with(&[3 * MIB]), Err(LayoutError::PmemUnaligned { size: 3 * MIB }));
    let most = 61 * GIB;
    assert!(with(&[most]).is_ok());
    let size = most + 2 * MIB;
    assert_eq!(with(&[size]), Err(LayoutError::PmemTooLarge { size, ipa_bits: 36, most }));
    let largest = !(2 * MIB - 1);
    assert_eq!(
        with(&[2 * MIB, largest]),
        Err(LayoutError::PmemTooLarge { size: largest, ipa_bits: 36, most: 60 * GIB })
    );
}

#[test]
fn without_persistent_memory_the_map_is_what_it_was() {
    let layout = Layout::new(GIB, 1, 2, 40).unwrap();
    assert_eq!(layout.clone().with_pmem(&[], 40).unwrap(), layout);
}

#[test]
fn what_is_left_for_later_lies_between_memory_and_the_pci_windows() {
    let layout = Layout::new(GIB, 1, 2, 40).unwrap().with_pmem(&[2 * MIB], 40).unwrap();
    let spare = layout.spare().unwrap();
    assert!(all_windows(&layout).iter().chain(layout.pmem()).all(|window| !window.overlaps(&spare)));
    assert!(spare.base().0.is_multiple_of(GIB) && spare.base() > layout.pmem()[0].base());
    assert_eq!(spare.end(), layout.segments()[0].mmio64.base());
    assert_eq!(Layout::new(GIB, 1, 1, 36).unwrap().spare(), None, "the windows are right above RAM");
}

#[test]
fn the_first_fit_fills_the_gap_that_was_left() {
    let spare = Window::new(4 * GIB, 8 * GIB);
    let first = spare.first_fit(&[], 2 * GIB).unwrap();
    let second = spare.first_fit(&[first], 2 * MIB).unwrap();
    let third = spare.first_fit(&[first, second], MIB).unwrap();
    assert_eq!([first, second, third].map(|window| window.base().0 / GIB), [4, 6, 7]);
    assert_eq!(spare.first_fit(&[second, third], GIB).unwrap().base().0, 4 * GIB);
    assert_eq!(spare.first_fit(&[first, second, third], 4 * GIB).unwrap().base().0, 8 * GIB);
    assert_eq!(spare.first_fit(&[first, second, third], 4 * GIB + MIB), None);
}
