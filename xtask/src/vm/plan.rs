//! What runs in a machine, start by start.

use std::time::Duration;

use super::qemu::End;

/// Tests of limiter-tests that run on every kernel at every change: the programs, packet by packet.
const ALWAYS: [&str; 1] = ["program"];

/// Those that run there when there is time: real traffic and a daemon, which take ten times as long as
/// on the host. What is about the daemon alone, or wants what the machine's Debian has not (compilers,
/// other proxies, clients in other languages), is left to the host.
const AT_LEISURE: [&str; 4] = ["attach", "interfaces", "admission", "deferred"];

/// Tests that run in machines only.
const MACHINE: &str = "vm";

/// Loads every program, and looks at what the verifier says.
const LOAD: &str = "verifier";

/// What a machine has unless it is about memory.
const MEMORY_MIB: u32 = 2048;

/// A start of a machine.
#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    pub memory_mib: u32,
    /// Longest that it may take: several times of what it does.
    pub limit: Duration,
    pub disk: Disk,
    pub end: End,
    pub programs: Vec<Program>,
}

/// A disk that is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    None,
    /// Empty at first.
    New,
    /// As the machine before left it.
    Kept,
}

/// A test executable and how it is called.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub arguments: String,
}

impl Plan {
    fn new(name: &'static str, programs: Vec<Program>) -> Self {
        Self {
            name,
            memory_mib: MEMORY_MIB,
            limit: Duration::from_secs(600),
            disk: Disk::None,
            end: End::Off,
            programs,
        }
    }

    /// The names of its programs, in order.
    pub fn names(&self) -> Vec<&str> {
        self.programs.iter().map(|program| program.name).collect()
    }
}

fn program(name: &'static str, arguments: &str) -> Program {
    Program {
        name,
        arguments: arguments.to_owned(),
    }
}

/// Tests of [`MACHINE`] of a module, one after the other.
fn machine(module: &str) -> Program {
    program(MACHINE, &format!("--nocapture --test-threads=1 {module}::"))
}

pub fn load() -> Plan {
    Plan {
        limit: Duration::from_secs(180),
        ..Plan::new("load", vec![program(LOAD, "--nocapture")])
    }
}

/// All but [`load`].
pub fn rest(more: bool) -> Vec<Plan> {
    let with_two_threads = |names: &[&'static str]| -> Vec<Program> {
        let programs = names.iter();
        programs
            .map(|name| program(name, "--test-threads=2"))
            .collect()
    };
    let mut tests = with_two_threads(&ALWAYS);
    tests.push(machine("hooks"));
    tests.push(machine("cards"));
    // The time is not what it was after these.
    tests.push(machine("clock"));
    let memory = Plan {
        memory_mib: 384,
        ..Plan::new("memory", vec![machine("memory")])
    };
    let life = |name: &'static str, disk, end| Plan {
        disk,
        end,
        programs: vec![program(
            MACHINE,
            &format!(
                "--exact --nocapture --test-threads=1 reboot::{}",
                name.replace('-', "_")
            ),
        )],
        ..Plan::new(name, Vec::new())
    };
    let mut plans = vec![
        Plan::new("tests", tests),
        memory,
        life("first-life", Disk::New, End::Off),
        life("second-life", Disk::Kept, End::Cut),
        life("third-life", Disk::Kept, End::Off),
    ];
    if more {
        plans.push(Plan {
            limit: Duration::from_secs(1200),
            ..Plan::new("traffic", with_two_threads(&AT_LEISURE))
        });
    }
    plans
}
