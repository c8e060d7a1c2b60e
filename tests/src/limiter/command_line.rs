// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands of operators to the daemon under test.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Limiter, Usage, binary, exit};
use crate::process;

/// The result of a command.
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

    /// Asserts that the command failed with this exit status, and that its message contains all of
    /// `words`.
    #[track_caller]
    pub fn assert_fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }
}

impl Output {
    pub(super) fn of(command: &mut Command) -> Self {
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

impl Limiter {
    /// Returns a command of `limiter` that talks to this daemon. The caller has to start it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_namespace();
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Returns the same as [`Self::command`], but without the path of the socket.
    pub fn command_without_socket(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_namespace();
        command.args(arguments);
        command
    }

    /// Runs a command for this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// Runs a command for this daemon, with `input` as its standard input.
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
        // The write fails if the command ends before it has read its input. The caller checks the
        // command's message.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("limiter's end").into()
    }

    /// Runs a command with `--json`, which must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.cli(&arguments).json()
    }

    /// Runs a command, which must succeed, and returns its output.
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

    /// Creates a scope in the built-in tier.
    #[track_caller]
    pub fn scope(&self, scope: &str) {
        self.done(&["scope", "add", scope]);
    }

    /// Creates a scope and a key for it, and returns the key.
    #[track_caller]
    pub fn key(&self, scope: &str) -> String {
        self.scope(scope);
        self.another_key(scope)
    }

    /// Creates a scope in a tier and a key for it, and returns the key.
    #[track_caller]
    pub fn key_of_tier(&self, scope: &str, tier: &str) -> String {
        self.done(&["scope", "add", scope, "--tier", tier]);
        self.another_key(scope)
    }

    /// Changes the daily quota of a scope.
    #[track_caller]
    pub fn set_quota(&self, scope: &str, daily: u64) {
        let daily = daily.to_string();
        let note = ["--note", "for a test"];
        let quota = ["limits", "set", scope, "--daily-quota", &daily];
        self.done(&[quota.as_slice(), &note].concat());
    }

    /// Creates a key for an existing scope, and returns the key.
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

    /// Returns the number at `path` in the output of `limiter status`; `path` is a JSON pointer,
    /// for example `/totals/admitted`.
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

    /// Does the same as [`Self::detach`], but with the state directory `state`. The daemon must not
    /// be running.
    pub fn detach_with(&self, state: &Path) -> Output {
        Output::of(&mut self.detach_command(state))
    }

    /// Returns the command that [`Self::detach_with`] runs, without starting it.
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
