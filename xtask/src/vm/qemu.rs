//! A machine in QEMU: booted, listened to, and asked favours of by the tests in it.
//!
//! It is emulated throughout (TCG): this works on any host, also in a machine that is one itself, and
//! its slowness finds what is in a hurry.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    kernel::Kernel,
    qmp::{self, Qmp},
    said::{Said, Wish},
};
use crate::summary::Summary;

/// Lines of the console that are shown when a machine does not do what it is to.
const CONSOLE_LINES: usize = 40;

/// A start of a machine.
#[derive(Debug)]
pub struct Boot<'a> {
    /// Of the plan: what is run in it.
    pub plan: &'a str,
    /// What its lines begin with when they are shown.
    pub tag: &'a str,
    pub memory_mib: u32,
    /// How long it may take.
    pub limit: Duration,
    /// A disk that keeps what is written on it.
    pub disk: Option<&'a Path>,
    /// How it is to end.
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of the plan has run, and it has turned itself off.
    Off,
    /// In the middle of its plan it has asked for its power to be cut.
    Cut,
}

/// What every machine of a run has in common.
#[derive(Debug)]
pub struct Disks {
    pub root: PathBuf,
    pub job: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub summary: Summary,
    pub skipped: Vec<String>,
    /// What was wrong apart from tests that failed.
    pub complaint: Option<String>,
}

impl Boot<'_> {
    /// Boots, shows what is said in it, and waits until it ends. `programs` are those of the plan.
    pub fn run(
        &self,
        kernel: &Kernel,
        initrd: &Path,
        disks: &Disks,
        scratch: &Path,
        programs: &[&str],
    ) -> anyhow::Result<Outcome> {
        let console = scratch.join(format!("{}.console", self.plan));
        let socket = scratch.join("qmp");
        for stale in [&console, &socket] {
            if stale.exists() {
                fs::remove_file(stale).with_context(|| format!("remove {}", stale.display()))?;
            }
        }
        let mut child = self
            .command(kernel, initrd, disks, &console, &socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let mut machine = Machine {
            answers: child.stdin.take().context("QEMU's standard input")?,
            lines: listen(&mut child)?,
            child,
            socket,
        };
        let (said, cut) = machine.attend(self.tag, self.limit)?;
        machine.end()?;
        let mut outcome = Outcome {
            complaint: said.complaint(programs, self.end == End::Cut, cut),
            summary: said.summary,
            skipped: said.skipped,
        };
        if outcome.complaint.is_some() {
            let text = fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(CONSOLE_LINES);
            let end = lines[from..].join("\n");
            eprintln!("{}: the kernel said last:\n{end}", self.tag);
            outcome.summary.failed = outcome.summary.failed.max(1);
        }
        Ok(outcome)
    }

    fn command(
        &self,
        kernel: &Kernel,
        initrd: &Path,
        disks: &Disks,
        console: &Path,
        socket: &Path,
    ) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            // One thread for both processors: with one each, QEMU 7.2 now and then runs code that
            // the kernel is just patching, and the kernel panics ("Oops: int3").
            .args(["-accel", "tcg,thread=single", "-smp", "2"])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .args([
                "-display",
                "none",
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 quiet limiter.plan={}",
                self.plan
            ));
        command
            .args([
                "-chardev",
                &format!("file,id=console,path={}", console.display()),
            ])
            .args(["-serial", "chardev:console"])
            .args([
                "-chardev",
                "stdio,id=tests,signal=off",
                "-serial",
                "chardev:tests",
            ])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
        // What is written on the root goes with the machine.
        let disk =
            |path: &Path, how: &str| format!("if=virtio,format=raw,{how},file={}", path.display());
        command
            .args(["-drive", &disk(&disks.root, "snapshot=on")])
            .args(["-drive", &disk(&disks.job, "readonly=on")])
            .args(["-drive", &disk(&kernel.modules(), "readonly=on")]);
        if let Some(path) = self.disk {
            command.args(["-drive", &disk(path, "cache=writethrough")]);
        }
        // Two cards on one cable.
        for card in qmp::CARDS {
            command
                .args(["-netdev", &format!("hubport,id={},hubid=0", card.cable)])
                .args(["-device", &card.device()]);
        }
        command
    }
}

/// A running QEMU; killed when dropped.
struct Machine {
    child: Child,
    answers: ChildStdin,
    lines: mpsc::Receiver<String>,
    socket: PathBuf,
}

impl Machine {
    /// Listens until it says no more; whether its power was cut.
    fn attend(&mut self, tag: &str, limit: Duration) -> anyhow::Result<(Said, bool)> {
        let start = Instant::now();
        let mut said = Said::by(tag);
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Ok((said, false)),
                Err(RecvTimeoutError::Timeout) => {
                    said.late(limit);
                    return Ok((said, false));
                }
            };
            match said.hear(&line) {
                None => {}
                Some(Wish::CutPower) => return Ok((said, true)),
                Some(wish) => {
                    self.fulfil(&wish)?;
                    writeln!(self.answers, "done").context("answer the machine")?;
                }
            }
        }
    }

    fn fulfil(&self, wish: &Wish) -> anyhow::Result<()> {
        let mut qmp = Qmp::connect(&self.socket)?;
        match wish {
            Wish::Unplug(card) => qmp.unplug(card),
            Wish::Plug(card) => qmp.plug(card),
            Wish::CutPower => bail!("the power is cut elsewhere"),
        }
    }

    /// Ends it, if it has not ended.
    fn end(mut self) -> anyhow::Result<()> {
        // It fails when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        self.child.wait().map(drop).context("wait for QEMU")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows what is said on the tests' line, and hands it on.
fn listen(child: &mut Child) -> anyhow::Result<mpsc::Receiver<String>> {
    let output = child.stdout.take().context("QEMU's standard output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}
