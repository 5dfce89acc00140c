//! Golden bytes: the device tree of two machines, decoded by an independent reader.
//!
//! A change of the tree is a change of the guest's hardware: it must be seen in review. To accept one, run the
//! tests with `GRANULE_BLESS=1` and read the diff of `golden/`.

use std::fmt::Write as _;
use std::path::Path;

use super::*;
use crate::layout::Layout;

const GIB: u64 = 1 << 30;

fn layout(ram: u64, vcpus: u32, segments: u16) -> Layout {
    Layout::new(ram, vcpus, segments, 40).expect("the numbers are possible")
}

fn machine(layout: &Layout) -> Machine<'_> {
    Machine {
        layout,
        topology: None,
        cmdline: "console=ttyAMA0",
        initramfs: None,
        serial: true,
        pmu: true,
        seeds: None,
    }
}

/// The tree as text: one node or property a line, values as the bytes are.
fn decode(blob: &[u8]) -> String {
    fn walk(text: &mut String, node: fdt::node::FdtNode, depth: usize) {
        let indent = "  ".repeat(depth);
        writeln!(text, "{indent}{} {{", node.name).expect("writing to a string");
        for p in node.properties() {
            writeln!(text, "{indent}  {}{}", p.name, value(p.name, p.value)).expect("writing to a string");
        }
        for child in node.children() {
            walk(text, child, depth + 1);
        }
        writeln!(text, "{indent}}}").expect("writing to a string");
    }
    let mut text = String::new();
    let tree = fdt::Fdt::new(blob).expect("an independent reader accepts the tree");
    walk(&mut text, tree.find_node("/").expect("a root"), 0);
    text
}

fn value(name: &str, bytes: &[u8]) -> String {
    const STRINGS: [&str; 12] = [
        "compatible",
        "bootargs",
        "stdout-path",
        "serial0",
        "device_type",
        "enable-method",
        "method",
        "clock-names",
        "clock-output-names",
        "label",
        "model",
        "status",
    ];
    if bytes.is_empty() {
        return String::new();
    }
    if STRINGS.contains(&name) {
        let all = std::str::from_utf8(bytes).expect("a string");
        let strings: Vec<_> = all.trim_end_matches('\0').split('\0').map(|s| format!("{s:?}")).collect();
        return format!(" = {}", strings.join(", "));
    }
    let cells: Vec<_> = bytes
        .chunks(4)
        .map(|c| format!("{:#x}", u32::from_be_bytes(c.try_into().expect("whole cells"))))
        .collect();
    format!(" = <{}>", cells.join(" "))
}

fn assert_golden(name: &str, blob: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fdt/golden").join(name);
    let text = decode(blob);
    if std::env::var_os("GRANULE_BLESS").is_some() {
        std::fs::write(&path, &text).expect("the golden file is written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    assert_eq!(text, golden, "{} differs", path.display());
}

#[test]
fn a_small_machine_has_the_known_tree() {
    let layout = layout(GIB / 4, 1, 1);
    assert_golden("small.txt", &build(&machine(&layout)).expect("a tree"));
}

#[test]
fn a_machine_with_everything_has_the_known_tree() {
    let layout = layout(4 * GIB, 18, 2);
    let blob = build(&Machine {
        topology: Some(Topology { threads_per_core: 3, cores_per_die: 3, dies_per_package: 1, packages: 2 }),
        initramfs: Some(Window::new(0x4800_0000, 0x12_3456)),
        seeds: Some(Seeds { kaslr: 0x0123_4567_89ab_cdef, rng: [0xa5; 32] }),
        ..machine(&layout)
    })
    .expect("a tree");
    assert_golden("large.txt", &blob);
}

#[test]
fn the_same_machine_gives_the_same_bytes() {
    let layout = layout(GIB, 4, 2);
    let machine = machine(&layout);
    assert_eq!(build(&machine).expect("a tree"), build(&machine).expect("a tree"));
}

#[test]
fn a_machine_without_serial_port_and_pmu_names_neither() {
    let layout = layout(GIB, 1, 1);
    let text = decode(&build(&Machine { serial: false, pmu: false, ..machine(&layout) }).expect("a tree"));
    assert!(!text.contains("pl011") && !text.contains("pmu") && !text.contains("stdout-path"), "{text}");
}

#[test]
fn only_segment_zero_is_named_as_katas_agent_looks_for_it() {
    let layout = layout(GIB, 1, 16);
    let text = decode(&build(&machine(&layout)).expect("a tree"));
    assert_eq!(text.matches(" pcie@").count(), 1);
    assert!(text.contains("\n  pcie@30000000 {"));
    assert_eq!(text.matches(" pci@").count(), 15);
    assert!(text.contains("\n  pci@3f000000 {"));
}

#[test]
fn the_largest_machine_fits_in_what_a_kernel_maps() {
    let layout = layout(64 * GIB, 32, 16);
    let cmdline = "x".repeat(MAX_CMDLINE);
    let blob = build(&Machine { cmdline: &cmdline, ..machine(&layout) }).expect("a tree");
    assert!(blob.len() < 64 << 10, "{}", blob.len());
}

#[test]
fn a_command_line_that_the_kernel_would_cut_is_refused() {
    let layout = layout(GIB, 1, 1);
    let long = "x".repeat(MAX_CMDLINE + 1);
    let build_with = |cmdline| build(&Machine { cmdline, ..machine(&layout) });
    assert!(matches!(build_with(&long), Err(FdtError::CmdlineTooLong(2048))));
    assert!(matches!(build_with("a\0b"), Err(FdtError::CmdlineZeroByte)));
}

#[test]
fn a_topology_of_another_size_is_refused() {
    let layout = layout(GIB, 4, 1);
    let topology = Topology { threads_per_core: 2, cores_per_die: 1, dies_per_package: 1, packages: 1 };
    let error = build(&Machine { topology: Some(topology), ..machine(&layout) }).expect_err("refused");
    assert_eq!(error.to_string(), "the CPU topology 2:1:1:1 has 2 CPUs but the VM has 4");
}

#[test]
fn affinities_are_those_that_kvm_gives() {
    let affinities = [0, 1, 15, 16, 31].map(|i| Mpidr::of_vcpu(i).affinity());
    assert_eq!(affinities, [0, 1, 15, 0x100, 0x10f]);
}

#[test]
fn seeds_do_not_show_in_a_log() {
    let seeds = Seeds { kaslr: 0x1234, rng: [7; 32] };
    assert_eq!(format!("{seeds:?}"), "Seeds(…)");
}
