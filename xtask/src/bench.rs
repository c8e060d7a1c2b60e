// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask bench`: measures the cost of the limiter and of its alternatives.
//!
//! Each part is a bench of limiter-tests, which prints a table and writes a file. The part
//! `program` needs a separate build of the kernel programs, because some programs exist only for
//! measurements.

use std::{ffi::OsStr, path::PathBuf};

use anyhow::bail;
use limiter_toolchain::ebpf;

use crate::{build, context::Context, packages, privilege::Privilege, process, python, tools};

const PACKAGE: &str = "limiter-tests";

/// The feature of limiter-ebpf that adds the programs for measurements.
const FEATURE: &str = "bench";

/// The environment variable with the path of the kernel object for limiter-tests.
const OBJECT_VARIABLE: &str = "LIMITER_OBJECT";
/// The environment variable with the path of the release binary.
const BINARY_VARIABLE: &str = "LIMITER_BIN";
/// The environment variable with the path of Envoy, which is one of the alternatives.
const ENVOY_VARIABLE: &str = "LIMITER_ENVOY";

/// The environment variable with the directory of a Python environment that has other versions of
/// Redis and Valkey than Debian's.
pub const ENGINES_VARIABLE: &str = "LIMITER_ENGINES";

/// The parts of the benchmark. Each is the name of a bench of limiter-tests.
const PARTS: [&str; 5] = ["program", "traffic", "precision", "scale", "fleet"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The parts to run (program, traffic, precision, scale, fleet), all by default; a single part
    /// may be followed by texts that select cases by their names
    names: Vec<String>,
    /// Runs fewer and shorter rounds
    #[arg(long)]
    quick: bool,
}

/// The parts to run and, if there is only one part, the cases to run.
#[derive(Debug, PartialEq, Eq)]
struct Selection<'a> {
    parts: Vec<&'a str>,
    cases: Vec<&'a str>,
}

impl<'a> Selection<'a> {
    fn of(names: &'a [String]) -> anyhow::Result<Self> {
        let is_part = |name: &&str| PARTS.contains(name);
        let mut parts: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .take_while(is_part)
            .collect();
        let cases: Vec<&str> = names[parts.len()..].iter().map(String::as_str).collect();
        if let (Some(case), true) = (cases.first(), parts.len() != 1) {
            bail!(
                "{case:?} is not a part ({}); to choose cases of a part, name the part first",
                PARTS.join(", ")
            );
        }
        if parts.is_empty() {
            parts.extend(PARTS);
        }
        Ok(Self { parts, cases })
    }
}

pub fn run(context: &Context, args: &Args) -> anyhow::Result<()> {
    let selection = Selection::of(&args.names)?;
    let privilege = Privilege::acquire("the bench")?;
    let mut variables = vec![(OBJECT_VARIABLE, object(context)?)];
    if selection.parts.iter().any(|part| *part != "program") {
        packages::for_benches()?;
        variables.push((BINARY_VARIABLE, build::release(context)?));
        // Without Envoy, the limiter is compared only with the other alternatives.
        match tools::envoy() {
            Ok(envoy) => variables.push((ENVOY_VARIABLE, envoy)),
            Err(error) => eprintln!("there is no Envoy to compare with: {error:#}"),
        }
    }
    if selection.parts.contains(&"fleet") {
        variables.push((ENGINES_VARIABLE, python::engines(context)?));
    }
    for part in &selection.parts {
        println!("\n== {part}");
        let mut command = context.cargo();
        command
            .args(["bench", "--quiet", "--package", PACKAGE, "--bench", part])
            .envs(variables.iter().map(|(name, value)| (name, value)));
        if privilege == Privilege::Sudo {
            command.arg("--config").arg(sudo_runner(&variables));
        }
        let json = context.target_dir().join(format!("bench/{part}.json"));
        command.args([OsStr::new("--"), OsStr::new("--json"), json.as_os_str()]);
        if args.quick {
            command.arg("--quick");
        }
        process::run(command.args(&selection.cases))?;
    }
    Ok(())
}

/// Builds the kernel programs, including those that exist only for measurements, and returns the
/// path of the object. The build has its own target directory, because the daemon embeds the object
/// in the usual one.
fn object(context: &Context) -> anyhow::Result<PathBuf> {
    let target_dir = context.target_dir().join("ebpf-bench");
    process::run(
        ebpf::build(
            context.toolchain(),
            context.root(),
            ebpf::PACKAGE,
            &target_dir,
            false,
        )
        .args(["--features", FEATURE]),
    )?;
    Ok(ebpf::object(&target_dir, ebpf::PACKAGE))
}

/// Returns a cargo setting that makes cargo start the bench through sudo, while cargo itself runs
/// as the user. env(1) sets the variables, because sudo does not pass them on.
fn sudo_runner(variables: &[(&str, PathBuf)]) -> String {
    let mut runner = vec!["sudo".to_owned(), "env".to_owned()];
    let set = variables.iter();
    runner.extend(set.map(|(name, value)| format!("{name}={}", value.display())));
    // For any reasonable path, `Debug` quotes the text as TOML requires.
    format!("target.'cfg(all())'.runner = {runner:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudos_runner_is_a_setting_that_cargo_takes() {
        let variables = [
            (OBJECT_VARIABLE, PathBuf::from("/t/object")),
            (BINARY_VARIABLE, PathBuf::from("/t/limiter")),
        ];
        assert_eq!(
            sudo_runner(&variables),
            "target.'cfg(all())'.runner = [\"sudo\", \"env\", \"LIMITER_OBJECT=/t/object\", \
             \"LIMITER_BIN=/t/limiter\"]"
        );
    }

    #[test]
    fn without_a_part_all_parts_run() {
        let selection = Selection::of(&[]).unwrap();
        assert_eq!((selection.parts, selection.cases), (PARTS.to_vec(), vec![]));
    }

    #[test]
    fn cases_are_chosen_after_the_only_part() {
        let strings =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let names = strings(&["traffic", "refused"]);
        let selection = Selection::of(&names).unwrap();
        assert_eq!(
            (selection.parts, selection.cases),
            (vec!["traffic"], vec!["refused"])
        );
        for wrong in [&["refused"][..], &["traffic", "scale", "refused"]] {
            assert!(Selection::of(&strings(wrong)).is_err(), "{wrong:?}");
        }
    }
}
