// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the configuration file: valid settings, and the error for each mistake.

mod attach;
mod identify;
mod policy;
mod sections;
mod tiers;

use std::path::Path;

use super::*;
use crate::domain::{limits::Limits, mode::Mode};

const ATTACH: &str = "[attach]\ninterfaces = [\"eth0\"]\nports = [80]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Some(Path::new("f.toml")), &Overlay::default())
}

fn with_attach(text: &str) -> Result<Config, ConfigError> {
    parse(&format!("{ATTACH}{text}"))
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(ToOwned::to_owned).collect(),
    }
}

/// Appends each text to a valid section `[attach]` of three lines. Asserts that the result has
/// exactly one problem, and that the message of this problem contains the expected words.
#[track_caller]
fn assert_each_is_the_only_problem(mistakes: &[(&str, &str)]) {
    for (text, wanted) in mistakes {
        let messages = problems(&format!("{ATTACH}{text}"));
        assert!(
            messages.iter().any(|line| line.contains(wanted)),
            "{text}\nwanted {wanted}\nmessages {messages:#?}"
        );
        assert_eq!(messages.len(), 1, "{text}\n{messages:#?}");
    }
}

#[test]
fn the_documented_file_is_valid_and_has_the_defaults() {
    let text = r#"[attach]
interfaces = ["eth0"]
ports      = [80]
[identify]
sources    = ["header:x-api-key", "bearer", "basic"]
[policy]
mode        = "enforce"
missing_key = "pass"
unknown_key = "pass"
malformed   = "reject"
on_limit    = "keepalive"
untracked   = "pass"
table_full  = "reject"
connect     = "reject"
http2       = "reject"
preflight   = "pass"
[tiers.profile]
daily_quota = 1000
rate        = "1/ms"
burst       = 1
concurrency = 20
connections = "unlimited"
[tiers.master]
daily_quota = 10000
rate        = "1/ms"
burst       = 1
concurrency = 20
"#;
    assert_eq!(parse(text).unwrap(), with_attach("").unwrap());
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let messages = problems(
        "[attach]\ninterfaces = [\"lo\"]\nports = [0]\n[policy]\nmode = \"x\"\n[tabels]\n",
    );
    assert_eq!(messages.len(), 3, "{messages:#?}");
    assert!(messages[0].starts_with("f.toml:3:") && messages[1].starts_with("f.toml:5:"));
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let overlay = Overlay {
        file: Some("/nonexistent/limiter.toml".into()),
        interfaces: vec!["lo".to_owned()],
        ports: vec![80],
    };
    let error = Config::load(&overlay).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
}
