//! What is typed, and what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use granule_api::call::Method;
use granule_api::config::{ImageType, MemoryRestoreMode, Mode, MteRequest, VmConfig};
use granule_jail::SeccompMode;

use super::ctl::Body;
use super::{ApiSocket, EventSink, Invocation, LogFormat, RunOptions, ctl, parse};

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn run(line: &str) -> RunOptions {
    match parse(words(&format!("granule {line}"))).unwrap() {
        Invocation::Run(options) => *options,
        other => panic!("{other:?}"),
    }
}

fn vm(line: &str) -> VmConfig {
    run(&format!("--kernel /k {line}")).vm.unwrap()
}

fn refusal(line: &str) -> String {
    parse(words(&format!("granule {line}"))).unwrap_err().to_string()
}

fn ctl(line: &str) -> ctl::Options {
    match parse(words(&format!("granule ctl --api-socket /s {line}"))).unwrap() {
        Invocation::Ctl(options) => options,
        other => panic!("{other:?}"),
    }
}

fn printed(line: &str) -> String {
    match parse(words(line)).unwrap() {
        Invocation::Print(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_argument_lists_of_kata_and_libvirt_are_understood() {
    let kata = run("--api-socket /run/vc/vm/x/clh-api.sock");
    assert_eq!(kata.api_socket, Some(ApiSocket::Path("/run/vc/vm/x/clh-api.sock".into())));
    assert_eq!((kata.vm, kata.seccomp, kata.mte), (None, SeccompMode::Enforce, MteRequest::Auto));
    let debug = run("--api-socket /run/a -vv --seccomp false");
    assert_eq!((debug.log.level, debug.seccomp), (tracing::Level::DEBUG, SeccompMode::Off));
    assert_eq!(debug.log.format, LogFormat::Text);
    assert_eq!(run("--api-socket /run/a --log-format json").log.format, LogFormat::Json);
    assert_eq!(refusal("--api-socket /run/a --log-format xml"), "--log-format: `xml` is not text or json");
    let libvirt = run("--api-socket fd=5 --event-monitor path=/run/fifo");
    assert_eq!(libvirt.api_socket, Some(ApiSocket::Fd(5)));
    assert_eq!(libvirt.event_monitor, Some(EventSink::Path("/run/fifo".into())));
    assert_eq!(libvirt.inherited_fds(), [5]);
    assert_eq!(run("--api-socket path=/p").api_socket, Some(ApiSocket::Path("/p".into())));
}

#[test]
fn the_argument_list_of_kuasar_is_understood() {
    let args = "granule --api-socket /run/k/api.sock --cpus boot=1 --memory size=1073741824,shared=on,hugepages=off \
                --kernel /var/lib/kuasar/vmlinux.bin --pmem id=rootfs,file=/var/lib/kuasar/kuasar.img,discard_writes=on \
                --rng id=rng,src=/dev/urandom --vsock cid=3,socket=/run/k/task.vsock,id=vsock --console file=/tmp/x-task.log \
                --fs tag=kuasar,socket=/run/k/virtiofs.sock,id=fs --net id=n,fd=[3,4],mac=02:00:ca:fe:00:01,num_queues=4 -vv";
    let mut args = words(args);
    args.extend([
        OsString::from("--cmdline"),
        "console=hvc0 root=/dev/pmem0p1 rootflags=data=ordered,errors=remount-ro ro".into(),
    ]);
    let Invocation::Run(options) = parse(args).unwrap() else { panic!("not a monitor") };
    assert_eq!(options.inherited_fds(), [3, 4]);
    let vm = options.vm.unwrap();
    assert_eq!((vm.cpus.boot_vcpus, vm.cpus.max_vcpus), (1, 1));
    assert_eq!((vm.memory.size, vm.memory.shared, vm.memory.hugepages), (1 << 30, true, false));
    assert!(vm.payload.cmdline.unwrap().ends_with("errors=remount-ro ro"));
    assert_eq!((vm.pmem[0].id.as_deref(), vm.pmem[0].discard_writes), (Some("rootfs"), true));
    assert_eq!((vm.console.mode, vm.console.file), (Mode::File, Some(PathBuf::from("/tmp/x-task.log"))));
    assert_eq!((vm.fs[0].tag.as_str(), vm.fs[0].queue_size), ("kuasar", 1024));
    assert_eq!((vm.net[0].mac.to_string().as_str(), vm.net[0].num_queues), ("02:00:ca:fe:00:01", 4));
    assert_eq!(vm.vsock.unwrap().cid, 3);
}

#[test]
fn what_flags_do_not_say_is_what_a_body_does_not_say() {
    assert_eq!(
        vm(""),
        VmConfig {
            payload: granule_api::config::PayloadConfig { kernel: Some("/k".into()), ..Default::default() },
            ..VmConfig::default()
        }
    );
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [
        ("4096", 4096u64),
        ("0x1000", 4096),
        ("64K", 64 << 10),
        ("512m", 512 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
    ] {
        assert_eq!(vm(&format!("--memory size={text}")).memory.size, bytes, "{text}");
    }
    assert_eq!(refusal("--kernel k --memory size=1X"), "--memory: size: `1X` is not a size such as 512M");
    assert_eq!(refusal("--kernel k --memory size="), "--memory: size: `` is not a size such as 512M");
    assert_eq!(
        refusal("--kernel k --memory size=99999999999T"),
        "--memory: size: `99999999999T` is more than there can be"
    );
}

#[test]
fn vcpus_have_a_shape_and_tags() {
    let cpus =
        vm("--cpus boot=2,max=4,topology=1:4:1:1,mte=on,affinity=[0@[0,2-3],1@[5]],max_phys_bits=40").cpus;
    assert_eq!((cpus.boot_vcpus, cpus.max_vcpus, cpus.max_phys_bits), (2, 4, 40));
    assert_eq!(cpus.topology.unwrap().cores_per_die, 4);
    assert_eq!(cpus.features.mte, Some(MteRequest::On));
    assert_eq!(cpus.affinity[0].host_cpus, [0, 2, 3]);
    assert_eq!((cpus.affinity[1].vcpu, &cpus.affinity[1].host_cpus[..]), (1, &[5][..]));
    assert_eq!(vm("--cpus boot=3").cpus.max_vcpus, 3);
    assert_eq!(vm("--cpus boot=1,mte=auto").cpus.features.mte, Some(MteRequest::Auto));
    assert_eq!(vm("--cpus boot=1,mte=off").cpus.features.mte, Some(MteRequest::Off));
    assert_eq!(refusal("--kernel k --cpus boot=x"), "--cpus: boot: `x` is not a number");
    assert_eq!(refusal("--kernel k --cpus boot=1,mte=maybe"), "--cpus: mte: `maybe` is not on, off or auto");
    assert_eq!(refusal("--kernel k --cpus boot=1,boot=2"), "--cpus: boot: given twice");
    assert!(
        refusal("--kernel k --cpus cores=1")
            .starts_with("--cpus: `cores` is not one of its keys (boot, max,")
    );
    assert!(
        refusal("--kernel k --cpus boot=1,affinity=[0@[0-99999999]]").contains("is not a range of at most")
    );
}

#[test]
fn text_goes_where_it_is_sent() {
    for (text, mode) in [("off", Mode::Off), ("null", Mode::Null), ("tty", Mode::Tty), ("pty", Mode::Pty)] {
        assert_eq!(vm(&format!("--serial {text}")).serial.mode, mode);
    }
    let file = vm("--serial file=/a=b").serial;
    assert_eq!((file.mode, file.file), (Mode::File, Some(PathBuf::from("/a=b"))));
    assert_eq!(vm("--console socket=/s").console.mode, Mode::Socket);
    assert_eq!(
        refusal("--kernel k --serial loud"),
        "--serial: `loud` is not off, null, pty, tty, file=PATH or socket=PATH"
    );
    assert_eq!(refusal("--kernel k --serial tty,pty"), "--serial: more than one place for the text to go");
    assert_eq!(refusal("--kernel k --serial file="), "--serial: file: a value is missing");
}

#[test]
fn devices_may_be_several_behind_one_flag_or_each_behind_its_own() {
    for line in ["--disk path=/a,readonly=on path=/b", "--disk path=/a,readonly=on --disk path=/b"] {
        let disks = vm(line).disks;
        assert_eq!((disks[0].readonly, disks[1].readonly, disks.len()), (true, false, 2));
    }
    let disk = &vm(
        "--disk path=/a,image_type=qcow2,bw_size=10,bw_refill_time=100,queue_affinity=[0@[1]],sparse=off",
    )
    .disks[0];
    assert_eq!((disk.image_type, disk.sparse), (ImageType::Qcow2, false));
    assert_eq!(disk.rate_limiter_config.unwrap().bandwidth.unwrap().refill_time, 100);
    assert_eq!(refusal("--kernel k --disk readonly=maybe"), "--disk: readonly: `maybe` is not on or off");
    assert!(
        refusal("--kernel k --disk queue_size=70000")
            .starts_with("--disk: queue_size: invalid value: integer `70000`")
    );
    assert!(
        refusal("--kernel k --disk path=/a,bw_size=1")
            .starts_with("--disk: rate_limiter_config.bandwidth: missing field")
    );
    assert!(refusal("--kernel k --fs socket=/s").starts_with("--fs: missing field `tag`"));
    assert_eq!(refusal("--kernel k --net fd=[3"), "--net: `[` without its end in `fd=[3`");
    assert_eq!(vm("--platform oem_strings=[\"a,b\",c]").platform.unwrap().oem_strings, ["a,b", "c"]);
}

#[test]
fn a_snapshot_is_restored_by_the_words_that_cloud_hypervisor_has() {
    let options =
        run("--restore source_url=file:///d,memory_restore_mode=ondemand,resume=on,net_fds=[n1@[3,4]]");
    assert_eq!(options.inherited_fds(), [3, 4]);
    let restore = options.restore.unwrap();
    assert_eq!((restore.source_url.as_str(), restore.resume, restore.prefault), ("file:///d", true, false));
    assert_eq!(restore.memory_restore_mode, MemoryRestoreMode::OnDemand);
    assert_eq!((restore.net_fds[0].id.as_str(), &restore.net_fds[0].fds[..]), ("n1", &[3, 4][..]));
    assert!(run("--restore source_url=file:///d,prefault=on").restore.unwrap().prefault);
}

#[test]
fn a_jail_is_checked_before_anything_starts() {
    let jail = run("--api-socket /s --jail id=vm-1,uid=1000,gid=100,root=/srv/vms,cgroup=vms").jail;
    assert_eq!((jail.id.as_deref(), jail.uid, jail.gid), (Some("vm-1"), Some(1000), Some(100)));
    assert_eq!(jail.root.unwrap().display().to_string(), "/srv/vms");
    for (wrong, word) in [
        ("uid=1000", "uid and gid go together"),
        ("root=/srv", "needs the name of the VM"),
        ("id=../x,root=/srv", "letters"),
        ("uid=-1,gid=0", "uid"),
        ("chroot=/x", "not one of its keys"),
    ] {
        let said = refusal(&format!("--api-socket /s --jail {wrong}"));
        assert!(said.starts_with("--jail: ") && said.contains(word), "{wrong}: {said}");
    }
}

#[test]
fn flags_that_make_no_vm_are_refused() {
    assert_eq!(refusal(""), "nothing to run: give --api-socket, a VM with --kernel, or --restore");
    assert_eq!(refusal("--api-socket /s --memory size=1G"), "--memory is given, but no --kernel to run");
    assert_eq!(refusal("--api-socket /s --disk path=/d"), "--disk is given, but no --kernel to run");
    assert_eq!(
        refusal("--restore source_url=file:///d --kernel /k"),
        "--restore brings its own VM; --kernel cannot be given beside it"
    );
    assert!(refusal("--restore prefault=on").starts_with("--restore: missing field `source_url`"));
}

#[test]
fn what_is_no_flag_is_refused_with_a_hint() {
    assert!(refusal("--api-sock /s").contains("--api-socket"));
    assert!(refusal("--mte maybe --api-socket /s").starts_with("--mte: `maybe` is not on, off or auto"));
    assert!(refusal("--seccomp maybe --api-socket /s").starts_with("--seccomp: "));
    assert_eq!(
        refusal("--api-socket fd=-1"),
        "--api-socket: fd: `-1` is not the number of a file descriptor"
    );
    assert_eq!(
        refusal("--api-socket /s --event-monitor /e"),
        "--event-monitor: `/e` is not path=PATH or fd=N"
    );
}

#[test]
fn the_version_is_told_under_the_name_that_it_is_asked_by() {
    assert_eq!(printed("granule --version"), format!("granule v{}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(printed("/usr/bin/granule -V").lines().next(), Some("granule v0.1.0"));
    assert_eq!(
        printed("/usr/bin/cloud-hypervisor --version").lines().next(),
        Some("cloud-hypervisor v51.1.0")
    );
    assert!(printed("granule --help").contains("--api-socket"));
    assert!(matches!(parse(words("granule probe --json")).unwrap(), Invocation::Probe { json: true }));
}

#[test]
fn commands_are_calls_of_the_api() {
    for (line, method, endpoint) in [
        ("ping", Method::Get, "vmm.ping"),
        ("info", Method::Get, "vm.info"),
        ("boot", Method::Put, "vm.boot"),
        ("power-button", Method::Put, "vm.power-button"),
        ("shutdown-vmm", Method::Put, "vmm.shutdown"),
        ("raw vm.counters", Method::Get, "vm.counters"),
        ("raw vm.delete", Method::Put, "vm.delete"),
    ] {
        let options = ctl(line);
        assert_eq!((options.method, options.endpoint.as_str(), options.body), (method, endpoint, Body::None));
    }
    assert_eq!(ctl("create vm.json").body, Body::File("vm.json".into()));
    assert_eq!(ctl("create -").body, Body::Stdin);
    let json = |text: &str| Body::Json(text.as_bytes().to_vec());
    assert_eq!(ctl("resize --memory 1G").body, json(r#"{"desired_ram":1073741824}"#));
    assert_eq!(ctl("remove-device _disk0").body, json(r#"{"id":"_disk0"}"#));
    let net = ctl("add-net fd=[7,8],num_queues=4,mac=02:00:00:00:00:01");
    assert_eq!(net.fds, [7, 8]);
    assert!(
        matches!(net.body, Body::Json(body) if !String::from_utf8(body.clone()).unwrap().contains("fds"))
    );
    let restore = ctl("restore source_url=file:///d,net_fds=[n@[7,8]]");
    assert_eq!(restore.fds, [7, 8]);
    assert!(
        matches!(restore.body, Body::Json(body) if String::from_utf8(body.clone()).unwrap().contains(r#""num_fds":2"#))
    );
}

proptest::proptest! {
    #[test]
    fn no_option_makes_the_reader_panic(
        flag in proptest::sample::select(vec!["--cpus", "--memory", "--disk", "--net", "--numa", "--serial", "--platform"]),
        text in "[a-z0-9_=,:@.\"\\[\\]KMG-]{0,40}",
    ) {
        let args = ["granule", "--kernel", "k", flag, &text].map(OsString::from);
        let _ = parse(args);
    }

    #[test]
    fn numbers_that_are_typed_are_the_numbers_that_are_meant(boot: u32, size: u64, fds in proptest::collection::vec(0..i32::MAX, 1..9)) {
        let vm = vm(&format!("--cpus boot={boot} --memory size={size} --net fd={fds:?}").replace(", ", ","));
        proptest::prop_assert_eq!((vm.cpus.boot_vcpus, vm.memory.size, &vm.net[0].fds), (boot, size, &fds));
    }
}
