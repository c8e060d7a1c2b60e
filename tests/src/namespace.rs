//! Network namespaces: made, entered, removed.

use std::{
    fs::{self, File},
    panic,
    path::PathBuf,
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::process;

/// A network namespace of its own, with loopback up; gone when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes the namespace `name`.
    ///
    /// # Panics
    /// When the machine refuses: without root there is nothing to test with.
    pub fn new(name: &str) -> Self {
        process::succeed(Command::new("ip").args(["netns", "add", name]));
        let path = PathBuf::from("/run/netns").join(name);
        let handle = File::open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        let namespace = Self {
            name: name.to_owned(),
            handle,
        };
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME` with these words.
    pub fn ip(&self, words: &str) {
        process::succeed(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(words.split_whitespace()),
        );
    }

    /// Whether `ip -n NAME` with these words works on this machine.
    pub fn ip_works(&self, words: &str) -> bool {
        Command::new("ip")
            .args(["-n", &self.name])
            .args(words.split_whitespace())
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// Sets a network variable of this namespace, by its path in `/proc/sys`.
    pub fn set(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name);
        // proc(5) shows each task the variables of its own namespace.
        let written = self.enter(|| fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("cannot set {}: {error}", path.display()));
    }

    /// The same for a variable that not every kernel has.
    pub fn set_if_there(&self, name: &str, value: &str) {
        if PathBuf::from("/proc/sys").join(name).exists() {
            self.set(name, value);
        }
    }

    /// A command that runs in this namespace and dies with the thread that
    /// starts it. Not `ip netns exec`: that hides the bpf file system.
    pub fn command(&self, program: &str) -> Command {
        Self::command_in(&self.name, program)
    }

    /// The same for a namespace by its name.
    pub fn command_in(name: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{name}")).args([
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            program,
        ]);
        command
    }

    /// Runs `work` in this namespace, on a thread of its own. Sockets and
    /// devices made there stay there. Processes started there die with that
    /// thread: use [`Namespace::command`] for them.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                    work()
                })
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing to do about a failure here: the next run sweeps what is left.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}
