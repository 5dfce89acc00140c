//! Streams between guest and host: a service that does what the first line of each connection says.
//!
//! ```text
//!   echo                    sends everything back, until the other side ends
//!   sink SEED BYTES         takes content into tagged memory; answers what was wrong with data and tags
//!   source SEED BYTES       sends content
//!   dial WHERE SEED BYTES   connects, sends content and takes it back at the same time; answers what was wrong
//!   run CHECK               makes a check; answers its line, as on the console
//!   start SERVICE           starts another service
//! ```
//! An answer is a line of JSON, but for the last two. `WHERE` is a port of the host by vsock, or `address:port` by TCP.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use granule_tests::{modules, pattern, vsock};
use rustix::net::Shutdown;
use serde_json::{Value, json};

use crate::sys;
use crate::tags::{Backing, HWCAP2_MTE, TaggedMemory, check_synchronously, random_tag};

/// Where the service listens.
const PORT: u32 = 7;
/// Bytes that are moved at once.
const CHUNK: usize = 1 << 16;
/// Bytes of tagged memory under one tag; what one read may fill.
const TAGGED: usize = 4096;

/// Starts a service that goes on while the guest does: `vsock`, or `tcp ADDRESS` at this address of `eth0`.
pub fn start(words: &str) -> Result<(), String> {
    let (what, address) = words.split_once(' ').unwrap_or((words, ""));
    let refused = modules::load_all(&format!("/{what}"));
    if !refused.is_empty() {
        return Err(format!("{refused:?}"));
    }
    let failed = |error: io::Error| error.to_string();
    match what {
        "vsock" => {
            let listener = vsock::listen(PORT).map_err(failed)?;
            std::thread::spawn(move || {
                while let Ok(stream) = vsock::accept(&listener) {
                    serve(stream);
                }
            });
        }
        "tcp" => {
            let up = ["ifconfig", "eth0", address, "netmask", "255.255.255.0", "up"];
            let output = Command::new("/bin/busybox").args(up).output().map_err(failed)?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            let listener = TcpListener::bind(("0.0.0.0", PORT as u16)).map_err(failed)?;
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    serve(OwnedFd::from(stream));
                }
            });
        }
        _ => return Err("no service of this name".to_owned()),
    }
    Ok(())
}

fn serve(stream: impl Into<OwnedFd>) {
    let stream = File::from(stream.into());
    std::thread::spawn(move || {
        // Whoever asked finds out by the end of the stream.
        let _ = obey(stream);
    });
}

fn obey(mut stream: File) -> io::Result<()> {
    // Byte by byte: what follows the line is content.
    let mut line = Vec::new();
    io::BufReader::with_capacity(1, &stream).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or_default();
    let answer = match words[..] {
        ["echo"] => {
            echo(&mut stream)?;
            return rustix::net::shutdown(&stream, Shutdown::Write).map_err(Into::into);
        }
        ["sink", ..] => sink(&stream, number(1), number(2)),
        ["run", check] => {
            let checked = Command::new("/proc/self/exe").args(["check", check]).output()?;
            return stream.write_all(&checked.stdout);
        }
        ["start", ..] => {
            let started = start(line.trim().trim_start_matches("start ")).err().unwrap_or_default();
            return stream.write_all(format!("GRANULE started {started}\n").as_bytes());
        }
        ["source", ..] => return send(&mut stream, number(1), number(2)),
        ["dial", place, ..] => dial(place).and_then(|stream| talk(&stream, number(2), number(3))),
        _ => Err(io::Error::other("no such command")),
    };
    let answer =
        answer.unwrap_or_else(|error| json!({"error": error.to_string(), "errno": error.raw_os_error()}));
    stream.write_all(format!("{answer}\n").as_bytes())
}

fn echo(stream: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => stream.write_all(&chunk[..count])?,
        }
    }
}

fn dial(place: &str) -> io::Result<File> {
    match place.parse() {
        Ok(port) => vsock::connect(port).map(File::from),
        Err(_) => TcpStream::connect(place).map(|stream| File::from(OwnedFd::from(stream))),
    }
}

fn send(stream: &mut File, seed: u64, bytes: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    for at in (0..bytes).step_by(CHUNK) {
        let count = (bytes - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut chunk[..count], seed, at);
        stream.write_all(&chunk[..count])?;
    }
    Ok(())
}

/// Sends and takes back.
fn talk(mut stream: &File, seed: u64, bytes: u64) -> io::Result<Value> {
    let mut sender = stream.try_clone()?;
    let sending = std::thread::spawn(move || {
        send(&mut sender, seed, bytes)?;
        rustix::net::shutdown(&sender, Shutdown::Write).map_err(io::Error::from)
    });
    let (mut chunk, mut wrong) = (vec![0; CHUNK], 0);
    for at in (0..bytes).step_by(CHUNK) {
        let chunk = &mut chunk[..(bytes - at).min(CHUNK as u64) as usize];
        stream.read_exact(chunk)?;
        wrong += pattern::wrong(chunk, seed, at);
    }
    sending.join().map_err(|_| io::Error::other("the sender died"))??;
    Ok(json!({"bytes": bytes, "wrong": wrong}))
}

/// Takes content; into memory in which every page has a tag of its own, where there are tags.
fn sink(stream: &File, seed: u64, bytes: u64) -> io::Result<Value> {
    if sys::hwcaps().1 & HWCAP2_MTE == 0 {
        return Err(io::Error::other("this guest has no tags"));
    }
    check_synchronously(0xfffe)?;
    let memory = TaggedMemory::map(Backing::Anonymous, CHUNK)?;
    let granules = TAGGED / crate::tags::GRANULE;
    let (mut at, mut wrong_data, mut wrong_tags, mut blocks) = (0, 0, 0, 0);
    while at < bytes {
        let first = blocks % (CHUNK / TAGGED) * granules;
        let tag = random_tag();
        let pointers: Vec<usize> =
            (first..first + granules).map(|granule| memory.set_tag(granule, tag)).collect();
        let count = (bytes - at).min(TAGGED as u64) as usize;
        let mut got = 0;
        while got < count {
            match memory.receive(stream, pointers[0] + got, count - got)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => got += more,
            }
        }
        wrong_tags += (first..first + granules).filter(|&granule| memory.tag(granule) != tag).count();
        for word in (0..count as u64 / pattern::WORD).map(|word| word * pattern::WORD) {
            let value = memory.load(pointers[0] + word as usize);
            wrong_data += usize::from(value != pattern::word(seed, at + word));
        }
        (at, blocks) = (at + count as u64, blocks + 1);
    }
    Ok(json!({"bytes": bytes, "wrong": wrong_data, "wrong_tags": wrong_tags, "blocks": blocks}))
}
