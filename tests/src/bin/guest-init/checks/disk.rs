//! Disks: `disk:list`, or `disk:VERB:NAME:NUMBER…` on the disk of that name.

mod churn;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use granule_tests::pattern;
use serde_json::{Value, json};

use super::{Seen, names, read};
use crate::sys;
use crate::tags::{Backing, HWCAP2_MTE, TaggedMemory, random_tag};

/// Bytes that are moved at once.
const CHUNK: usize = 1 << 20;

/// Carries out one check.
pub fn look(words: &str) -> Seen {
    let words: Vec<&str> = words.split(':').collect();
    let [verb, rest @ ..] = &words[..] else { return Err("disk:VERB…".to_owned()) };
    let [name, numbers @ ..] = rest else { return list() };
    let numbers: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
    let numbers = numbers.map_err(|e| e.to_string())?;
    let device = format!("/dev/{name}");
    match (*verb, &numbers[..]) {
        ("write", &[seed, offset, length]) => tell(write(&device, seed, offset, length)),
        ("read", &[seed, offset, length]) => tell(verify(&device, seed, offset, length)),
        ("cached", &[seed, offset, length]) => tell(compare(&device, seed, offset, length)),
        ("discard", &[offset, length]) => tell(ranged(&device, sys::BLKDISCARD, offset, length)),
        ("zero", &[offset, length]) => tell(ranged(&device, sys::BLKZEROOUT, offset, length)),
        ("tagged", &[seed, length]) => tagged(&device, seed, length),
        ("churn", &[seed, operations, threads]) => churn::run(&device, seed, operations, threads),
        ("size", &[]) => Ok(json!({"sectors": number(name, "size")})),
        _ => Err(format!("disk:{verb} with {} numbers", numbers.len())),
    }
}

/// What the kernel says of every virtio disk.
fn list() -> Seen {
    let disks = names("/sys/block").into_iter().filter(|name| name.starts_with("vd"));
    let described = disks.map(|name| {
        json!({
            "name": name,
            "sectors": number(&name, "size"),
            "readonly": number(&name, "ro"),
            "serial": read(&format!("/sys/block/{name}/serial")).unwrap_or_default(),
            "queues": names(&format!("/sys/block/{name}/mq")).len(),
            "block": number(&name, "queue/logical_block_size"),
            "physical": number(&name, "queue/physical_block_size"),
            "discard": number(&name, "queue/discard_max_bytes"),
            "zeroes": number(&name, "queue/write_zeroes_max_bytes"),
            "cache": read(&format!("/sys/block/{name}/queue/write_cache")).unwrap_or_default(),
        })
    });
    Ok(Value::Array(described.collect()))
}

fn number(name: &str, file: &str) -> Option<u64> {
    read(&format!("/sys/block/{name}/{file}")).ok()?.parse().ok()
}

/// What came of it: an error of the disk is something that was seen, too.
fn tell(result: io::Result<Value>) -> Seen {
    Ok(result.unwrap_or_else(|error| json!({"error": error.to_string(), "errno": error.raw_os_error()})))
}

fn write(device: &str, seed: u64, offset: u64, length: u64) -> io::Result<Value> {
    let file = OpenOptions::new().write(true).open(device)?;
    let mut chunk = vec![0; CHUNK];
    for at in (offset..offset + length).step_by(CHUNK) {
        let count = (offset + length - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut chunk[..count], seed, at);
        file.write_all_at(&chunk[..count], at)?;
    }
    file.sync_all()?;
    Ok(json!({"written": length}))
}

fn verify(device: &str, seed: u64, offset: u64, length: u64) -> io::Result<Value> {
    // What the guest itself remembers proves nothing.
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    compare(device, seed, offset, length)
}

/// The same of what the guest remembers, as far as it does: the pages that the disk has filled.
fn compare(device: &str, seed: u64, offset: u64, length: u64) -> io::Result<Value> {
    let file = File::open(device)?;
    let mut chunk = vec![0; CHUNK];
    let (mut wrong, mut zeros) = (0, 0);
    for at in (offset..offset + length).step_by(CHUNK) {
        let chunk = &mut chunk[..(offset + length - at).min(CHUNK as u64) as usize];
        file.read_exact_at(chunk, at)?;
        wrong += pattern::wrong(chunk, seed, at);
        zeros += chunk.chunks_exact(8).filter(|word| word.iter().all(|&byte| byte == 0)).count();
    }
    Ok(json!({"words": length / 8, "wrong": wrong, "zeros": zeros}))
}

fn ranged(device: &str, request: u32, offset: u64, length: u64) -> io::Result<Value> {
    let file = OpenOptions::new().read(true).write(true).open(device)?;
    sys::block_range(&file, request, offset, length)?;
    file.sync_all()?;
    Ok(json!({"done": length}))
}

/// Has the disk write into tagged memory: data must arrive, tags must stay.
fn tagged(device: &str, seed: u64, length: u64) -> Seen {
    if sys::hwcaps().1 & HWCAP2_MTE == 0 {
        return Err("this guest has no tags".to_owned());
    }
    crate::tags::check_synchronously(0xfffe).map_err(|e| e.to_string())?;
    let failed = |error: io::Error| format!("{device}: {error}");
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(device).map_err(failed)?;
    let length = length as usize;
    let memory = TaggedMemory::map(Backing::Anonymous, length).map_err(failed)?;
    let tags: Vec<u8> = (0..memory.granules()).map(|_| random_tag()).collect();
    let pointers: Vec<usize> = tags.iter().enumerate().map(|(i, &tag)| memory.set_tag(i, tag)).collect();
    pointers.iter().for_each(|&pointer| memory.store(pointer, u64::MAX));
    memory.fill_from(&file, 0).map_err(failed)?;
    let wrong_tags = tags.iter().enumerate().filter(|&(i, &tag)| memory.tag(i) != tag).count();
    let words = pointers.iter().zip((0u64..).step_by(16));
    let wrong_data = words.filter(|&(&pointer, at)| memory.load(pointer) != pattern::word(seed, at)).count();
    Ok(json!({"granules": memory.granules(), "wrong_tags": wrong_tags, "wrong_data": wrong_data}))
}
