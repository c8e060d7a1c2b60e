//! `cargo xtask bench`: what the limiter costs, and what others cost that do the same.
//!
//! Each part is a bench of limiter-tests, which prints a table and writes a file. For the first the
//! kernel programs are built once more, with those that are there to be measured only.

use std::{ffi::OsStr, path::PathBuf};

use anyhow::bail;
use limiter_toolchain::ebpf;

use crate::{build, cache, context::Context, packages, privilege::Privilege, process};

const PACKAGE: &str = "limiter-tests";

/// The feature of limiter-ebpf that adds programs to be measured.
const FEATURE: &str = "bench";

/// Names the kernel object that limiter-tests is to load.
const OBJECT_VARIABLE: &str = "LIMITER_OBJECT";
/// The release binary.
const BINARY_VARIABLE: &str = "LIMITER_BIN";
/// An Envoy to compare with.
const ENVOY_VARIABLE: &str = "LIMITER_ENVOY";

/// The parts, by the name of their bench.
const PARTS: [&str; 4] = ["program", "traffic", "precision", "scale"];

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    parts: Vec<&'a str>,
    args: Vec<&'a str>,
}

impl<'a> Request<'a> {
    fn parse(args: &'a [String]) -> Self {
        let is_part = |arg: &&str| PARTS.contains(arg);
        let named = args.iter().map(String::as_str).take_while(is_part);
        let mut parts: Vec<&str> = named.collect();
        let args = args[parts.len()..].iter().map(String::as_str).collect();
        if parts.is_empty() {
            parts.extend(PARTS);
        }
        Self { parts, args }
    }
}

pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    let request = Request::parse(args);
    if let (true, Some(filter)) = (
        request.parts.len() > 1,
        request.args.iter().find(|arg| !arg.starts_with('-')),
    ) {
        bail!(
            "{filter:?} is no part ({}); to run some cases of a part, name the part before it",
            PARTS.join(", ")
        );
    }
    let privilege = Privilege::acquire("the bench")?;
    let mut variables = vec![(OBJECT_VARIABLE, object(context)?)];
    if request.parts.iter().any(|part| *part != "program") {
        packages::for_benches()?;
        variables.push((BINARY_VARIABLE, build::release(context)?));
        // Without it the others are compared.
        match cache::envoy() {
            Ok(envoy) => variables.push((ENVOY_VARIABLE, envoy)),
            Err(error) => eprintln!("no Envoy to compare with: {error:#}"),
        }
    }
    for part in &request.parts {
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
        process::run(command.args(&request.args))?;
    }
    Ok(())
}

/// The kernel programs with those to be measured. In a directory of its own: the daemon embeds what
/// lies in the other.
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

/// cargo builds as the user and runs the bench through sudo, which by itself passes no variables
/// on.
fn sudo_runner(variables: &[(&str, PathBuf)]) -> String {
    let mut runner = vec!["sudo".to_owned(), "env".to_owned()];
    let set = variables.iter();
    runner.extend(set.map(|(name, value)| format!("{name}={}", value.display())));
    // Debug's quoting of a string is TOML's for everything that a path of sense holds.
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
    fn parts_come_first_and_without_any_all_run() {
        let strings =
            |args: &[&str]| -> Vec<String> { args.iter().map(|&arg| arg.to_owned()).collect() };
        let all = strings(&["--quick"]);
        let request = Request::parse(&all);
        assert_eq!(
            (request.parts, request.args),
            (PARTS.to_vec(), vec!["--quick"])
        );
        let some = strings(&["traffic", "refused"]);
        let request = Request::parse(&some);
        assert_eq!(
            (request.parts, request.args),
            (vec!["traffic"], vec!["refused"])
        );
    }
}
