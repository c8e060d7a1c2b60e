// SPDX-License-Identifier: MIT OR Apache-2.0

//! A clean Debian system with systemd as its process 1, in the server's namespace of a lab.

use std::{
    fs, panic,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{
    Lab, cleanup, clock,
    limiter::Output,
    process::{self, Process},
};

const BEGIN: &str = include_str!("machine/begin.sh");
const INIT: &str = include_str!("machine/init.sh");

/// A running system with the network of the lab's server and its own BPF file system. Dropping it
/// removes all of its processes and files.
#[derive(Debug)]
pub struct Machine {
    init: Process,
    cgroup: PathBuf,
    /// The pid of the system's process 1.
    pid: u32,
}

impl Machine {
    /// Boots the system from the directory `root`, which is not changed.
    #[track_caller]
    pub fn boot(lab: &Lab, root: &Path) -> Self {
        let directory = lab.file("machine");
        fs::create_dir(&directory).expect("a directory to mount on");
        let [begin, init] = [("begin.sh", BEGIN), ("init.sh", INIT)].map(|(name, text)| {
            let path = lab.file(name);
            fs::write(&path, text).expect("write a script");
            path
        });
        let cgroup = cleanup::cgroup(lab.name());
        let mut command = lab.server().command("sh");
        command
            .arg(begin)
            .arg(root)
            .args([&directory, &cgroup, &init]);
        let mut init = Process::start("the machine", &mut command, &lab.file("machine.log"));
        let pid = clock::eventually_some("the machine's process 1", || {
            assert!(init.ended().is_none(), "the machine ended: {}", init.log());
            child_of_unshare(init.pid())
        });
        let machine = Self { init, cgroup, pid };
        clock::eventually("the machine is up", || machine.is_up());
        machine
    }

    fn is_up(&self) -> bool {
        // At first, process 1 is a shell that runs init.sh. The last command of init.sh replaces it
        // with systemd.
        comm(self.pid).is_some_and(|name| name == "systemd")
            && ["running", "degraded"]
                .contains(&self.run(&["systemctl", "is-system-running"]).stdout.trim())
    }

    /// Returns a command that runs in the system as root and has not been started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--all",
                "--target",
                &self.pid.to_string(),
                "--",
                "env",
                "-i",
            ])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"])
            .args(words);
        command
    }

    /// Runs a command in the system.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Output {
        process::output(&mut self.command(words)).into()
    }

    /// Runs a command in the system, which must succeed, and returns its output.
    #[track_caller]
    pub fn done(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "{words:?}: {output:?}");
        output.stdout
    }

    /// Returns the path at which processes outside the system find its file `path`.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Runs `work` on a separate thread that sees the files of the system. (Paths from
    /// [`Self::file`] are not enough for some libraries. SQLite, for example, resolves symbolic
    /// links itself, and would resolve `/proc/PID/root` to a directory outside the system.)
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let mounts = fs::File::open(format!("/proc/{}/ns/mnt", self.pid)).expect("its mounts");
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                // setns(2) fails if the thread shares its root directory with other threads.
                unshare(CloneFlags::CLONE_FS).expect("a root directory of its own");
                setns(&mounts, CloneFlags::CLONE_NEWNS).expect("enter the machine");
                work()
            });
            entered
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Returns a property of a unit, as systemctl(1) shows it.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let value = self.done(&["systemctl", "show", "--value", "--property", name, unit]);
        value.trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let journal = self.run(&["journalctl", "--no-pager", "--lines=60"]);
            eprintln!("---- the machine's journal:\n{}", journal.stdout);
        }
        // The kernel kills all other processes of the system when its process 1 dies.
        self.init.kill();
        clock::eventually("the machine's cgroup is empty", || {
            cleanup::remove_cgroup(&self.cgroup)
        });
    }
}

/// Returns the pid of the machine's process 1, which is the child of unshare(1). Returns `None` as
/// long as the process `pid` still runs begin.sh, whose last command replaces it with unshare(1).
fn child_of_unshare(pid: u32) -> Option<u32> {
    if comm(pid)? != "unshare" {
        return None;
    }
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn comm(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}
