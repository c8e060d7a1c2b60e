//! `cargo xtask test --vm`: the integration tests on other kernels than the one that runs here, and
//! what is better not done to the machine that one works on.

mod image;
mod job;
mod kernel;
mod plan;
mod qemu;
mod qmp;
mod said;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, ensure};

use self::{
    job::Job,
    kernel::Kernel,
    plan::{Disk, Plan},
    qemu::{Boot, Disks, Outcome},
};
use crate::{context::Context, privilege::Privilege, summary::Summary};

/// Kernels to boot, and what to boot them with.
pub struct Vm<'a> {
    context: &'a Context,
    kernels: Vec<Kernel>,
    root: PathBuf,
    /// Where files of the run go.
    directory: PathBuf,
}

impl<'a> Vm<'a> {
    /// Fetches what is not there: the kernels of these packages, or Debian's where there are none.
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

    /// Has each kernel load the programs: seconds, and nothing else is worth trying before that.
    pub fn load(&self, binary: &Path) -> anyhow::Result<Summary> {
        self.run(binary, &[plan::load()])
    }

    /// Everything else, or only the plans of these names; with `more` also what takes minutes.
    pub fn rest(&self, binary: &Path, more: bool, names: &[&str]) -> anyhow::Result<Summary> {
        let mut plans = plan::rest(more);
        for name in names {
            ensure!(
                plans.iter().any(|plan| plan.name == *name),
                "machines have no plan {name:?}; there are {:?}",
                plans.iter().map(|plan| plan.name).collect::<Vec<_>>()
            );
        }
        plans.retain(|plan| names.is_empty() || names.contains(&plan.name));
        self.run(binary, &plans)
    }

    fn run(&self, binary: &Path, plans: &[Plan]) -> anyhow::Result<Summary> {
        let job = Job::make(self.context, binary, plans, &self.directory)?;
        let disks = Disks {
            root: self.root.clone(),
            job: job.disk,
        };
        let mut total = Summary::default();
        for kernel in &self.kernels {
            let initrd = self.directory.join("initrd.cpio");
            let tree = self.directory.join("initrd");
            if tree.exists() {
                fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
            }
            image::initrd(kernel, &tree, &initrd)?;
            for plan in plans {
                total.add(self.boot(kernel, &initrd, &disks, plan)?);
            }
        }
        Ok(total)
    }

    fn boot(
        &self,
        kernel: &Kernel,
        initrd: &Path,
        disks: &Disks,
        plan: &Plan,
    ) -> anyhow::Result<Summary> {
        println!("\n---- in a machine, {}: {}", kernel.name, plan.name);
        let start = Instant::now();
        let written_on = self.directory.join("state.ext4");
        if plan.disk == Disk::New {
            image::empty("limiter-state", &written_on)?;
        }
        let boot = Boot {
            plan: plan.name,
            memory_mib: plan.memory_mib,
            limit: plan.limit,
            disk: (plan.disk != Disk::None).then_some(written_on.as_path()),
            end: plan.end,
        };
        let Outcome {
            mut summary,
            skipped,
            complaint,
        } = boot.run(kernel, initrd, disks, &self.directory, &plan.names())?;
        for line in &skipped {
            println!("skipped: {line}");
        }
        summary.move_to_skipped(u64::try_from(skipped.len()).unwrap_or(u64::MAX));
        if let Some(complaint) = complaint {
            println!("FAILED, {} in {}: {complaint}", plan.name, kernel.name);
        }
        println!("---- {summary}, {} s", start.elapsed().as_secs());
        Ok(summary)
    }
}
