//! A host of its own, as far as a guide for operators goes: the files of this machine, of which it may
//! change `/etc` and `/var` without anybody noticing, an empty `/run`, a BPF file system, processes of its
//! own, and the network of a namespace. What a page says is done on it word for word.

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

/// Makes the mounts, says so by a file in the first argument's directory, and holds them.
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

/// A host. Dropping it ends all that runs on it, and with its mounts go its files, its pins and so the
/// programs in the kernel.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// From the last started to the first.
    processes: Vec<Process>,
    holder: Process,
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

impl Host {
    /// A host in the network of `namespace`, called `name` in its lab.
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

    /// Puts a program on the PATH.
    pub fn provide(&self, name: &str, program: &Path) {
        symlink(program, self.directory.join("bin").join(name)).expect("a program on the PATH");
    }

    /// Sets a variable for all that is started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A command on this host, not run yet.
    pub fn command(&self, program: &str) -> Command {
        self.command_in(&format!("/proc/{}/ns/net", self.holder.pid()), program)
    }

    /// The same in another network, given by its file.
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

    /// Writes a file, and the directories that it is in.
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

    /// Adds to `/etc/hosts`.
    #[track_caller]
    pub fn knows(&self, name: &str, address: &str) {
        let known = self.sh("cat /etc/hosts").stdout;
        self.write("/etc/hosts", &format!("{known}{address} {name}\n"));
    }

    /// Runs lines of a shell as an operator types them: whatever fails ends them.
    pub fn try_sh(&self, lines: &str) -> Output {
        crate::process::output(self.command("bash").args(["-euo", "pipefail", "-c", lines])).into()
    }

    /// The same where nothing may fail.
    #[track_caller]
    pub fn sh(&self, lines: &str) -> Output {
        let output = self.try_sh(lines);
        assert_eq!(output.code, 0, "on {}, {lines}: {output:?}", self.name);
        output
    }

    /// Starts what stays, and waits until `check`, lines of a shell, succeeds.
    #[track_caller]
    pub fn start(&mut self, lines: &str, check: &str) {
        let number = self.processes.len();
        let log = self.directory.join(format!("process-{number}.log"));
        let mut command = self.command("bash");
        // One command: the shell becomes it, and ends with it.
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

    /// Starts a process of this host in another network, as a container is, and returns its pid as this
    /// host sees it.
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

    /// The daemon, as its unit would start it.
    #[track_caller]
    pub fn start_limiter(&mut self) {
        self.start("limiter run", "limiter status");
    }

    /// Kills what was started last, as `kill -9` does.
    pub fn kill_last(&mut self) {
        drop(self.processes.remove(0));
    }

    /// What the process that was started last has written.
    pub fn last_log(&self) -> String {
        self.processes.first().map(Process::log).unwrap_or_default()
    }

    /// The usage of a scope.
    #[track_caller]
    pub fn usage(&self, scope: &str) -> limiter::Usage {
        limiter::Usage::parse(&self.sh(&format!("limiter usage {scope} --json")).json())
    }

    /// A number of `limiter status --json`, by its path.
    #[track_caller]
    pub fn count(&self, path: &str) -> u64 {
        let status = self.sh("limiter status --json").json();
        let number = status.pointer(path).and_then(serde_json::Value::as_u64);
        number.unwrap_or_else(|| panic!("no number {path} in {status}"))
    }

    /// Makes a key of a scope that is there.
    #[track_caller]
    pub fn key(&self, scope: &str) -> String {
        let made = self.sh(&format!("limiter key create {scope}")).stdout;
        made.trim().to_owned()
    }

    /// Whether something listens on a port.
    pub fn listening(port: u16) -> String {
        format!("ss -Hltn 'sport = :{port}' | grep -q .")
    }
}
