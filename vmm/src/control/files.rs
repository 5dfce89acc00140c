//! Opens what a configuration names. Everything that `machine` and the devices work on is opened here and passed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file of the configuration cannot be used. `field` is the path in the request, as in `payload.kernel`.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused to open it.
    #[error("{field}: cannot open {path:?}")]
    Open {
        /// Field of the request.
        field: &'static str,
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is not what its user needs.
    #[error("{field}: {path:?} cannot be used")]
    Unusable {
        /// Field of the request.
        field: String,
        /// Path as given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is a directory, a FIFO, a socket, …
    #[error("{field}: {path:?} is {found}, not {wanted}")]
    Kind {
        /// Field of the request.
        field: &'static str,
        /// Path as given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// It cannot be what it is to be.
    #[error("{field}: {path:?}: {reason}")]
    Image {
        /// Field of the request.
        field: String,
        /// Path as given.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// The system's answer, if it was asked.
        #[source]
        source: Option<io::Error>,
    },
}

/// Opens an image: a regular file or a block device.
pub fn open_image(field: String, path: &Path, writable: bool) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK);
    let opened = options.open(path).and_then(|file| Ok((file.metadata()?.file_type(), file)));
    let (reason, source) = match opened {
        Ok((kind, file)) if kind.is_file() || kind.is_block_device() => return Ok(file),
        Ok(_) => ("neither a regular file nor a block device".to_owned(), None),
        Err(error) if writable && is_write_protected(&error) => {
            ("cannot be opened for writing; ask for readonly or discard_writes".to_owned(), Some(error))
        }
        Err(error) => ("cannot be opened".to_owned(), Some(error)),
    };
    Err(FileError::Image { field, path: path.into(), reason, source })
}

fn is_write_protected(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY))
}

/// Opens a regular file for reading. FIFOs and directories are told apart before anything can block on them.
pub fn open_regular(field: &'static str, path: &Path) -> Result<File, FileError> {
    let file =
        open(field, path, OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK))?;
    let kind =
        file.metadata().map_err(|source| FileError::Open { field, path: path.into(), source })?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    let found = match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a character device",
    };
    Err(FileError::Kind { field, path: path.into(), found, wanted: "a regular file" })
}

/// Opens a character device or file to read entropy from.
pub fn open_entropy(field: &'static str, path: &Path) -> Result<File, FileError> {
    let file =
        open(field, path, OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK))?;
    let kind =
        file.metadata().map_err(|source| FileError::Open { field, path: path.into(), source })?.file_type();
    if kind.is_char_device() || kind.is_file() {
        return Ok(file);
    }
    let found = if kind.is_dir() { "a directory" } else { "no readable source" };
    Err(FileError::Kind { field, path: path.into(), found, wanted: "a character device or a regular file" })
}

/// Creates or truncates a file for guest output.
pub fn create_output(field: &'static str, path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK);
    let file = open(field, path, &options)?;
    // Only the opening of a FIFO without a reader was not to block.
    rustix::io::ioctl_fionbio(&file, false).map_err(|errno| FileError::Open {
        field,
        path: path.into(),
        source: errno.into(),
    })?;
    Ok(file)
}

fn open(field: &'static str, path: &Path, options: &OpenOptions) -> Result<File, FileError> {
    options.open(path).map_err(|source| FileError::Open { field, path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_refused_by_name() {
        let error = open_regular("payload.kernel", Path::new("/")).unwrap_err();
        assert_eq!(error.to_string(), r#"payload.kernel: "/" is a directory, not a regular file"#);
    }

    #[test]
    fn a_missing_file_names_field_and_path() {
        let error = open_regular("payload.kernel", Path::new("/no/such/file")).unwrap_err();
        assert_eq!(error.to_string(), r#"payload.kernel: cannot open "/no/such/file""#);
    }

    #[test]
    fn a_device_is_an_entropy_source_and_no_kernel() {
        assert!(open_entropy("rng.src", Path::new("/dev/urandom")).is_ok());
        assert!(open_regular("payload.kernel", Path::new("/dev/urandom")).is_err());
    }
}
