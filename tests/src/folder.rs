//! A folder of a test's own, removed with it.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A temporary folder with a short path: a Unix socket's may have 107 bytes.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes `/tmp/granule-e2e-PID-N`.
    ///
    /// # Panics
    /// If `/tmp` cannot be written.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("granule-e2e-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        Self(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it, as text for a configuration.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Names of the socket files in it.
    pub fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let sockets = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_socket()));
        sockets.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is no test's failure: it is in /tmp.
        let _ = fs::remove_dir_all(&self.0);
    }
}
