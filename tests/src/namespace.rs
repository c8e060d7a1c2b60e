// SPDX-License-Identifier: MIT OR Apache-2.0

//! Network namespaces: creation, entering and removal.

use std::{
    fs::{self, File},
    panic,
    path::PathBuf,
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::process;

/// A network namespace whose loopback interface is up. Dropping it removes the namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Creates the namespace `name`.
    ///
    /// # Panics
    /// Panics if the kernel refuses to create it, for example because the process is not root.
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

    /// Runs `ip -n NAME` with the arguments in `words`.
    pub fn ip(&self, words: &str) {
        process::succeed(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(words.split_whitespace()),
        );
    }

    /// Returns whether `ip -n NAME` with the arguments in `words` succeeds.
    pub fn ip_works(&self, words: &str) -> bool {
        Command::new("ip")
            .args(["-n", &self.name])
            .args(words.split_whitespace())
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// Sets the network variable at the path `name`, which is relative to `/proc/sys`, in this
    /// namespace.
    pub fn set(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name);
        // Under /proc/sys/net, each task sees the variables of its own network namespace (proc(5)).
        let written = self.enter(|| fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("cannot set {}: {error}", path.display()));
    }

    /// Does the same as [`Self::set`] if the kernel has the variable, and otherwise does nothing.
    pub fn set_if_there(&self, name: &str, value: &str) {
        if PathBuf::from("/proc/sys").join(name).exists() {
            self.set(name, value);
        }
    }

    /// Returns a command that runs in this namespace. The command is killed when the thread that
    /// started it ends. It is not run by `ip netns exec`, which would hide the BPF file system.
    pub fn command(&self, program: &str) -> Command {
        Self::command_in(&self.name, program)
    }

    /// Returns a command that runs in the namespace `name`, like [`Self::command`].
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

    /// Runs `work` in this namespace, on a separate thread. Sockets and devices that `work` creates
    /// stay in the namespace. Processes that `work` starts with [`Namespace::command`] are killed
    /// when the thread ends. To start a process that lives longer, call [`Namespace::command`]
    /// outside `work`.
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
        // A failure is ignored, because the next run removes the leftovers.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}
