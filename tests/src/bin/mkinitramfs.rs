//! Packs a guest: `mkinitramfs OUTPUT INIT [PATH=FILE|PATH=FOLDER/]…`.
//!
//! `INIT` becomes `/init`; `PATH=FILE` adds a file (`bin/busybox=/usr/bin/busybox`, `modules/1-rng.ko.xz=…`),
//! `PATH=FOLDER/` the files of a folder. Programs lose their debugging sections on the way.

use std::path::Path;
use std::process::ExitCode;

use granule_tests::initramfs::Initramfs;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [output, init, additions @ ..] = &args[..] else {
        eprintln!("usage: mkinitramfs OUTPUT INIT [PATH=FILE|PATH=FOLDER/]...");
        return ExitCode::from(2);
    };
    match pack(init, additions).and_then(|bytes| Ok(std::fs::write(output, bytes)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkinitramfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn pack(init: &str, additions: &[String]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut archive = Initramfs::for_guest(&std::fs::read(init)?);
    for addition in additions {
        let (path, from) = addition.split_once('=').ok_or(format!("{addition}: PATH=FILE expected"))?;
        if from.ends_with('/') {
            archive.copy_folder(path, Path::new(from))?;
        } else {
            archive.program(path, Path::new(from))?;
        }
    }
    Ok(archive.finish())
}
