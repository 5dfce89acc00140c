//! The mover's work: guest memory to a snapshot, and back.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::ExitStatus;

use granule_snapshot::layout::{Layout, PageSize, Region};
use granule_snapshot::manifest::{FileSum, Manifest, SnapshotId};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

use super::bench::memfd;
use super::process::{self, FIRST, Failed};

const GPA: u64 = 0x4000_0000;
const SIZE: u64 = 1 << 20;

/// Saves, then restores, each in a process of its own; answers how the last one ended.
pub fn run(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let memory = memfd(SIZE);
    memory.write_all_at(&[7; 5000], 8192).unwrap();
    let (raw, pages) = (memfd(0), memfd(0));
    let slots = json!({ "memory": 1, "pages": 2, "tags": null });
    let order = json!({ "Save": { "machine": 0, "files": slots, "parent": [], "live": false } });
    let (saved, _) = job(&order, &memory, [&raw, &pages], dropped)?;
    let sum = &saved["Saved"]["pages"];
    let (size, sum) = sum[0].as_u64().zip(sum[1].as_u64()).ok_or(Failed)?;
    let layers = json!([{ "manifest": manifest(size, sum), "files": slots }]);
    let order = json!({ "Restore": { "machine": 0, "layers": layers } });
    let (restored, status) = job(&order, &memfd(SIZE), [&raw, &pages], dropped)?;
    if restored == "Restored" { Ok(status) } else { Err(Failed) }
}

fn job(
    order: &Value,
    memory: &File,
    files: [&File; 2],
    dropped: Option<&str>,
) -> Result<(Value, ExitStatus), Failed> {
    let (control, theirs) = process::pair();
    let (machine, passed_on) = process::pair();
    let words = ["mover", "--fd", &FIRST.to_string()].map(str::to_owned);
    let mut child = process::start(&words, vec![theirs], dropped);
    let regions = json!({ "regions": [{ "gpa": GPA, "size": SIZE, "offset": 0 }] });
    // Both wait in the sockets, whatever the mover does.
    send(&machine, &regions, &[memory.as_fd()]);
    send(&control, order, &[passed_on.as_fd(), files[0].as_fd(), files[1].as_fd()]);
    drop(passed_on);
    let last = loop {
        match receive(&control) {
            Ok(told) if told.get("Progress").is_some() => {}
            told => break told,
        }
    };
    let status = child.wait().unwrap();
    last.map(|last| (last, status))
}

fn send(to: &OwnedFd, message: &Value, fds: &[std::os::fd::BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    let bytes = message.to_string().into_bytes();
    sendmsg(to, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
}

fn receive(from: &OwnedFd) -> Result<Value, Failed> {
    let mut bytes = vec![0; 64 << 10];
    let mut none = RecvAncillaryBuffer::default();
    let got = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut none, RecvFlags::empty());
    let length = got.map_err(|_| Failed)?.bytes;
    serde_json::from_slice(&bytes[..length]).map_err(|_| Failed)
}

fn manifest(size: u64, sum: u64) -> String {
    let page_size = PageSize::from_bytes(rustix::param::page_size() as u64).unwrap();
    let manifest = Manifest {
        id: SnapshotId([1; 16]),
        parent: None,
        creator: "test".into(),
        created: 0,
        arch: "x".into(),
        mte: None,
        layout: Layout::new(page_size, vec![Region { gpa: GPA, size: SIZE }]).unwrap(),
        config: FileSum::of(b""),
        state: FileSum::of(b""),
        pages: FileSum { size, sum: u32::try_from(sum).unwrap() },
        tags: None,
    };
    String::from_utf8(manifest.encode()).unwrap()
}
