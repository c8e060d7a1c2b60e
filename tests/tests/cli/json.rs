// SPDX-License-Identifier: MIT OR Apache-2.0

//! The `--json` output of each documented command conforms to its schema in `docs/schemas`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use jsonschema::Validator;
use limiter_tests::{Limiter, eventually, process::Process};
use serde_json::Value;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the table in `docs/API.md` that maps each command to the file with the schema of its
/// output.
fn documented() -> BTreeMap<String, String> {
    let text = read(&docs().join("API.md"));
    let mut table = BTreeMap::new();
    for row in text.lines() {
        let Some((commands, link)) = row.split_once("](schemas/") else {
            continue;
        };
        let (file, _) = link.split_once(')').expect("a link ends");
        for command in commands
            .split('`')
            .filter(|text| text.starts_with("limiter "))
        {
            table.insert(command.to_owned(), file.to_owned());
        }
    }
    table
}

fn validator(file: &str) -> Validator {
    let schema: Value = serde_json::from_str(&read(&docs().join("schemas").join(file)))
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A daemon, the commands in `docs/API.md` with their schema files, and the commands that the test
/// has already run.
struct Trial {
    limiter: Limiter,
    documented: BTreeMap<String, String>,
    tried: BTreeSet<String>,
}

impl Trial {
    /// Runs a command with `--json`, and asserts that its output conforms to the schema of the
    /// documented command `named`. Returns the output.
    fn run(&mut self, named: &str, arguments: &[&str], input: &str) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        let printed = self.limiter.cli_with_input(&arguments, input).json();
        self.assert_is_as_documented(named, &printed);
        printed
    }

    /// Starts a command that does not end by itself, and asserts that the first object of its
    /// output conforms to the schema of the documented command `named`.
    fn begin(&mut self, named: &str, arguments: &[&str], file: &Path) {
        let mut command = self.limiter.command(arguments);
        command.arg("--json");
        let _goes_on = Process::start(named, &mut command, file);
        eventually("a line", || read(file).contains('\n'));
        let printed = read(file);
        let line = printed.lines().next().expect("a line");
        let printed = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.assert_is_as_documented(named, &printed);
    }

    fn assert_is_as_documented(&mut self, named: &str, printed: &Value) {
        let file = self.documented.get(named);
        let file = file.unwrap_or_else(|| panic!("`{named}` is not in docs/API.md"));
        let errors: Vec<String> = validator(file)
            .iter_errors(printed)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            errors.is_empty(),
            "{named}, {file}: {errors:?} in {printed}"
        );
        self.tried.insert(named.to_owned());
    }
}

#[test]
fn json_output_matches_the_schemas() {
    let (limiter, lab) = Limiter::idle();
    let list = lab.file("keys.csv");
    fs::write(&list, "scope,key,label\nbeta/app,some-key-of-theirs,old\n").expect("a list");
    let list = list.display().to_string();
    let config = limiter.config_path().display().to_string();
    let mut trial = Trial {
        limiter,
        documented: documented(),
        tried: BTreeSet::new(),
    };
    let none = trial.run("limiter scope list", &["scope", "list"], "");
    assert_eq!(none, serde_json::json!([]));
    let note = ["--note", "for the test"];
    for (named, arguments, input) in [
        ("limiter check", &["check", "-c", &config][..], ""),
        ("limiter fleet acl", &["fleet", "acl"], ""),
        ("limiter scope add SCOPE", &["scope", "add", "acme/web"], ""),
        ("limiter scope add SCOPE", &["scope", "add", "acme"], ""),
        (
            "limiter scope mode SCOPE MODE",
            &["scope", "mode", "acme/web", "observe", note[0], note[1]],
            "",
        ),
        (
            "limiter scope set SCOPE",
            &[
                "scope", "set", "acme/web", "--tier", "profile", note[0], note[1],
            ],
            "",
        ),
        (
            "limiter limits try",
            &["limits", "try", "--tier", "profile", "--daily-quota", "0"],
            "",
        ),
        (
            "limiter limits set SCOPE",
            &[
                "limits",
                "set",
                "acme/web",
                "--daily-quota",
                "unlimited",
                "--rate",
                "2/s",
                "--until",
                "7d",
                note[0],
                note[1],
            ],
            "",
        ),
        (
            "limiter key import SCOPE",
            &["key", "import", "acme"],
            "a-key-of-theirs",
        ),
        (
            "limiter key import --csv FILE",
            &["key", "import", "--csv", &list],
            "",
        ),
        ("limiter key check", &["key", "check"], "a-key-of-theirs"),
        ("limiter key check", &["key", "check"], "unknown"),
        ("limiter key check", &["key", "check"], "not a key"),
    ] {
        trial.run(named, arguments, input);
    }
    let create = [
        "key", "create", "acme/web", "--label", "new", "--until", "30d", note[0], note[1],
    ];
    let made = trial.run("limiter key create SCOPE", &create, "");
    let id = made["id"].as_str().expect("an id").to_owned();
    trial.begin(
        "limiter events --follow",
        &["events", "--follow"],
        &lab.file("followed"),
    );
    for (named, arguments) in [
        ("limiter explain KEY-ID", &["explain", &id][..]),
        ("limiter key disable ID", &["key", "disable", &id]),
        ("limiter explain KEY-ID", &["explain", &id]),
        ("limiter key enable ID", &["key", "enable", &id]),
        ("limiter key list", &["key", "list"]),
        ("limiter scope show SCOPE", &["scope", "show", "acme/web"]),
        ("limiter scope list", &["scope", "list"]),
        (
            "limiter key revoke ID",
            &["key", "revoke", &id, "--at", "7d"],
        ),
        ("limiter key revoke ID", &["key", "revoke", &id]),
        ("limiter usage SCOPE", &["usage", "acme/web"]),
        (
            "limiter reset SCOPE",
            &["reset", "acme/web", note[0], note[1]],
        ),
        (
            "limiter limits clear SCOPE",
            &["limits", "clear", "acme/web", note[0], note[1]],
        ),
        (
            "limiter scope remove SCOPE",
            &["scope", "remove", "acme/web"],
        ),
        (
            "limiter key list --removed",
            &["key", "list", "--removed", "acme/web"],
        ),
        ("limiter usage", &["usage"]),
        ("limiter explain SCOPE", &["explain", "acme"]),
        ("limiter top", &["top"]),
        ("limiter events", &["events"]),
        ("limiter tier list", &["tier", "list"]),
        ("limiter audit", &["audit"]),
        ("limiter reload", &["reload"]),
        ("limiter status", &["status"]),
        ("limiter detach", &["detach"]),
    ] {
        trial.run(named, arguments, "");
    }
    // The other commands of fleets need an engine, and are used by the tests in `hosts`.
    let needs_engine =
        |command: &str| command.starts_with("limiter fleet") && command != "limiter fleet acl";
    for command in trial.documented.keys() {
        assert!(
            trial.tried.contains(command) || needs_engine(command),
            "`{command}` was not tried"
        );
    }
}
