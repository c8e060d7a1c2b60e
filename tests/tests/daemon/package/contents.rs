// SPDX-License-Identifier: MIT OR Apache-2.0

//! The files of the package, and the binaries.

use std::{env, fs, path::PathBuf, process::Command};

use limiter_tests::{
    Lab,
    limiter::{Output, binary},
    process, skip,
};

use super::{UNIT, boot, install, package};

#[test]
fn packaged_files_are_valid() {
    let lab = Lab::veth();
    let machine = boot(&lab);
    install(&machine, &package());

    // `systemd-analyze verify` checks that the binary and the manual pages that the unit names
    // exist.
    let verified = machine.run(&["systemd-analyze", "verify", UNIT]);
    assert_eq!(
        (verified.code, verified.stderr.as_str()),
        (0, ""),
        "{verified:?}"
    );
    // `--threshold` expects ten times the exposure level, so 25 stands for a level of 2.5.
    machine.done(&[
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=25",
        UNIT,
    ]);

    // The guide is installed with its index, and each link in its pages leads to an installed file.
    let guide = machine.file("/usr/share/doc/limiter");
    let index = fs::read_to_string(guide.join("README.md")).expect("the index of the guide");
    assert!(index.starts_with("# The operators' guide\n"), "{index}");
    for page in fs::read_dir(&guide).expect("the guide").flatten() {
        if page.path().extension().is_none_or(|end| end != "md") {
            continue;
        }
        let text = fs::read_to_string(page.path()).expect("a page");
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap_or_default();
            if !link.is_empty() && !link.contains(':') {
                assert!(guide.join(link).exists(), "{link} in {page:?}");
            }
        }
    }

    for (page, words) in [
        ("limiter", "limiter-run(1)"),
        ("limiter-run", "--detach-on-exit"),
    ] {
        let shown = machine.run(&["man", "--warnings", page]);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{shown:?}");
        assert!(shown.stdout.contains(words), "{shown:?}");
    }

    let bash = ". /usr/share/bash-completion/bash_completion
        _completion_loader limiter
        COMP_WORDS=(limiter sco) COMP_CWORD=1
        $(complete -p limiter | grep -oE -- '-F [^ ]+' | cut -c4-) limiter sco limiter
        echo \"${COMPREPLY[@]}\"";
    let zsh =
        "autoload -Uz compinit && compinit -u && print $_comps[limiter] && autoload +X _limiter";
    for (words, wanted) in [
        (["bash", "-c", bash], "scope"),
        (["zsh", "-fc", zsh], "_limiter"),
        (
            ["fish", "-c", "complete --do-complete 'limiter sco'"],
            "scope",
        ),
    ] {
        let Output {
            code,
            stdout,
            stderr,
        } = machine.run(&words);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        assert!(
            stdout.split_whitespace().next() == Some(wanted),
            "{words:?}: {stdout}"
        );
    }
}

#[test]
fn lintian_finds_no_error() {
    let output = process::output(
        Command::new("lintian")
            .args(["--fail-on", "error", "--allow-root"])
            .arg(package()),
    );
    let output = Output::from(output);
    assert_eq!(output.code, 0, "{output:?}");
}

/// Without the package, operators install the binary as the build leaves it, so the build has to
/// strip the binary.
#[test]
fn the_binary_that_is_built_is_stripped() {
    let sections = process::succeed(
        Command::new("readelf")
            .args(["--sections", "--wide"])
            .arg(binary()),
    );
    assert!(sections.contains(" .text "), "{sections}");
    for section in [" .debug_", " .symtab "] {
        assert!(!sections.contains(section), "{section} in {sections}");
    }
}

/// The binary loads no library, so it also runs on a host with another C library or without one.
#[test]
fn the_static_binary_needs_no_library() {
    let Some(binary) = env::var_os("LIMITER_STATIC").map(PathBuf::from) else {
        skip(
            "the_static_binary_needs_no_library",
            "it takes minutes to build, which `cargo xtask test --long` does",
        );
        return;
    };
    let headers = process::succeed(
        Command::new("readelf")
            .args(["--program-headers", "--dynamic"])
            .arg(&binary),
    );
    assert!(headers.contains("LOAD"), "{headers}");
    for needed in ["INTERP", "NEEDED"] {
        assert!(!headers.contains(needed), "{headers}");
    }
    let lab = Lab::loopback();
    let root = lab.file("root");
    fs::create_dir(&root).expect("an empty root");
    fs::copy(&binary, root.join("limiter")).expect("a copy");
    let run = |words: &[&str]| {
        Output::from(process::output(
            Command::new("chroot")
                .arg(&root)
                .arg("/limiter")
                .args(words),
        ))
    };
    let version = run(&["--version"]);
    assert_eq!(version.code, 0, "{version:?}");
    assert!(version.stdout.starts_with("limiter "), "{version:?}");
}
