// SPDX-License-Identifier: MIT OR Apache-2.0

//! The files that the integration tests need besides their programs.

use std::path::PathBuf;

use super::selection::Integration;
use crate::{
    bench::ENGINES_VARIABLE, build, context::Context, package, privilege::Privilege, python, tools,
};

/// The environment variable with the path of the release binary, which the integration tests run.
const BINARY_VARIABLE: &str = "LIMITER_BIN";
/// The environment variables with the paths of the Debian package, and of the unpacked Debian
/// system in which it is tested.
const DEB_VARIABLE: &str = "LIMITER_DEB";
const DEBIAN_ROOT_VARIABLE: &str = "LIMITER_DEBIAN_ROOT";
/// The environment variable with the path of the static binary. The binary is built only with
/// `--long`, because the build takes minutes.
const STATIC_VARIABLE: &str = "LIMITER_STATIC";
/// The environment variable with the path of Envoy, for the tests of proxies and of the guide.
const ENVOY_VARIABLE: &str = "LIMITER_ENVOY";
/// The environment variable with the path of the program that compares the control interface with
/// `docs/openapi.json`.
const SCHEMATHESIS_VARIABLE: &str = "LIMITER_SCHEMATHESIS";
/// The environment variable with the path of a Python interpreter that has a library with the
/// fields of a Grafana dashboard.
const GRAFANA_VARIABLE: &str = "LIMITER_GRAFANA";

/// The files that the integration tests need besides their programs.
pub struct Supplies {
    /// The release binary.
    pub binary: PathBuf,
    /// The environment variables for the tests, with the paths of these files.
    pub variables: Vec<(&'static str, PathBuf)>,
}

impl Supplies {
    /// Builds or downloads the files that the selected tests need.
    pub fn make(
        context: &Context,
        privilege: Privilege,
        chosen: &Integration,
        long: bool,
    ) -> anyhow::Result<Self> {
        let binary = build::release(context)?;
        let mut variables = Vec::new();
        if chosen.has("daemon", "package") {
            variables.push((DEB_VARIABLE, package::debian(context, &binary)?));
            variables.push((DEBIAN_ROOT_VARIABLE, tools::debian_root(privilege)?));
            if long {
                variables.push((STATIC_VARIABLE, package::static_binary(context)?));
            }
        }
        if chosen.has("daemon", "api") {
            variables.push((SCHEMATHESIS_VARIABLE, python::schemathesis(context)?));
        }
        if chosen.has("daemon", "metrics") {
            variables.push((GRAFANA_VARIABLE, python::grafana(context)?));
        }
        if chosen.has_some("fleet") || chosen.has_some("hosts") {
            variables.push((ENGINES_VARIABLE, python::engines(context)?));
        }
        if chosen.has("guide", "terminators") || chosen.has("traffic", "proxies") {
            // Without Envoy, the tests that need it report themselves as skipped.
            match tools::envoy() {
                Ok(envoy) => variables.push((ENVOY_VARIABLE, envoy)),
                Err(error) => eprintln!("the tests with Envoy are skipped: {error:#}"),
            }
        }
        variables.push((BINARY_VARIABLE, binary.clone()));
        Ok(Self { binary, variables })
    }
}
