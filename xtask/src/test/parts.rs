// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parts that `cargo xtask test NAME...` can run, and the search for parts by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, bail};

/// Crates whose tests need neither root nor the network.
pub const UNIT_CRATES: [&str; 6] = [
    "limiter-common",
    "limiter-daemon",
    "limiter-fleet",
    "limiter-simulation",
    "limiter-toolchain",
    "xtask",
];

/// The library that the integration tests share. It also has unit tests.
pub const LIBRARY: &str = "limiter-tests";

/// The test program that runs only in emulated machines. On the command line, this name selects all
/// plans, including those that run other test programs in emulated machines.
pub const MACHINES: &str = "vm";

/// The folder of the integration tests. Each folder in it is a test program.
const PROGRAMS: &str = "tests/tests";

pub const SEPARATOR: &str = "::";

/// A part of the tests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The unit tests of a crate.
    Unit(&'static str),
    /// The tests of a program of `tests/tests`. If there is a `module`, the part consists only of
    /// the tests whose paths begin with `module`.
    Integration {
        program: String,
        module: Option<String>,
    },
    /// A plan of the emulated machines, or all plans for `None`.
    Machine(Option<&'static str>),
}

/// The kinds of parts that may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    pub unit: bool,
    pub integration: bool,
    pub machines: bool,
}

/// All parts that can be named.
#[derive(Debug)]
pub struct Parts {
    /// The programs with their modules.
    programs: BTreeMap<String, BTreeSet<String>>,
    /// The plans of the machines.
    plans: Vec<&'static str>,
}

impl Parts {
    /// Reads the names of the test programs and of their modules from the folders of the workspace
    /// `root`.
    ///
    /// # Errors
    /// Returns an error if a folder or a file cannot be read.
    pub fn read(root: &Path, plans: Vec<&'static str>) -> anyhow::Result<Self> {
        let mut programs = BTreeMap::new();
        for (program, folder) in entries(&root.join(PROGRAMS))? {
            if program == MACHINES || !folder.join("main.rs").exists() {
                continue;
            }
            let mut modules = BTreeSet::new();
            for (module, path) in entries(&folder)? {
                if module != "main" && has_tests(&path)? {
                    modules.insert(module);
                }
            }
            programs.insert(program, modules);
        }
        Ok(Self { programs, plans })
    }

    /// Returns the parts of the kinds `kinds` that have the name `name`. A name is the name of a
    /// crate or of a program, or has the form `PROGRAM::MODULE` or `vm::PLAN`. The name of a module
    /// or of a plan, without the part before `::`, stands for all modules and plans that have this
    /// name. A module may be followed by the first letters of the names of its tests, as in
    /// `quota::a_day`.
    ///
    /// # Errors
    /// Returns an error if there is no such part. The message lists all parts, and suggests the
    /// name that is most similar to `name`.
    pub fn find(&self, name: &str, kinds: Kinds) -> anyhow::Result<Vec<Part>> {
        let known = self.names(kinds);
        if let Some(part) = known.get(name) {
            return Ok(vec![part.clone()]);
        }
        let of_module: Vec<Part> = known
            .iter()
            .filter_map(|(path, part)| {
                let (_, short) = path.split_once(SEPARATOR)?;
                [path, short]
                    .into_iter()
                    .find_map(|known| name.strip_prefix(known))
                    .and_then(|rest| part.narrow(rest))
            })
            .collect();
        if of_module.is_empty() {
            bail!(self.unknown(name, &known));
        }
        Ok(of_module)
    }

    /// Returns all parts by their full names.
    fn names(&self, kinds: Kinds) -> BTreeMap<String, Part> {
        let mut names = BTreeMap::new();
        if kinds.machines {
            for plan in &self.plans {
                names.insert(
                    format!("{MACHINES}{SEPARATOR}{plan}"),
                    Part::Machine(Some(plan)),
                );
                // A program may have the same name as a plan. Therefore the short name of a plan is
                // added only if no programs run.
                if !kinds.integration {
                    names.insert((*plan).to_owned(), Part::Machine(Some(plan)));
                }
            }
            names.insert(MACHINES.to_owned(), Part::Machine(None));
        }
        if kinds.integration {
            let library = Part::Integration {
                program: LIBRARY.to_owned(),
                module: None,
            };
            names.insert(LIBRARY.to_owned(), library);
            for (program, modules) in &self.programs {
                let part = |module: Option<&String>| Part::Integration {
                    program: program.clone(),
                    module: module.cloned(),
                };
                names.insert(program.clone(), part(None));
                for module in modules {
                    names.insert(format!("{program}{SEPARATOR}{module}"), part(Some(module)));
                }
            }
        }
        if kinds.unit {
            names.extend(UNIT_CRATES.map(|name| (name.to_owned(), Part::Unit(name))));
        }
        names
    }

    /// Returns the error message for a name that belongs to no part.
    fn unknown(&self, name: &str, known: &BTreeMap<String, Part>) -> String {
        let mut text = format!("the tests have no part {name:?}");
        let names = known.keys().flat_map(|path| {
            let short = path.split_once(SEPARATOR).map(|(_, short)| short);
            [Some(path.as_str()), short].into_iter().flatten()
        });
        if let Some(nearest) = nearest(name, names) {
            write!(text, "; did you mean {nearest:?}?").expect("writing to a string cannot fail");
        }
        text.push_str("\nthe parts are:");
        let mut line = |name: &str, modules: Vec<&str>| {
            write!(text, "\n  {name}").expect("writing to a string cannot fail");
            if !modules.is_empty() {
                write!(text, " with {}", modules.join(", "))
                    .expect("writing to a string cannot fail");
            }
        };
        for (name, part) in known {
            match part {
                Part::Unit(_) => line(name, Vec::new()),
                Part::Integration { module: None, .. } => {
                    let modules = self.programs.get(name).into_iter().flatten();
                    line(name, modules.map(String::as_str).collect());
                }
                Part::Machine(None) => line(name, self.plans.clone()),
                Part::Integration { .. } | Part::Machine(Some(_)) => {}
            }
        }
        text
    }
}

impl Part {
    /// Returns this part, narrowed to the tests that `rest` selects. `rest` is the text that
    /// follows the name of this part on the command line. Returns `None` if `rest` is not valid
    /// after this name.
    fn narrow(&self, rest: &str) -> Option<Self> {
        let mut part = self.clone();
        if !rest.is_empty() {
            let tests = rest.strip_prefix(SEPARATOR)?;
            let Self::Integration {
                module: Some(module),
                ..
            } = &mut part
            else {
                return None;
            };
            module.push_str(SEPARATOR);
            module.push_str(tests);
        }
        Some(part)
    }
}

/// Returns the Rust sources and the folders in a folder, each with its name without the extension.
fn entries(folder: &Path) -> anyhow::Result<Vec<(String, std::path::PathBuf)>> {
    let shown = folder.display();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {shown}"))? {
        let path = entry.with_context(|| format!("read {shown}"))?.path();
        let is_source = path.extension().is_some_and(|ending| ending == "rs");
        if let (true, Some(name)) = (is_source || path.is_dir(), path.file_stem()) {
            found.push((name.to_string_lossy().into_owned(), path));
        }
    }
    Ok(found)
}

/// Returns whether a source file, or any source file in a folder, contains a test.
fn has_tests(path: &Path) -> anyhow::Result<bool> {
    if path.is_dir() {
        for (_, path) in entries(path)? {
            if has_tests(&path)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.contains("#[test]"))
}

/// Returns the most similar name (see [`distance`]). Returns `None` if the distance is more than a
/// third of the length of `name`.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = name.len().div_ceil(3);
    names
        .map(|known| (distance(name, known), known))
        .filter(|(changes, _)| *changes <= most)
        .min()
        .map(|(_, known)| known)
}

/// Returns the minimum number of letters that have to be inserted, removed or replaced to get from
/// one name to the other (the Levenshtein distance).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (number, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = number + 1;
        for (at, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Kinds = Kinds {
        unit: true,
        integration: true,
        machines: true,
    };

    fn parts() -> Parts {
        let modules = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let programs = [
            ("counts", modules(&["quota", "unknown_keys"])),
            ("program", modules(&["responses", "limits"])),
            ("traffic", modules(&["responses", "streams"])),
        ];
        Parts {
            programs: programs
                .map(|(name, modules)| (name.to_owned(), modules))
                .into(),
            plans: vec!["memory", "traffic"],
        }
    }

    fn integration(program: &str, module: Option<&str>) -> Part {
        Part::Integration {
            program: program.to_owned(),
            module: module.map(str::to_owned),
        }
    }

    #[test]
    fn crates_programs_modules_and_plans_are_found() {
        for (name, expected) in [
            ("limiter-common", Part::Unit("limiter-common")),
            ("traffic", integration("traffic", None)),
            ("quota", integration("counts", Some("quota"))),
            ("counts::quota", integration("counts", Some("quota"))),
            ("vm", Part::Machine(None)),
            ("memory", Part::Machine(Some("memory"))),
            ("vm::traffic", Part::Machine(Some("traffic"))),
            ("quota::a_day", integration("counts", Some("quota::a_day"))),
            (
                "counts::quota::a_day",
                integration("counts", Some("quota::a_day")),
            ),
        ] {
            assert_eq!(parts().find(name, ALL).unwrap(), [expected], "{name}");
        }
    }

    #[test]
    fn a_module_of_several_programs_is_run_in_each() {
        let both = ["program", "traffic"].map(|program| integration(program, Some("responses")));
        assert_eq!(parts().find("responses", ALL).unwrap(), both);
        let one = parts().find("program::responses", ALL).unwrap();
        assert_eq!(one, both[..1]);
    }

    #[test]
    fn parts_of_other_kinds_are_not_found() {
        let machines = Kinds {
            unit: false,
            integration: false,
            machines: true,
        };
        let found = parts().find("traffic", machines).unwrap();
        assert_eq!(found, [Part::Machine(Some("traffic"))]);
        for other in ["quota", "xtask"] {
            assert!(parts().find(other, machines).is_err(), "{other}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_all_and_suggests_the_nearest() {
        for (name, suggested) in [
            ("quotta", "\"quota\""),
            ("trafic", "\"traffic\""),
            ("program::limit", "\"program::limits\""),
            ("limiter-demon", "\"limiter-daemon\""),
            ("memori", "\"memory\""),
        ] {
            let text = parts().find(name, ALL).unwrap_err().to_string();
            assert!(text.contains(&format!("mean {suggested}?")), "{text}");
        }
        let text = parts().find("something-else", ALL).unwrap_err().to_string();
        assert!(!text.contains("mean"), "{text}");
        for line in [
            "\n  counts with quota, unknown_keys\n",
            "\n  limiter-common\n",
            "\n  vm with memory, traffic",
        ] {
            assert!(text.contains(line), "{text}");
        }
        // None of these names belongs to a part: the name of a module cannot be abbreviated, and
        // single tests can be named only after a module.
        for name in ["quo", "quota:a", "xtask::test", "vm::memory::x", ""] {
            assert!(parts().find(name, ALL).is_err(), "{name}");
        }
    }

    #[test]
    fn the_programs_of_this_workspace_are_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let parts = Parts::read(&root, Vec::new()).unwrap();
        assert_eq!(
            parts.find("evasion::bodies", ALL).unwrap(),
            [integration("evasion", Some("bodies"))]
        );
        assert!(
            parts.find("support", ALL).is_err(),
            "there are no tests in it"
        );
        // The harness looks for a filter at any position in a path. The filter `keys::`, for
        // example, would also find tests in `unknown_keys::`. Therefore the name of a module must
        // not end with the name of another module of its program.
        for (program, modules) in &parts.programs {
            for one in modules {
                let longer = |other: &&String| *other != one && other.ends_with(one.as_str());
                let found = modules.iter().find(longer);
                assert_eq!(found, None, "{program}::{one} cannot be run alone");
            }
        }
    }
}
