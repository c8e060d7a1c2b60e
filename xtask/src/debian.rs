//! The private toolchain out of Debian's packages: resolve, download, unpack, build the linker.

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

/// Compilers with a `core` for BPF that Debian builds: rustc-web is the newer one that it keeps
/// beside its stable release's own.
const COMPILERS: [[&str; 2]; 2] = [
    ["rustc-web", "libstd-rust-web-dev-bpf"],
    ["rustc", "libstd-rust-dev-bpf"],
];

/// Clippy of the same release, for `cargo xtask lint`. Taken where apt has it.
const CLIPPY: [&str; 2] = ["rust-web-clippy", "rust-clippy"];

/// The LLVMs that this version of bpf-linker can be built against (its features `llvm-NN`).
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A program that has everything which building one needs: `core`, the linker, BTF.
const PROBE: &str = "#![no_std]\n#![no_main]\n\
    #[unsafe(no_mangle)]\n#[unsafe(link_section = \"classifier\")]\n\
    pub extern \"C\" fn probe(_: *const u8) -> i32 { 0 }\n\
    #[panic_handler]\nfn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }\n";

/// Whether this is a system of Debian's family, with apt and dpkg.
pub fn is_here() -> bool {
    ["apt-get", "dpkg", "dpkg-query"]
        .into_iter()
        .all(|program| find_program(program).is_some())
}

/// Fills the directory, and marks it complete at the very end.
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
        .context("the compiler's packages bring no libllvm: report this")?;
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

/// Does something with the system's package lists, or with lists of our own in `state` where those
/// are absent or too old to be downloaded from.
pub fn with_apt<T>(state: &Path, act: impl Fn(&Apt) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let system = Apt {
        private_state: None,
    };
    let system_error = match act(&system) {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    eprintln!(
        "setup: the system's package lists are absent or do not do, fetching some of our own"
    );
    let own = Apt {
        private_state: Some(state.to_owned()),
    };
    own.update()
        .and_then(|()| act(&own))
        .map_err(|own| anyhow!("{own:#}; before that, with the system's lists: {system_error:#}"))
}

/// apt-get, with the system's state or with one of our own.
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
            // Downloads go where we may write; apt's own user may not.
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

    /// Downloads what the compiler needs and the system lacks into `debs`.
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

    /// Downloads packages into a directory, which is there.
    pub fn download(&self, packages: &[Package], directory: &Path) -> anyhow::Result<()> {
        run(self
            .command()
            .current_dir(directory)
            .arg("download")
            .args(packages.iter().map(Package::pinned)))
        .map(drop)
    }

    /// What would be installed for these names if nothing were.
    pub fn simulate(&self, names: &[&str]) -> anyhow::Result<Vec<Package>> {
        let output = run(self
            .command()
            .args(["--simulate", "-o", "Dir::State::status=/dev/null"])
            .args(["install", "--no-install-recommends"])
            .args(names))?;
        Ok(resolve::simulated(&output))
    }

    /// Everything that the compiler depends on, as if nothing were installed: what is installed
    /// changes neither the answer nor, by a conflict, whether there is one.
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

/// Runs apt-get. Its first complaint is the error: the others mostly follow from it.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().context("cannot run apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let complaint = said.lines().find_map(|line| line.strip_prefix("E: "));
        bail!(
            "apt-get: {}",
            complaint.unwrap_or("it failed without saying why")
        );
    }
    String::from_utf8(output.stdout).context("read what apt-get printed")
}

/// The names of the packages that the system has.
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

/// bpf-linker asks for a prefix with `lib/libLLVM.so`. LLVM's development packages have one and
/// half a gigabyte besides; the shared library is all that is linked.
fn provide_llvm(private: &Private) -> anyhow::Result<()> {
    let libraries = private.libraries();
    let library = fs::read_dir(&libraries)
        .with_context(|| format!("read {}", libraries.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .find(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        .with_context(|| format!("{} holds no libLLVM.so", libraries.display()))?;
    let lib = private.llvm().join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("make {}", lib.display()))?;
    // Once under the name that the linking asks for, once under the one that running asks for.
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
            "the compiler is built on LLVM {llvm}, and bpf-linker {BPF_LINKER_VERSION} knows \
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
        // Outside the workspace, whose configuration is not meant for it.
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
        // Its release profile has full debug info, which nobody here looks at.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    process::output(&mut command).map(drop)
}

/// Builds a small program: what was put together works, or setup fails here and not later.
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

/// Writes the marker under another name first: it is there as a whole or not at all.
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
