//! A running `granule`, its API, and the proof that nothing of it is left at the end.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::client::{Client, Response};
use crate::console::Console;
use crate::events::Events;
use crate::folder::Folder;
use crate::lab;
use crate::processes::{Group, Process};
use crate::wait;

/// A monitor that was started; dropping it kills whatever is left.
#[derive(Debug)]
pub struct Monitor {
    child: RefCell<Child>,
    group: Group,
    folder: Folder,
}

impl Monitor {
    /// Starts `granule --api-socket FOLDER/api.sock --event-monitor path=FOLDER/events` and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn start() -> Self {
        let monitor = Self::spawn(Stdio::null(), |folder| {
            let events = format!("path={}", folder.file("events"));
            vec!["--api-socket".to_owned(), folder.file("api.sock"), "--event-monitor".to_owned(), events]
        });
        monitor.wait_ready();
        monitor
    }

    /// Starts `granule` with the arguments that `args` makes for the test's folder; its output goes to
    /// `FOLDER/stdout` and `FOLDER/stderr`.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn(stdin: Stdio, args: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        Self::spawn_on(stdin, &[], args)
    }

    /// [`Self::spawn`] without standard input and with more environment.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn_with_env(env: &[(&str, &str)], args: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        Self::spawn_on(Stdio::null(), env, args)
    }

    /// [`Self::spawn`] with more environment.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn_on(stdin: Stdio, env: &[(&str, &str)], args: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        Self::launch(stdin, env, &[], |folder, _| args(folder))
    }

    /// [`Self::spawn`] without standard input, with descriptors of ours that keep their numbers, and arguments that are made for
    /// the test's cgroup too.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn_with_fds(fds: &[BorrowedFd<'_>], args: impl FnOnce(&Folder, &Group) -> Vec<String>) -> Self {
        Self::launch(Stdio::null(), &[], fds, args)
    }

    fn launch(
        stdin: Stdio,
        env: &[(&str, &str)],
        fds: &[BorrowedFd<'_>],
        args: impl FnOnce(&Folder, &Group) -> Vec<String>,
    ) -> Self {
        let (group, folder) = (Group::new(), Folder::new());
        let output = |name| File::create(folder.file(name)).expect("the test's folder can be written");
        let mut command = in_group(&group, &lab::granule());
        command.args(args(&folder, &group)).envs(env.iter().copied()).stdin(stdin);
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        if !fds.is_empty() {
            // SAFETY: between fork and exec it makes one system call for each descriptor, and allocates nothing.
            unsafe { command.pre_exec(move || fds.iter().try_for_each(|&fd| inherit(fd))) };
        }
        command.stdout(output("stdout")).stderr(output("stderr"));
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child: RefCell::new(child), group, folder }
    }

    /// Waits until `vmm.ping` is answered.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn wait_ready(&self) {
        let ready = wait::until(wait::LONG, || {
            if let Err(why) = self.alive() {
                panic!("no API: {why}");
            }
            Client::connect(&self.socket()).ok()
        });
        let mut client = ready.unwrap_or_else(|| panic!("no socket {}", self.socket().display()));
        let pong = client.call("GET", "/api/v1/vmm.ping", None).expect("vmm.ping is answered");
        assert_eq!(pong.code, 200, "{pong:?}");
    }

    /// Waits until machine has looked at the host, which it does right before it is confined, and returns `vmm.ping`.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_probed(&self) -> Value {
        let probed = wait::until(wait::LONG, || {
            let pong = self.get("vmm.ping").json();
            let knows_kvm = pong["features"].as_array().is_some_and(|f| f.contains(&"kvm".into()));
            knows_kvm.then_some(pong)
        });
        probed.unwrap_or_else(|| panic!("the host is not known: {:?}", self.get("vmm.ping")))
    }

    /// The path of the API socket.
    pub fn socket(&self) -> PathBuf {
        // Where the monitor has a root of its own, that is in this folder.
        let places = ["api.sock", "vm/api.sock"].map(|name| self.folder.path().join(name));
        places.iter().find(|place| place.exists()).unwrap_or(&places[0]).clone()
    }

    /// The folder of this run.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The id of the process that was started.
    pub fn pid(&self) -> i32 {
        self.child.borrow().id() as i32
    }

    /// The stream of events.
    pub fn events(&self) -> Events {
        Events::new(self.folder.path().join("events"))
    }

    /// A new connection.
    ///
    /// # Panics
    /// If there is nobody to connect to.
    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
            .unwrap_or_else(|e| panic!("{}: {e}; {:?}", self.socket().display(), self.alive()))
    }

    /// `GET /api/v1/NAME` on a connection of its own.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn get(&self, name: &str) -> Response {
        self.call("GET", name, None)
    }

    /// `PUT /api/v1/NAME` without a body, on a connection of its own.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn put(&self, name: &str) -> Response {
        self.call("PUT", name, None)
    }

    /// `PUT /api/v1/NAME` with a body, on a connection of its own.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn send(&self, name: &str, body: &Value) -> Response {
        self.call("PUT", name, Some(&body.to_string()))
    }

    fn call(&self, method: &str, name: &str, body: Option<&str>) -> Response {
        let answer = self.client().call(method, &format!("/api/v1/{name}"), body);
        answer.unwrap_or_else(|e| panic!("{method} {name}: {e}; {:?}", self.alive()))
    }

    /// `PUT`, which must be answered by 204.
    ///
    /// # Panics
    /// If it is not.
    pub fn must(&self, name: &str) {
        let answer = self.put(name);
        assert_eq!(answer.code, 204, "{name}: {answer:?}; {}", self.errors());
    }

    /// What `vm.info` says.
    ///
    /// # Panics
    /// If it is not answered by 200.
    pub fn info(&self) -> Value {
        let answer = self.get("vm.info");
        assert_eq!(answer.code, 200, "{answer:?}");
        answer.json()
    }

    /// The state in `vm.info`.
    ///
    /// # Panics
    /// As [`Self::info`].
    pub fn state(&self) -> String {
        self.info()["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Its processes, the oldest first.
    pub fn processes(&self) -> Vec<Process> {
        self.group.processes()
    }

    /// The one process of a role (`machine`, `control`, `device rng`).
    ///
    /// # Panics
    /// If there is none or more than one.
    pub fn process(&self, role: &str) -> Process {
        let all = self.processes();
        let of_role: Vec<_> = all.iter().filter(|p| p.role() == role).collect();
        assert_eq!(of_role.len(), 1, "processes that are the {role}: {all:?}");
        of_role[0].clone()
    }

    /// The reason why nothing can be expected of it any more, if it ended.
    ///
    /// # Errors
    /// Its status and last words.
    pub fn alive(&self) -> Result<(), String> {
        match self.child.borrow_mut().try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("granule ended with {status}; {}", self.errors())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What every thread of every process is doing, and what the guest and the monitor said last.
    pub fn doing(&self) -> String {
        let processes: String = self.processes().iter().map(Process::doing).collect();
        let console = Console::new(self.folder.path().join("console"));
        format!("{processes}{}\n{}", self.errors(), console.tail())
    }

    /// What it wrote to its standard error.
    pub fn errors(&self) -> String {
        format!("its stderr: {}", fs::read_to_string(self.folder.file("stderr")).unwrap_or_default())
    }

    /// What it wrote to its standard output.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.file("stdout")).unwrap_or_default()).into_owned()
    }

    /// Sends a signal to the process that was started.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).expect("a child has an id");
        rustix::process::kill_process(pid, signal).unwrap_or_else(|e| panic!("{e}; {:?}", self.alive()));
    }

    /// Waits for the end of the process that was started and of all others.
    ///
    /// # Panics
    /// If one of them stays.
    pub fn wait(&self) -> ExitStatus {
        let status = wait::until(wait::LONG, || self.child.borrow_mut().try_wait().ok().flatten());
        let status = status.unwrap_or_else(|| panic!("granule does not end; {}", self.doing()));
        self.group.must_empty();
        status
    }

    /// [`Self::wait`]; then no socket file may be left either.
    ///
    /// # Panics
    /// If a process or a socket file stays.
    pub fn finish(self) -> ExitStatus {
        let status = self.wait();
        assert_eq!(self.folder.sockets(), [] as [String; 0], "socket files left behind ({status})");
        status
    }

    /// `vmm.shutdown`, which must end everything with exit code 0.
    ///
    /// # Panics
    /// If it does not.
    pub fn shutdown(self) {
        let answer = self.put("vmm.shutdown");
        assert_eq!(answer.code, 200, "{answer:?}");
        let errors = PathBuf::from(self.folder.file("stderr"));
        let text = fs::read_to_string(&errors).unwrap_or_default();
        assert_eq!(self.finish().code(), Some(0), "{text}");
    }
}

/// Lets a descriptor stay open through exec.
fn inherit(number: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers; the descriptor is the caller's.
    if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A command that enters the group before it becomes `program`; its process id stays.
fn in_group(group: &Group, program: &OsStr) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(group.door()).arg(program);
    command
}

/// Runs `granule` with `args` to its end: exit status, standard output, standard error.
///
/// # Panics
/// If it cannot be started, or leaves a process behind.
pub fn run(args: &[&str]) -> (ExitStatus, String, String) {
    let monitor = Monitor::spawn(Stdio::null(), |_| args.iter().map(|&a| a.to_owned()).collect());
    let status = monitor.wait();
    let errors = fs::read_to_string(monitor.folder().file("stderr")).unwrap_or_default();
    (status, monitor.output(), errors)
}

/// True if the path is a socket file.
pub fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|m| m.file_type().is_socket())
}
