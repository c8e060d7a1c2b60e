// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks that `unsafe` occurs only in the files of a list. A change that adds a file to the list
//! is visible to its reviewer.
//!
//! An attribute like `#[unsafe(no_mangle)]` does not count, because it only names a symbol.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::rust_source;

/// The files in which `unsafe` is allowed, grouped by the reason.
const TABLE: [Group; 6] = [
    Group {
        reason: "the interface of the kernel programs to the kernel, which hands out references",
        files: &[
            "limiter-ebpf/src/kernel/atomic.rs",
            "limiter-ebpf/src/kernel/bytes.rs",
            "limiter-ebpf/src/kernel/clock.rs",
            "limiter-ebpf/src/kernel/fingerprint.rs",
            "limiter-ebpf/src/kernel/flow.rs",
            "limiter-ebpf/src/kernel/global.rs",
            "limiter-ebpf/src/kernel/linear.rs",
            "limiter-ebpf/src/kernel/maps.rs",
            "limiter-ebpf/src/kernel/plain.rs",
            "limiter-ebpf/src/kernel/repeat.rs",
            "limiter-ebpf/src/kernel/scanner.rs",
            "limiter-ebpf/src/kernel/shared.rs",
            "limiter-ebpf/src/kernel/skb.rs",
            "limiter-ebpf/src/kernel/verifier.rs",
            "limiter-ebpf/src/kernel/visit.rs",
        ],
    },
    Group {
        reason: "the scanner works in a buffer that the kernel program owns",
        files: &[
            "limiter-common/src/http/field.rs",
            "limiter-common/src/http/line.rs",
            "limiter-common/src/http/message.rs",
            "limiter-common/src/http/segment.rs",
            "limiter-common/src/http/state.rs",
            "limiter-common/src/http/stream.rs",
            "limiter-common/src/http/value.rs",
            "limiter-common/src/http/word.rs",
        ],
    },
    Group {
        reason: "the daemon: maps, system calls that no crate wraps, and memory that is wiped",
        files: &[
            "limiter-daemon/src/api/peer.rs",
            "limiter-daemon/src/engine/publish/clock.rs",
            "limiter-daemon/src/engine/publish/interfaces.rs",
            "limiter-daemon/src/kernel/events.rs",
            "limiter-daemon/src/kernel/limits.rs",
            "limiter-daemon/src/kernel/maps.rs",
            "limiter-daemon/src/kernel/stand_in.rs",
            "limiter-daemon/src/kernel/sys.rs",
            "limiter-daemon/src/kernel/words.rs",
            "limiter-daemon/src/wipe.rs",
        ],
    },
    Group {
        reason: "the lab: maps, and system calls that no crate wraps",
        files: &[
            "tests/src/conn.rs",
            "tests/src/disorder.rs",
            "tests/src/neighbour.rs",
            "tests/src/program/bpffs.rs",
            "tests/src/program/link.rs",
            "tests/src/program/maps.rs",
            "tests/src/program/pinned.rs",
            "tests/src/program/programs.rs",
            "tests/src/program/test_run.rs",
            "tests/src/raw/link.rs",
            "tests/src/wire.rs",
            "tests/tests/evasion/links.rs",
        ],
    },
    Group {
        reason: "drivers of the scanner, in place of the kernel program",
        files: &[
            "limiter-common/tests/http/drive.rs",
            "tests/counted/src/main.rs",
        ],
    },
    Group {
        reason: "the kernel program that disturbs the traffic of tests",
        files: &["tests/disorder/src/main.rs"],
    },
];

struct Group {
    reason: &'static str,
    files: &'static [&'static str],
}

/// Compares the list with the sources. The key of a source is its path relative to the root of the
/// repository.
///
/// # Errors
/// Returns an error that names the files with `unsafe` that are not in the list, and the files in
/// the list that have no `unsafe`.
pub fn check(sources: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let allowed = TABLE
        .iter()
        .flat_map(|group| group.files.iter().map(|file| (*file, group.reason)));
    let faults = faults(&allowed.collect(), sources);
    ensure!(
        faults.is_empty(),
        "the files in which `unsafe` may stand are those of TABLE in xtask/src/unsafety.rs:\n{}",
        faults.join("\n")
    );
    Ok(())
}

fn faults(allowed: &BTreeMap<&str, &str>, sources: &BTreeMap<String, String>) -> Vec<String> {
    let found: BTreeMap<&str, usize> = sources
        .iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .filter_map(|(name, text)| Some((name.as_str(), first_unsafe(text)?)))
        .collect();
    let new = found
        .iter()
        .filter(|(name, _)| !allowed.contains_key(*name))
        .map(|(name, line)| {
            format!("{name}:{line}: `unsafe` in a file that is not in the table: do without it")
        });
    let stale = allowed
        .iter()
        .filter(|(name, _)| !found.contains_key(*name))
        .map(|(name, reason)| {
            format!("{name}: it has no `unsafe`: remove it from the table ({reason})")
        });
    new.chain(stale).collect()
}

/// Returns the number of the first line, counted from 1, on which `unsafe` occurs in code.
fn first_unsafe(text: &str) -> Option<usize> {
    const WORD: &str = "unsafe";
    let code = rust_source::code(text);
    let is_part = |letter: char| letter == '_' || letter.is_alphanumeric();
    let (at, _) = code.match_indices(WORD).find(|(at, _)| {
        let after = &code[at + WORD.len()..];
        let is_word = !code[..*at].ends_with(is_part) && !after.starts_with(is_part);
        let is_attribute = after.trim_start().starts_with('(');
        is_word && !is_attribute
    })?;
    Some(code[..at].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn unsafe_is_found_in_code_only() {
        for (text, line) in [
            ("fn f() {\n    unsafe { g() }\n}\n", 2),
            ("unsafe fn f() {}\n", 1),
            ("unsafe impl Sync for A {}\n", 1),
            ("unsafe extern \"C\" {}\n", 1),
        ] {
            assert_eq!(first_unsafe(text), Some(line), "{text}");
        }
        for text in [
            "// unsafe { g() }\n",
            "const A: &str = \"unsafe { g() }\";\n",
            "#[unsafe(no_mangle)]\nfn f() {}\n",
            "#![deny(unsafe_op_in_unsafe_fn)]\n",
            "",
        ] {
            assert_eq!(first_unsafe(text), None, "{text}");
        }
    }

    #[test]
    fn a_new_file_and_a_stale_one_are_named() {
        let sources = [
            ("a.rs", "unsafe fn f() {}"),
            ("b.rs", "\nunsafe fn f() {}"),
            ("c.rs", "fn f() {}"),
            ("d.md", "unsafe fn f() {}"),
        ];
        let sources = sources
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into();
        let faults = faults(
            &["a.rs", "c.rs", "gone.rs"].map(|name| (name, "why")).into(),
            &sources,
        );
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("b.rs:2: "));
        assert!(faults[1].starts_with("c.rs: "));
        assert!(faults[2].starts_with("gone.rs: "));
    }

    #[test]
    fn a_file_stands_in_the_table_once_and_each_group_has_a_reason() {
        let files: Vec<&str> = TABLE
            .iter()
            .flat_map(|group| group.files)
            .copied()
            .collect();
        let once: BTreeSet<&str> = files.iter().copied().collect();
        assert_eq!(files.len(), once.len());
        assert!(TABLE.iter().all(|group| !group.reason.is_empty()));
    }
}
