// SPDX-License-Identifier: MIT OR Apache-2.0

//! An engine with TLS and a user who has exactly the rights that `limiter fleet acl` prints.

use limiter_tests::{
    Config, Hosts, Rig,
    engine::{Certificate, Secured},
    eventually,
    hosts::{self, ForHosts as _},
    limiter::exit,
};
use serde_json::Value;

use crate::support::{
    HOSTS, QUOTA, SCOPE, begin, fleet_of, id_of_key, use_up, wait_until_refused, with_quota,
};

#[test]
fn the_rights_that_limiter_prints_suffice() {
    let mut hosts = Hosts::with_tls();
    let key = fleet_of(&mut hosts, |config| config);
    let scope = "acme/revoked";
    let revoked = hosts.key(scope);
    assert_eq!(use_up(&hosts.rigs, &key), QUOTA);
    let [first, second, third] = hosts.rigs.as_slice() else {
        panic!("{HOSTS} hosts")
    };
    // No host has asked for a lease of this scope, so a refusal can only be due to the key.
    second
        .limiter
        .done(&["key", "revoke", &id_of_key(second, scope)]);
    for rig in &hosts.rigs {
        wait_until_refused(rig, &revoked);
    }
    third
        .limiter
        .done(&["reset", SCOPE, "--note", "a bug of ours used it up"]);
    hosts.wait_for_changes();
    assert_eq!(use_up(&hosts.rigs, &key), QUOTA);

    hosts.engine.engine.cli(&["FLUSHALL"]);
    eventually("the engine gets the scopes and keys back", || {
        first.limiter.cli(&["fleet", "seed"]).code == exit::DONE
    });
    hosts.set_quota(SCOPE, 2 * QUOTA);
    assert_eq!(use_up(&hosts.rigs, &key), QUOTA);
    assert_eq!(hosts.served(&key), 3 * QUOTA);
    // The engine has refused nothing.
    assert_eq!(hosts.engine.engine.cli(&["ACL", "LOG"]), "");
}

/// Returns the warnings of `limiter check` on a host for a section `[fleet]` with `lines`.
#[track_caller]
fn warnings(rig: &Rig, lines: &str) -> String {
    let config = Config::new(&rig.lab).section("fleet", lines);
    let file = rig.lab.file("checked.toml");
    std::fs::write(&file, config.to_string()).expect("write a configuration");
    let path = file.to_str().expect("a path in UTF-8");
    let checked = rig.limiter.json(&["check", "-c", path]);
    checked["warnings"].to_string()
}

/// Asserts that `limiter check` has one warning, which contains `reason` and no password.
#[track_caller]
fn assert_warns(rig: &Rig, lines: &str, reason: &str) {
    let warnings = warnings(rig, lines);
    assert!(warnings.contains(reason), "no {reason:?} in {warnings}");
    assert!(!warnings.contains(Secured::PASSWORD), "{warnings}");
}

/// Returns what `limiter fleet status` on a host says about the engine.
#[track_caller]
fn engine_of(rig: &Rig) -> Value {
    hosts::status(rig)["engine"].clone()
}

/// Waits until `limiter fleet status` names a problem that contains `reason`, calls `mend`, and
/// waits until there is no problem.
#[track_caller]
fn wait_for_problem(rig: &Rig, reason: &str, mend: impl FnOnce()) {
    eventually(reason, || {
        let engine = engine_of(rig);
        let of_server = &engine["servers"][0]["problem"];
        let problems = [&engine["problem"], of_server].map(ToString::to_string);
        problems.iter().any(|problem| problem.contains(reason))
    });
    mend();
    eventually("there is no problem", || {
        let status = hosts::status(rig);
        let engine = &status["engine"];
        engine["problem"].is_null()
            && engine["servers"][0]["problem"].is_null()
            && engine["up"] == true
            && status["problems"] == serde_json::json!([])
    });
}

/// Makes the server of an engine use `certificate` for new connections.
fn present(secured: &Secured, certificate: &Certificate) {
    let Certificate { certificate, key } = certificate;
    let certificate = ["tls-cert-file", certificate, "tls-key-file", key];
    let words = [&["CONFIG", "SET"][..], &certificate].concat();
    secured.engine.cli(&words);
}

/// Ends all connections of limiter to an engine.
fn disconnect(secured: &Secured) {
    secured
        .engine
        .cli(&["CLIENT", "KILL", "USER", Secured::USER]);
}

#[test]
fn check_and_status_say_what_is_wrong_with_the_engine() {
    begin();
    let mut hosts = Hosts::with_tls();
    hosts.form_fleet(1, with_quota);
    let (rig, secured) = (&hosts.rigs[0], &hosts.engine);
    let cli = |words: &[&str]| secured.engine.cli(words);
    let entries = secured.entries();
    assert_eq!(warnings(rig, &entries), "[]");

    let wrong = secured.password_file("wrong");
    let right = secured.password_file(Secured::PASSWORD);
    let [wrong, right] = [&wrong, &right].map(|path| format!("{path:?}"));
    assert_warns(
        rig,
        &entries.replace(&right, &wrong),
        "authentication failed",
    );
    cli(&["ACL", "SETUSER", Secured::USER, "resetpass", ">another"]);
    disconnect(secured);
    wait_for_problem(rig, "authentication failed", || drop(cli(&["ACL", "LOAD"])));

    for missing in ["-evalsha", "-info", "resetchannels", "resetkeys"] {
        cli(&["ACL", "SETUSER", Secured::USER, missing]);
        disconnect(secured);
        assert_warns(rig, &entries, "NoPerm");
        if missing == "-evalsha" {
            wait_for_problem(rig, "NoPerm", || drop(cli(&["ACL", "LOAD"])));
        }
        cli(&["ACL", "LOAD"]);
    }

    let directory = hosts.network.directory();
    let foreign = Certificate::authority(directory, "foreign");
    let trusted = &secured.authority.certificate;
    let lines = entries.replace(trusted.as_str(), &foreign.certificate);
    assert_warns(rig, &lines, "certificate");
    let host = &secured.engine.host;
    present(secured, &foreign.sign(directory, "of-foreign", host));
    disconnect(secured);
    wait_for_problem(rig, "certificate", || {
        present(
            secured,
            &secured.authority.sign(directory, "of-trusted", host),
        );
    });

    cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_warns(rig, &entries, "maxmemory-policy allkeys-lru");
    wait_for_problem(rig, "maxmemory-policy allkeys-lru", || {
        cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    });
}
