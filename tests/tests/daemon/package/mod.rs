// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Debian package from its installation to its removal, in a clean Debian that runs a real
//! systemd with the unit of the package.

mod contents;
mod service;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use limiter_tests::{Config, GUARDED, Lab, Machine, process};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(90);
const UNIT: &str = "limiter.service";
const CONFIGURATION: &str = "/etc/limiter/limiter.toml";

/// Returns a path that `cargo xtask test` passes to these tests in the environment.
fn given(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => {
            panic!("`cargo xtask test package` makes what {variable} names")
        }
    }
}

/// Returns the path of the package.
fn package() -> PathBuf {
    given("LIMITER_DEB")
}

fn boot(lab: &Lab) -> Machine {
    Machine::boot(lab, &given("LIMITER_DEBIAN_ROOT"))
}

/// Installs `package` on the machine with dpkg, which asks no questions and keeps changed
/// configuration files.
#[track_caller]
fn install(machine: &Machine, package: &Path) {
    fs::copy(package, machine.file("/run/limiter.deb")).expect("the package in the machine");
    machine.done(&["dpkg", "--force-confold", "--install", "/run/limiter.deb"]);
}

/// Creates a package with a higher version and another default configuration, and returns its path.
fn next_version(lab: &Lab) -> PathBuf {
    let tree = lab.file("next");
    process::succeed(Command::new("dpkg-deb").arg("-R").arg(package()).arg(&tree));
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let path = tree.join(name);
        let text = fs::read_to_string(&path).expect("a file of the package");
        fs::write(&path, change(text)).expect("change it");
    };
    edit("DEBIAN/control", &|text| {
        text.replacen("\nVersion: ", "\nVersion: 9:", 1)
    });
    edit("etc/limiter/limiter.toml", &|text| text + "# Changed.\n");
    let made = lab.file("next.deb");
    process::succeed(
        Command::new("dpkg-deb")
            .args(["-Znone", "-b"])
            .args([&tree, &made]),
    );
    made
}

/// Returns a configuration whose tier has a daily quota of four requests, with the line `policy` in
/// the section `[policy]`.
fn configuration(lab: &Lab, policy: &str) -> String {
    let quota = "daily_quota = 4";
    let config = Config::new(lab).tier("profile", quota);
    config.policy(policy).to_string()
}

fn write_configuration(machine: &Machine, text: &str) {
    fs::write(machine.file(CONFIGURATION), text).expect("write the configuration");
}

/// Creates a scope and a key of this scope with the operators' commands, and returns the key.
#[track_caller]
fn key(machine: &Machine) -> String {
    machine.done(&["limiter", "scope", "add", "acme/web"]);
    let made = machine.done(&["limiter", "--json", "key", "create", "acme/web"]);
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    made["key"].as_str().expect("the key").to_owned()
}

fn status(lab: &Lab, key: &str) -> u16 {
    lab.connect(GUARDED).get("/", key).status
}
