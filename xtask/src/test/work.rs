// SPDX-License-Identifier: MIT OR Apache-2.0

//! A run of tests: the builds before it, the order of the test programs, and the number of programs
//! that run at the same time.

use std::{fs, io, panic, path::PathBuf, thread};

use anyhow::Context as _;

use super::{
    TestOptions,
    parts::UNIT_CRATES,
    programs::{self, Build, Job, Program},
    selection::{Integration, Selection},
    supplies::Supplies,
};
use crate::{
    context::Context,
    fuzz,
    privilege::Privilege,
    summary::{self, Summary},
    vm::Vm,
};

const INTEGRATION: &str = "limiter-tests";

/// The number of integration test programs that run at the same time. While one program waits for
/// its slowest test, the other one makes progress.
const LANES: usize = 2;

/// The programs that take longest, in descending order of their duration. They are started before
/// all other programs.
const LONGEST: [&str; 7] = [
    "hosts", "daemon", "traffic", "counts", "evasion", "guide", "program",
];

/// The benchmark that checks the ratios that must not get worse.
const GUARD: &str = "traffic";

/// The environment variable with the path of a file. A test that skips itself appends a line `NAME:
/// REASON` to this file.
const SKIPPED_VARIABLE: &str = "LIMITER_SKIPPED";
/// The environment variable that makes tests try more cases, which takes longer.
const LONG_VARIABLE: &str = "LIMITER_LONG";

/// A run of tests.
pub struct Work<'a> {
    pub context: &'a Context,
    pub options: TestOptions,
    pub selection: Selection,
}

impl Work<'_> {
    pub fn with_privilege(&self, privilege: Privilege, total: &mut Summary) -> anyhow::Result<()> {
        // `build` and `make` run at the same time, because neither of them keeps all processors
        // busy. `build` sometimes waits for one crate or for a linker, and `make` sometimes waits
        // for a download.
        let (built, made) = thread::scope(|scope| {
            let made = scope.spawn(|| self.make(privilege));
            let built = self.build();
            let made = made
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload));
            (built, made)
        });
        let (built, (supplies, machines)) = (built?, made?);
        if let Some(machines) = &machines {
            // Each kernel loads the programs first. If a kernel cannot load them, the tests in its
            // machines could only fail, which would take longer to find out.
            total.add(machines.load(&supplies.binary)?);
            if total.failed > 0 {
                return Ok(());
            }
        }
        // If there are no integration tests on this kernel, there is time for the plans that take
        // minutes.
        let more = self.options.long || built.integration.is_empty();
        let on_machines = || match (&machines, &self.selection.machines) {
            (Some(vm), Some(plans)) => vm.run_remaining(&supplies.binary, more, plans),
            _ => Ok(Summary::default()),
        };
        // The unit tests run while the machines keep the processors busy, because most of them do
        // not depend on time. The integration tests run afterwards.
        let (here, there) = thread::scope(|scope| {
            let there = scope.spawn(on_machines);
            let here = self.units(&built.units);
            let there = there
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload));
            (here, there)
        });
        total.add(here?);
        total.add(there?);
        total.add(self.integration(&built.integration, privilege, &supplies)?);
        if let Some(guard) = &built.guard {
            total.add(run_guard(guard, privilege, &supplies)?);
        }
        Ok(())
    }

    /// Makes the files and prepares the machines that the selected tests need.
    fn make(&self, privilege: Privilege) -> anyhow::Result<(Supplies, Option<Vm<'_>>)> {
        let long = self.options.long;
        let supplies = Supplies::make(self.context, privilege, &self.selection.integration, long)?;
        let machines = self.selection.machines.as_ref();
        let machines =
            machines.map(|_| Vm::prepare(self.context, privilege, &self.options.kernels));
        Ok((supplies, machines.transpose()?))
    }

    /// Builds all test programs of the selection.
    fn build(&self) -> anyhow::Result<Programs> {
        let Selection {
            units, integration, ..
        } = &self.selection;
        let is_whole = *integration == Integration::All && self.options.harness_args.is_empty();
        let mut built = Programs::default();
        if is_whole && units.len() == UNIT_CRATES.len() {
            let targets = ["--lib", "--bins", "--tests"].map(str::to_owned);
            let programs = Build::Workspace(&targets).run(self.context)?;
            let (integration, units) = programs
                .into_iter()
                .partition(|program| program.package == INTEGRATION);
            built.units = units;
            built.integration.push((integration, Vec::new()));
        } else {
            built.units = self.build_units()?;
            for run in integration.runs() {
                let mut programs = Build::Workspace(&run.targets).run(self.context)?;
                // The target of another crate may have the same name.
                programs.retain(|program| program.package == INTEGRATION);
                built.integration.push((programs, run.filters));
            }
        }
        if is_whole {
            // This build takes little time, because it uses the profile of the tests, for which the
            // dependencies are already built.
            let guard = Build::Workspace(&["--bench", GUARD].map(str::to_owned));
            built.guard = guard.run(self.context)?.pop();
        }
        Ok(built)
    }

    pub fn build_units(&self) -> anyhow::Result<Vec<Program>> {
        let packages: Vec<&str> = self.selection.units.iter().copied().collect();
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        Build::Packages(&packages).run(self.context)
    }

    /// Runs the unit tests and then the fuzz targets. Only one program runs at a time, because each
    /// of them keeps all processors busy.
    pub fn units(&self, programs: &[Program]) -> anyhow::Result<Summary> {
        let long = self.options.long.then(|| (LONG_VARIABLE, "1".into()));
        let variables: Vec<_> = long.into_iter().collect();
        let units = programs
            .iter()
            .filter(|program| UNIT_CRATES.contains(&program.package.as_str()));
        let jobs = units.map(|program| {
            let mut command = program.command(None, &variables);
            command.args(&self.options.harness_args);
            Job::new(program, command)
        });
        let mut summary = programs::run(jobs.collect(), 1, &mut io::stdout())?;
        if self.options.has_all_units() {
            summary.add(fuzz::bounded(self.context)?);
        }
        Ok(summary)
    }

    fn integration(
        &self,
        chosen: &[(Vec<Program>, Vec<String>)],
        privilege: Privilege,
        supplies: &Supplies,
    ) -> anyhow::Result<Summary> {
        let file = self.context.target_dir().join("skipped-tests");
        fs::write(&file, "").with_context(|| format!("write {}", file.display()))?;
        let mut variables = supplies.variables.clone();
        variables.push((SKIPPED_VARIABLE, file.clone()));
        if self.options.long {
            variables.push((LONG_VARIABLE, PathBuf::from("1")));
        }
        let mut jobs = Vec::new();
        for (programs, filters) in chosen {
            for program in programs {
                let mut command = program.command(Some(privilege), &variables);
                command.args(self.options.threads());
                command.args(self.options.harness_args(program, filters)?);
                jobs.push((order(&program.name), Job::new(program, command)));
            }
        }
        jobs.sort_by_key(|(order, _)| *order);
        let jobs = jobs.into_iter().map(|(_, job)| job).collect();
        let mut summary = programs::run(jobs, LANES, &mut io::stdout())?;
        let skipped = summary::skipped(&file)?;
        for line in &skipped {
            println!("skipped: {line}");
        }
        summary.move_to_skipped(u64::try_from(skipped.len()).unwrap_or(u64::MAX));
        Ok(summary)
    }
}

/// The test programs that have been built.
#[derive(Default)]
struct Programs {
    units: Vec<Program>,
    /// The programs of integration tests, with the filters that select the tests to run.
    integration: Vec<(Vec<Program>, Vec<String>)>,
    guard: Option<Program>,
}

/// Returns the position of a program in the order in which programs start. The programs that take
/// longest start first.
fn order(name: &str) -> usize {
    let at = LONGEST.iter().position(|longest| *longest == name);
    at.unwrap_or(LONGEST.len())
}

/// Measures the ratios that must not get worse. The measurement counts as one test. Nothing else
/// may run at the same time, because other work would change the result.
fn run_guard(
    program: &Program,
    privilege: Privilege,
    supplies: &Supplies,
) -> anyhow::Result<Summary> {
    println!("\nratios that must not get worse:");
    let mut command = program.command(Some(privilege), &supplies.variables);
    let status = command
        .arg("--guard")
        .status()
        .context("run the benchmark")?;
    let passed = u64::from(status.success());
    Ok(Summary {
        passed,
        failed: 1 - passed,
        skipped: 0,
    })
}
