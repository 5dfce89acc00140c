//! A guest runs: its tags, what is logged, how it leaves, how it is interrupted.

use std::sync::Arc;
use std::thread;

use granule_arch::fdt::Mpidr;
use granule_arch::irq::ItsDeviceId;
use granule_arch::kvm::{CoreRegister, Exit, MsiRoute, RoutingTable, RunError, SystemEvent, SystemRegister};
use granule_arch::layout::{GIC_ITS, Gpa, RAM_BASE};
use granule_arch::mte::GRANULE;
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use libtest_mimic::Trial;
use vmm_sys_util::eventfd::EventFd;

use super::bare_metal::{Backing, BareMetal, DATA, Did, Do, RAM, data};
use super::host::{Host, SHARED_TAGS};
use super::sys::{GRANULES, PAGE, guest_tags, memfd, ramfs_file, tags_of, window};

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.rule("a_guest_sets_tags_and_reads_them_back", tags),
        host.rule("a_guests_wrong_tag_is_a_tag_fault", tag_fault),
        host.rule("a_guest_has_four_more_registers_with_tags", registers),
        host.rule("the_level_of_tagging_cannot_be_lowered", level),
        host.rule("tag_stores_of_a_guest_are_logged_and_the_monitors_are_not", logged),
        host.rule("a_guest_dies_of_memory_that_may_not_be_tagged", dies),
        host.plain_rule("a_guest_without_tags_runs", plain),
        host.plain_rule("a_guest_has_up_to_thirty_two_vcpus", many_vcpus),
        host.plain_rule("a_load_that_kvm_cannot_decode_becomes_an_abort", undecodable),
        host.plain_rule("a_guest_asks_for_power_off_and_reset", psci),
        host.plain_rule("a_kick_ends_a_run_before_or_after_it_began", kick),
        host.plain_rule("interrupt_routes_are_taken_by_kvm", routes),
        host.plain_rule("a_store_to_read_only_memory_is_an_exit", read_only),
        host.rule("a_tag_store_to_read_only_memory_changes_no_tag", read_only_tags),
    ]
}

fn guest_with_tags(host: &Host) -> BareMetal {
    let backing = if host.since(SHARED_TAGS) { Backing::SharedMemfd } else { Backing::Anonymous };
    BareMetal::new(true, backing)
}

/// Does an operation that must end well.
fn result(guest: &mut BareMetal, operation: Do) -> u64 {
    match guest.run(operation) {
        Ok(Did::Result(value)) => value,
        other => panic!("{operation:?}: {other:?}"),
    }
}

fn tags(host: &Host) {
    let mut guest = guest_with_tags(host);
    result(&mut guest, Do::Stg(data(0, 7)));
    assert_eq!(result(&mut guest, Do::Ldg(data(0, 0))), data(0, 7));
    assert_eq!(result(&mut guest, Do::Ldg(data(GRANULE, 0))), data(GRANULE, 0));
    let copied = guest_tags(guest.vm.fd(), RAM_BASE.0 + DATA as u64).expect("tags are copied");
    assert_eq!(copied[..2], [7, 0]);
    if let Some(file) = &guest.file {
        assert_eq!(tags_of(&window(file, RAM), DATA, 2), [7, 0]);
        window(file, RAM).write(DATA, &[1, 2, 2, 3]).expect("tags are set");
        assert_eq!(result(&mut guest, Do::Ldg(data(2 * GRANULE, 0))), data(2 * GRANULE, 2));
    }
}

fn tag_fault(host: &Host) {
    // A data abort taken without a change of level, with the syndrome of a synchronous tag check.
    const TAG_FAULT: u64 = 0x9600_0011;
    let mut guest = guest_with_tags(host);
    result(&mut guest, Do::Str(data(0, 0), 0x1234));
    result(&mut guest, Do::Stg(data(0, 7)));
    assert_eq!(result(&mut guest, Do::Ldr(data(0, 7))), 0x1234);
    assert_eq!(guest.run(Do::Ldr(data(0, 6))).expect("an answer"), Did::Exception(TAG_FAULT));
}

const TAG_REGISTERS: [SystemRegister; 4] =
    [SystemRegister::TFSR_EL1, SystemRegister::TFSRE0_EL1, SystemRegister::RGSR_EL1, SystemRegister::GCR_EL1];

fn registers(host: &Host) {
    let tagged = guest_with_tags(host);
    let plain = BareMetal::new(false, Backing::Anonymous);
    for register in TAG_REGISTERS {
        let reset = tagged.vcpus[0].register(register.id()).expect("a guest with tags has it");
        assert_ne!(reset, 0, "forgetting to restore it would be seen");
        plain.vcpus[0].register(register.id()).expect_err("a guest without does not");
    }
    assert_eq!(tagged.vcpus[0].mte_level().expect("a level"), host.probed.level.expect("probed"));
    assert_eq!(plain.vcpus[0].mte_level().expect("a level"), 0);
}

fn level(host: &Host) {
    let guest = guest_with_tags(host);
    let vcpu = &guest.vcpus[0];
    let id = SystemRegister::ID_AA64PFR1_EL1.id();
    let value = vcpu.register(id).expect("read");
    vcpu.set_register(id, value).expect("its own value is accepted");
    vcpu.set_register(id, value - (1 << 8)).expect_err("a lower level is not");
}

fn logged(host: &Host) {
    let mut guest = guest_with_tags(host);
    log_dirty_pages(&guest);
    let page = |guest: &BareMetal| {
        let log = guest.vm.fd().get_dirty_log(0, RAM).expect("a log");
        let bit = DATA / PAGE;
        log[bit / 64] >> (bit % 64) & 1 == 1
    };
    result(&mut guest, Do::Ldg(data(0, 0)));
    assert!(!page(&guest), "loading a tag changes nothing");
    result(&mut guest, Do::Stg(data(0, 5)));
    assert!(page(&guest), "a stored tag is a change");
    result(&mut guest, Do::Stg(data(0, 5)));
    assert!(page(&guest), "and again after the log was read");
    // SAFETY: RAM of a guest that does not run now.
    unsafe { guest.host_address(DATA).write_volatile(1) };
    if let Some(file) = &guest.file {
        window(file, RAM).write(DATA, &[6]).expect("a tag is set");
    }
    assert!(!page(&guest), "what the monitor writes is not logged, neither data nor tags");
}

fn log_dirty_pages(guest: &BareMetal) {
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        guest_phys_addr: RAM_BASE.0,
        memory_size: RAM as u64,
        userspace_addr: guest.host_address(0) as u64,
    };
    // SAFETY: the slot is that which the guest has, and its memory stays mapped.
    unsafe { guest.vm.fd().set_user_memory_region(region) }.expect("logging starts");
}

fn dies(host: &Host) {
    let mut guest = guest_with_tags(host);
    result(&mut guest, Do::Ldr(data(0, 0)));
    // Under a live slot, a page is replaced by one that cannot have tags. The kernel checked the slot, not the page.
    let file = ramfs_file(PAGE);
    let at = guest.host_address(DATA + PAGE);
    // SAFETY: one page of the guest's memory, which nothing in this process refers to, changes its backing; the whole
    // is unmapped with the guest.
    let mapped = unsafe {
        libc::mmap(
            at.cast(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED,
            std::os::fd::AsRawFd::as_raw_fd(&file),
            0,
        )
    };
    assert_eq!(mapped, at.cast());
    match guest.run(Do::Ldr(data(PAGE, 0))) {
        Err(RunError::Memory(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn plain(_: &Host) {
    for backing in [Backing::SharedMemfd, Backing::Anonymous] {
        let mut guest = BareMetal::new(false, backing);
        result(&mut guest, Do::Str(data(0, 0), 42));
        assert_eq!(result(&mut guest, Do::Ldr(data(0, 0))), 42);
    }
}

fn many_vcpus(_: &Host) {
    let mut guest = BareMetal::with_vcpus(false, Backing::SharedMemfd, 32);
    result(&mut guest, Do::Str(data(0, 0), 42));
    for vcpu in &guest.vcpus {
        let mpidr = vcpu.register(SystemRegister::MPIDR_EL1.id()).expect("an affinity");
        let expected = Mpidr::of_vcpu(vcpu.index()).affinity();
        assert_eq!(mpidr & 0xff_00ff_ffff, u64::from(expected), "vCPU {}", vcpu.index());
    }
}

fn undecodable(_: &Host) {
    // A data abort without a change of level, synchronous and external.
    const EXTERNAL_ABORT: u64 = 0x9600_0010;
    const NO_MEMORY: u64 = 0x0b00_0000;
    let mut guest = BareMetal::new(false, Backing::SharedMemfd);
    guest.prepare(Do::Ldp(NO_MEMORY));
    match guest.vcpus[0].run().expect("an exit") {
        Exit::Undecodable { address } => assert_eq!(address, Gpa(NO_MEMORY)),
        other => panic!("{other:?}"),
    }
    guest.vcpus[0].inject_data_abort().expect("injected");
    match guest.answer().expect("the guest lives on") {
        // Old kernels extend the sign of a syndrome that they inject.
        Did::Exception(syndrome) => assert_eq!(syndrome & 0xffff_ffff, EXTERNAL_ABORT),
        other => panic!("{other:?}"),
    }
}

fn psci(_: &Host) {
    const SYSTEM_OFF: u64 = 0x8400_0008;
    const SYSTEM_RESET: u64 = 0x8400_0009;
    for (function, expected) in [(SYSTEM_OFF, SystemEvent::Shutdown), (SYSTEM_RESET, SystemEvent::Reset)] {
        let mut guest = BareMetal::new(false, Backing::SharedMemfd);
        guest.prepare(Do::Hvc(function));
        match guest.vcpus[0].run().expect("an exit") {
            Exit::System(event) => assert_eq!(event, expected),
            other => panic!("{other:?}"),
        }
    }
}

fn kick(_: &Host) {
    let mut guest = BareMetal::new(false, Backing::SharedMemfd);
    guest.prepare(Do::Spin);
    let mut vcpu = guest.vcpus.remove(0);
    let kick = Arc::clone(vcpu.kick());

    // Before: the run does not begin.
    kick.interrupt().expect("kicked");
    assert!(matches!(vcpu.run(), Ok(Exit::Interrupted)));
    assert!(matches!(vcpu.run(), Ok(Exit::Interrupted)), "it stays so until acknowledged");
    kick.acknowledge();

    // After: the guest goes round for ever, and the run ends all the same, whenever the kick comes.
    for _ in 0..20 {
        let runs = thread::spawn(move || {
            let shared = Arc::clone(vcpu.kick());
            let attached = shared.attach();
            let interrupted = matches!(vcpu.run(), Ok(Exit::Interrupted));
            drop(attached);
            (vcpu, interrupted)
        });
        kick.interrupt().expect("kicked");
        let (back, interrupted) = runs.join().expect("the thread ends");
        assert!(interrupted);
        vcpu = back;
        vcpu.kick().acknowledge();
    }
    let pc = vcpu.register(CoreRegister::PC.id()).expect("the registers are the guest's");
    assert!(pc > RAM_BASE.0 && pc < RAM_BASE.0 + PAGE as u64 * 2);
}

fn routes(_: &Host) {
    let guest = BareMetal::new(false, Backing::SharedMemfd);
    let mut table = RoutingTable::new();
    let gsi = table.claim().expect("a GSI");
    let device = ItsDeviceId::of(15, 0xfff).expect("the last function of the last segment");
    assert!(table.set(gsi, Some(MsiRoute { address: GIC_ITS.base().0 + 0x1_0040, data: 3, device })));
    table.install(guest.vm.fd()).expect("taken");
    let event = EventFd::new(0).expect("an eventfd");
    guest.vm.fd().register_irqfd(&event, gsi.raw()).expect("connected");
    event.write(1).expect("an interrupt that no guest has mapped is dropped");
    guest.vm.fd().unregister_irqfd(&event, gsi.raw()).expect("disconnected");
    guest.vm.set_spi(granule_arch::irq::UART_SPI, true).expect("raised");
    guest.vm.set_spi(granule_arch::irq::UART_SPI, false).expect("lowered");
}

fn read_only(_: &Host) {
    let mut guest = BareMetal::new(false, Backing::SharedMemfd);
    let address = RAM_BASE.0 + (64 << 20);
    let extra = vm_memory::GuestMemoryMmap::<()>::from_ranges(&[(Gpa(address), PAGE)]).expect("memory");
    guest.vm.add_memory(&extra, true).expect("a slot");
    assert_eq!(result(&mut guest, Do::Ldr(address)), 0);
    guest.prepare(Do::Str(address, 0x55));
    match guest.vcpus[0].run().expect("an exit") {
        Exit::ReadOnly { address: at } => assert_eq!(at, Gpa(address)),
        other => panic!("{other:?}"),
    }
    // In place of the store the guest can be given an abort, and lives on.
    guest.vcpus[0].inject_data_abort().expect("injected");
    assert!(matches!(guest.answer().expect("the guest lives on"), Did::Exception(_)));
}

/// A read-only image may be the memory of many guests: none may tag it for the others.
fn read_only_tags(host: &Host) {
    let mut guest = guest_with_tags(host);
    let address = RAM_BASE.0 + (64 << 20);
    let file = memfd(PAGE);
    let flags = if host.since(SHARED_TAGS) { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let offset = vm_memory::FileOffset::new(file.try_clone().expect("a copy"), 0);
    let region = vm_memory::mmap::MmapRegionBuilder::new(PAGE)
        .with_file_offset(offset)
        .with_mmap_prot(libc::PROT_READ)
        .with_mmap_flags(flags)
        .build()
        .expect("a mapping");
    let region = vm_memory::GuestRegionMmap::new(region, Gpa(address)).expect("a region");
    let extra = vm_memory::GuestMemoryMmap::<()>::from_regions(vec![region]).expect("memory");
    guest.vm.add_memory(&extra, true).expect("a slot");
    let tagged = address | 5 << 56;
    assert_eq!(result(&mut guest, Do::Ldg(address)), address, "no tag");
    guest.prepare(Do::Stg(tagged));
    match guest.vcpus[0].run().expect("an exit") {
        Exit::Undecodable { address: at } | Exit::ReadOnly { address: at } => assert_eq!(at, Gpa(address)),
        other => panic!("{other:?}"),
    }
    guest.vcpus[0].inject_data_abort().expect("injected");
    assert!(matches!(guest.answer().expect("the guest lives on"), Did::Exception(_)));
    assert_eq!(tags_of(&window(&file, PAGE), 0, GRANULES), [0; GRANULES]);
}
