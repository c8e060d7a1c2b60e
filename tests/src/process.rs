// SPDX-License-Identifier: MIT OR Apache-2.0

//! Child processes that never outlive the test that started them.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::clock;

/// The pids of the running children. They are killed before an exit that runs no destructors.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// The number of lines of a child's log that are shown when its test fails.
const SHOWN_LINES: usize = 60;

/// A running child whose output goes to a file. Dropping it kills the child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` and appends its standard output and error to `log`.
    ///
    /// # Panics
    /// Panics if the command cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        let errors = output.try_clone().expect("a second handle on the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        running().push(child.id());
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the output of the child so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the exit status, if the child has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().expect("ask after a child");
        if ended.is_some() {
            self.forget();
        }
        ended
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"));
        kill(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Waits until the child ends by itself.
    ///
    /// # Panics
    /// Panics if the child does not end in time.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        clock::eventually_some(&what, || self.ended())
    }

    /// Kills the child as `kill -9` does and waits for its end.
    pub fn kill(&mut self) {
        // This call fails only if the child has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.forget();
    }

    /// Removes the pid of the ended child from the list, because the kernel may now assign the pid
    /// to another process.
    fn forget(&self) {
        running().retain(|pid| *pid != self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("---- {} wrote:\n{}", self.name, lines[from..].join("\n"));
        }
    }
}

fn running() -> MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all running children, before an exit that runs no destructors.
pub fn kill_all() {
    for pid in running().iter() {
        let _ = kill(
            Pid::from_raw(i32::try_from(*pid).expect("a pid fits")),
            Signal::SIGKILL,
        );
    }
}

/// Runs a command until it ends, and returns its output. The command must succeed.
///
/// # Panics
/// Panics if the command cannot be started or fails; the message contains its output.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command until it ends, and returns its output. The command may fail.
///
/// # Panics
/// Panics if the command cannot be started.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Builds a binary of a package in this workspace with the given profile, and returns its path.
///
/// # Panics
/// Panics if the build fails.
#[track_caller]
pub fn cargo_builds(package: &str, binary: &str, profile: &str) -> String {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = env::var("CARGO").unwrap_or("cargo".to_owned());
    let messages = succeed(
        Command::new(cargo)
            .args([
                "build",
                "--profile",
                profile,
                "--quiet",
                "--package",
                package,
            ])
            .args(["--bin", binary, "--message-format=json", "--manifest-path"])
            .arg(manifest),
    );
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .expect("cargo says where the binary is")
}
