//! What the device has: where its bytes come from. There is nothing to save.

use std::fs::File;

/// Where random bytes come from.
#[derive(Debug)]
pub enum Source {
    /// A file that was opened for us, such as `/dev/urandom`.
    File(File),
    /// The kernel's generator, by `getrandom(2)`.
    Kernel,
}
