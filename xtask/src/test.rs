//! `cargo xtask test`: unit tests as the user, integration tests as root on the release binary, on
//! this kernel and in machines with others.

use std::{fs, path::PathBuf, thread};

use anyhow::{Context as _, anyhow, ensure};

use crate::{
    build, cache,
    context::Context,
    package, packages,
    privilege::Privilege,
    python,
    summary::{self, Summary, TestsFailed},
    tools,
    vm::Vm,
};

/// Crates whose tests need neither root nor the network.
const UNIT: [&str; 4] = [
    "limiter-common",
    "limiter-daemon",
    "limiter-toolchain",
    "xtask",
];
const INTEGRATION: &str = "limiter-tests";

/// The release binary that the integration tests drive.
const BINARY_VARIABLE: &str = "LIMITER_BIN";
/// The Debian package, and the clean Debian that it is tested in.
const DEB_VARIABLE: &str = "LIMITER_DEB";
const DEBIAN_ROOT_VARIABLE: &str = "LIMITER_DEBIAN_ROOT";
/// The static binary, which takes minutes to build: not there without `--long`.
const STATIC_VARIABLE: &str = "LIMITER_STATIC";
/// A file to which a test that skips itself appends a line, `NAME: REASON`.
const SKIPPED_VARIABLE: &str = "LIMITER_SKIPPED";
/// An Envoy for the tests of the operators' guide.
const ENVOY_VARIABLE: &str = "LIMITER_ENVOY";
/// The program that holds the control interface against its document.
const SCHEMATHESIS_VARIABLE: &str = "LIMITER_SCHEMATHESIS";
/// A Python that reads dashboards as Grafana does.
const GRAFANA_VARIABLE: &str = "LIMITER_GRAFANA";
/// Set: tests try more, as long as it takes.
const LONG_VARIABLE: &str = "LIMITER_LONG";

/// What the integration tests are about, by the variables that they find it in.
struct Given(Vec<(&'static str, PathBuf)>);

impl Given {
    fn make(context: &Context, privilege: Privilege, long: bool) -> anyhow::Result<Self> {
        let binary = build::release(context)?;
        let mut given = vec![
            (DEB_VARIABLE, package::debian(context, &binary)?),
            (DEBIAN_ROOT_VARIABLE, tools::debian_root(privilege)?),
            (SCHEMATHESIS_VARIABLE, python::schemathesis(context)?),
            (GRAFANA_VARIABLE, python::grafana(context)?),
            (BINARY_VARIABLE, binary),
        ];
        // Where it cannot be had, the tests that want it skip themselves.
        match cache::envoy() {
            Ok(envoy) => given.push((ENVOY_VARIABLE, envoy)),
            Err(error) => eprintln!("no Envoy to test with: {error:#}"),
        }
        if long {
            given.push((STATIC_VARIABLE, package::static_binary(context)?));
        }
        Ok(Self(given))
    }
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    unit: bool,
    integration: bool,
    /// Integration tests in machines.
    vm: bool,
    /// Packages with the kernels of the machines; Debian's where there are none.
    kernels: Vec<PathBuf>,
    long: bool,
    cargo_args: Vec<&'a str>,
    harness_args: Vec<&'a str>,
}

impl<'a> Request<'a> {
    fn parse(args: &'a [String]) -> anyhow::Result<Self> {
        let mut parts = args.splitn(2, |arg| arg == "--");
        let strings = |part: Option<&'a [String]>| -> Vec<&'a str> {
            part.unwrap_or_default()
                .iter()
                .map(String::as_str)
                .collect()
        };
        let mut cargo_args = strings(parts.next());
        let harness_args = strings(parts.next());
        let only_unit = cargo_args.contains(&"--unit");
        let only_integration = cargo_args.contains(&"--integration");
        let only_vm = cargo_args.contains(&"--vm");
        let long = cargo_args.contains(&"--long");
        let mut kernels = Vec::new();
        while let Some(at) = cargo_args.iter().position(|arg| *arg == "--kernel") {
            ensure!(at + 1 < cargo_args.len(), "--kernel wants a package's path");
            kernels.push(PathBuf::from(cargo_args.remove(at + 1)));
            cargo_args.remove(at);
        }
        cargo_args.retain(|arg| !matches!(*arg, "--unit" | "--integration" | "--vm" | "--long"));
        let all = !(only_unit || only_integration || only_vm);
        let request = Self {
            unit: only_unit || all,
            integration: only_integration || all,
            // What is chosen among the tests of this kernel is not chosen among those.
            vm: only_vm || all && cargo_args.is_empty() && harness_args.is_empty(),
            kernels,
            long,
            cargo_args,
            harness_args,
        };
        ensure!(
            request.vm || request.kernels.is_empty(),
            "--kernel names a kernel for machines: say --vm too"
        );
        Ok(request)
    }

    /// `--test-threads`, unless the caller chose.
    fn threads(&self) -> Option<String> {
        let chosen = self
            .harness_args
            .iter()
            .any(|arg| arg.starts_with("--test-threads"));
        (!chosen).then(|| {
            format!(
                "--test-threads={}",
                thread::available_parallelism().map_or(1, usize::from)
            )
        })
    }
}

pub fn run(context: &Context, args: &[String]) -> anyhow::Result<()> {
    let request = Request::parse(args)?;
    let mut total = Summary::default();
    // What the integration tests lack is said before the minutes of building.
    let privilege = if request.integration || request.vm {
        let privilege = Privilege::acquire("running the integration tests").map_err(|error| {
            anyhow!("{error:#}; `cargo xtask test --unit` runs those that do without root")
        })?;
        if request.integration {
            packages::for_tests()?;
        }
        Some(privilege)
    } else {
        None
    };
    let machines = match privilege {
        Some(privilege) if request.vm => {
            packages::for_machines()?;
            let binary = build::release(context)?;
            let vm = Vm::prepare(context, privilege, &request.kernels)?;
            // A program that another kernel does not take is not worth testing on this one.
            let loaded = vm.load(&binary)?;
            total.add(loaded);
            if loaded.failed > 0 {
                println!("\n{total}");
                return Err(TestsFailed.into());
            }
            Some((vm, binary))
        }
        _ => None,
    };
    let given = match privilege {
        Some(privilege) if request.integration => {
            Some((privilege, Given::make(context, privilege, request.long)?))
        }
        _ => None,
    };
    if request.unit {
        total.add(unit(context, &request)?);
    }
    if let Some((privilege, given)) = given {
        total.add(integration(context, &request, privilege, &given)?);
        // Alone, since it measures; and not when certain tests were asked for.
        if request.cargo_args.is_empty() && request.harness_args.is_empty() {
            total.add(guard(context, privilege, &given)?);
        }
    }
    if let Some((vm, binary)) = machines {
        // There is time for more when nothing else runs, and then plans can be named.
        let more = request.long || !request.integration;
        total.add(vm.rest(&binary, more, &request.cargo_args)?);
    }
    println!("\n{total}");
    if total.failed > 0 {
        return Err(TestsFailed.into());
    }
    Ok(())
}

fn unit(context: &Context, request: &Request<'_>) -> anyhow::Result<Summary> {
    let mut command = context.cargo();
    command.args(["test", "--no-fail-fast"]);
    for package in UNIT {
        command.args(["--package", package]);
    }
    if request.long {
        command.env(LONG_VARIABLE, "1");
    }
    command
        .args(&request.cargo_args)
        .arg("--")
        .args(&request.harness_args);
    summary::count(&mut command)
}

fn integration(
    context: &Context,
    request: &Request<'_>,
    privilege: Privilege,
    given: &Given,
) -> anyhow::Result<Summary> {
    let skipped_file = context.target_dir().join("skipped-tests");
    fs::write(&skipped_file, "").with_context(|| format!("write {}", skipped_file.display()))?;

    let mut command = context.cargo();
    command.args(["test", "--no-fail-fast", "--package", INTEGRATION]);
    let mut variables = given.0.clone();
    variables.push((SKIPPED_VARIABLE, skipped_file.clone()));
    if request.long {
        variables.push((LONG_VARIABLE, PathBuf::from("1")));
    }
    if privilege == Privilege::Sudo {
        command.arg("--config").arg(sudo_runner(&variables));
    }
    command.envs(variables);
    command
        .args(&request.cargo_args)
        .arg("--")
        .args(request.threads())
        .args(&request.harness_args);
    let mut summary = summary::count(&mut command)?;

    let skipped = summary::skipped(&skipped_file)?;
    for line in &skipped {
        println!("skipped: {line}");
    }
    summary.move_to_skipped(u64::try_from(skipped.len()).unwrap_or(u64::MAX));
    Ok(summary)
}

/// What must not get worse, measured before real traffic; counts as one test.
fn guard(context: &Context, privilege: Privilege, given: &Given) -> anyhow::Result<Summary> {
    println!("\nwhat must not get worse:");
    let mut command = context.cargo();
    // With the tests' profile all that it needs is built already.
    command.args([
        "bench",
        "--quiet",
        "--profile",
        "test",
        "--package",
        INTEGRATION,
    ]);
    command.args(["--bench", "traffic"]);
    if privilege == Privilege::Sudo {
        command.arg("--config").arg(sudo_runner(&given.0));
    }
    command.envs(given.0.clone()).args(["--", "--guard"]);
    let status = command.status().context("run cargo bench")?;
    let passed = u64::from(status.success());
    Ok(Summary {
        passed,
        failed: 1 - passed,
        skipped: 0,
    })
}

/// cargo builds as the user and runs the test programs through sudo, which by itself passes
/// no variables on.
fn sudo_runner(variables: &[(&str, PathBuf)]) -> String {
    let mut runner = vec!["sudo".to_owned(), "env".to_owned()];
    runner.extend(
        variables
            .iter()
            .map(|(name, value)| format!("{name}={}", value.display())),
    );
    // Debug's quoting of a string is TOML's for everything that a path of sense holds.
    format!("target.'cfg(all())'.runner = {runner:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(args: &[&str]) -> Vec<String> {
        args.iter().map(|&arg| arg.to_owned()).collect()
    }

    #[test]
    fn without_arguments_everything_runs() {
        let request = Request::parse(&[]).unwrap();
        assert!(request.unit && request.integration && request.vm);
        assert!(request.threads().is_some());
    }

    #[test]
    fn arguments_go_to_cargo_and_to_the_harness() {
        let args = strings(&[
            "--unit",
            "daily",
            "--",
            "--nocapture",
            "--test-threads",
            "1",
        ]);
        let request = Request::parse(&args).unwrap();
        assert_eq!(
            request,
            Request {
                unit: true,
                integration: false,
                vm: false,
                kernels: Vec::new(),
                long: false,
                cargo_args: vec!["daily"],
                harness_args: vec!["--nocapture", "--test-threads", "1"],
            }
        );
        assert_eq!(request.threads(), None);
    }

    #[test]
    fn one_half_can_be_asked_for() {
        let args = strings(&["--integration"]);
        let request = Request::parse(&args).unwrap();
        assert!(!request.unit && request.integration && request.cargo_args.is_empty());
    }

    #[test]
    fn machines_alone_can_be_asked_for_and_with_other_kernels() {
        let args = strings(&["--vm", "--kernel", "a.deb", "--kernel", "b.deb"]);
        let request = Request::parse(&args).unwrap();
        assert!(!request.unit && !request.integration && request.vm);
        assert_eq!(request.kernels, ["a.deb", "b.deb"].map(PathBuf::from));
        assert!(request.cargo_args.is_empty());
        for wrong in [&["--vm", "--kernel"][..], &["--unit", "--kernel", "a.deb"]] {
            assert!(Request::parse(&strings(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_choice_among_the_tests_of_this_kernel_leaves_machines_out() {
        let args = strings(&["--", "daily"]);
        assert!(!Request::parse(&args).unwrap().vm);
    }

    #[test]
    fn more_can_be_asked_for() {
        let args = strings(&["--long"]);
        let request = Request::parse(&args).unwrap();
        assert!(request.unit && request.integration && request.long);
        assert!(request.cargo_args.is_empty());
    }

    #[test]
    fn sudos_runner_is_a_setting_that_cargo_takes() {
        let variables = [
            (BINARY_VARIABLE, PathBuf::from("/t/limiter")),
            (LONG_VARIABLE, PathBuf::from("1")),
        ];
        assert_eq!(
            sudo_runner(&variables),
            "target.'cfg(all())'.runner = [\"sudo\", \"env\", \
             \"LIMITER_BIN=/t/limiter\", \"LIMITER_LONG=1\"]"
        );
    }
}
