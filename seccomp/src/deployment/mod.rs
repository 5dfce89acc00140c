//! `--jail`: where root starts granule for one VM, it can give itself a cgroup, a file tree and a user of its own first.
//!
//! ```text
//! started by root ─► cgroup DIR/ID ─► mount namespace, root DIR/ID ─► user and group ─► what a start without root is
//!                    all processes    /dev, /proc, /sys of its own    no capability     (machine, control, devices)
//! ```
//!
//! - It happens before any other process or thread is started, so it is the same for all of them; every path on the command line
//!   and in the API is then one inside the new root.
//! - Nothing on the way to DIR may be a symbolic link, nor anything below it that is made or mounted on: whoever had the directory
//!   before may have left one. `openat2` with RESOLVE_NO_SYMLINKS says so, and from there on only descriptors are used.
//! - Mounts are of this namespace alone: they go with its last process. What was asked for and cannot be had is an error: a VM
//!   never runs with less of a jail than it was to have.

mod place;
mod tree;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use crate::sys;
use place::{NO_LINKS, directory, made_below};

/// What `--jail` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Deployment {
    /// Names the VM's own directory below `root` and its cgroup below `cgroup`.
    pub id: Option<String>,
    /// The user that all processes become.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The directory below which the VM's root is.
    pub root: Option<PathBuf>,
    /// The cgroup below which the VM's is, from the root of cgroup2.
    pub cgroup: Option<PathBuf>,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The option does not make sense.
    #[error("--jail: {0}")]
    Option(&'static str),
    /// The cgroup.
    #[error("--jail cgroup={path}: {what}")]
    Cgroup {
        /// As given.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The root.
    #[error("--jail root={path}: {what}")]
    Root {
        /// As given.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The user.
    #[error("--jail uid={uid},gid={gid}: becoming this user, which takes root")]
    User {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where cgroup2 is mounted, on every host with systemd and by the kernel's documents.
const CGROUPS: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2: u64 = 0x6367_7270;

impl Deployment {
    /// Whether the option makes sense, before anything is touched.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn check(&self) -> Result<(), Error> {
        let refused = |reason| Err(Error::Option(reason));
        match &self.id {
            None if self.root.is_some() || self.cgroup.is_some() => {
                return refused("id: a root or a cgroup needs the name of the VM");
            }
            Some(id) if !is_name(id) => {
                return refused("id: 1 to 64 letters, digits, `-`, `_` or `.`, the first no `.`");
            }
            _ => {}
        }
        match (self.uid, self.gid) {
            (Some(u32::MAX), _) | (_, Some(u32::MAX)) => refused("uid, gid: 4294967295 is nobody's number"),
            (None, None) | (Some(_), Some(_)) => Ok(()),
            _ => refused("uid and gid go together"),
        }
    }

    /// Enters it, for good. To be called while the process has one thread and has opened nothing by path that is to be inside.
    ///
    /// # Errors
    /// [`Error`] says at what; the process must end then.
    pub fn enter(&self) -> Result<(), Error> {
        self.check()?;
        let id = self.id.as_deref().unwrap_or_default();
        if let Some(path) = &self.cgroup {
            let failed = |(what, source)| Error::Cgroup { path: path.clone(), what, source };
            join(path, id).map_err(failed)?;
        }
        if let Some(path) = &self.root {
            let failed = |(what, source)| Error::Root { path: path.clone(), what, source };
            tree::enter(path, id, self.uid.zip(self.gid)).map_err(failed)?;
        }
        if let Some((uid, gid)) = self.uid.zip(self.gid) {
            become_user(uid, gid).map_err(|source| Error::User { uid, gid, source })?;
        }
        Ok(())
    }
}

/// What was tried, and the kernel's answer.
type Failed = (&'static str, io::Error);

fn at<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| (what, error.into())
}

fn is_name(id: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&id.len()) && id.bytes().all(fits) && !id.starts_with('.')
}

/// Makes the VM's cgroup and moves this process there; its children are born there.
fn join(path: &std::path::Path, id: &str) -> Result<(), Failed> {
    let path = std::path::Path::new(CGROUPS).join(path);
    let parent = directory(&path).map_err(at("opening it"))?;
    let magic = rustix::fs::fstatfs(&parent).map_err(at("looking at it"))?.f_type;
    if u64::try_from(magic).ok() != Some(CGROUP2) {
        return Err(("it is not a directory of cgroup2", io::ErrorKind::InvalidInput.into()));
    }
    let group =
        made_below(parent.as_fd(), id, Mode::from_raw_mode(0o755)).map_err(at("making the VM's cgroup"))?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs =
        rustix::fs::openat2(&group, "cgroup.procs", flags, Mode::empty(), NO_LINKS | ResolveFlags::BENEATH);
    let mut procs = std::fs::File::from(procs.map_err(at("opening cgroup.procs of the VM's cgroup"))?);
    procs.write_all(b"0").map_err(at("moving this process to the VM's cgroup"))
}

/// Becomes a user without rights; who is that already stays so.
fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let is = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let effective = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if is == (uid, gid) && effective == is {
        return Ok(());
    }
    // A change of user clears both.
    let death_signal = rustix::process::parent_process_death_signal()?;
    sys::set_user(uid, gid)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    rustix::process::set_parent_process_death_signal(death_signal)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jail(id: &str) -> Deployment {
        Deployment { id: Some(id.into()), ..Deployment::default() }
    }

    #[test]
    fn names_are_one_component_of_a_path() {
        for good in ["a", "vm-1", "A_b.c", &"x".repeat(64)] {
            assert!(jail(good).check().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ü", "a\0", &"x".repeat(65)] {
            assert!(jail(bad).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_needs_something_else_is_refused_before_anything_is_touched() {
        let root = Deployment { root: Some("/".into()), ..Deployment::default() };
        let cgroup = Deployment { cgroup: Some("/".into()), ..Deployment::default() };
        let half = Deployment { uid: Some(1), ..Deployment::default() };
        let nobody = Deployment { uid: Some(u32::MAX), gid: Some(1), ..Deployment::default() };
        for wrong in [root, cgroup, half, nobody] {
            assert!(matches!(wrong.enter(), Err(Error::Option(_))), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_on_the_way_may_be_a_link() {
        let folder = std::env::temp_dir().join(format!("granule-deployment-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("real/below")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        assert!(directory(&folder.join("real/below")).is_ok());
        assert_eq!(directory(&folder.join("link/below")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        let parent = directory(&folder).unwrap();
        let mode = Mode::from_raw_mode(0o700);
        assert!(made_below(parent.as_fd(), "new", mode).is_ok());
        assert!(made_below(parent.as_fd(), "new", mode).is_ok(), "it may be there");
        assert_eq!(made_below(parent.as_fd(), "link", mode).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused_with_the_reason() {
        let jail = Deployment { cgroup: Some("/tmp".into()), ..jail("vm") };
        let error = jail.enter().unwrap_err();
        assert!(error.to_string().contains("not a directory of cgroup2"), "{error}");
    }
}
