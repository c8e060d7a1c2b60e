// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon under test.

mod command_line;
mod config;
pub mod shape;
mod usage;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::OnceLock,
    thread,
};

use nix::sys::signal::Signal;

pub use self::{
    command_line::Output,
    config::Config,
    usage::{RefusalCounts, Usage},
};
use crate::{
    Lab, Namespace, cleanup, clock,
    process::{self, Process},
};

/// The control socket's name in the runtime directory.
const SOCKET: &str = "limiter.sock";

/// The exit statuses of the command line.
pub mod exit {
    pub const DONE: i32 = 0;
    pub const FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const UNREACHABLE: i32 = 3;
}

/// A daemon with its own directories, pins and socket, in the server's namespace of a lab. Dropping
/// this value removes the daemon's programs from the kernel.
#[derive(Debug)]
pub struct Limiter {
    namespace: String,
    directory: PathBuf,
    pins: PathBuf,
    /// `None` while the daemon is down.
    process: Option<Process>,
    /// The environment variables that are set for the daemon.
    environment: Vec<(String, String)>,
    /// The daemon's log filter (`RUST_LOG`). If it is `None`, the daemon gets the filter of the
    /// tests.
    log_filter: Option<String>,
    /// Whether the daemon runs as [`NOBODY`].
    unprivileged: bool,
    /// The daemon's umask, in octal.
    umask: Option<&'static str>,
}

/// The id of a user without privileges, and of its group.
const NOBODY: u32 = 65534;

impl Limiter {
    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn start(lab: &Lab, config: &Config) -> Self {
        Self::start_named(lab, "limiter", config)
    }

    /// Starts a daemon with the published limits, in a lab that has no server and no traffic.
    #[track_caller]
    pub fn idle() -> (Self, Lab) {
        let lab = Lab::loopback();
        let limiter = Self::start(&lab, &Config::published(&lab).small_tables());
        (limiter, lab)
    }

    /// Starts a daemon with the name `name`, so that a lab can have several daemons.
    #[track_caller]
    pub fn start_named(lab: &Lab, name: &str, config: &Config) -> Self {
        let mut limiter = Self::prepare(lab, name, config);
        limiter.run(&[]);
        limiter
    }

    /// Prepares a daemon without starting it.
    pub fn prepare(lab: &Lab, name: &str, config: &Config) -> Self {
        let directory = lab.file(name);
        fs::create_dir(&directory).expect("the daemon's directory");
        let limiter = Self {
            namespace: lab.server().name().to_owned(),
            directory,
            pins: cleanup::pins(&format!("{}{name}", lab.name())),
            process: None,
            environment: Vec::new(),
            log_filter: None,
            unprivileged: false,
            umask: None,
        };
        limiter.write_config(&config.to_string());
        limiter
    }

    /// Starts the daemon, which must not be running, and waits until it answers.
    #[track_caller]
    pub fn run(&mut self, arguments: &[&str]) {
        self.launch(arguments);
        self.wait_until_ready();
    }

    /// Waits until the daemon answers, after [`Self::launch`].
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let what = "the daemon answers";
        clock::eventually(what, || {
            let process = self.process.as_mut().expect("just launched");
            if let Some(status) = process.ended() {
                panic!("the daemon ended ({status}): {}", process.log());
            }
            self.cli(&["status"]).code == exit::DONE
        });
    }

    /// Sets an environment variable for the daemon from its next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Sets the umask of the daemon from its next start.
    pub fn set_umask(&mut self, octal: &'static str) {
        self.umask = Some(octal);
    }

    /// Undoes [`Self::drop_privileges`] from the daemon's next start. The daemon then runs as root,
    /// but its directories and pins stay the same.
    pub fn regain_privileges(&mut self) {
        self.unprivileged = false;
    }

    /// Starts the daemon without waiting until it answers.
    pub fn launch(&mut self, arguments: &[&str]) {
        assert!(self.process.is_none(), "the daemon is already running");
        let mut command = match self.umask {
            _ if self.unprivileged => self.as_nobody(),
            Some(octal) => self.with_umask(octal),
            None => self.in_namespace(),
        };
        command
            .args(["run", "-c"])
            .arg(self.config_path())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .arg("--pin-dir")
            .arg(&self.pins)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .env(
                "RUST_LOG",
                self.log_filter
                    .clone()
                    .or_else(|| env::var("RUST_LOG").ok())
                    .unwrap_or("info".to_owned()),
            );
        self.process = Some(Process::start("limiter", &mut command, &self.log_path()));
    }

    /// Makes the daemon run as an unprivileged user from its next start. The daemon must not be
    /// running now. The user owns only the daemon's directories, and the daemon has only the
    /// capabilities that it requires. Its pins will be in the directory `pins`, which the same user
    /// must own.
    pub fn drop_privileges(&mut self, pins: &Path) {
        pins.clone_into(&mut self.pins);
        self.unprivileged = true;
        for directory in [self.state_dir(), self.runtime_dir()] {
            fs::create_dir_all(&directory).expect("a directory for the daemon");
            Self::give_to_nobody(&directory);
        }
        // The binary is copied, because the unprivileged user may be unable to read the directory
        // in which it was built.
        process::succeed(Command::new("cp").arg(binary()).arg(self.copy()));
    }

    /// Makes the user of the unprivileged daemon the owner of `path`.
    pub fn give_to_nobody(path: &Path) {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("another owner");
    }

    fn copy(&self) -> PathBuf {
        self.directory.join("limiter")
    }

    fn as_nobody(&self) -> Command {
        let mut command = Namespace::command_in(&self.namespace, "setpriv");
        let capabilities = "-all,+bpf,+net_admin,+perfmon";
        command
            .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .arg("--clear-groups")
            .args(
                ["inh-caps", "ambient-caps", "bounding-set"]
                    .map(|set| format!("--{set}={capabilities}")),
            )
            .arg("--no-new-privs")
            .arg(self.copy())
            .env_remove("LIMITER_SOCKET");
        command
    }

    fn in_namespace(&self) -> Command {
        let mut command = Namespace::command_in(&self.namespace, binary());
        command.env_remove("LIMITER_SOCKET");
        command
    }

    fn with_umask(&self, octal: &str) -> Command {
        let mut command = Namespace::command_in(&self.namespace, "sh");
        command
            .args(["-c", "umask \"$0\" && exec \"$@\"", octal, binary()])
            .env_remove("LIMITER_SOCKET");
        command
    }

    pub fn write_config(&self, text: &str) {
        fs::write(self.config_path(), text).expect("write the configuration");
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.join("limiter.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Returns the path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join(SOCKET)
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join("limiter.log")
    }

    pub fn pin_dir(&self) -> &Path {
        &self.pins
    }

    /// Returns the daemon's log, which continues across its restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").pid()
    }

    /// Kills the daemon as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.take().expect("the daemon runs").kill();
    }

    /// Sends SIGTERM and waits until the daemon has shut down.
    #[track_caller]
    pub fn terminate(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::SIGTERM);
        let status = process.wait();
        assert!(
            status.success(),
            "the daemon ended with {status}: {}",
            process.log()
        );
    }

    /// Waits until the daemon ends by itself, and returns its exit code. The result is `None` if a
    /// signal killed the daemon.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        self.wait_for_status().code()
    }

    /// Does the same as [`Self::wait_for_end`], but returns the whole exit status, which includes
    /// the signal if there was one.
    pub fn wait_for_status(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the daemon runs");
        process.wait()
    }

    /// Sets the log filter (`RUST_LOG`) of the daemon from its next start.
    pub fn set_log(&mut self, filter: &str) {
        self.log_filter = Some(filter.to_owned());
    }

    pub fn signal(&self, signal: Signal) {
        self.process
            .as_ref()
            .expect("the daemon runs")
            .signal(signal);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        // The process is dropped first, which prints the daemon's log if the test fails.
        self.process = None;
        if thread::panicking() {
            eprintln!(
                "---- configuration:\n{}",
                fs::read_to_string(self.config_path()).unwrap_or_default()
            );
        }
        // The command does not need the store, which is removed together with the test's files. It
        // therefore gets a state directory that does not exist.
        self.detach_with(Path::new("/nonexistent"));
        // If the command has failed, the pins still keep programs and maps in the kernel.
        let _ = fs::remove_dir_all(&self.pins);
    }
}

static BINARY: OnceLock<String> = OnceLock::new();

/// Returns the path of the binary under test. This is the path that was passed to [`use_binary`].
/// If there was none, it is `LIMITER_BIN`, which `cargo xtask test` sets. If that is not set
/// either, cargo builds the binary.
pub fn binary() -> &'static str {
    BINARY.get_or_init(|| env::var("LIMITER_BIN").unwrap_or_else(|_| build()))
}

/// Sets the binary to use. This must happen before its first use.
pub fn use_binary(path: &Path) {
    let path = path.to_str().expect("a path in UTF-8").to_owned();
    BINARY
        .set(path)
        .expect("the binary is set once, before its first use");
}

fn build() -> String {
    process::cargo_builds("limiter-daemon", "limiter", "release")
}
