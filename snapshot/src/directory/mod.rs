//! A snapshot's directory: there whole, or not at all.
//!
//! ```text
//!   target                      written                          made visible by
//!   ─────────────────────────   ──────────────────────────────   ─────────────────────────────────────────────
//!   does not exist              in `.NAME.granule-partial`        rename of the directory
//!                               beside it
//!   exists, holds no snapshot   in it, as `.granule-partial.*`    rename of each file, `manifest.json` last
//!   is a snapshot, replace      in `.NAME.granule-partial`        exchange of the two directories; then the old
//!                               beside it                         one is removed
//! ```
//!
//! Files are synced before anything is renamed, and directories after each step that the next relies on. Hence a crash at any moment leaves
//! what was there or the new snapshot. What it leaves besides is found, and removed, by the next writer of the same
//! target; a lock on the directory tells a dead writer from one that still writes.

mod disk;
mod merge;
mod open;
mod open_error;
mod staging;

pub use disk::{Disk, OsDisk, Rename};
pub use merge::{MergeError, Stamp, merge};
pub use open::{Chain, MAX_CONFIG, Snapshot};
pub use open_error::OpenError;
pub use staging::{Description, Staging, StagingError};

/// The name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// The name of the configuration.
pub const CONFIG: &str = "config.json";
/// The name of the components' state.
pub const STATE: &str = "state.json";
/// The name of the raw pages.
pub const MEMORY: &str = "memory";
/// The name of what each page's data is.
pub const PAGES: &str = "pages";
/// The name of what each page's tags are.
pub const TAGS: &str = "tags";

/// All but the manifest.
const CONTENTS: [&str; 5] = [CONFIG, STATE, MEMORY, PAGES, TAGS];
/// What names of files begin with while they are written in the target itself.
const PARTIAL: &str = ".granule-partial.";
