// SPDX-License-Identifier: MIT OR Apache-2.0

//! The test programs: cargo builds them, and [`run`] runs several of them at the same time.

use std::{
    collections::VecDeque,
    io::Write,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, ensure};
use limiter_toolchain::ebpf;
use serde_json::Value;

use crate::{
    context::{self, Context},
    privilege::Privilege,
    process,
    summary::{self, Summary},
};

/// A test program that cargo has built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub package: String,
    /// Cargo's name for the kind of target, such as `lib`, `bin`, `test` or `bench`.
    pub kind: String,
    /// The name of the target. For unit tests, it is the name of the crate. For other tests, it is
    /// the name of a file or a folder in `tests`.
    pub name: String,
    pub path: PathBuf,
    /// The directory of the package. Cargo runs the tests of the package in this directory.
    pub directory: PathBuf,
}

/// The selection of the test programs that cargo builds.
#[derive(Debug, Clone, Copy)]
pub enum Build<'a> {
    /// The targets that these arguments select (`--test NAME`), or all targets if there are no
    /// arguments. The call to cargo always names all packages that run on a host. The features of a
    /// dependency depend on the packages in the call, so if a call named only some of them, cargo
    /// would build some dependencies again.
    Workspace(&'a [String]),
    /// All test programs of these packages.
    Packages(&'a [&'a str]),
}

impl Build<'_> {
    /// Builds the test programs, and returns them.
    ///
    /// # Errors
    /// Returns an error if the tests do not build, or if the output of cargo cannot be read.
    pub fn run(self, context: &Context) -> anyhow::Result<Vec<Program>> {
        let mut command = context.cargo();
        command.args(["test", "--no-run"]);
        command.arg("--message-format=json-render-diagnostics");
        match self {
            Self::Workspace(targets) => {
                command.arg("--workspace");
                for package in ebpf::PACKAGES {
                    command.args(["--exclude", package]);
                }
                command.args(targets);
            }
            Self::Packages(packages) => {
                for package in packages {
                    command.args(["--package", package]);
                }
            }
        }
        // The standard error of cargo is shown, because it contains the messages for people.
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().context("run cargo test --no-run")?;
        ensure!(output.status.success(), "the tests do not build");
        let messages = String::from_utf8_lossy(&output.stdout);
        messages.lines().filter_map(program).collect()
    }
}

impl Program {
    /// Returns a command that runs the program with the environment variables `variables`. If
    /// `privilege` is not `None`, the command runs the program as root.
    pub fn command(&self, privilege: Option<Privilege>, variables: &[(&str, PathBuf)]) -> Command {
        let mut command = match privilege {
            // sudo does not pass environment variables on, so env(1) sets them.
            Some(privilege @ Privilege::Sudo) => {
                let mut command = privilege.command("env");
                let set = variables.iter();
                command.args(set.map(|(name, value)| format!("{name}={}", value.display())));
                command.arg(&self.path);
                command
            }
            Some(Privilege::Root) | None => {
                let mut command = Command::new(&self.path);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                command
            }
        };
        command
            .current_dir(&self.directory)
            // Cargo also sets these variables when it runs tests.
            .env("CARGO", context::cargo())
            .env("CARGO_MANIFEST_DIR", &self.directory);
        command
    }

    /// Returns the paths of the tests that contain one of `filters` and also one of `chosen`.
    ///
    /// # Errors
    /// Returns an error if the program has no such test, or if its tests cannot be listed.
    pub fn tests(&self, filters: &[String], chosen: &[String]) -> anyhow::Result<Vec<String>> {
        let list = ["--list", "--format", "terse"];
        let listed = process::output(Command::new(&self.path).args(list).args(filters))?;
        let paths = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"));
        let tests: Vec<String> = paths
            .filter(|path| chosen.iter().any(|name| path.contains(name.as_str())))
            .map(str::to_owned)
            .collect();
        ensure!(
            !tests.is_empty(),
            "no test of {} in {} has {} in its name",
            filters.join(", "),
            self.name,
            chosen.join(" or ")
        );
        Ok(tests)
    }

    /// Returns the heading that is printed above the output of the program.
    fn title(&self) -> String {
        match self.kind.as_str() {
            "lib" | "proc-macro" => format!("{}: unit tests", self.package),
            "bin" => format!("{}: unit tests of the program {}", self.package, self.name),
            _ => format!("{}: {}", self.package, self.name),
        }
    }
}

const WRITE_CONTEXT: &str = "write the output of a test";

/// A program to run.
#[derive(Debug)]
pub struct Job {
    title: String,
    command: Command,
}

impl Job {
    pub fn new(program: &Program, command: Command) -> Self {
        Self {
            title: program.title(),
            command,
        }
    }
}

/// Runs the jobs, `lanes` at a time, and returns the sum of their results. The jobs start in the
/// order of `jobs`. If several jobs run at the same time, the output of each job is printed after
/// that job has ended.
pub fn run(jobs: Vec<Job>, lanes: usize, out: &mut (impl Write + Send)) -> anyhow::Result<Summary> {
    let lanes = lanes.min(jobs.len());
    let jobs = Mutex::new(VecDeque::from(jobs));
    let total = Mutex::new(Summary::default());
    let out = Mutex::new(out);
    let lane = || -> anyhow::Result<()> {
        loop {
            let next = locked(&jobs).pop_front();
            let Some(mut job) = next else {
                return Ok(());
            };
            let title = format!("\n== {}\n", job.title);
            let summary = if lanes == 1 {
                let mut out = locked(&out);
                out.write_all(title.as_bytes()).context(WRITE_CONTEXT)?;
                summary::count(&mut job.command, &mut **out)?
            } else {
                let mut printed = title.into_bytes();
                let summary = summary::count(&mut job.command, &mut printed)?;
                locked(&out).write_all(&printed).context(WRITE_CONTEXT)?;
                summary
            };
            locked(&total).add(summary);
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    })?;
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the test program that a message of cargo reports, or `None` for any other message.
fn program(message: &str) -> Option<anyhow::Result<Program>> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    // Messages about the ordinary programs of a package are skipped. Cargo builds these programs as
    // well, because the tests may start them.
    message["profile"]["test"].as_bool().filter(|&test| test)?;
    let text = |pointer: &str| {
        let text = message.pointer(pointer).and_then(Value::as_str);
        text.with_context(|| format!("cargo does not report {pointer} of {path}"))
    };
    let program = || {
        let directory = Path::new(text("/manifest_path")?).parent();
        Ok(Program {
            package: package(text("/package_id")?).to_owned(),
            kind: text("/target/kind/0")?.to_owned(),
            name: text("/target/name")?.to_owned(),
            path: PathBuf::from(path),
            directory: directory.context("a manifest has no directory")?.to_owned(),
        })
    };
    Some(program())
}

/// Returns the name of the package in `path+file:///DIRECTORY#NAME@VERSION`. If the name of the
/// directory is the same, `NAME@` is missing (cargo-pkgid(1)).
fn package(id: &str) -> &str {
    let (source, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => source.rsplit('/').next().unwrap_or(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_jobs_that_run_at_the_same_time_are_counted() {
        let job = |script: &str| Job {
            title: script.to_owned(),
            command: {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            },
        };
        let result = |passed: u8| {
            job(&format!(
                "echo 'test result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured'"
            ))
        };
        for lanes in [1, 2] {
            let jobs = vec![result(1), job("exit 1"), result(2)];
            let expected = Summary {
                passed: 3,
                failed: 1,
                skipped: 0,
            };
            let mut printed = Vec::new();
            assert_eq!(run(jobs, lanes, &mut printed).unwrap(), expected);
            let printed = String::from_utf8(printed).unwrap();
            assert_eq!(printed.matches("\n== ").count(), 3, "{printed}");
        }
        let nothing = run(Vec::new(), 2, &mut Vec::new()).unwrap();
        assert_eq!(nothing, Summary::default());
    }

    #[test]
    fn test_programs_are_found_in_the_messages_of_cargo() {
        let message = |test: bool, id: &str| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "package_id": id,
                "manifest_path": "/w/tests/Cargo.toml",
                "target": {"kind": ["test"], "name": "counts"},
                "profile": {"test": test},
                "executable": "/t/debug/deps/counts-1",
            })
            .to_string()
        };
        let id = "path+file:///w/tests#limiter-tests@0.1.0";
        let found = program(&message(true, id)).unwrap().unwrap();
        let expected = Program {
            package: "limiter-tests".to_owned(),
            kind: "test".to_owned(),
            name: "counts".to_owned(),
            path: "/t/debug/deps/counts-1".into(),
            directory: "/w/tests".into(),
        };
        assert_eq!(found, expected);
        assert!(program(&message(false, id)).is_none());
        assert!(program("{\"reason\":\"build-finished\"}").is_none());
        assert_eq!(package("path+file:///w/xtask#0.1.0"), "xtask");
    }
}
