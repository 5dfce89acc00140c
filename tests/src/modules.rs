//! A guest's drivers: the kernel's modules, loaded from a folder, and the devices that they find.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::system::finit_module;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel itself unpacks the module.
const COMPRESSED: i32 = 4;

/// Loads every module of a folder in the order of the names, those that are not; returns those that the kernel refused.
pub fn load_all(folder: &str) -> Vec<(String, String)> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    let mut refused = Vec::new();
    for path in paths {
        if let Err(error) = load(&path) {
            refused.push((path.display().to_string(), error));
        }
    }
    refused
}

fn load(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let packed = path.extension().is_some_and(|e| e == "xz" || e == "zst" || e == "gz");
    let options = CString::default();
    match finit_module(&file, &options, if packed { COMPRESSED } else { 0 }) {
        // It is loaded.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until a device can be opened: drivers find theirs when they like, and its node is there a moment before its driver.
///
/// # Errors
/// If it cannot be opened after two minutes.
pub fn wait_for_device(path: &str) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(120);
    while let Err(error) = File::open(path) {
        if Instant::now() > until {
            return Err(format!("{path}: {error}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
