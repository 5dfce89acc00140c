//! Linux boots on what this crate makes, with nothing else around it: no PCI function, and a serial port that only prints.
//!
//! The kernel and the initramfs are those that the lab names in `GRANULE_KERNEL` and `GRANULE_INITRAMFS`; without them the
//! tests are counted as ignored.

#[cfg(not(target_arch = "aarch64"))]
fn main() {
    println!("guests run on Arm: cargo test --target aarch64-unknown-linux-gnu");
}

#[cfg(target_arch = "aarch64")]
fn main() -> std::process::ExitCode {
    guest::main()
}

#[cfg(target_arch = "aarch64")]
mod guest {
    use std::fs::File;
    use std::io::Write;
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use granule_arch::boot::{BootPlan, Initramfs, KernelImage, load, write_fdt};
    use granule_arch::fdt::{self, Machine, Seeds, Topology};
    use granule_arch::kvm::{
        CpuFeatures, Exit, Kick, NewVm, SystemEvent, Vcpu, install_kick_handler, usable_ipa_bits,
    };
    use granule_arch::layout::{GPIO, Gpa, Layout, PCI_ECAM, RAM_BASE, RTC, UART, Window};
    use granule_arch::mte::{MteReport, probe};
    use kvm_ioctls::Kvm;
    use libtest_mimic::{Arguments, Trial};
    use vm_memory::{FileOffset, GuestMemoryMmap};
    use vmm_sys_util::tempfile::TempFile;

    pub fn main() -> ExitCode {
        let files = [in_memory("GRANULE_KERNEL"), in_memory("GRANULE_INITRAMFS")];
        if files.iter().any(Option::is_none) {
            println!("ignored: GRANULE_KERNEL and GRANULE_INITRAMFS name no guest");
        }
        let boots = |name: &str, vcpus, topology| {
            let files = files.each_ref().map(|file| file.as_ref().and_then(|f| f.try_clone().ok()));
            let ignored = files.iter().any(Option::is_none);
            let boot = move || {
                if let [Some(kernel), Some(initramfs)] = &files {
                    linux(vcpus, topology, kernel, initramfs);
                }
                Ok(())
            };
            Trial::test(name, boot).with_ignored_flag(ignored)
        };
        let pairs = Topology { threads_per_core: 2, cores_per_die: 2, dies_per_package: 1, packages: 1 };
        let trials = vec![boots("linux_boots_on_four_vcpus_in_two_cores_and_powers_off", 4, Some(pairs))];
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }

    /// A copy of the file that a variable names: the lab's shared folders are slow.
    fn in_memory(variable: &str) -> Option<File> {
        let bytes = std::fs::read(std::env::var_os(variable)?).expect("the file is read");
        let mut file = TempFile::new().expect("a file").into_file();
        file.write_all(&bytes).expect("copied");
        Some(file)
    }

    fn linux(vcpus: u32, topology: Option<Topology>, kernel: &File, initramfs: &File) {
        let kvm = Kvm::new().expect("/dev/kvm opens");
        let mte = probe(&kvm).expect("the host answers the probe");
        let (memory, vcpus) = build(&kvm, &mte, vcpus, topology, kernel, initramfs);
        let (text, event) = run(vcpus);
        drop(memory);
        print!("{text}");
        assert_eq!(event, Some(SystemEvent::Shutdown), "{text}");
        let features = text.lines().find(|line| line.contains("Features\t:")).expect("the guest's features");
        assert_eq!(features.contains(" mte"), mte.support.refusal().is_none(), "{features}");
    }

    fn build(
        kvm: &Kvm,
        mte: &MteReport,
        vcpus: u32,
        topology: Option<Topology>,
        kernel: &File,
        initramfs: &File,
    ) -> ((GuestMemoryMmap<()>, granule_arch::kvm::Vm), Vec<Vcpu>) {
        const RAM: u64 = 256 << 20;
        let ipa_bits = usable_ipa_bits(kvm, 46);
        let layout = Layout::new(RAM, vcpus, 2, ipa_bits).expect("a layout");
        let plan = BootPlan::new(
            layout.ram(),
            &KernelImage::inspect(kernel).expect("a plain Image"),
            Some(Initramfs::inspect(initramfs).expect("an initramfs")),
        )
        .expect("it fits");

        let backing = TempFile::new().expect("a file").into_file();
        backing.set_len(RAM).expect("its size");
        let range = (RAM_BASE, RAM as usize, Some(FileOffset::new(backing, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).expect("guest memory");
        let new = NewVm::create(kvm, ipa_bits).expect("a VM");
        let decided =
            if mte.support.refusal().is_none() { new.with_mte().expect("tags") } else { new.without_mte() };
        let features = CpuFeatures::of_host(kvm);
        let (vm, vcpus) = decided
            .with_memory(&memory)
            .and_then(|vm| vm.with_vcpus(&layout, features))
            .expect("memory and vCPUs");
        let vm = vm.with_gic(&vcpus).expect("a GIC");

        load(&plan, kernel, Some(initramfs), &memory).expect("loaded");
        let blob = fdt::build(&Machine {
            layout: &layout,
            topology,
            // A busy host may give the guest no time for long; that is no news for the console.
            cmdline: "console=ttyAMA0 quiet panic=1 rcupdate.rcu_cpu_stall_suppress=1 nowatchdog",
            initramfs: plan.initramfs(),
            serial: true,
            pmu: features.pmu,
            seeds: Some(Seeds { kaslr: 0x0102_0304_0506_0708, rng: [7; 32] }),
        })
        .expect("a device tree");
        write_fdt(&plan, &blob, &memory).expect("written");
        vcpus[0].set_boot_registers(&plan.registers()).expect("registers");
        ((memory, vm), vcpus)
    }

    /// Runs the guest until it ends; returns what it printed and how it ended.
    fn run(vcpus: Vec<Vcpu>) -> (String, Option<SystemEvent>) {
        install_kick_handler().expect("a handler");
        let kicks: Arc<[Arc<Kick>]> = vcpus.iter().map(|vcpu| Arc::clone(vcpu.kick())).collect();
        let over = Arc::new(AtomicBool::new(false));
        let text = Arc::new(Mutex::new(String::new()));
        let threads = vcpus.into_iter().map(|vcpu| {
            let (kicks, over, text) = (Arc::clone(&kicks), Arc::clone(&over), Arc::clone(&text));
            thread::spawn(move || {
                let event = run_vcpu(vcpu, &over, &text);
                over.store(true, Ordering::SeqCst);
                for kick in kicks.iter() {
                    kick.interrupt().expect("kicked");
                }
                event
            })
        });
        let events: Vec<_> =
            threads.collect::<Vec<_>>().into_iter().map(|t| t.join().expect("a vCPU ends")).collect();
        let text = text.lock().expect("the text").clone();
        (text, events.into_iter().flatten().next())
    }

    fn run_vcpu(mut vcpu: Vcpu, over: &AtomicBool, text: &Mutex<String>) -> Option<SystemEvent> {
        let kick = Arc::clone(vcpu.kick());
        let _attached = kick.attach();
        loop {
            match vcpu.run().expect("the guest runs") {
                Exit::MmioRead { address, data } => read(address, data),
                Exit::MmioWrite { address, data } if address == UART.base() => {
                    text.lock().expect("the text").push(char::from(data[0]));
                }
                Exit::MmioWrite { .. } => {}
                Exit::System(event) => return Some(event),
                Exit::Interrupted => {
                    kick.acknowledge();
                    if over.load(Ordering::SeqCst) {
                        return None;
                    }
                }
                Exit::Undecodable { address } | Exit::ReadOnly { address } => {
                    panic!("the guest does not do that: {address:?}")
                }
            }
        }
    }

    /// Nothing on the PCI buses; of the wired devices the identification, and a serial port that is always ready.
    fn read(address: Gpa, data: &mut [u8]) {
        const READY: u8 = 0x90;
        const COMPONENT: [u8; 4] = [0x0d, 0xf0, 0x05, 0xb1];
        let devices: [(Window, [u8; 4]); 3] = [
            (UART, [0x11, 0x10, 0x14, 0x00]),
            (RTC, [0x31, 0x10, 0x04, 0x00]),
            (GPIO, [0x61, 0x10, 0x04, 0x00]),
        ];
        data.fill(if PCI_ECAM.contains(address) { 0xff } else { 0 });
        for (window, peripheral) in devices {
            if !window.contains(address) {
                continue;
            }
            let offset = address.0 - window.base().0;
            data[0] = match offset {
                0x18 if window == UART => READY,
                0xfe0..0xff0 => peripheral[(offset - 0xfe0) as usize / 4],
                0xff0..0x1000 => COMPONENT[(offset - 0xff0) as usize / 4],
                _ => 0,
            };
        }
    }
}
