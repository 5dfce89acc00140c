//! Asks the kernel by files and system calls: landlock, huge pages, userfaultfd.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What this host has besides KVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The version of landlock, 0 where there is none or it is switched off.
    pub landlock_abi: u32,
    /// The setting of transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    /// The same for shared memory, a memfd among it: under memory tagging it must not be `always` or `force`,
    /// because a write to the file by a system call can then make huge pages that no mapping asked for.
    pub shmem_huge_pages: Option<String>,
    /// How this process can have a userfaultfd that sees the faults of guests.
    pub userfaultfd: Userfaultfd,
}

/// How to get a userfaultfd that sees faults of the kernel too, as those of guests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Userfaultfd {
    /// `/dev/userfaultfd` can be opened.
    Device,
    /// The system call gives one (as root, or where the administrator allows it to all).
    SystemCall,
    /// Neither: guests cannot run before their memory is there.
    None,
}

const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

/// Reports what this host has besides KVM. What cannot be found out is absent.
#[must_use]
pub fn files() -> FileReport {
    FileReport {
        landlock_abi: landlock_abi(),
        transparent_huge_pages: choice(&Path::new(HUGE_PAGES).join("enabled")),
        shmem_huge_pages: shmem_huge_pages(),
        userfaultfd: userfaultfd(),
    }
}

/// [`FileReport::shmem_huge_pages`] alone.
#[must_use]
pub fn shmem_huge_pages() -> Option<String> {
    choice(&Path::new(HUGE_PAGES).join("shmem_enabled"))
}

/// The kernel's release, as `uname -r` says it.
#[cfg(target_arch = "aarch64")]
pub(super) fn kernel_release() -> String {
    // SAFETY: an all-zero utsname is a valid one.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::uname(&raw mut name) };
    let release: Vec<u8> = name.release.iter().copied().take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&release).into_owned()
}

/// The size of a page of this kernel.
#[cfg(target_arch = "aarch64")]
pub(super) fn page_size() -> usize {
    // SAFETY: takes a number, returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(0)
}

fn landlock_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag and no attribute the call only answers with a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Which of the words in a file like `always [madvise] never` is chosen.
fn choice(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    chosen(&text).map(str::to_owned)
}

fn chosen(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

fn userfaultfd() -> Userfaultfd {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd").is_ok() {
        return Userfaultfd::Device;
    }
    match sys_userfaultfd() {
        Ok(()) => Userfaultfd::SystemCall,
        Err(_) => Userfaultfd::None,
    }
}

fn sys_userfaultfd() -> io::Result<()> {
    // SAFETY: the call makes a new descriptor, or none.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    unsafe { libc::close(fd as libc::c_int) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_word_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always within_size advise [never] deny force\n"), Some("never"));
        assert_eq!(chosen("nonsense"), None);
    }

    #[test]
    fn a_report_of_files_is_had_everywhere() {
        let json = serde_json::to_string(&files()).expect("serialised");
        assert!(json.contains("landlock_abi"), "{json}");
    }
}
