// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask test` runs the unit tests as the calling user. It runs the integration tests as
//! root against the release binary, on this kernel and in emulated machines with other kernels.

mod parts;
pub mod programs;
mod selection;
mod supplies;
mod work;

use std::{path::PathBuf, thread};

use anyhow::{anyhow, ensure};

use self::{
    parts::{Kinds, Parts},
    programs::Program,
    selection::{Integration, Selection},
    work::Work,
};
use crate::{
    context::Context,
    packages,
    privilege::Privilege,
    summary::{Summary, TestFailure},
    vm,
};

/// The number of integration tests per processor that one program runs at the same time. The number
/// is greater than 1, because most of the tests wait for timers and for packets.
const THREADS_PER_PROCESSOR: usize = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs the tests that need no root
    #[arg(long)]
    unit: bool,
    /// Runs the integration tests on this kernel
    #[arg(long)]
    integration: bool,
    /// Runs the tests that depend on the kernel, in emulated machines
    #[arg(long)]
    vm: bool,
    /// The Debian package of a kernel for the machines, instead of the default kernels
    #[arg(long = "kernel", value_name = "DEB")]
    kernels: Vec<PathBuf>,
    /// Runs the tests with more cases, which takes about an hour
    #[arg(long)]
    long: bool,
    /// The parts to run, or all parts if none is named. A part is a crate (limiter-common), a
    /// program of tests/tests (traffic), a module (quota, evasion::bodies), all machines (vm) or
    /// one plan for machines (vm::memory)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Arguments for the test programs
    #[arg(last = true, value_name = "ARGS")]
    harness_args: Vec<String>,
}

/// The command-line options, with the defaults filled in.
#[derive(Debug, PartialEq, Eq)]
struct TestOptions {
    kinds: Kinds,
    /// The names of the parts to run. If there are none, all parts of the selected kinds run.
    names: Vec<String>,
    /// The packages of the kernels for the machines. If there are none, the machines run Debian's
    /// kernels.
    kernels: Vec<PathBuf>,
    long: bool,
    harness_args: Vec<String>,
}

impl TestOptions {
    fn of(args: &Args) -> anyhow::Result<Self> {
        let options = Self {
            kinds: Kinds {
                unit: args.unit,
                integration: args.integration,
                machines: args.vm,
            },
            names: args.names.clone(),
            kernels: args.kernels.clone(),
            long: args.long,
            harness_args: args.harness_args.clone(),
        };
        options.complete()
    }

    /// Returns whether all unit tests have to run.
    fn has_all_units(&self) -> bool {
        self.kinds.unit && self.names.is_empty() && self.harness_args.is_empty()
    }

    /// Selects the default kinds of parts if the command line selects no kind.
    fn complete(mut self) -> anyhow::Result<Self> {
        let Kinds {
            unit,
            integration,
            machines,
        } = &mut self.kinds;
        if !(*unit || *integration || *machines) {
            (*unit, *integration) = (true, true);
            // Arguments for the test programs apply only to the tests on this kernel. If the
            // command line has such arguments and names no parts, the tests in machines do not run.
            *machines = !self.names.is_empty() || self.harness_args.is_empty();
        }
        ensure!(
            *machines || self.kernels.is_empty(),
            "--kernel names a kernel for machines, but none runs: add --vm"
        );
        Ok(self)
    }

    /// Returns the argument `--test-threads`, or `None` if the command line already contains one.
    fn threads(&self) -> Option<String> {
        let chosen = self
            .harness_args
            .iter()
            .any(|arg| arg.starts_with("--test-threads"));
        (!chosen).then(|| {
            let processors = thread::available_parallelism().map_or(1, usize::from);
            format!("--test-threads={}", processors * THREADS_PER_PROCESSOR)
        })
    }

    /// Returns arguments with which a program runs only the tests that match both `filters` and the
    /// filters on the command line. If both were passed as filters, the harness would run each test
    /// that matches at least one of them.
    fn harness_args(&self, program: &Program, filters: &[String]) -> anyhow::Result<Vec<String>> {
        let (harness_options, chosen) = split(&self.harness_args);
        if filters.is_empty() || chosen.is_empty() {
            return Ok([filters, &self.harness_args].concat());
        }
        let tests = program.tests(filters, &chosen)?;
        Ok([vec!["--exact".to_owned()], tests, harness_options].concat())
    }

    /// Returns the parts that the command line selects.
    fn selection(&self, parts: &Parts) -> anyhow::Result<Selection> {
        if self.names.is_empty() {
            return Ok(Selection::all(self.kinds));
        }
        let mut selection = Selection::default();
        for name in &self.names {
            for part in parts.find(name, self.kinds)? {
                selection.add(part);
            }
        }
        ensure!(
            selection.machines.is_some() || self.kernels.is_empty(),
            "--kernel names a kernel for machines, but none runs: add the name vm"
        );
        Ok(selection)
    }
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let options = TestOptions::of(args)?;
    let parts = Parts::read(context.root(), vm::plans())?;
    let selection = options.selection(&parts)?;
    let of_this_kernel = selection.integration != Integration::Nothing;
    // Missing privileges and packages are reported before the build, because it takes minutes.
    let privilege = if of_this_kernel || selection.machines.is_some() {
        let privilege = Privilege::acquire("running the integration tests").map_err(|error| {
            anyhow!("{error:#}; `cargo xtask test --unit` runs the tests that need no root")
        })?;
        if of_this_kernel {
            packages::for_tests()?;
        }
        if selection.machines.is_some() {
            packages::for_machines()?;
        }
        Some(privilege)
    } else {
        None
    };
    let work = Work {
        context,
        options,
        selection,
    };
    let mut total = Summary::default();
    match privilege {
        None => total.add(work.units(&work.build_units()?)?),
        Some(privilege) => work.with_privilege(privilege, &mut total)?,
    }
    println!("\n{total}");
    if total.failed > 0 {
        return Err(TestFailure.into());
    }
    Ok(())
}

/// The options of the harness that take the next argument as their value.
const WITH_VALUE: [&str; 7] = [
    "--test-threads",
    "--skip",
    "--logfile",
    "--format",
    "--color",
    "--shuffle-seed",
    "-Z",
];

/// Separates the options of the harness from its filters, which select tests by their names.
fn split(args: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut options, mut names) = (Vec::new(), Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if !arg.starts_with('-') {
            names.push(arg.clone());
            continue;
        }
        options.push(arg.clone());
        if WITH_VALUE.contains(&arg.as_str()) {
            options.extend(args.next().cloned());
        }
    }
    (options, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> anyhow::Result<TestOptions> {
        use clap::Parser as _;
        let CommandLine { args } = CommandLine::try_parse_from(["test"].iter().chain(args))?;
        TestOptions::of(&args)
    }

    fn parsed(args: &[&str]) -> TestOptions {
        parse(args).unwrap()
    }

    const ALL: Kinds = Kinds {
        unit: true,
        integration: true,
        machines: true,
    };

    #[test]
    fn without_arguments_everything_runs() {
        let options = parsed(&[]);
        assert_eq!(options.kinds, ALL);
        assert!(options.threads().is_some());
    }

    #[test]
    fn arguments_go_to_the_harness() {
        let options = parsed(&["--unit", "--", "--nocapture", "--test-threads", "1"]);
        assert_eq!(options.harness_args, ["--nocapture", "--test-threads", "1"]);
        assert_eq!(options.threads(), None);
        let kinds = Kinds {
            unit: true,
            integration: false,
            machines: false,
        };
        assert_eq!(options.kinds, kinds);
    }

    #[test]
    fn filters_are_separated_from_the_options_of_the_harness() {
        let args =
            ["--nocapture", "daily", "--skip", "slow", "--test-threads=1"].map(str::to_owned);
        let (harness_options, names) = split(&args);
        assert_eq!(names, ["daily"]);
        assert_eq!(
            harness_options,
            ["--nocapture", "--skip", "slow", "--test-threads=1"]
        );
    }

    #[test]
    fn machines_can_run_alone_and_with_other_kernels() {
        let options = parsed(&["--vm", "--kernel", "a.deb", "--kernel", "b.deb"]);
        let Kinds {
            unit,
            integration,
            machines,
        } = options.kinds;
        assert_eq!((unit, integration, machines), (false, false, true));
        assert_eq!(options.kernels, ["a.deb", "b.deb"].map(PathBuf::from));
        for wrong in [
            &["--vm", "--kernel"][..],
            &["--unit", "--kernel", "a.deb"],
            &["--something"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn filters_for_the_tests_of_this_kernel_leave_machines_out() {
        assert!(!parsed(&["--", "daily"]).kinds.machines);
    }

    #[test]
    fn long_runs_are_of_all_kinds() {
        let options = parsed(&["--long"]);
        assert!(options.kinds == ALL && options.long);
    }
}
