//! Python programs that the tests run and Debian has no packages of: each in an environment of its own
//! in the cache, beside the toolchain.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, anyhow};
use limiter_tests::peers;
use limiter_toolchain::Private;

use crate::{context::Context, process};

/// What schemathesis is made of, each with its version.
const REQUIREMENTS: &str = "tests/schemathesis/requirements.txt";

/// Grafana's types.
const GRAFANA: &str = "tests/grafana/requirements.txt";

/// The program that holds the control interface against its document; installed if it is not there.
pub fn schemathesis(context: &Context) -> anyhow::Result<PathBuf> {
    let requirements = context.root().join(REQUIREMENTS);
    let environment = environment("schemathesis", &requirements)?;
    Ok(environment.join("bin/schemathesis"))
}

/// A Python that knows what a dashboard of Grafana's may have; installed if it is not there.
pub fn grafana(context: &Context) -> anyhow::Result<PathBuf> {
    let environment = environment("grafana", &context.root().join(GRAFANA))?;
    Ok(environment.join("bin/python"))
}

/// An environment with what `requirements` names, made anew when that has changed.
fn environment(name: &str, requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("read {}", requirements.display()))?;
    let private = Private::locate().map_err(|error| anyhow!(error))?;
    let beside = |suffix: &str| {
        let mut path = private.dir().as_os_str().to_owned();
        path.push(format!("-{name}{suffix}"));
        PathBuf::from(path)
    };
    let (environment, lock_path) = (beside(""), beside(".lock"));
    if let Some(parent) = lock_path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    let held = File::create(&lock_path).with_context(|| format!("open {}", lock_path.display()))?;
    held.lock()
        .with_context(|| format!("lock {}", lock_path.display()))?;
    // Written last: what has it is complete.
    let marker = environment.join("limiter-requirements.txt");
    if fs::read_to_string(&marker).is_ok_and(|made_of| made_of == wanted) {
        return Ok(environment);
    }
    eprintln!("for the tests: installing {name} from PyPI, once");
    process::output(
        Command::new(peers::SYSTEM_PYTHON)
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
