//! Which CPU does what, and what each has done.
//!
//! One CPU is the host of the API: the servers, the daemon, and all that the kernel does for packets
//! that come in there. Another is the clients'. A packet of a veth pair is taken in by the CPU that
//! sends it, unless packets are steered (RPS, Documentation/networking/scaling.rst): so each end's are
//! steered to its own CPU, as if there were a cable between two machines.

use std::{fs, process::Command, thread};

use limiter_tests::{
    Lab, Namespace,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    process,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// The CPU of the servers, and that of the clients.
pub const SERVERS: usize = 0;
pub const CLIENTS: usize = 1;

/// Clock ticks of `/proc/stat` a second (proc_stat(5), `USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// # Panics
/// With one CPU: the two parts could not be told apart.
pub fn require_two() {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    assert!(
        cpus > CLIENTS,
        "servers and clients each want a CPU of their own, and there is one"
    );
}

/// This thread, and what it starts from now on, runs there.
pub fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .expect("choose a CPU");
}

/// Has each end of the lab's way take its packets in on its own CPU.
pub fn steer(lab: &Lab) {
    steer_end(lab.server(), SERVER_INTERFACE, SERVERS);
    steer_end(lab.client(), CLIENT_INTERFACE, CLIENTS);
}

fn steer_end(namespace: &Namespace, interface: &str, cpu: usize) {
    let mask = 1_u32 << cpu;
    let line = format!("echo {mask:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
    // ip-netns(8) mounts the sysfs of the namespace.
    process::succeed(Command::new("ip").args([
        "netns",
        "exec",
        namespace.name(),
        "sh",
        "-ec",
        &line,
    ]));
}

/// What a CPU has done since the machine started, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// In processes: their own code, and the kernel's on their behalf.
    pub processes: f64,
    /// In interrupts: packets that come in.
    pub interrupts: f64,
}

impl Spent {
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

/// What the whole machine has done, by CPU.
#[derive(Debug, Clone, Default)]
pub struct Accounts(Vec<Spent>);

impl Accounts {
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").expect("read /proc/stat");
        Self::parse(&text)
    }

    /// `user nice system idle iowait irq softirq`, by proc_stat(5).
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
            Spent {
                processes: (ticks[0] + ticks[1] + ticks[2]) / TICKS_A_SECOND,
                interrupts: (ticks[5] + ticks[6]) / TICKS_A_SECOND,
            }
        });
        Self(spent.collect())
    }

    /// What was done since then, by the CPU.
    pub fn since(&self, before: &Self, cpu: usize) -> Spent {
        self.0[cpu].since(before.0[cpu])
    }
}
