// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes the disk with the work of a machine: the test programs and the binary of the host, the
//! plans, and the program that is process 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::{image, plan::Plan};
use crate::{context::Context, process, test::programs::Build};

const PACKAGE: &str = "limiter-tests";
const INIT: &str = include_str!("init.sh");

/// The environment of the tests in a machine. The tests check `LIMITER_VM` to learn that they run
/// in a machine.
const ENVIRONMENT: &str =
    "export LIMITER_VM=1 LIMITER_BIN=/mnt/limiter LIMITER_SKIPPED=/run/skipped\n";

pub struct Job {
    pub disk: PathBuf,
}

impl Job {
    /// Builds the test programs of the plans, and makes the disk.
    pub fn make(
        context: &Context,
        binary: &Path,
        plans: &[Plan],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let tree = directory.join("job");
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        }
        let (programs, orders) = (tree.join("programs"), tree.join("plans"));
        for made in [&programs, &orders] {
            fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
        }
        let names: BTreeSet<&str> = plans.iter().flat_map(Plan::names).collect();
        for (name, executable) in executables(context, &names)? {
            copy_stripped(&executable, &programs.join(name))?;
        }
        copy_stripped(binary, &tree.join("limiter"))?;
        for plan in plans {
            let mut lines = String::new();
            for program in &plan.programs {
                writeln!(
                    lines,
                    "{} --color=never {}",
                    program.name, program.arguments
                )?;
            }
            let path = orders.join(plan.name);
            fs::write(&path, lines).with_context(|| format!("write {}", path.display()))?;
        }
        image::copy(&image::busybox()?, &tree.join("busybox"))?;
        image::executable(&tree.join("init"), INIT)?;
        let path = tree.join("environment");
        fs::write(&path, ENVIRONMENT).with_context(|| format!("write {}", path.display()))?;
        let disk = directory.join("job.ext4");
        image::ext4(&tree, "limiter-job", &disk)?;
        Ok(Self { disk })
    }
}

/// Returns the test programs with these names, which cargo builds if necessary.
fn executables(
    context: &Context,
    names: &BTreeSet<&str>,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let targets = names.iter().flat_map(|name| ["--test", name]);
    let targets: Vec<String> = targets.map(str::to_owned).collect();
    let built = Build::Workspace(&targets).run(context)?;
    let found: BTreeMap<String, PathBuf> = built
        .into_iter()
        .filter(|program| program.package == PACKAGE)
        .map(|program| (program.name, program.path))
        .collect();
    ensure!(
        found.len() == names.len(),
        "cargo was asked for {names:?}, and built {:?}",
        found.keys()
    );
    Ok(found)
}

/// Copies a program without its debug information, which is larger than the rest of the program.
fn copy_stripped(from: &Path, to: &Path) -> anyhow::Result<()> {
    process::output(
        Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(to)
            .arg(from),
    )
    .map(drop)
}
