//! A Debian user space as a guest: from a disk and from persistent memory, to a shell; its programs use what devices there are.

use std::fs::File;
use std::io;
use std::sync::Once;

use granule_tests::folder::Folder;
use granule_tests::lab;
use granule_tests::server::Server;
use granule_tests::session::Session;
use granule_tests::vm::{Guest, MIB, Vm};
use serde_json::{Value, json};

use crate::guest;
use crate::serial::talk_when;
use crate::snapshot::{restore, snapshot};

/// Bytes that fio writes, and then reads again.
const VERIFIED: &str = "2M";
const BUSY: &str = include_str!("debian/busy.py");

/// A guest that goes over to the root file system on `device`.
fn debian(device: &str, drivers: &str) -> Guest {
    let words = [&format!("root={device}"), "ro", "granule.then=root", &format!("granule.drivers={drivers}")];
    words.iter().fold(guest().set("/memory/size", 384 * MIB), |guest, word| guest.word(word))
}

fn from_disk(drivers: &str, more: Vec<Value>) -> Guest {
    let root = json!({"path": image(), "readonly": true, "image_type": "Raw"});
    debian("/dev/vda", drivers).set("/disks", [vec![root], more].concat())
}

/// The image. It comes over a slow share: it is read once, so that no monitor's patience depends on that.
fn image() -> String {
    static READ: Once = Once::new();
    let path = lab::debian().join("image");
    READ.call_once(|| {
        let copied = File::open(&path).and_then(|mut image| io::copy(&mut image, &mut io::sink()));
        copied.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    });
    path.display().to_string()
}

/// Boots it to its shell.
fn shell(guest: &Guest) -> (Vm, Session) {
    talk_when(guest, "GRANULE debian up")
}

fn sparse(folder: &Folder, name: &str, length: u64) -> String {
    File::create(folder.file(name)).unwrap().set_len(length).unwrap();
    folder.file(name)
}

/// Has the shell run a command, and returns its exit status and what it said, in one line.
fn ask(session: &mut Session, command: &str) -> (i32, String) {
    session.say(&format!(r#"said=$({command} 2>&1); echo "GRANULE exit $? ${{said//$'\n'/ }}""#));
    let line = session.line("GRANULE exit ");
    let (status, said) = line.split_once(' ').unwrap_or((&line, ""));
    (status.parse().unwrap_or_else(|e| panic!("{e} in {line:?}")), said.to_owned())
}

/// As [`ask`], of a command that must succeed.
fn must(session: &mut Session, command: &str) -> String {
    let (status, said) = ask(session, command);
    assert_eq!(status, 0, "{command}: {said}");
    said
}

/// Random writes with a checksum in each block, in no order, then all of them read and compared.
fn fio(session: &mut Session, words: &str) {
    let said = must(
        session,
        &format!(
            "fio --name=job --rw=randwrite --bs=4k --size={VERIFIED} --verify=crc32c --verify_fatal=1 \
             --randseed=7 --thread --output-format=terse {words}"
        ),
    );
    assert!(said.contains(";job;"), "{said}");
}

#[test]
fn from_a_disk_it_comes_to_a_shell_and_its_disk_and_network_hold_what_fio_and_iperf3_ask() {
    let folder = Folder::new();
    let scratch = sparse(&folder, "scratch", 16 * MIB);
    let net = json!({"tap": "granule-deb", "ip": "10.9.40.1", "mask": "255.255.255.0"});
    let scratch = json!({"path": scratch, "image_type": "Raw"});
    let (vm, mut session) = shell(&from_disk("tcp", vec![scratch]).set("/net", vec![net]));
    assert_eq!(must(&mut session, "uname -m"), "aarch64");
    assert!(must(&mut session, "cat /etc/debian_version").starts_with("12"));
    assert!(must(&mut session, "grep -m1 Features /proc/cpuinfo").contains(" mte"));
    assert_eq!(ask(&mut session, "touch /file").0, 1, "the image is the host's");

    fio(&mut session, "--filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16");
    fio(&mut session, "--filename=/dev/vdb --direct=0 --ioengine=psync --end_fsync=1");

    must(&mut session, "busybox ifconfig eth0 10.9.40.2 netmask 255.255.255.0 up");
    let _server = Server::iperf3("10.9.40.1");
    for direction in ["", "--reverse"] {
        let said = must(&mut session, &format!("iperf3 --client 10.9.40.1 --bytes 8M {direction}"));
        assert!(said.contains("receiver"), "{said}");
    }
    vm.monitor.shutdown();
}

#[test]
fn from_persistent_memory_it_comes_to_a_shell_and_dax_files_hold_what_fio_writes() {
    let folder = Folder::new();
    let pmem =
        vec![json!({"file": image(), "readonly": true}), json!({"file": sparse(&folder, "pmem", 32 * MIB)})];
    let scratch = json!({"path": sparse(&folder, "scratch", 16 * MIB), "image_type": "Raw"});
    let guest = debian("/dev/pmem0", "pmem-modules").word("rootflags=dax");
    let (vm, mut session) = shell(&guest.set("/pmem", pmem).set("/disks", vec![scratch]));
    let root = must(&mut session, "grep ' / ext4' /proc/mounts");
    assert!(root.starts_with("/dev/pmem0 / ext4 ro,") && root.contains("dax=always"), "{root}");
    assert_eq!(must(&mut session, "python3 -c 'print(6 * 7)'"), "42");

    must(&mut session, "busybox mke2fs -b 4096 /dev/pmem1");
    must(&mut session, "mount -t ext4 -o dax /dev/pmem1 /mnt");
    let mounted = must(&mut session, "grep ' /mnt ' /proc/mounts");
    assert!(mounted.contains("dax=always"), "{mounted}");
    fio(&mut session, "--filename=/mnt/file --ioengine=mmap --end_fsync=1");
    fio(&mut session, "--filename=/mnt/file --ioengine=psync --direct=1");
    // Pages of a DAX file as buffers of a disk. fio gives the file no size: it would die of what is behind its end.
    must(&mut session, "truncate -s 1M /mnt/buffers");
    fio(&mut session, "--filename=/dev/vda --direct=1 --ioengine=psync --mem=mmapshared:/mnt/buffers");
    vm.monitor.shutdown();
}

#[test]
fn a_busy_interpreter_with_a_tagged_heap_goes_on_and_goes_on_after_a_restore() {
    let (vm, mut session) = shell(&from_disk("", Vec::new()));
    session.say(&format!("cat >/tmp/busy.py <<'END'\n{BUSY}END"));
    session.say("GLIBC_TUNABLES=glibc.mem.tagging=3 PYTHONMALLOC=malloc python3 busy.py &");
    for _ in 0..5 {
        turn(&mut session);
    }
    let before = turn(&mut session);
    vm.monitor.must("vm.pause");
    let store = Folder::new();
    snapshot(&vm.monitor, &store.file("one"));
    vm.monitor.must("vm.delete");
    let (vm, mut session) = restore(vm.monitor, &store.file("one"), true);
    for _ in 0..5 {
        turn(&mut session);
    }
    assert!(turn(&mut session) > before);
    // The shell goes on too, and so does the disk, with what nobody has read before.
    must(&mut session, "true");
    assert!(must(&mut session, "cksum /usr/bin/fio").ends_with("/usr/bin/fio"));
    session.say("touch /tmp/stop; wait $!; echo GRANULE ended $?");
    assert_eq!(session.line("GRANULE ended "), "0");
    vm.monitor.shutdown();
}

/// Waits for the interpreter's next turn.
fn turn(session: &mut Session) -> u64 {
    let line = session.line("GRANULE python ");
    let numbers: Vec<u64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
    let [turn, kept, tags] = numbers[..] else { panic!("the interpreter said {line:?}") };
    assert!(turn < 3 || tags > 8, "{kept} objects have {tags} tags");
    turn
}
