//! vm.snapshot and vm.restore: what is carried from step to step of their plans.
//!
//! ```text
//!  vm.snapshot   Stage ─► Save ─► Move ─► Commit           vm.restore   Open ─► Rebuild ─► Move ─► Finish ─► (Resume)
//!                disk     machine mover   disk                          disk    machine    mover   machine
//! ```
//! A live snapshot has more steps ([`super::driver`], `live`). On demand there is no Move: the mover goes on when the plan
//! has ended (`driver/on_demand.rs`).
//!
//! What works on the disk runs on a thread of its own, for which the loop does not wait. Nothing of a snapshot is visible
//! before Commit, and whatever fails before it leaves nothing: the files go with what is dropped here, and the guest
//! was only looked at. A failed restore leaves no machine, as there was none before it.

mod layers;
mod mover;
pub mod net_fds;
pub mod on_demand;
mod restore;
mod save;

use std::path::PathBuf;

use granule_api::error::{ApiError, ErrorKind};

pub use layers::Layers;
pub use mover::{Moved, Mover, MoverStart, between};
pub use restore::{Restore, RestoreError};
pub use save::{Save, Saved};

use crate::wire::{Failure, FromMover};

/// A snapshot or a restore under way.
#[derive(Debug)]
pub enum Transfer {
    /// To a directory.
    Save(Box<Save>),
    /// From one.
    Restore(Box<Restore>),
}

impl Transfer {
    /// The mover that works for it.
    pub fn mover(&mut self) -> &mut Option<Mover> {
        match self {
            Self::Save(save) => &mut save.mover,
            Self::Restore(restore) => &mut restore.mover,
        }
    }

    /// Takes in what the mover says, and ends it if that was its last word.
    pub fn moved(&mut self, message: FromMover) -> Result<(), Failure> {
        if !matches!(message, FromMover::Copied { .. }) {
            *self.mover() = None;
        }
        match (self, message) {
            (Self::Save(save), FromMover::Copied { pages }) if save.live => {
                save.rounds.push(pages);
                Ok(())
            }
            (Self::Save(save), FromMover::Saved(memory)) => {
                save.memory = Some(memory);
                Ok(())
            }
            (Self::Restore(_), FromMover::Restored) => Ok(()),
            (_, FromMover::Failed(failure)) => Err(failure),
            _ => Err(Failure::of("the mover did another job than it was given")),
        }
    }
}

/// The directory that a URL names: `file://` and an absolute path.
pub fn directory(field: &str, url: &str) -> Result<PathBuf, ApiError> {
    let path = url.strip_prefix("file://").map(PathBuf::from).filter(|path| path.is_absolute());
    path.ok_or_else(|| {
        ApiError::new(ErrorKind::BadRequest, format!("{field}: {url:?} is not file:// and an absolute path"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_url_is_a_file_and_absolute() {
        assert_eq!(directory("x", "file:///run/vm").unwrap(), PathBuf::from("/run/vm"));
        for wrong in ["/run/vm", "file://run/vm", "http:///run", "file://", ""] {
            assert_eq!(directory("x", wrong).unwrap_err().status(), 400, "{wrong}");
        }
    }
}
