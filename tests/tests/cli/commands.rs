// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands for operators: their output, exit statuses and messages.

use limiter_tests::{
    Config, Lab, Limiter,
    limiter::{
        exit,
        shape::{assert_fields, is_time},
    },
};
use serde_json::{Value, json};

#[test]
fn scopes_are_added_listed_shown_and_removed() {
    let (limiter, _lab) = Limiter::idle();
    limiter.done(&["scope", "add", "acme"]);
    limiter.done(&["scope", "add", "acme/web"]);
    limiter.done(&["scope", "add", "acme/vip", "--tier", "master"]);
    let scopes = limiter.json(&["scope", "list"]);
    let tiers: Vec<_> = scopes
        .as_array()
        .expect("a list")
        .iter()
        .map(|scope| (scope["scope"].as_str(), scope["tier"].as_str()))
        .collect();
    let expected = [
        ("acme", "master"),
        ("acme/vip", "master"),
        ("acme/web", "profile"),
    ];
    assert_eq!(
        tiers,
        expected.map(|(scope, tier)| (Some(scope), Some(tier)))
    );

    let shown = limiter.json(&["scope", "show", "acme/web"]);
    assert_eq!(
        (&shown["scope"], &shown["tier"]),
        (&json!("acme/web"), &json!("profile"))
    );
    let limits = json!({
        "daily_quota": 1000, "rate": "1/ms", "burst": 1, "concurrency": 20, "connections": null
    });
    assert_eq!(shown["limits"], limits);
    assert_eq!(
        (&shown["override"], &shown["keys"]),
        (&Value::Null, &json!([]))
    );

    limiter.done(&["scope", "remove", "acme/web"]);
    limiter
        .cli(&["scope", "show", "acme/web"])
        .assert_fails(exit::FAILED, &["acme/web"]);
    let text = limiter.done(&["scope", "list"]);
    assert!(
        text.contains("acme/vip") && !text.contains("acme/web"),
        "{text}"
    );
}

#[test]
fn mistakes_about_scopes_are_named() {
    let (limiter, _lab) = Limiter::idle();
    limiter.done(&["scope", "add", "acme/web"]);
    limiter
        .cli(&["scope", "add", "acme/web"])
        .assert_fails(exit::FAILED, &["acme/web", "exists"]);
    limiter
        .cli(&["scope", "add", "acme/x", "--tier", "gold"])
        .assert_fails(exit::FAILED, &["gold", "profile", "master"]);
    for name in ["", "a/b/c", "/web", "acme/", "a b", "ac\u{e9}e"] {
        let output = limiter.cli(&["scope", "add", name]);
        assert_eq!(output.code, exit::USAGE, "{name:?}: {output:?}");
        assert!(
            output.stderr.contains("acme/web"),
            "no example in {output:?}"
        );
    }
    for arguments in [
        &["scope", "show", "nobody"][..],
        &["scope", "remove", "nobody"],
        &["key", "create", "nobody"],
        &["usage", "nobody"],
        &["reset", "nobody", "--note", "x"],
        &["limits", "set", "nobody", "--burst", "2", "--note", "x"],
        &["limits", "clear", "nobody", "--note", "x"],
    ] {
        limiter
            .cli(arguments)
            .assert_fails(exit::FAILED, &["nobody"]);
    }
}

#[test]
fn status_has_the_fields_of_the_contract() {
    let (limiter, _lab) = Limiter::idle();
    let status = limiter.status();
    let fields = [
        "version",
        "attached",
        "since",
        "guarded_ports",
        "totals",
        "coverage",
        "flows",
        "healed",
        "health",
    ];
    assert_fields(&status, &fields);
    assert_fields(&status["flows"], &["open", "half_open", "capacity"]);
    let healed = ["checks", "recounts", "slots", "connections"];
    assert_fields(&status["healed"], &healed);
    assert_fields(&status["healed"], &["orphaned_flows", "orphaned_slots"]);
    assert_fields(
        &status["totals"],
        &[
            "admitted",
            "refused",
            "malformed",
            "missing_key",
            "unknown_key",
        ],
    );
    let refused = ["rate", "concurrency", "connections", "daily_quota"];
    assert_fields(&status["totals"]["refused"], &refused);
    assert!(is_time(&status["since"]), "{status}");
    assert_eq!(status["health"], json!([]));
    assert_eq!(status["guarded_ports"], json!([80]));
    let text = limiter.done(&["status"]);
    assert!(text.contains("lo") && text.contains("80"), "{text}");
}

#[test]
fn tiers_are_listed_with_their_limits() {
    let (limiter, _lab) = Limiter::idle();
    let tiers = limiter.json(&["tier", "list"]);
    let quotas: Vec<_> = tiers
        .as_array()
        .expect("a list")
        .iter()
        .map(|tier| {
            (
                tier["tier"].as_str(),
                tier["limits"]["daily_quota"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        quotas,
        [
            (Some("master"), Some(10_000)),
            (Some("profile"), Some(1_000))
        ]
    );
}

#[test]
fn commands_without_a_daemon_name_the_socket() {
    let lab = Lab::loopback();
    let limiter = Limiter::prepare(&lab, "limiter", &Config::new(&lab));
    for arguments in [
        &["status"][..],
        &["scope", "list"],
        &["key", "list"],
        &["usage"],
        &["reset", "acme", "--note", "x"],
        &["limits", "clear", "acme", "--note", "x"],
        &["reload"],
    ] {
        let runtime = limiter.runtime_dir().display().to_string();
        limiter
            .cli(arguments)
            .assert_fails(exit::UNREACHABLE, &[&runtime]);
    }
}

#[test]
fn socket_is_found_by_the_environment() {
    let (limiter, lab) = Limiter::idle();
    let mut command = lab.server().command(limiter_tests::limiter::binary());
    command
        .args(["status", "--json"])
        .env("LIMITER_SOCKET", limiter.socket());
    let output: limiter_tests::limiter::Output =
        limiter_tests::process::output(&mut command).into();
    assert_eq!(output.json()["guarded_ports"], json!([80]));
}

#[test]
fn only_root_may_use_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let (limiter, _lab) = Limiter::idle();
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        mode(&limiter.socket()) & 0o007,
        0,
        "others may use the socket"
    );
    assert_eq!(
        mode(&limiter.state_dir()) & 0o077,
        0,
        "others may read the state"
    );
}

#[test]
fn unknown_commands_are_usage_errors() {
    for arguments in [
        &[][..],
        &["nosuch"],
        &["scope"],
        &["status", "--nosuch"],
        &["key", "create"],
    ] {
        let output = Limiter::alone(arguments);
        assert_eq!(output.code, exit::USAGE, "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["limits", "set", "--help"],
    ] {
        assert_eq!(Limiter::alone(arguments).code, exit::DONE, "{arguments:?}");
    }
}

#[test]
fn completions_are_made_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Limiter::alone(&["completions", shell]);
        assert_eq!(output.code, exit::DONE, "{output:?}");
        assert!(output.stdout.contains("limiter"), "{shell}");
    }
}
