//! The mover's work: guest memory to a snapshot, and back.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, ExitStatus};

use granule_devices::dirty::LogFile;
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
/// Where memory is not empty.
const PAGE: u64 = 8192;

/// Saves, then restores, then saves what changes meanwhile, each in a process of its own; answers how the last one ended.
pub fn run(dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let memory = memfd(SIZE);
    memory.write_all_at(&[7; 5000], PAGE).unwrap();
    let files = [memfd(0), memfd(0)];
    let mover = Mover::start(&save(false), &memory, None, &files, dropped);
    let saved = mover.last_word("Saved")?;
    mover.end();
    let sum = &saved["pages"];
    let (size, sum) = sum[0].as_u64().zip(sum[1].as_u64()).ok_or(Failed)?;
    let layers = json!([{ "manifest": manifest(size, sum), "files": slots() }]);
    let order = json!({ "Restore": { "machine": 0, "layers": layers } });
    let mover = Mover::start(&order, &memfd(SIZE), None, &files, dropped);
    mover.last_word("Restored")?;
    mover.end();
    save_live(&memory, dropped)
}

/// A page that was saved is empty a round later.
fn save_live(memory: &File, dropped: Option<&str>) -> Result<ExitStatus, Failed> {
    let log = LogFile::create(GPA + SIZE).unwrap();
    let mover = Mover::start(&save(true), memory, Some(&log), &[memfd(0), memfd(0)], dropped);
    mover.last_word("Copied")?;
    memory.write_all_at(&[0; 4096], PAGE).unwrap();
    log.map().unwrap().mark(GPA + PAGE, 4096);
    mover.order(&json!("Round"));
    mover.last_word("Copied")?;
    mover.order(&json!("Complete"));
    mover.last_word("Saved")?;
    Ok(mover.end())
}

fn slots() -> Value {
    json!({ "memory": 1, "pages": 2, "tags": null })
}

fn save(live: bool) -> Value {
    json!({ "Save": { "machine": 0, "files": slots(), "parent": [], "live": live } })
}

/// A mover at work.
struct Mover {
    control: OwnedFd,
    child: Child,
}

impl Mover {
    /// Gives it an order; guest memory waits in the socket, with the log of what is written to it.
    fn start(
        order: &Value,
        memory: &File,
        log: Option<&LogFile>,
        files: &[File; 2],
        dropped: Option<&str>,
    ) -> Self {
        let (control, theirs) = process::pair();
        let (machine, passed_on) = process::pair();
        let words = ["mover", "--fd", &FIRST.to_string()].map(str::to_owned);
        let child = process::start(&words, vec![theirs], dropped);
        let region = json!({ "gpa": GPA, "size": SIZE, "offset": 0 });
        let regions = json!({ "regions": [region], "log": log.map(|log| log.size) });
        let shared: Vec<_> = [Some(memory), log.map(|log| &*log.file)].into_iter().flatten().collect();
        send(&machine, &regions, &shared.iter().map(|file| file.as_fd()).collect::<Vec<_>>());
        send(&control, order, &[passed_on.as_fd(), files[0].as_fd(), files[1].as_fd()]);
        Self { control, child }
    }

    /// What comes after all progress, if it is of that name.
    fn last_word(&self, name: &str) -> Result<Value, Failed> {
        let told = loop {
            let told = receive(&self.control)?;
            if told.get("Progress").is_none() {
                break told;
            }
        };
        if told == name { Ok(told) } else { told.get(name).cloned().ok_or(Failed) }
    }

    /// One that is dead does not listen, and says nothing either.
    fn order(&self, order: &Value) {
        let _ = rustix::net::send(&self.control, order.to_string().as_bytes(), SendFlags::NOSIGNAL);
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
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
