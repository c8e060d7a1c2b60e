// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask test --vm`: runs integration tests in emulated machines, which are called machines
//! here. The machines have other kernels than the host. Some of the tests run only in machines,
//! because they would disturb the host.

mod image;
mod job;
mod kernel;
mod plan;
mod qemu;
mod qmp;
mod transcript;

use std::{
    collections::BTreeSet,
    fs, panic,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::Context as _;

use self::{
    job::Job,
    kernel::Kernel,
    plan::{Disk, Plan},
    qemu::{Boot, Disks, Outcome},
};
use crate::{context::Context, privilege::Privilege, summary::Summary};

/// Returns the names of all plans except the first one, which always runs.
pub fn plans() -> Vec<&'static str> {
    plan::remaining(true).iter().map(|plan| plan.name).collect()
}

/// The kernels to boot, and the disk with the system for all of them.
pub struct Vm<'a> {
    context: &'a Context,
    kernels: Vec<Kernel>,
    root: PathBuf,
    /// The directory for the files of this run.
    directory: PathBuf,
}

impl<'a> Vm<'a> {
    /// Prepares the kernels of these packages, or Debian's kernels if there are no packages.
    /// Downloads files that are missing.
    pub fn prepare(
        context: &'a Context,
        privilege: Privilege,
        packages: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let directory = context.target_dir().join("vm");
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let kernels: anyhow::Result<Vec<Kernel>> = if packages.is_empty() {
            kernel::SERIES.into_iter().map(Kernel::of_series).collect()
        } else {
            packages
                .iter()
                .enumerate()
                .map(|(number, deb)| {
                    Kernel::of_file(deb, &directory.join(format!("kernel-{number}")))
                })
                .collect()
        };
        Ok(Self {
            context,
            kernels: kernels?,
            root: image::root(privilege)?,
            directory,
        })
    }

    /// Makes each kernel load the programs, which takes seconds. This plan runs before the other
    /// plans, because they cannot succeed if a kernel does not load the programs.
    pub fn load(&self, binary: &Path) -> anyhow::Result<Summary> {
        self.run(binary, &[plan::load()])
    }

    /// Runs the plans with the names `names` or, if there are no names, all plans except the first
    /// one. In the latter case, the plans that take minutes run only with `more`.
    pub fn run_remaining(
        &self,
        binary: &Path,
        more: bool,
        names: &BTreeSet<&str>,
    ) -> anyhow::Result<Summary> {
        let mut plans = plan::remaining(more || !names.is_empty());
        plans.retain(|plan| names.is_empty() || names.contains(&plan.name));
        self.run(binary, &plans)
    }

    /// Runs plans on all kernels at the same time. Each kernel has its own machines, and runs one
    /// of them at a time. A machine keeps one processor of the host busy.
    fn run(&self, binary: &Path, plans: &[Plan]) -> anyhow::Result<Summary> {
        let job = Job::make(self.context, binary, plans, &self.directory)?;
        let disks = Disks {
            root: self.root.clone(),
            job: job.disk,
        };
        let disks = &disks;
        let summaries: Vec<anyhow::Result<Summary>> = thread::scope(|threads| {
            let started: Vec<_> = self
                .kernels
                .iter()
                .map(|kernel| threads.spawn(move || self.all_on(kernel, disks, plans)))
                .collect();
            started
                .into_iter()
                .map(|machine| {
                    machine
                        .join()
                        .unwrap_or_else(|payload| panic::resume_unwind(payload))
                })
                .collect()
        });
        let mut total = Summary::default();
        for summary in summaries {
            total.add(summary?);
        }
        Ok(total)
    }

    /// Runs all plans on one kernel, one after the other.
    fn all_on(&self, kernel: &Kernel, disks: &Disks, plans: &[Plan]) -> anyhow::Result<Summary> {
        let directory = self.directory.join(&kernel.release);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let initrd = directory.join("initrd.cpio");
        image::initrd(kernel, &directory.join("initrd"), &initrd)?;
        let mut total = Summary::default();
        for plan in plans {
            total.add(boot(kernel, &initrd, disks, plan, &directory)?);
        }
        Ok(total)
    }
}

fn boot(
    kernel: &Kernel,
    initrd: &Path,
    disks: &Disks,
    plan: &Plan,
    directory: &Path,
) -> anyhow::Result<Summary> {
    let tag = format!("{} {}", kernel.release, plan.name);
    println!("{tag}: starts ({})", kernel.name);
    let start = Instant::now();
    let written_on = directory.join("state.ext4");
    if plan.disk == Disk::New {
        image::empty("limiter-state", &written_on)?;
    }
    let boot = Boot {
        plan: plan.name,
        tag: &tag,
        memory_mib: plan.memory_mib,
        limit: plan.limit,
        disk: (plan.disk != Disk::None).then_some(written_on.as_path()),
        end: plan.end,
    };
    let Outcome {
        mut summary,
        skipped,
        fault,
    } = boot.run(kernel, initrd, disks, directory, &plan.names())?;
    for line in &skipped {
        println!("{tag}: skipped: {line}");
    }
    summary.move_to_skipped(u64::try_from(skipped.len()).unwrap_or(u64::MAX));
    if let Some(fault) = fault {
        println!("{tag}: FAILED: {fault}");
    }
    println!("{tag}: {summary}, {} s", start.elapsed().as_secs());
    Ok(summary)
}
