// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks the form of each source file. The first line must name the licence, no line may be too
//! long, and no comment may name a file that does not exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{columns, mentions, process};

/// The file name endings of the files that must name their licence, each with the characters that
/// begin a comment in such a file.
const COMMENTS: [(&str, &str); 4] = [(".rs", "//"), (".lua", "--"), (".sh", "#"), (".py", "#")];

const USER_SPACE: &str = "MIT OR Apache-2.0";
const KERNEL: &str = "GPL-2.0-only OR MIT";
/// The folders of kernel programs, which have a different licence.
const KERNEL_DIRECTORIES: [&str; 2] = ["limiter-ebpf/", "tests/disorder/"];

/// Returns the text of each source file and document that git tracks. The key is its path relative
/// to the root of the repository.
pub fn read(root: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let patterns = COMMENTS.map(|(end, _)| format!("*{end}"));
    let listed = process::output(
        Command::new("git")
            .current_dir(root)
            .args(["ls-files", "-z", "--"])
            .args(patterns)
            .arg("*.md"),
    )
    .context("list the source files, for which the lint needs git and a checkout")?;
    listed
        .split_terminator('\0')
        // git also lists a file that has been deleted, until the deletion is staged.
        .filter(|name| root.join(name).exists())
        .map(|name| {
            let path = root.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok((name.to_owned(), text))
        })
        .collect()
}

/// Checks all files.
///
/// # Errors
/// Returns an error that lists all faults of all files.
pub fn check(sources: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let names: BTreeSet<&str> = sources.keys().map(String::as_str).collect();
    for (name, text) in sources {
        wrong.extend(faults(name, text));
        let unknown = mentions::unknown(name, text, &names).into_iter();
        wrong.extend(
            unknown.map(|(line, other)| format!("{name}:{line}: there is no file `{other}`")),
        );
    }
    ensure!(wrong.is_empty(), "in the sources:\n{}", wrong.join("\n"));
    Ok(())
}

/// Returns the faults of a file, each with its line.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut faults: Vec<String> = licence_fault(name, text).into_iter().collect();
    if name.ends_with(".rs") {
        let long = columns::too_long(text).into_iter();
        faults.extend(long.map(|line| {
            format!(
                "{name}:{line}: the line is longer than {} columns: break it",
                columns::MAX
            )
        }));
    }
    faults
}

/// Returns a fault if the file does not name the right licence in its first line or, after a line
/// with `#!`, in its second line.
fn licence_fault(name: &str, text: &str) -> Option<String> {
    let wanted = licence_line(name)?;
    let is_script = text.starts_with("#!") && !text.starts_with("#![");
    let index = usize::from(is_script);
    let found = text.lines().nth(index).unwrap_or_default();
    (found != wanted).then(|| {
        format!(
            "{name}:{}: the licence is missing: this line has to be `{wanted}`",
            index + 1
        )
    })
}

/// Returns the line that names the licence of a file, or `None` if the file needs no such line.
fn licence_line(name: &str) -> Option<String> {
    let (_, comment) = COMMENTS.iter().find(|(end, _)| name.ends_with(end))?;
    let is_kernel = KERNEL_DIRECTORIES
        .iter()
        .any(|directory| name.starts_with(directory));
    let licence = if is_kernel { KERNEL } else { USER_SPACE };
    Some(format!("{comment} SPDX-License-Identifier: {licence}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_its_licence_at_its_head_is_fine() {
        for (name, text) in [
            (
                "a/b.rs",
                "// SPDX-License-Identifier: MIT OR Apache-2.0\n\n//! B.\n",
            ),
            (
                "limiter-ebpf/src/a.rs",
                "// SPDX-License-Identifier: GPL-2.0-only OR MIT\n",
            ),
            (
                "tests/disorder/src/a.rs",
                "// SPDX-License-Identifier: GPL-2.0-only OR MIT\n",
            ),
            (
                "a.sh",
                "#!/bin/sh\n# SPDX-License-Identifier: MIT OR Apache-2.0\nset -e\n",
            ),
            ("a.py", "# SPDX-License-Identifier: MIT OR Apache-2.0\n"),
            ("a.toml", "[a]\n"),
        ] {
            assert_eq!(faults(name, text), [""; 0], "{name}");
        }
    }

    #[test]
    fn a_file_without_its_licence_is_named_with_the_line_that_is_missing() {
        for (name, text, line, wanted) in [
            (
                "a.rs",
                "",
                1,
                "// SPDX-License-Identifier: MIT OR Apache-2.0",
            ),
            (
                "a.rs",
                "#![no_std]\n",
                1,
                "// SPDX-License-Identifier: MIT OR Apache-2.0",
            ),
            (
                "a.rs",
                "\n// SPDX-License-Identifier: MIT OR Apache-2.0\n",
                1,
                "// SPDX-License-Identifier: MIT OR Apache-2.0",
            ),
            (
                "a.sh",
                "#!/bin/sh\n",
                2,
                "# SPDX-License-Identifier: MIT OR Apache-2.0",
            ),
            (
                "limiter-ebpf/src/a.rs",
                "// SPDX-License-Identifier: MIT OR Apache-2.0\n",
                1,
                "// SPDX-License-Identifier: GPL-2.0-only OR MIT",
            ),
        ] {
            let expected =
                format!("{name}:{line}: the licence is missing: this line has to be `{wanted}`");
            assert_eq!(faults(name, text), [expected]);
        }
    }

    #[test]
    fn a_long_line_is_named() {
        let head = "// SPDX-License-Identifier: MIT OR Apache-2.0\n";
        let text = format!("{head}\n// {}\n", "x".repeat(columns::MAX));
        assert_eq!(
            faults("a.rs", &text),
            ["a.rs:3: the line is longer than 100 columns: break it"]
        );
    }
}
