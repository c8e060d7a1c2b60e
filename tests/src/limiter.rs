//! The daemon under test and its command line.

mod config;
pub mod shape;
mod usage;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
};

use nix::sys::signal::Signal;
use serde_json::Value;

pub use self::{
    config::Config,
    usage::{Refused, Usage},
};
use crate::{
    Lab, Namespace, cleanup, clock,
    process::{self, Process},
};

/// The control socket's name in the runtime directory.
const SOCKET: &str = "limiter.sock";

/// Exit statuses of the command line.
pub mod exit {
    pub const DONE: i32 = 0;
    pub const FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const UNREACHABLE: i32 = 3;
}

/// A daemon with directories, pins and a socket of its own, in the server's
/// namespace of a lab. Dropping it removes its programs from the kernel.
#[derive(Debug)]
pub struct Limiter {
    namespace: String,
    directory: PathBuf,
    pins: PathBuf,
    /// `None` while the daemon is down.
    process: Option<Process>,
    /// Of the daemon.
    environment: Vec<(String, String)>,
    /// In place of the environment's.
    log_filter: Option<String>,
    /// The daemon runs as [`NOBODY`].
    unprivileged: bool,
}

/// A user without rights, and its group.
const NOBODY: u32 = 65534;

/// What a command of the CLI did.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, exit::DONE, "{self:?}");
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Asserts the exit status and that the message has all of `words` in it.
    #[track_caller]
    pub fn assert_fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }
}

impl Limiter {
    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn start(lab: &Lab, config: &Config) -> Self {
        Self::start_named(lab, "limiter", config)
    }

    /// A daemon without traffic, with the published limits.
    #[track_caller]
    pub fn idle() -> (Self, Lab) {
        let lab = Lab::loopback();
        let limiter = Self::start(&lab, &Config::published(&lab).small_tables());
        (limiter, lab)
    }

    /// Starts one of several daemons of a lab.
    #[track_caller]
    pub fn start_named(lab: &Lab, name: &str, config: &Config) -> Self {
        let mut limiter = Self::prepare(lab, name, config);
        limiter.run(&[]);
        limiter
    }

    /// Everything but the daemon's start.
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
        };
        limiter.write_config(&config.to_string());
        limiter
    }

    /// Starts the daemon, which must be down, and waits until it answers.
    #[track_caller]
    pub fn run(&mut self, arguments: &[&str]) {
        self.launch(arguments);
        let what = "the daemon answers";
        clock::eventually(what, || {
            let process = self.process.as_mut().expect("just launched");
            if let Some(status) = process.ended() {
                panic!("the daemon ended ({status}): {}", process.log());
            }
            self.cli(&["status"]).code == exit::DONE
        });
    }

    /// Sets a variable of the daemon's environment, from its next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the daemon without waiting for anything.
    pub fn launch(&mut self, arguments: &[&str]) {
        assert!(self.process.is_none(), "the daemon runs already");
        let mut command = if self.unprivileged {
            self.as_nobody()
        } else {
            self.in_namespace()
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

    /// From its next start on the daemon, which is down, runs as a user that has nothing but its own
    /// directories and the capabilities that it cannot do without, and pins in `pins`, which is to be
    /// that user's too.
    pub fn drop_privileges(&mut self, pins: &Path) {
        pins.clone_into(&mut self.pins);
        self.unprivileged = true;
        for directory in [self.state_dir(), self.runtime_dir()] {
            fs::create_dir_all(&directory).expect("a directory for the daemon");
            Self::give_to_nobody(&directory);
        }
        // Where it is built others may not look.
        fs::copy(binary(), self.copy()).expect("a copy of the binary");
    }

    /// Makes a file or directory the unprivileged daemon's.
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

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join(SOCKET)
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join("limiter.log")
    }

    pub fn pin_dir(&self) -> &Path {
        &self.pins
    }

    /// What the daemon has logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").pid()
    }

    /// The daemon dies as of `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().expect("the daemon runs").kill();
    }

    /// SIGTERM, and its orderly end.
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

    /// Waits for the daemon, which must end by itself, and returns its status.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        self.wait_for_status().code()
    }

    /// The same with the signal that ended it.
    pub fn wait_for_status(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the daemon runs");
        process.wait()
    }

    /// What the daemon's next start logs, as `RUST_LOG` has it.
    pub fn set_log(&mut self, filter: &str) {
        self.log_filter = Some(filter.to_owned());
    }

    pub fn signal(&self, signal: Signal) {
        self.process
            .as_ref()
            .expect("the daemon runs")
            .signal(signal);
    }

    /// A command of the CLI against this daemon, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_namespace();
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs a command of the CLI against this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// The same with something on its standard input.
    pub fn cli_with_input(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start limiter");
        let mut stdin = child.stdin.take().expect("it is piped");
        // It may refuse without reading; what it says then is for the caller.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("limiter's end").into()
    }

    /// Runs a command that must succeed with `--json`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.cli(&arguments).json()
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert_eq!(output.code, exit::DONE, "limiter {arguments:?}: {output:?}");
        output.stdout
    }

    /// Runs a command that needs no daemon, outside any lab.
    pub fn alone(arguments: &[&str]) -> Output {
        Output::of(
            Command::new(binary())
                .args(arguments)
                .env_remove("LIMITER_SOCKET"),
        )
    }

    /// A scope of the built-in tier.
    #[track_caller]
    pub fn scope(&self, scope: &str) {
        self.done(&["scope", "add", scope]);
    }

    /// Makes a scope and a key of it; returns the key.
    #[track_caller]
    pub fn key(&self, scope: &str) -> String {
        self.scope(scope);
        self.another_key(scope)
    }

    /// Makes a scope of a tier and a key of it; returns the key.
    #[track_caller]
    pub fn key_of_tier(&self, scope: &str, tier: &str) -> String {
        self.done(&["scope", "add", scope, "--tier", tier]);
        self.another_key(scope)
    }

    /// Makes a key of a scope that is there; returns the key.
    #[track_caller]
    pub fn another_key(&self, scope: &str) -> String {
        let made = self.json(&["key", "create", scope]);
        made["key"].as_str().expect("the key").to_owned()
    }

    #[track_caller]
    pub fn usage(&self, scope: &str) -> Usage {
        Usage::parse(&self.json(&["usage", scope]))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// A number of `status`, by its path (`/totals/admitted`).
    #[track_caller]
    pub fn count(&self, path: &str) -> u64 {
        let status = self.status();
        status
            .pointer(path)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no number {path} in {status}"))
    }

    /// Removes the programs from the kernel, as an operator would.
    pub fn detach(&self) -> Output {
        self.detach_with(&self.state_dir())
    }

    /// The same with another state directory, for when no daemon runs.
    pub fn detach_with(&self, state: &Path) -> Output {
        Output::of(&mut self.detach_command(state))
    }

    /// The command for that, not run yet.
    pub fn detach_command(&self, state: &Path) -> Command {
        let mut command = self.command(&["detach", "--state-dir"]);
        command
            .arg(state)
            .arg("--runtime-dir")
            .arg(self.runtime_dir());
        command.arg("--pin-dir").arg(&self.pins);
        command
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        // Shows the daemon's log if the test fails.
        self.process = None;
        if thread::panicking() {
            eprintln!(
                "---- configuration:\n{}",
                fs::read_to_string(self.config_path()).unwrap_or_default()
            );
        }
        // The store goes with the test.
        self.detach_with(Path::new("/nonexistent"));
        // Whatever a failed detach leaves; pins hold programs and maps.
        let _ = fs::remove_dir_all(&self.pins);
    }
}

impl Output {
    fn of(command: &mut Command) -> Self {
        process::output(command).into()
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

static BINARY: OnceLock<String> = OnceLock::new();

/// The binary under test: that of [`use_binary`], or of `LIMITER_BIN`, which
/// `cargo xtask test` sets, or what cargo builds.
pub fn binary() -> &'static str {
    BINARY.get_or_init(|| env::var("LIMITER_BIN").unwrap_or_else(|_| build()))
}

/// Names the binary to use, before any use of it.
pub fn use_binary(path: &Path) {
    let path = path.to_str().expect("a path in UTF-8").to_owned();
    BINARY
        .set(path)
        .expect("the binary is named once, and first");
}

fn build() -> String {
    process::cargo_builds("limiter-daemon", "limiter")
}
