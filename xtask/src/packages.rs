//! What the tests and the demo need of the system, and installing it.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context as _, bail};
use limiter_toolchain::find_program;

use crate::{privilege::Privilege, process};

/// A program that has to be there.
struct Needed {
    program: &'static str,
    /// Debian's package of it.
    package: &'static str,
    reason: &'static str,
}

const NEEDED: [Needed; 10] = [
    Needed {
        program: "ip",
        package: "iproute2",
        reason: "makes the network namespaces and veth pairs",
    },
    Needed {
        program: "tc",
        package: "iproute2",
        reason: "shows the programs that are attached",
    },
    Needed {
        program: "nginx",
        package: "nginx",
        reason: "is the API that is protected",
    },
    Needed {
        program: "curl",
        package: "curl",
        reason: "is a customer that shows whole responses",
    },
    Needed {
        program: "wrk",
        package: "wrk",
        reason: "is a customer at full speed",
    },
    Needed {
        program: "python3",
        package: "python3",
        reason: "is a customer that cuts requests where it likes",
    },
    Needed {
        program: "tcpdump",
        package: "tcpdump",
        reason: "captures what really went over the wire",
    },
    Needed {
        program: "ethtool",
        package: "ethtool",
        reason: "turns segmentation offloads on and off",
    },
    Needed {
        program: "nsenter",
        package: "util-linux",
        reason: "starts programs inside the namespaces",
    },
    Needed {
        program: "bpftool",
        package: "bpftool",
        reason: "dumps the maps, to show that no key is in them",
    },
];

/// Kept from starting: a test starts its own nginx in its own namespace, and the host's port 80
/// is none of our business.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# by limiter's cargo xtask, only while it installs packages\nexit 101\n";

/// Installs the packages whose programs are missing. Costs nothing when all are there.
pub fn ensure(what: &str) -> anyhow::Result<()> {
    let missing: Vec<&Needed> = NEEDED
        .iter()
        .filter(|needed| find_program(needed.program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for needed in &missing {
        eprintln!(
            "for {what}: {} is missing, it {}",
            needed.program, needed.reason
        );
    }
    if find_program("apt-get").is_none() {
        bail!(
            "install these with your package manager: {}",
            packages.join(", ")
        );
    }
    let privilege = Privilege::acquire("installing packages")?;
    eprintln!("installing {} with apt-get", packages.join(", "));
    let policy = Policy::put(privilege)?;
    // The lists may be absent or old: then they are fetched, and it is tried once more.
    if install(privilege, &packages).is_err() {
        process::output(privilege.command("apt-get").arg("update"))?;
        install(privilege, &packages)?;
    }
    if packages.contains(&"nginx") && Path::new("/run/systemd/system").is_dir() {
        process::output(
            privilege
                .command("systemctl")
                .args(["disable", "nginx.service"]),
        )?;
    }
    policy.remove()
}

fn install(privilege: Privilege, packages: &[&str]) -> anyhow::Result<()> {
    process::output(
        privilege
            .command("env")
            .args([
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "install",
                "--yes",
            ])
            .args(["--no-install-recommends", "-o", "Acquire::Retries=3"])
            .args(packages),
    )
    .map(drop)
}

/// While it is there, packages' services are not started (Debian's invoke-rc.d reads it).
struct Policy {
    privilege: Privilege,
    /// Whether it is ours to take away.
    ours: bool,
}

impl Policy {
    fn put(privilege: Privilege) -> anyhow::Result<Self> {
        // One that we left behind when we were killed is ours, any other is the host's own.
        match fs::read_to_string(POLICY) {
            Ok(text) => {
                return Ok(Self {
                    privilege,
                    ours: text == POLICY_TEXT,
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {POLICY}")),
        }
        let draft = std::env::temp_dir().join(format!("limiter-policy-{}", std::process::id()));
        fs::write(&draft, POLICY_TEXT).with_context(|| format!("write {}", draft.display()))?;
        let put = process::run(
            privilege
                .command("install")
                .args(["-m", "0755"])
                .arg(&draft)
                .arg(POLICY),
        );
        fs::remove_file(&draft).with_context(|| format!("remove {}", draft.display()))?;
        put.map(|()| Self {
            privilege,
            ours: true,
        })
    }

    fn take_away(&self) -> anyhow::Result<()> {
        if self.ours {
            process::run(
                self.privilege
                    .command("rm")
                    .args(["-f", POLICY])
                    .stdin(Stdio::null()),
            )?;
        }
        Ok(())
    }

    fn remove(mut self) -> anyhow::Result<()> {
        let removed = self.take_away();
        self.ours = false;
        removed
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        // On the way out with another error, which is the one to report.
        if let Err(error) = self.take_away() {
            eprintln!("{POLICY} was left behind, remove it: {error:#}");
        }
    }
}
