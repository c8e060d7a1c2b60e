// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs a machine in QEMU. The tests in the machine print to a serial line. They also use this line
//! to ask the host to unplug a card, to plug a card in, or to cut the power.
//!
//! The processor is emulated (TCG). The emulation works on any host, including virtual machines.
//! The emulation is slow, and this reveals races.

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
    transcript::{HostRequest, Transcript},
};
use crate::summary::Summary;

/// The arguments of each kernel. At boot, Linux counts the timer interrupts during a short loop,
/// and panics if there are too few (`timer_irq_works` in arch/x86/kernel/apic/io_apic.c). On a busy
/// host, an emulated processor may finish that loop before the emulated timer has raised enough
/// interrupts. `no_timer_check` therefore turns the check off.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 quiet no_timer_check";

/// The number of lines of the kernel console that are shown when a plan fails.
const CONSOLE_LINES: usize = 40;

/// The parameters for one run of a machine.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The name of the plan that runs in the machine.
    pub plan: &'a str,
    /// The prefix of each line that this program prints.
    pub tag: &'a str,
    pub memory_mib: u32,
    /// The time limit for the machine.
    pub limit: Duration,
    /// The disk that is kept after the machine has ended, if the plan writes to one.
    pub disk: Option<&'a Path>,
    /// The way in which the machine has to end.
    pub end: End,
}

/// The way in which a machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The machine runs the whole plan, and then turns itself off.
    Off,
    /// In the middle of its plan, the machine asks the host to cut its power.
    Cut,
}

/// The disks that all machines have in common.
#[derive(Debug)]
pub struct Disks {
    pub root: PathBuf,
    pub job: PathBuf,
}

/// The outcome of one run of a machine.
#[derive(Debug, Default)]
pub struct Outcome {
    pub summary: Summary,
    pub skipped: Vec<String>,
    /// The fault of the run, if there is one. Failed tests are not included.
    pub fault: Option<String>,
}

impl Boot<'_> {
    /// Boots the machine, shows the output of the tests, and waits until the machine ends.
    /// `programs` contains the names of the plan's programs.
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
        let (transcript, is_cut) = machine.follow(self.tag, self.limit)?;
        machine.end()?;
        let mut outcome = Outcome {
            fault: transcript.fault(programs, self.end, is_cut),
            summary: transcript.summary,
            skipped: transcript.skipped,
        };
        if outcome.fault.is_some() {
            let text = fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(CONSOLE_LINES);
            let end = lines[from..].join("\n");
            eprintln!("{}: the last lines of the console:\n{end}", self.tag);
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
            // One thread emulates both processors. With one thread for each processor, QEMU 7.2
            // sometimes executes code while the kernel is patching it, and the kernel panics
            // ("Oops: int3").
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
            .arg(format!("{KERNEL_ARGUMENTS} limiter.plan={}", self.plan));
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
        self.add_disks(&mut command, kernel, disks);
        // The machine has two network cards, which are connected to the same hub.
        for card in qmp::CARDS {
            command
                .args(["-netdev", &format!("hubport,id={},hubid=0", card.cable)])
                .args(["-device", &card.device()]);
        }
        command
    }

    fn add_disks(&self, command: &mut Command, kernel: &Kernel, disks: &Disks) {
        let disk =
            |path: &Path, how: &str| format!("if=virtio,format=raw,{how},file={}", path.display());
        command
            // Changes to the root disk are discarded when the machine ends.
            .args(["-drive", &disk(&disks.root, "snapshot=on")])
            .args(["-drive", &disk(&disks.job, "readonly=on")])
            .args(["-drive", &disk(&kernel.modules(), "readonly=on")]);
        if let Some(path) = self.disk {
            command.args(["-drive", &disk(path, "cache=writethrough")]);
        }
    }
}

/// A running QEMU, which is killed when the value is dropped.
struct Machine {
    child: Child,
    answers: ChildStdin,
    lines: mpsc::Receiver<String>,
    socket: PathBuf,
}

impl Machine {
    /// Reads the output until the machine ends, asks for its power to be cut, or exceeds its time
    /// limit. Returns the output, and whether the machine has asked for its power to be cut.
    fn follow(&mut self, tag: &str, limit: Duration) -> anyhow::Result<(Transcript, bool)> {
        let start = Instant::now();
        let mut transcript = Transcript::new(tag);
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Ok((transcript, false)),
                Err(RecvTimeoutError::Timeout) => {
                    transcript.note_timeout(limit);
                    return Ok((transcript, false));
                }
            };
            match transcript.read(&line) {
                None => {}
                Some(HostRequest::CutPower) => return Ok((transcript, true)),
                Some(request) => {
                    self.fulfil(&request)?;
                    writeln!(self.answers, "done").context("answer the machine")?;
                }
            }
        }
    }

    fn fulfil(&self, request: &HostRequest) -> anyhow::Result<()> {
        let mut qmp = Qmp::connect(&self.socket)?;
        match request {
            HostRequest::Unplug(card) => qmp.unplug(card),
            HostRequest::Plug(card) => qmp.plug(card),
            HostRequest::CutPower => bail!("the caller cuts the power"),
        }
    }

    /// Kills the machine if it is still running.
    fn end(mut self) -> anyhow::Result<()> {
        // This call fails if the machine has already ended.
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

/// Returns the lines that QEMU writes to standard output, to which the serial line of the tests is
/// connected.
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
