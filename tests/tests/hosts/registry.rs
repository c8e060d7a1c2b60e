// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes of scopes, keys and counts on one host are in force on all hosts.

use limiter_tests::{Limiter, hosts::SECRET, limiter::exit};
use serde_json::json;

use crate::support::{
    HOSTS, QUOTA, SCOPE, admit, fleet, id_of_key, use_up, wait_until_refused, with_quota,
};

#[test]
fn scopes_and_keys_of_one_host_are_those_of_all_hosts() {
    let (hosts, _) = fleet();
    let scope = "acme/second";
    let key = hosts.rigs[1].limiter.key(scope);
    hosts.wait_for_changes();
    for rig in &hosts.rigs {
        admit(rig, &key, 1);
    }
    let third = &hosts.rigs[2];
    third
        .limiter
        .done(&["key", "disable", &id_of_key(third, scope)]);
    hosts.wait_for_changes();
    for rig in &hosts.rigs {
        wait_until_refused(rig, &key);
    }
    hosts.assert_charged_as_served(scope, &key, HOSTS as u64);
}

#[test]
fn a_reset_on_one_host_restores_the_quota_on_all_hosts() {
    let (hosts, key) = fleet();
    for round in 1..=2 {
        assert_eq!(use_up(&hosts.rigs, &key), QUOTA, "round {round}");
        let reset = ["reset", SCOPE, "--note", "a bug of ours used it up"];
        hosts.rigs[round].limiter.done(&reset);
        hosts.wait_for_changes();
    }
    assert_eq!(use_up(&hosts.rigs, &key), QUOTA);
    for rig in &hosts.rigs {
        assert_eq!(rig.limiter.usage(SCOPE).used, QUOTA);
    }
    assert_eq!(hosts.served(&key), 3 * QUOTA);
}

fn set_limits(limiter: &Limiter, limits: &[&str]) {
    let words = [&["limits", "set", SCOPE], limits, &["--note", "a sync"]].concat();
    limiter.done(&words);
}

#[test]
fn limits_and_tiers_of_one_host_are_those_of_all_hosts() {
    let (hosts, _) = fleet();
    let host = |number: usize| &hosts.rigs[number].limiter;
    let end = "2999-01-01T00:00:00Z";
    set_limits(host(0), &["--daily-quota", "5000", "--until", end]);
    hosts.wait_for_changes();
    set_limits(host(1), &["--burst", "9"]);
    hosts.wait_for_changes();
    host(2).done(&["scope", "set", SCOPE, "--tier", "master", "--note", "grown"]);
    hosts.wait_for_changes();
    for rig in &hosts.rigs {
        let shown = rig.limiter.json(&["scope", "show", SCOPE]);
        assert_eq!(shown["tier"], "master", "{shown}");
        assert_eq!(
            shown["override"]["terms"],
            json!({
                "daily_quota": {"until": end, "note": "a sync"},
                "burst": {"until": null, "note": "a sync"},
            }),
            "{shown}"
        );
    }
    host(0).done(&["limits", "clear", SCOPE, "--daily-quota", "--note", "over"]);
    hosts.wait_for_changes();
    for rig in &hosts.rigs {
        let shown = rig.limiter.json(&["scope", "show", SCOPE]);
        let terms = shown["override"]["terms"].as_object().expect("limits");
        assert_eq!(terms.keys().collect::<Vec<_>>(), ["burst"], "{shown}");
    }
}

#[test]
fn a_host_that_joins_later_gets_everything() {
    let (mut hosts, key) = fleet();
    hosts.set_quota(SCOPE, 100);
    admit(&hosts.rigs[0], &key, 50);
    hosts.add(&SECRET, with_quota).limiter.run(&[]);
    hosts.wait_for_members(HOSTS + 1);
    hosts.wait_for_changes();
    assert_eq!(use_up(&hosts.rigs[HOSTS..], &key), 50);
    hosts.assert_charged_as_served(SCOPE, &key, 100);
}

#[test]
fn without_the_engine_only_urgent_changes_are_made() {
    let (mut hosts, key) = fleet();
    hosts.engine.kill();
    let [first, second, _] = hosts.rigs.as_slice() else {
        panic!("{HOSTS} hosts")
    };
    let refused = first.limiter.cli(&["scope", "add", "acme/late"]);
    refused.assert_fails(exit::FAILED, &["the engine", "nothing was changed"]);
    let id = id_of_key(second, SCOPE);
    second.limiter.done(&["key", "disable", &id]);
    wait_until_refused(second, &key);
    assert_ne!(first.get(&key).status, 401);
    hosts.engine.restart();
    for rig in &hosts.rigs {
        wait_until_refused(rig, &key);
    }
    hosts.wait_for_changes();
    // The change that was refused is not made later.
    let scopes = hosts.rigs[0].limiter.json(&["scope", "list"]);
    assert!(!scopes.to_string().contains("acme/late"), "{scopes}");
    hosts.rigs[0].limiter.done(&["key", "enable", &id]);
    hosts.wait_for_changes();
    use_up(&hosts.rigs, &key);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}
