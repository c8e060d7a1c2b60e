// SPDX-License-Identifier: MIT OR Apache-2.0

//! The plans of the emulated machines. A plan is the list of test programs that a machine runs
//! between its start and its end.

use std::time::Duration;

use super::qemu::End;

/// The test program that runs on each kernel for every change. It tests the kernel programs one
/// packet at a time.
const PROGRAM: &str = "program";

/// The modules of [`PROGRAM`] that are skipped when it runs for every change. One of them loads the
/// programs, and has its own plan (see [`LOAD`]). The other module counts instructions with tools
/// that the machines do not have.
const SKIPPED_MODULES: [&str; 2] = ["verifier", "instructions"];

/// The modules of [`TRAFFIC`] that also run in machines. They take ten times as long as on the
/// host, and therefore run only if there is time. The other modules run only on the host, because
/// they test only the daemon, or because they need programs that the machine's Debian does not
/// have: compilers, other proxies, and clients in other languages.
const TRAFFIC_MODULES: [&str; 4] = ["attach", "interfaces", "admission", "deferred"];

/// The test program that sends real traffic.
const TRAFFIC: &str = "traffic";

/// The test program that runs only in machines.
const MACHINE: &str = "vm";

/// The module of [`PROGRAM`] that loads each program and reads the verifier's log.
const LOAD: &str = "verifier";

/// The memory of a machine in MiB, for all plans that do not test the use of memory.
const MEMORY_MIB: u32 = 3072;

/// A plan for one run of a machine.
#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    pub memory_mib: u32,
    /// The time limit for the run, which usually takes only a fraction of it.
    pub limit: Duration,
    pub disk: Disk,
    pub end: End,
    pub programs: Vec<Program>,
}

/// The disk to which the machine writes during a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    None,
    /// The disk is new, and empty when the machine starts.
    New,
    /// The disk is in the state in which the previous machine left it.
    Kept,
}

/// A test program and its arguments.
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
            limit: Duration::from_secs(1200),
            disk: Disk::None,
            end: End::Off,
            programs,
        }
    }

    /// Returns the names of the plan's programs, in order.
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

/// Returns a program that runs the tests in a module of [`MACHINE`], one after the other.
fn machine(module: &str) -> Program {
    program(MACHINE, &format!("--nocapture --test-threads=1 {module}::"))
}

/// Returns the first plan, which loads the kernel programs.
pub fn load() -> Plan {
    Plan {
        limit: Duration::from_secs(180),
        ..Plan::new(
            "load",
            vec![program(PROGRAM, &format!("--nocapture {LOAD}::"))],
        )
    }
}

/// Returns all plans except [`load`]. Those that take minutes are included only with `more`.
pub fn remaining(more: bool) -> Vec<Plan> {
    let skips = SKIPPED_MODULES.map(|module| format!("--skip {module}::"));
    let always = format!("--test-threads=2 {}", skips.join(" "));
    let mut tests = vec![program(PROGRAM, &always)];
    tests.push(machine("hooks"));
    tests.push(machine("cards"));
    // This module runs last, because its tests change the time.
    tests.push(machine("clock"));
    let memory = Plan {
        // The files of the machine take more than 100 MiB of this. The largest table takes 256 MiB,
        // so one fits and two do not. With 384 MiB, the first one fitted only just, and the kernel
        // looked for memory for minutes.
        memory_mib: 512,
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
        let modules = TRAFFIC_MODULES.map(|module| format!("{module}::"));
        let at_leisure = format!("--test-threads=2 {}", modules.join(" "));
        plans.push(Plan {
            limit: Duration::from_secs(1200),
            ..Plan::new("traffic", vec![program(TRAFFIC, &at_leisure)])
        });
    }
    plans
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_modules_of_plans_exist() {
        // Each module in a plan must exist. If there is no module with the given name, the harness
        // runs no test and reports success.
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        let modules = [(PROGRAM, &SKIPPED_MODULES[..]), (TRAFFIC, &TRAFFIC_MODULES)];
        for (program, modules) in modules {
            for module in modules {
                let file = programs.join(program).join(module).with_extension("rs");
                assert!(file.exists(), "{}", file.display());
            }
        }
        assert!(SKIPPED_MODULES.contains(&LOAD));
    }
}
