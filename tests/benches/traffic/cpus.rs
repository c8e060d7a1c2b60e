// SPDX-License-Identifier: MIT OR Apache-2.0

//! The assignment of CPUs, and the measurement of their time.
//!
//! One CPU represents the host of the API. It does the work of the servers, of the daemon, and of
//! the kernel for packets that arrive at that host. Another CPU does the work of the clients. By
//! default, the kernel receives a packet of a veth pair on the CPU that has sent the packet. The
//! benchmark uses packet steering (RPS, Documentation/networking/scaling.rst) instead. Each end
//! then receives packets on its own CPU, as if a cable connected two machines.
//!
//! The kernel may account for time by sampling at each tick (`CONFIG_TICK_CPU_ACCOUNTING`). A CPU
//! without processes to run has no ticks, so that the time of packets that it receives would be
//! missing. Each CPU therefore has a [`Filler`], which runs whenever the CPU would be idle.

use std::{fs, process::Command, thread};

use limiter_tests::{
    Lab, Namespace,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    process::{self, Process},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// The CPU of the servers, and the CPU of the clients.
pub const SERVERS: usize = 0;
pub const CLIENTS: usize = 1;

/// The number of clock ticks per second in `/proc/stat` (proc_stat(5), `USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// Checks that there are two CPUs.
///
/// # Panics
/// Panics if there is only one CPU, because the two sides would then share it.
pub fn require_two() {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    assert!(
        cpus > CLIENTS,
        "servers and clients each need a CPU of their own, but there is only one"
    );
}

/// Binds this thread, and all threads and processes that it starts later, to a CPU.
pub fn bind_to_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .expect("choose a CPU");
}

/// A process that runs on a CPU whenever nothing else does. Its time is not included in
/// [`CpuTime`].
#[derive(Debug)]
pub struct Filler {
    _process: Process,
}

impl Filler {
    /// Starts a filler on each of the two CPUs.
    pub fn on_both(lab: &Lab) -> [Self; 2] {
        [SERVERS, CLIENTS].map(|cpu| {
            let mut command = Command::new("nice");
            // The nice value puts the time into a column of its own.
            command.args(["-n", "19", "chrt", "--idle", "0", "taskset", "--cpu-list"]);
            command.args([&cpu.to_string(), "sh", "-c", "while :; do :; done"]);
            let log = lab.file(&format!("filler-{cpu}.log"));
            Self {
                _process: Process::start("the filler", &mut command, &log),
            }
        })
    }
}

/// Makes each end of the lab's network receive its packets on its own CPU.
pub fn steer(lab: &Lab) {
    steer_end(lab.server(), SERVER_INTERFACE, SERVERS);
    steer_end(lab.client(), CLIENT_INTERFACE, CLIENTS);
}

fn steer_end(namespace: &Namespace, interface: &str, cpu: usize) {
    let mask = 1_u32 << cpu;
    let line = format!("echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
    // The settings are written through `ip netns exec`, because it mounts the sysfs of the
    // namespace (ip-netns(8)).
    process::succeed(Command::new("ip").args([
        "netns",
        "exec",
        namespace.name(),
        "sh",
        "-ec",
        &line,
    ]));
}

/// The time that a CPU has spent on work since the machine started, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuTime {
    /// The time that was spent on the code of processes whose nice value is not positive, and on
    /// the kernel's work for all processes.
    pub processes: f64,
    /// The time that was spent in interrupts, in which the kernel receives packets.
    pub interrupts: f64,
}

impl CpuTime {
    pub fn total(self) -> f64 {
        self.processes + self.interrupts
    }

    fn since(self, before: Self) -> Self {
        Self {
            processes: self.processes - before.processes,
            interrupts: self.interrupts - before.interrupts,
        }
    }
}

/// The time that each CPU of the machine has spent on work.
#[derive(Debug, Clone, Default)]
pub struct Accounts(Vec<CpuTime>);

impl Accounts {
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").expect("read /proc/stat");
        Self::parse(&text)
    }

    /// Parses the contents of `/proc/stat`. The columns are `user nice system idle iowait irq
    /// softirq` (proc_stat(5)).
    fn parse(text: &str) -> Self {
        let cpus = text.lines().filter(|line| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let spent = cpus.map(|line| {
            let ticks: Vec<f64> = line
                .split_whitespace()
                .skip(1)
                .map(|ticks| ticks.parse().expect("a number of ticks"))
                .collect();
            CpuTime {
                processes: (ticks[0] + ticks[2]) / TICKS_A_SECOND,
                interrupts: (ticks[5] + ticks[6]) / TICKS_A_SECOND,
            }
        });
        Self(spent.collect())
    }

    /// Returns the time that a CPU has spent on work since `before`.
    pub fn since(&self, before: &Self, cpu: usize) -> CpuTime {
        self.0[cpu].since(before.0[cpu])
    }
}
