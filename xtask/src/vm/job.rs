//! The disk with what a machine is to do: the test executables and the binary as they are for the host,
//! plans, and process 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{image, plan::Plan};
use crate::{context::Context, process};

const PACKAGE: &str = "limiter-tests";
const INIT: &str = include_str!("init.sh");

/// Variables that tests in a machine find; `LIMITER_VM` says that they are in one.
const ENVIRONMENT: &str =
    "export LIMITER_VM=1 LIMITER_BIN=/mnt/limiter LIMITER_SKIPPED=/run/skipped\n";

pub struct Job {
    pub disk: PathBuf,
}

impl Job {
    /// Builds the test executables of the plans and makes the disk.
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
            lean(&executable, &programs.join(name))?;
        }
        lean(binary, &tree.join("limiter"))?;
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

/// Has cargo build tests, and say where they are.
fn executables(
    context: &Context,
    names: &BTreeSet<&str>,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut command = context.cargo();
    command.args(["test", "--no-run", "--quiet", "--package", PACKAGE]);
    command.arg("--message-format=json-render-diagnostics");
    for name in names {
        command.args(["--test", name]);
    }
    let said = process::output(&mut command)?;
    let found: BTreeMap<String, PathBuf> = said
        .lines()
        .filter_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let name = message.pointer("/target/name")?.as_str()?;
            let executable = message.get("executable")?.as_str()?;
            names
                .contains(name)
                .then(|| (name.to_owned(), executable.into()))
        })
        .collect();
    ensure!(
        found.len() == names.len(),
        "cargo was to build {names:?} and built {:?}",
        found.keys()
    );
    Ok(found)
}

/// The same program without what debuggers want, which is most of it.
fn lean(from: &Path, to: &Path) -> anyhow::Result<()> {
    process::output(
        Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(to)
            .arg(from),
    )
    .map(drop)
}
