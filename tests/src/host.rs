// SPDX-License-Identifier: MIT OR Apache-2.0

//! A simulated host on which the commands of the operators' guide run word for word. The simulated
//! host shares the files of this machine, except that its changes to `/etc` and `/var` are private.
//! It has an empty `/run`, a BPF file system, its own processes, and the network of a namespace.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Lab, Namespace, clock,
    limiter::{self, Output},
    process::Process,
};

/// A script that makes the mounts of the host and stores their files in the directory `$1`. When
/// the mounts exist, it creates the file `$2`. The mounts stay until the script ends.
const HOLDER: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
for name in etc var; do
    mkdir -p "$1/$name/upper" "$1/$name/work"
    mount -t overlay overlay \
        -o "lowerdir=/$name,upperdir=$1/$name/upper,workdir=$1/$name/work" "/$name"
done
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
touch "$2"
exec sleep infinity
"#;

/// A simulated host. Dropping it ends all of its processes and removes its mounts. Its files, its
/// pins and the programs in the kernel are removed with the mounts.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// The processes, with the most recently started one first.
    processes: Vec<Process>,
    holder: Process,
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

impl Host {
    /// Creates a host with the name `name` in the network of `namespace`.
    #[track_caller]
    pub fn new(lab: &Lab, namespace: &Namespace, name: &str) -> Self {
        let directory = lab.file(name);
        let (root, programs) = (directory.join("root"), directory.join("bin"));
        for path in [&root, &programs] {
            fs::create_dir_all(path).expect("a directory of the host");
        }
        symlink(limiter::binary(), programs.join("limiter")).expect("the binary on the PATH");
        let ready = directory.join("ready");
        let mut command = namespace.command("unshare");
        command
            .args(["--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", HOLDER, "sh"])
            .args([&root, &ready]);
        let mut holder = Process::start(name, &mut command, &directory.join("holder.log"));
        clock::eventually(&format!("the host {name}"), || {
            assert!(holder.ended().is_none(), "{name} ended: {}", holder.log());
            ready.exists()
        });
        let path = format!(
            "{}:{}",
            programs.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        Self {
            name: name.to_owned(),
            processes: Vec::new(),
            holder,
            directory,
            environment: vec![("PATH".to_owned(), path)],
        }
    }

    /// Makes `program` available as `name` in the PATH.
    pub fn provide(&self, name: &str, program: &Path) {
        symlink(program, self.directory.join("bin").join(name)).expect("a program on the PATH");
    }

    /// Sets an environment variable for all processes that are started later.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Returns a command that runs on this host and has not been started.
    pub fn command(&self, program: &str) -> Command {
        self.command_in(&format!("/proc/{}/ns/net", self.holder.pid()), program)
    }

    /// Does the same as [`Self::command`] in another network, whose namespace has the path
    /// `network`.
    fn command_in(&self, network: &str, program: &str) -> Command {
        let pid = self.holder.pid();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg(format!("--net={network}"))
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--", program])
            .envs(self.environment.iter().cloned())
            .env_remove("LIMITER_SOCKET");
        command
    }

    /// Writes a file, and creates the directories above it.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let mut child = self
            .command("install")
            .args(["-D", "-m", "600", "/dev/stdin", path])
            .stdin(Stdio::piped())
            .spawn()
            .expect("start install");
        let mut input = child.stdin.take().expect("it is piped");
        input
            .write_all(text.as_bytes())
            .expect("hand the file over");
        drop(input);
        let status = child.wait().expect("install's end");
        assert!(status.success(), "cannot write {path} on {}", self.name);
    }

    /// Adds an entry to `/etc/hosts`.
    #[track_caller]
    pub fn add_hosts_entry(&self, name: &str, address: &str) {
        let known = self.sh("cat /etc/hosts").stdout;
        self.write("/etc/hosts", &format!("{known}{address} {name}\n"));
    }

    /// Runs shell commands as an operator types them, and stops at the first command that fails.
    pub fn try_sh(&self, lines: &str) -> Output {
        crate::process::output(self.command("bash").args(["-euo", "pipefail", "-c", lines])).into()
    }

    /// Runs shell commands, which must succeed.
    #[track_caller]
    pub fn sh(&self, lines: &str) -> Output {
        let output = self.try_sh(lines);
        assert_eq!(output.code, 0, "on {}, {lines}: {output:?}", self.name);
        output
    }

    /// Starts a long-running process, and waits until the shell commands in `check` succeed for the
    /// first time.
    #[track_caller]
    pub fn start(&mut self, lines: &str, check: &str) {
        let number = self.processes.len();
        let log = self.directory.join(format!("process-{number}.log"));
        let mut command = self.command("bash");
        // `exec` replaces the shell with the command, so that killing the child kills the command.
        command.args(["-euc", &format!("exec {}", lines.trim())]);
        let mut process = Process::start(lines, &mut command, &log);
        clock::eventually(lines, || {
            if let Some(status) = process.ended() {
                panic!("{lines} ended ({status}): {}", process.log());
            }
            self.try_sh(check).code == 0
        });
        self.processes.insert(0, process);
    }

    /// Starts a process that belongs to this host but has another network, as a container runtime
    /// does. Returns the process's pid on this host.
    #[track_caller]
    pub fn start_container(&mut self, network: &Namespace) -> String {
        let log = self.directory.join("container.log");
        let mut command = self.command_in(&format!("/run/netns/{}", network.name()), "sh");
        command.args(["-c", "echo $$; exec sleep infinity"]);
        let process = Process::start("a container", &mut command, &log);
        let pid = clock::eventually_some("the container's process", || {
            let log = process.log();
            log.ends_with('\n').then(|| log.trim().to_owned())
        });
        self.processes.insert(0, process);
        pid
    }

    /// Starts the daemon as its systemd unit would.
    #[track_caller]
    pub fn start_limiter(&mut self) {
        self.start("limiter run", "limiter status");
    }

    /// Kills the most recently started process, as `kill -9` does.
    pub fn kill_last(&mut self) {
        drop(self.processes.remove(0));
    }

    /// Returns the output of the most recently started process.
    pub fn last_log(&self) -> String {
        self.processes.first().map(Process::log).unwrap_or_default()
    }

    /// Returns the usage of a scope.
    #[track_caller]
    pub fn usage(&self, scope: &str) -> limiter::Usage {
        limiter::Usage::parse(&self.sh(&format!("limiter usage {scope} --json")).json())
    }

    /// Returns the number at the JSON pointer `path` in the output of `limiter status --json`.
    #[track_caller]
    pub fn count(&self, path: &str) -> u64 {
        let status = self.sh("limiter status --json").json();
        let number = status.pointer(path).and_then(serde_json::Value::as_u64);
        number.unwrap_or_else(|| panic!("no number {path} in {status}"))
    }

    /// Creates a key for an existing scope.
    #[track_caller]
    pub fn key(&self, scope: &str) -> String {
        let made = self.sh(&format!("limiter key create {scope}")).stdout;
        made.trim().to_owned()
    }

    /// Returns a shell command that checks whether a socket listens on a port.
    pub fn listening(port: u16) -> String {
        format!("ss -Hltn 'sport = :{port}' | grep -q .")
    }
}
