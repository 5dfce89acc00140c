//! What is saved of a guest can be set in a fresh VM, and the guest goes on there.

use granule_arch::kvm::{CpuFeatures, NewVm, SystemRegister, Vcpu, Vm};
use granule_arch::layout::Layout;
use granule_arch::state::{GicState, ItsState, Phase, Power, RegisterId, VcpuState};
use libtest_mimic::Trial;

use super::bare_metal::{Backing, BareMetal, Did, Do, RAM, data};
use super::host::{Host, SHARED_TAGS, kvm};

pub fn rules(host: &Host) -> Vec<Trial> {
    vec![
        host.rule("all_registers_of_a_guest_with_tags_are_restored", with_tags),
        host.plain_rule("all_registers_of_a_guest_without_tags_are_restored", without_tags),
        host.plain_rule("the_counter_goes_on_where_it_was_when_restored", counter),
        host.plain_rule("vcpus_that_are_off_stay_off_when_restored", power),
        host.plain_rule("the_interrupt_controller_is_restored", interrupts),
    ]
}

struct Saved {
    vcpus: Vec<VcpuState>,
    gic: GicState,
    its: ItsState,
}

fn save(guest: &BareMetal) -> Saved {
    guest.vm.gic().save_tables().expect("tables are saved");
    let count = u8::try_from(guest.vcpus.len()).expect("few");
    Saved {
        vcpus: guest.vcpus.iter().map(|vcpu| vcpu.save().expect("saved")).collect(),
        gic: guest.vm.gic().save(count).expect("the GIC is saved"),
        its: guest.vm.gic().save_its().expect("the ITS is saved"),
    }
}

/// A second VM over the same memory, in the state of the first.
fn restore(guest: &BareMetal, mte: bool, saved: &Saved) -> (Vm, Vec<Vcpu>) {
    let kvm = kvm();
    let vcpus = u32::try_from(saved.vcpus.len()).expect("few");
    let layout = Layout::new(RAM as u64, vcpus, 1, 40).expect("a layout");
    let new = NewVm::create(&kvm, 40).expect("a VM");
    let decided = if mte { new.with_mte().expect("tags") } else { new.without_mte() };
    let (with_vcpus, vcpus) = decided
        .with_memory(&guest.memory)
        .and_then(|vm| vm.with_restored_vcpus(&layout, CpuFeatures::of_host(&kvm), &saved.vcpus[0]))
        .expect("memory and vCPUs");
    let vm = with_vcpus.with_gic(&vcpus).expect("a GIC");
    vm.restore_counter(&vcpus, &saved.vcpus[0]).expect("the counter");
    for (vcpu, state) in vcpus.iter().zip(&saved.vcpus) {
        vcpu.restore(state).expect("registers");
    }
    vm.gic().restore(&saved.gic).expect("the GIC");
    vm.gic().restore_its(&saved.its).expect("the ITS");
    for (vcpu, state) in vcpus.iter().zip(&saved.vcpus) {
        vcpu.restore_power(state).expect("power");
    }
    (vm, vcpus)
}

/// All but what goes on by itself.
fn comparable(state: &VcpuState) -> Vec<(RegisterId, Vec<u8>)> {
    let moving = [RegisterId::VIRTUAL_CONTROL, RegisterId::PHYSICAL_CONTROL];
    let fixed = |id: &RegisterId| id.phase() != Phase::Counter && !moving.contains(id);
    let in_order = state.registers.in_order().filter(|(id, _)| fixed(id) && id.phase() != Phase::Clearing);
    in_order.map(|(id, value)| (id, value.to_vec())).collect()
}

fn registers_survive(mut guest: BareMetal, mte: bool) {
    guest.run(Do::Str(data(0, 0), 0x1234)).expect("it runs");
    for n in 1..=28 {
        let id = granule_arch::kvm::CoreRegister::x(n).id();
        guest.vcpus[0].set_register(id, u64::from(n) << 40 | 0x5555).expect("set");
    }
    let json = serde_json::to_string(&guest.vcpus[0].save().expect("saved")).expect("written");
    let read: VcpuState = serde_json::from_str(&json).expect("read");
    let mut saved = save(&guest);
    assert_eq!(comparable(&read), comparable(&saved.vcpus[0]));
    saved.vcpus[0] = read;
    let (vm, vcpus) = restore(&guest, mte, &saved);
    let again = vcpus[0].save().expect("saved again");
    let (before, after) = (comparable(&saved.vcpus[0]), comparable(&again));
    for (one, other) in before.iter().zip(&after) {
        assert_eq!(one, other, "register {:#x}", one.0.0);
    }
    assert_eq!(before.len(), after.len());
    guest.vm = vm;
    guest.vcpus = vcpus;
    assert_eq!(guest.run(Do::Ldr(data(0, 0))).expect("it goes on"), Did::Result(0x1234));
}

fn with_tags(host: &Host) {
    let backing = if host.since(SHARED_TAGS) { Backing::SharedMemfd } else { Backing::Anonymous };
    let guest = BareMetal::new(true, backing);
    for (n, register) in (0x11u64..).zip([SystemRegister::RGSR_EL1, SystemRegister::GCR_EL1]) {
        guest.vcpus[0].set_register(register.id(), n).expect("set");
    }
    registers_survive(guest, true);
}

fn without_tags(_: &Host) {
    registers_survive(BareMetal::new(false, Backing::SharedMemfd), false);
}

fn counter(_: &Host) {
    let guest = BareMetal::with_vcpus(false, Backing::SharedMemfd, 2);
    guest.vm.start_counter(&guest.vcpus).expect("started");
    let second = host_frequency();
    let count = |vcpu: &Vcpu| vcpu.register(RegisterId::VIRTUAL_COUNT.0).expect("a counter");
    let began = count(&guest.vcpus[1]);
    assert!(began < 600 * second, "it counts from the machine's start: {began}");
    let mut saved = save(&guest);
    // Ten hours further on than it can be by itself.
    let wanted = began + 36_000 * second;
    saved.vcpus[0].registers.insert(RegisterId::VIRTUAL_COUNT, wanted.to_le_bytes().to_vec());
    let (_vm, vcpus) = restore(&guest, false, &saved);
    for vcpu in &vcpus {
        let now = count(vcpu);
        assert!((wanted..wanted + 600 * second).contains(&now), "{now} is not a little after {wanted}");
    }
}

fn host_frequency() -> u64 {
    let frequency: u64;
    // SAFETY: reads a register that every process may read.
    unsafe { std::arch::asm!("mrs {f}, cntfrq_el0", f = out(reg) frequency, options(nomem, nostack)) };
    frequency
}

fn power(_: &Host) {
    let guest = BareMetal::with_vcpus(false, Backing::SharedMemfd, 3);
    let mut saved = save(&guest);
    assert_eq!([0, 1, 2].map(|n| saved.vcpus[n].power), [Power::On, Power::Off, Power::Off]);
    saved.vcpus[2].power = Power::On;
    let (_vm, vcpus) = restore(&guest, false, &saved);
    let found: Vec<_> = vcpus.iter().map(|vcpu| vcpu.save().expect("saved").power).collect();
    assert_eq!(found, [Power::On, Power::Off, Power::On]);
}

fn interrupts(_: &Host) {
    let guest = BareMetal::with_vcpus(false, Backing::SharedMemfd, 4);
    guest.vm.set_spi(granule_arch::irq::UART_SPI, true).expect("raised");
    let saved = save(&guest);
    assert_eq!(saved.gic.processors.len(), 4);
    let (vm, _vcpus) = restore(&guest, false, &saved);
    let again = vm.gic().save(4).expect("saved again");
    assert_eq!(again, saved.gic);
    // The kernel gives a queue that no guest has placed its usual attributes.
    let placed = |its: &ItsState| {
        let registers = its.registers.iter().filter(|(offset, _)| **offset != 0x80);
        registers.map(|(offset, value)| (*offset, *value)).collect::<Vec<_>>()
    };
    assert_eq!(placed(&vm.gic().save_its().expect("saved again")), placed(&saved.its));
    let mut poor = saved.gic;
    poor.distributor.remove(&0x104);
    let refused = vm.gic().restore(&poor).expect_err("a register is missing");
    assert!(refused.to_string().contains("0x104"), "{refused}");
}
