//! Which processes a monitor consists of, and what the kernel says about each of their threads.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::wait;

/// A cgroup of its own for each monitor: whoever descends from it is in there, whatever it does to its parents,
/// sessions and groups.
#[derive(Debug)]
pub struct Group(PathBuf);

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line.
    pub args: Vec<String>,
}

/// One thread.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its id.
    pub tid: i32,
    /// Its name (`comm`).
    pub name: String,
    /// The lines of its `/proc/PID/task/TID/status`.
    pub status: BTreeMap<String, String>,
}

impl Group {
    /// Makes the cgroup.
    ///
    /// # Panics
    /// Without root, or where cgroup2 is not mounted.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/sys/fs/cgroup/granule-e2e-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        Self(path)
    }

    /// The file through which a process enters.
    pub fn door(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Where it is, from the root of the hierarchy.
    pub fn path(&self) -> String {
        self.0.strip_prefix("/sys/fs/cgroup").unwrap_or(&self.0).display().to_string()
    }

    /// The cgroups that were made in it.
    fn below(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// Everybody in it, and in the cgroups in it, who is not dead yet, the oldest first.
    pub fn processes(&self) -> Vec<Process> {
        let groups = [vec![self.0.clone()], self.below()].concat();
        let pids =
            groups.iter().map(|group| fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default());
        let pids = pids.collect::<String>();
        let mut processes: Vec<Process> = pids.lines().filter_map(|l| Process::of(l.parse().ok()?)).collect();
        processes.sort_by_key(|p| p.pid);
        processes
    }

    /// Waits until nobody is left.
    ///
    /// # Panics
    /// If somebody stays.
    pub fn must_empty(&self) {
        if wait::until(wait::SHORT, || self.processes().is_empty().then_some(())).is_none() {
            panic!("left behind: {:?}", self.processes());
        }
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A test that failed half way leaves nothing for the next one.
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let _ = wait::until(wait::SHORT, || {
            self.below().iter().for_each(|group| drop(fs::remove_dir(group)));
            fs::remove_dir(&self.0).ok()
        });
    }
}

impl Process {
    fn of(pid: i32) -> Option<Self> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|&b| b == 0).filter(|w| !w.is_empty());
        Some(Self { pid, args: words.map(|w| String::from_utf8_lossy(w).into_owned()).collect() })
    }

    /// What it was started as: `control`, `device rng`, `mover`, …; `machine` if it was started by the user.
    pub fn role(&self) -> String {
        let words = self.args.iter().skip(1).take_while(|w| !w.starts_with('-')).take(2);
        match words.map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["device", kind] => format!("device {kind}"),
            ["control", ..] => "control".to_owned(),
            ["mover", ..] => "mover".to_owned(),
            _ => "machine".to_owned(),
        }
    }

    /// Its threads; empty once it is gone.
    pub fn threads(&self) -> Vec<Thread> {
        let entries = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let tids = entries.filter_map(|e| e.file_name().to_string_lossy().parse().ok());
        let mut threads: Vec<Thread> = tids.filter_map(|tid| Thread::of(self.pid, tid)).collect();
        threads.sort_by_key(|t| t.tid);
        threads
    }

    /// What its descriptors refer to, by number.
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let pairs = entries.filter_map(|e| {
            let number = e.file_name().to_string_lossy().parse().ok()?;
            Some((number, fs::read_link(e.path()).ok()?.display().to_string()))
        });
        pairs.collect()
    }

    /// Its share of memory in KiB (PSS of `smaps_rollup`).
    pub fn pss_kib(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    /// What each of its threads waits for, for the message of a test that waited in vain.
    pub fn doing(&self) -> String {
        let threads = self.threads().into_iter().map(|thread| {
            let read = |name| fs::read_to_string(format!("/proc/{}/{name}", thread.tid)).unwrap_or_default();
            let stack: Vec<_> =
                read("stack").lines().map(|l| l.trim_start_matches("[<0>] ").to_owned()).collect();
            format!(
                "  {} ({}): {} | {}\n",
                thread.name,
                thread.tid,
                read("syscall").trim(),
                stack.join(" < ")
            )
        });
        format!("{} ({}):\n{}", self.role(), self.pid, threads.collect::<String>())
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid);
        let signal = rustix::process::Signal::KILL;
        let sent = pid.map(|pid| rustix::process::kill_process(pid, signal));
        assert_eq!(sent, Some(Ok(())), "kill -9 {self:?}");
    }
}

impl Thread {
    fn of(pid: i32, tid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        let lines = text.lines().filter_map(|l| l.split_once(':'));
        let status: BTreeMap<_, _> = lines.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect();
        Some(Self { tid, name: status.get("Name")?.clone(), status })
    }

    /// Nanoseconds that it ran on a processor.
    pub fn ran(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.tid)).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(line: &str) -> Process {
        Process { pid: 1, args: line.split(' ').map(str::to_owned).collect() }
    }

    #[test]
    fn roles_are_read_off_the_command_line() {
        assert_eq!(process("granule --api-socket /x control").role(), "machine");
        assert_eq!(process("granule control --fd 3").role(), "control");
        assert_eq!(process("granule device rng --socket-fd 3").role(), "device rng");
    }

    #[test]
    fn this_process_has_a_thread_of_this_name() {
        let own = Process::of(std::process::id() as i32).unwrap();
        let threads = own.threads();
        assert!(
            threads.iter().any(|t| t.tid == own.pid),
            "the first thread has the process's id: {threads:?}"
        );
        assert!(own.pss_kib().unwrap() > 0);
        assert!(own.descriptors().contains_key(&1));
    }
}
