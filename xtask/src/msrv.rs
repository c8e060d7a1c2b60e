// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks the minimum Rust version (`rust-version` of the workspace) against the versions that the
//! dependencies need.
//!
//! Clippy's lint `incompatible_msrv`, which Cargo.toml denies, checks whether the code uses parts
//! of the standard library that are newer than this version. Neither check finds a language feature
//! that is newer than this version.

use std::fmt;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{context::Context, process};

/// A version of Rust: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u64; 3]);

impl Version {
    /// Parses `1.90` or `1.90.0`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut version = [0; 3];
        for part in &mut version {
            match parts.next() {
                Some(text) => *part = text.parse().ok()?,
                None => break,
            }
        }
        parts.next().is_none().then_some(Self(version))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Checks the minimum Rust versions of all packages.
///
/// # Errors
/// Returns an error that names the packages that need a newer version than the workspace declares,
/// and the members of the workspace that declare a different version.
pub fn check(context: &Context) -> anyhow::Result<()> {
    let metadata = process::output(context.cargo().args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--quiet",
    ]))?;
    let metadata = serde_json::from_str(&metadata).context("read the output of cargo metadata")?;
    let faults = faults(&metadata)?;
    ensure!(
        faults.is_empty(),
        "`rust-version` in Cargo.toml is not what the packages need:\n{}",
        faults.join("\n")
    );
    Ok(())
}

fn faults(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let packages: Vec<Package> = packages
        .iter()
        .map(Package::read)
        .collect::<Result<_, _>>()?;
    // The minimum version of the workspace is that of xtask, which is always a member of it.
    let own = packages
        .iter()
        .find(|package| package.is_member && package.name == env!("CARGO_PKG_NAME"))
        .and_then(|package| package.rust_version)
        .context("xtask has no `rust-version`")?;
    Ok(packages
        .iter()
        .filter_map(|package| package.fault(own))
        .collect())
}

struct Package {
    name: String,
    version: String,
    is_member: bool,
    rust_version: Option<Version>,
}

impl Package {
    fn read(package: &Value) -> anyhow::Result<Self> {
        let text = |field: &str| {
            package[field]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("a package without {field:?}"))
        };
        let rust_version = match &package["rust_version"] {
            Value::String(text) => Some(
                Version::parse(text).with_context(|| format!("a `rust-version` of {text:?}"))?,
            ),
            _ => None,
        };
        Ok(Self {
            name: text("name")?,
            version: text("version")?,
            // A package from a registry has a source, and a member of the workspace does not have
            // one.
            is_member: package["source"].is_null(),
            rust_version,
        })
    }

    /// Returns the fault of this package, if there is one. `own` is the minimum version that the
    /// workspace declares.
    fn fault(&self, own: Version) -> Option<String> {
        let Self { name, version, .. } = self;
        match self.rust_version {
            None if self.is_member => Some(format!("{name}: add `rust-version.workspace = true`")),
            Some(other) if self.is_member && other != own => Some(format!(
                "{name} promises Rust {other}, and xtask Rust {own}"
            )),
            Some(other) if other > own => {
                Some(format!("{name} {version} needs Rust {other}, not {own}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, rust_version: Option<&str>, source: Option<&str>) -> Value {
        json!({ "name": name, "version": "0.1.0", "rust_version": rust_version, "source": source })
    }

    #[test]
    fn versions_are_compared_by_number() {
        let version = |text| Version::parse(text).unwrap();
        assert_eq!(version("1.90"), version("1.90.0"));
        assert!(version("1.9") < version("1.90"));
        assert!(version("1.90.1") > version("1.90"));
        for wrong in ["", "1.x", "1.90.0.1", "1.90.0-beta"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_dependency_that_needs_a_newer_compiler_is_named() {
        let registry = Some("registry+https://example.com");
        let packages = [
            package("xtask", Some("1.90"), None),
            package("old", Some("1.56.0"), registry),
            package("silent", None, registry),
            package("new", Some("1.91"), registry),
        ];
        let faults = faults(&json!({ "packages": packages })).unwrap();
        assert_eq!(faults, ["new 0.1.0 needs Rust 1.91.0, not 1.90.0"]);
    }

    #[test]
    fn members_of_the_workspace_promise_the_same_version() {
        let packages = [
            package("xtask", Some("1.90"), None),
            package("other", Some("1.89"), None),
            package("silent", None, None),
        ];
        let faults = faults(&json!({ "packages": packages })).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("other promises Rust 1.89.0"));
        assert!(faults[1].starts_with("silent: "));
    }

    #[test]
    fn without_an_own_version_there_is_no_verdict() {
        assert!(faults(&json!({ "packages": [] })).is_err());
    }
}
