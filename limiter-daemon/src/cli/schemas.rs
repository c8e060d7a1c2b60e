// SPDX-License-Identifier: MIT OR Apache-2.0

//! The JSON Schemas of the output of `--json`, which are in `docs/schemas/`. `docs/API.md` names
//! the schema of each command.

use std::{collections::BTreeSet, fs, path::Path};

use clap::CommandFactory as _;
use schemars::{JsonSchema, Schema, generate::SchemaSettings};

use super::{args::Cli, check::CheckView, fleet::AclView};
use crate::protocol::{
    events::EventView,
    fleet::FleetView,
    insight::{ExplainView, TopView},
    trial::TrialView,
    views::{
        AuditView, ChangedScope, CreatedKey, Imported, KeyCheck, KeyView, Report, ScopeDetail,
        ScopeView, StatusView, TierView, UsageView,
    },
};

/// The commands without JSON output.
const WITHOUT_JSON: [&str; 2] = ["limiter run", "limiter completions"];

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<T>()
}

/// Returns all schemas by the names of their files.
fn schemas() -> Vec<(&'static str, Schema)> {
    vec![
        ("audit", of::<Vec<AuditView>>()),
        ("check", of::<CheckView>()),
        ("created-key", of::<CreatedKey>()),
        ("event", of::<EventView>()),
        ("events", of::<Vec<EventView>>()),
        ("explain", of::<ExplainView>()),
        ("fleet", of::<FleetView>()),
        ("fleet-acl", of::<AclView>()),
        ("imported", of::<Imported>()),
        ("key", of::<KeyView>()),
        ("key-check", of::<KeyCheck>()),
        ("keys", of::<Vec<KeyView>>()),
        ("report", of::<Report>()),
        ("scope", of::<ChangedScope>()),
        ("scope-detail", of::<ScopeDetail>()),
        ("scopes", of::<Vec<ScopeView>>()),
        ("status", of::<StatusView>()),
        ("tiers", of::<Vec<TierView>>()),
        ("top", of::<TopView>()),
        ("trial", of::<TrialView>()),
        ("usage", of::<UsageView>()),
        ("usages", of::<Vec<UsageView>>()),
    ]
}

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn the_schemas_in_the_repository_are_those_of_this_code() {
    let schemas = schemas();
    for (name, schema) in &schemas {
        crate::documents::assert_committed(&format!("schemas/{name}.json"), schema.as_value());
    }
    let committed: BTreeSet<String> = fs::read_dir(docs().join("schemas"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let made = schemas.iter().map(|(name, _)| format!("{name}.json"));
    assert_eq!(committed, made.collect());
}

fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
    let shown = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    let mut is_leaf = true;
    for sub in shown {
        is_leaf = false;
        leaves(sub, &format!("{path} {}", sub.get_name()), found);
    }
    if is_leaf {
        found.push(path.to_owned());
    }
}

#[test]
fn each_command_has_its_schema_in_the_docs() {
    let text = fs::read_to_string(docs().join("API.md")).unwrap();
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("](schemas/"))
        .collect();
    let mut commands = Vec::new();
    leaves(&Cli::command(), "limiter", &mut commands);
    for command in commands {
        let is_its = |row: &&&str| {
            [" ", "`"]
                .iter()
                .any(|end| row.contains(&format!("`{command}{end}")))
        };
        assert_eq!(
            rows.iter().find(is_its).is_none(),
            WITHOUT_JSON.contains(&command.as_str()),
            "`{command}` in the table of docs/API.md"
        );
    }
    for (name, _) in schemas() {
        let link = format!("](schemas/{name}.json)");
        assert!(
            rows.iter().any(|row| row.contains(&link)),
            "nothing prints {name}"
        );
    }
}
