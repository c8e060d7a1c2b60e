// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks the imports between the top-level modules of a crate. The modules are assigned to layers,
//! and a module may import only from modules in lower layers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use crate::rust_source;

/// A crate whose top-level modules are assigned to layers.
struct LayeredCrate {
    /// The `src` folder of the crate.
    source: &'static str,
    /// The modules in each layer, from the top layer to the bottom. A module is a folder or a file
    /// in `source`. Modules in the same layer may not import from each other.
    layers: &'static [&'static [&'static str]],
}

const CRATES: [LayeredCrate; 2] = [
    LayeredCrate {
        source: "limiter-daemon/src",
        layers: &[
            &["main", "fuzzing"],
            &["cli"],
            &["run"],
            &["api", "metrics"],
            &["engine"],
            &["protocol"],
            &["kernel", "store"],
            &["config", "documents", "logging"],
            &["secret"],
            &["domain"],
            &["http"],
            &["files", "suggest", "wipe"],
        ],
    },
    LayeredCrate {
        source: "limiter-ebpf/src",
        layers: &[
            &["main"],
            &["jobs"],
            &["ingress", "egress"],
            &["open", "requests"],
            &["refuse"],
            &["decide"],
            &["follow"],
            &["identify"],
            &["packet"],
            &["kernel"],
        ],
    },
];

/// Checks that all imports lead to lower layers. The key of a source is its path relative to the
/// root of the repository.
///
/// # Errors
/// Returns an error that lists all imports that do not lead to a lower layer, and all files that
/// belong to no module.
pub fn check(sources: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    for krate in &CRATES {
        let mut is_empty = true;
        for (name, text) in sources {
            let Some(inside) = krate.inside(name) else {
                continue;
            };
            is_empty = false;
            if !is_test(inside) {
                let found = krate.faults(module_of(inside), text);
                faults.extend(found.iter().map(|fault| format!("{name}: {fault}")));
            }
        }
        ensure!(!is_empty, "{} has no sources", krate.source);
    }
    ensure!(
        faults.is_empty(),
        "imports go down, from a module to those in lower layers (CRATES in xtask/src/layers.rs):\n{}",
        faults.join("\n")
    );
    Ok(())
}

impl LayeredCrate {
    /// Returns the path of a Rust file relative to `source`, or `None` for any other file.
    fn inside<'a>(&self, name: &'a str) -> Option<&'a str> {
        let inside = name.strip_prefix(self.source)?.strip_prefix('/')?;
        inside.ends_with(".rs").then_some(inside)
    }

    fn layer(&self, module: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.contains(&module))
    }

    /// Returns the faults of a file in `module`: the imports that do not lead to a lower layer.
    fn faults(&self, module: &str, text: &str) -> Vec<String> {
        // The root of a crate only declares its modules, so its imports are not checked.
        if module == "lib" {
            return Vec::new();
        }
        let Some(own) = self.layer(module) else {
            return vec![format!("`{module}` is not a module of {}", self.source)];
        };
        let mut faults = Vec::new();
        for other in imported(without_tests(text)) {
            match self.layer(&other) {
                Some(layer) if layer > own || other == module => {}
                Some(_) => faults.push(format!(
                    "`{module}` imports from `{other}`, which is not in a lower layer"
                )),
                // The name is an item of the crate's root, not a module.
                None => {}
            }
        }
        faults
    }
}

/// Returns whether a file contains only tests, which may import anything. `inside` is its path
/// relative to `src`. `openapi` counts as a test, because it is compiled only for tests.
fn is_test(inside: &str) -> bool {
    inside
        .split('/')
        .any(|part| ["tests", "tests.rs", "openapi", "openapi.rs"].contains(&part))
}

/// Returns the module of a file, given by its path relative to `src`.
fn module_of(inside: &str) -> &str {
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Returns the part of the file before its tests, which may import anything.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or(text)
}

/// Returns the names that follow `crate::` in the code of `text`, in paths and in imports, with or
/// without braces.
fn imported(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let code = rust_source::code(text);
    for (at, _) in code.match_indices("crate::") {
        // `$crate` and names that end with `crate` do not refer to the root of this crate.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|before| before == '$' || before == '_' || before.is_alphanumeric()) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => names.extend(name_at(rest)),
            Some(inner) => names.extend(names_in_braces(inner)),
        }
    }
    names
}

/// Returns the identifier with which a text begins.
fn name_at(text: &str) -> Option<String> {
    let is_part = |letter: char| letter == '_' || letter.is_alphanumeric();
    let name: String = text.chars().take_while(|&letter| is_part(letter)).collect();
    (!name.is_empty()).then_some(name)
}

/// Returns the first name of each path in braces. `text` begins after the opening brace.
fn names_in_braces(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0u32;
    let mut is_first = true;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_first = true,
            _ if is_first && !letter.is_whitespace() => {
                names.extend(name_at(&text[at..]));
                is_first = false;
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_that_go_up_or_aside_are_found() {
        let krate = &CRATES[0];
        let text = "use crate::{\n    domain::{key, scope},\n    engine::Engine,\n    api,\n};\n\
            // crate::cli is only named here\nfn f() { crate::run::run(); }\n\
            #[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
        let faults = krate.faults("api", text);
        assert_eq!(
            faults,
            ["`api` imports from `run`, which is not in a lower layer"]
        );
        let faults = krate.faults("store", "use crate::kernel::Kernel;");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(krate.faults("attic", "").len(), 1);
        assert_eq!(
            krate.faults("run", "use crate::{api, metrics, engine};"),
            [""; 0]
        );
    }

    #[test]
    fn a_file_is_in_the_module_that_its_path_begins_with() {
        assert_eq!(module_of("engine/keys/import.rs"), "engine");
        assert_eq!(module_of("http.rs"), "http");
    }

    #[test]
    fn names_are_found_in_every_form_of_import() {
        let names = imported("use crate::{a::{b, c}, d, e::*};\nuse crate::f;\nlet _ = $crate::g;");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "d", "e", "f"]);
    }

    #[test]
    fn the_check_fails_at_an_import_that_goes_up_and_not_in_tests() {
        let sources = |daemon: &str, tests: &str| {
            [
                ("limiter-daemon/src/store/mod.rs", daemon),
                ("limiter-daemon/src/store/tests.rs", tests),
                ("limiter-ebpf/src/kernel/maps.rs", ""),
            ]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into()
        };
        let (down, up) = ("use crate::domain::key;", "use crate::api::routes;");
        check(&sources(down, up)).unwrap();
        let error = check(&sources(up, down)).unwrap_err().to_string();
        assert!(error.contains("limiter-daemon/src/store/mod.rs"), "{error}");
        check(&BTreeMap::new()).unwrap_err();
    }
}
