// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes the private toolchain from Debian packages: downloads and unpacks them, and builds the
//! linker.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, anyhow, bail};
use limiter_toolchain::{BPF_LINKER_VERSION, Private, TARGET, find_program};

use crate::{
    context, process,
    resolve::{self, Package},
};

/// Debian's compilers, each with the package that contains `core` for BPF. rustc-web is tried
/// first, because it is newer than rustc in a stable release.
const COMPILERS: [[&str; 2]; 2] = [
    ["rustc-web", "libstd-rust-web-dev-bpf"],
    ["rustc", "libstd-rust-dev-bpf"],
];

/// The packages of Clippy, for `cargo xtask lint`. Clippy must have the same version as the
/// compiler. Some Debian releases have no package of that version.
const CLIPPY: [&str; 2] = ["rust-web-clippy", "rust-clippy"];

/// The major versions of LLVM with which the pinned version of bpf-linker can be built (the
/// features `llvm-NN` of bpf-linker).
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A program that needs all parts of the toolchain: `core`, the linker and BTF.
const PROBE: &str = "#![no_std]\n#![no_main]\n\
    #[unsafe(no_mangle)]\n#[unsafe(link_section = \"classifier\")]\n\
    pub extern \"C\" fn probe(_: *const u8) -> i32 { 0 }\n\
    #[panic_handler]\nfn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }\n";

/// Returns whether this system has apt and dpkg.
pub fn is_host_debian() -> bool {
    ["apt-get", "dpkg", "dpkg-query"]
        .into_iter()
        .all(|program| find_program(program).is_some())
}

/// Installs the toolchain into its directory, and marks the directory as complete at the end.
pub fn install(private: &Private) -> anyhow::Result<()> {
    let start = Instant::now();
    eprintln!(
        "setup: making the kernel toolchain in {}, once",
        private.dir().display()
    );
    let packages = download(private)?;
    unpack(private)?;
    provide_llvm(private)?;
    let llvm = resolve::llvm_major(&packages)
        .context("the packages of the compiler have no libllvm: report this")?;
    build_linker(private, llvm)?;
    probe(private)?;
    for scratch in ["apt", "debs", "build"] {
        let scratch = private.dir().join(scratch);
        if scratch.exists() {
            fs::remove_dir_all(&scratch)
                .with_context(|| format!("remove {}", scratch.display()))?;
        }
    }
    mark(private, &packages)?;
    eprintln!(
        "setup: the kernel toolchain is ready ({} s)",
        start.elapsed().as_secs()
    );
    Ok(())
}

fn download(private: &Private) -> anyhow::Result<Vec<Package>> {
    with_apt(&private.dir().join("apt"), |apt| apt.fetch(private))
}

/// Calls `act` with the system's package lists. If `act` fails, the lists are probably absent or
/// too old. In this case, downloads separate lists into `state`, and calls `act` again with those.
pub fn with_apt<T>(state: &Path, act: impl Fn(&Apt) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let system = Apt {
        private_state: None,
    };
    let system_error = match act(&system) {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    eprintln!("setup: the system's package lists are absent or too old, fetching others");
    let own = Apt {
        private_state: Some(state.to_owned()),
    };
    own.update()
        .and_then(|()| act(&own))
        .map_err(|own| anyhow!("{own:#}; with the system's lists it was: {system_error:#}"))
}

/// apt-get, either with the system's package lists or with separate ones.
pub struct Apt {
    private_state: Option<PathBuf>,
}

impl Apt {
    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null())
            // By default, apt-get switches from root to another user for downloads. That user may
            // not be able to write to the download directory.
            .args([
                "--quiet=2",
                "-o",
                "APT::Sandbox::User=root",
                "-o",
                "Acquire::Retries=3",
            ]);
        if let Some(state) = &self.private_state {
            command
                .args([
                    "-o",
                    &format!("Dir::State::lists={}", state.join("lists").display()),
                ])
                .args([
                    "-o",
                    &format!("Dir::Cache={}", state.join("cache").display()),
                ]);
        }
        command
    }

    fn update(&self) -> anyhow::Result<()> {
        if let Some(state) = &self.private_state {
            for dir in ["lists/partial", "cache/archives/partial"] {
                let dir = state.join(dir);
                fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            }
        }
        run(self.command().arg("update")).map(drop)
    }

    /// Downloads the packages that the compiler needs and the system lacks.
    fn fetch(&self, private: &Private) -> anyhow::Result<Vec<Package>> {
        let installed = installed()?;
        let packages: Vec<Package> = self
            .resolve()?
            .into_iter()
            .filter(|package| {
                resolve::is_compiler(&package.name)
                    || resolve::is_missing_library(&package.name, &installed)
            })
            .collect();
        let debs = private.dir().join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("make {}", debs.display()))?;
        for package in &packages {
            eprintln!("setup: fetching {} {}", package.name, package.version);
        }
        self.download(&packages, &debs)?;
        Ok(packages)
    }

    /// Downloads packages into a directory, which has to exist.
    pub fn download(&self, packages: &[Package], directory: &Path) -> anyhow::Result<()> {
        run(self
            .command()
            .current_dir(directory)
            .arg("download")
            .args(packages.iter().map(Package::pinned)))
        .map(drop)
    }

    /// Returns the packages that apt would install on an empty system if it were asked for the
    /// packages `names`.
    pub fn simulate(&self, names: &[&str]) -> anyhow::Result<Vec<Package>> {
        let output = run(self
            .command()
            .args(["--simulate", "-o", "Dir::State::status=/dev/null"])
            .args(["install", "--no-install-recommends"])
            .args(names))?;
        Ok(resolve::simulated(&output))
    }

    /// Returns the packages of the compiler and all their dependencies. apt computes them for a
    /// system without any installed package. Otherwise, apt would leave out packages that are
    /// installed, or report conflicts with them.
    fn resolve(&self) -> anyhow::Result<Vec<Package>> {
        let mut reasons = Vec::new();
        for (compiler, clippy) in COMPILERS.iter().zip(CLIPPY) {
            let [rustc, core] = *compiler;
            match self
                .simulate(&[rustc, core, clippy])
                .or_else(|_| self.simulate(&[rustc, core]))
            {
                Ok(packages) => return Ok(packages),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        bail!(
            "apt offers no rustc with a core library for {TARGET} ({})",
            reasons.join("; ")
        )
    }
}

/// Runs apt-get. If apt-get fails, the error contains only its first message, because most of the
/// other messages are consequences of the first.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().context("cannot run apt-get")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let first = errors.lines().find_map(|line| line.strip_prefix("E: "));
        bail!(
            "apt-get: {}",
            first.unwrap_or("it failed without a message")
        );
    }
    String::from_utf8(output.stdout).context("read the output of apt-get")
}

/// Returns the names of the installed packages.
fn installed() -> anyhow::Result<BTreeSet<String>> {
    let listing = process::output(
        Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status} ${Package}\n"]),
    )?;
    Ok(listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
        .collect())
}

fn unpack(private: &Private) -> anyhow::Result<()> {
    let debs = private.dir().join("debs");
    let root = private.root();
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    for entry in fs::read_dir(&debs).with_context(|| format!("read {}", debs.display()))? {
        let deb = entry
            .with_context(|| format!("read {}", debs.display()))?
            .path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg").arg("--extract").arg(deb).arg(&root))?;
        }
    }
    Ok(())
}

/// Makes the LLVM installation prefix for the build of bpf-linker. It contains only the shared
/// library `lib/libLLVM.so`, because the build does not need the other files of LLVM's development
/// packages, which take half a gigabyte.
fn provide_llvm(private: &Private) -> anyhow::Result<()> {
    let libraries = private.libraries();
    let library = fs::read_dir(&libraries)
        .with_context(|| format!("read {}", libraries.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .find(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        .with_context(|| format!("{} has no libLLVM.so", libraries.display()))?;
    let lib = private.llvm().join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("make {}", lib.display()))?;
    // The linker looks for the first name during the build. The loader looks for the second name
    // when bpf-linker is started.
    for name in [Path::new("libLLVM.so"), Path::new(&library)] {
        let link = lib.join(name);
        symlink(libraries.join(&library), &link)
            .with_context(|| format!("make {}", link.display()))?;
    }
    Ok(())
}

fn build_linker(private: &Private, llvm: u32) -> anyhow::Result<()> {
    if !LLVM.contains(&llvm) {
        bail!(
            "the compiler is built on LLVM {llvm}, and bpf-linker {BPF_LINKER_VERSION} supports \
             {} to {}: a newer bpf-linker is needed",
            LLVM.start(),
            LLVM.end()
        );
    }
    eprintln!(
        "setup: building bpf-linker {BPF_LINKER_VERSION} against LLVM {llvm} (a minute or two)"
    );
    let mut command = Command::new(context::cargo());
    command
        // The build runs outside the workspace, because the cargo configuration of the workspace
        // must not apply to other programs.
        .current_dir(private.dir())
        .args([
            "install",
            "--quiet",
            "--locked",
            "--version",
            BPF_LINKER_VERSION,
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .arg("--root")
        .arg(private.linker_root())
        .arg("bpf-linker")
        .env("LLVM_PREFIX", private.llvm())
        .env("CARGO_TARGET_DIR", private.dir().join("build"))
        // The debug information in bpf-linker's release profile is large, and is not needed.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    process::output(&mut command).map(drop)
}

/// Builds a small program. If the toolchain does not work, the setup fails here.
fn probe(private: &Private) -> anyhow::Result<()> {
    let source = private.dir().join("build/probe.rs");
    fs::create_dir_all(private.dir().join("build")).context("make the build directory")?;
    fs::write(&source, PROBE).with_context(|| format!("write {}", source.display()))?;
    process::output(
        Command::new(private.rustc())
            .env("LD_LIBRARY_PATH", private.library_path())
            .args([
                "--edition",
                "2024",
                "--target",
                TARGET,
                "-C",
                "panic=abort",
                "-C",
                "debuginfo=2",
            ])
            .args(["-C", "target-cpu=v3", "-C", "link-arg=--btf"])
            .arg("-C")
            .arg(format!("linker={}", private.linker().display()))
            .arg("-o")
            .arg(source.with_extension("o"))
            .arg(&source),
    )
    .context("the new toolchain cannot build a program")
    .map(drop)
}

/// Writes the marker of a complete toolchain. The file is written under another name and then
/// renamed, so that the marker is either complete or absent.
fn mark(private: &Private, packages: &[Package]) -> anyhow::Result<()> {
    let version = process::output(
        Command::new(private.rustc())
            .env("LD_LIBRARY_PATH", private.library_path())
            .arg("--version"),
    )?;
    let mut text = format!("{}\n{}\n", Private::marker_line(), version.trim());
    for package in packages {
        text.push_str(&package.pinned());
        text.push('\n');
    }
    let marker = private.marker();
    let draft = marker.with_extension("new");
    fs::write(&draft, text).with_context(|| format!("write {}", draft.display()))?;
    fs::rename(&draft, &marker).with_context(|| format!("write {}", marker.display()))
}
