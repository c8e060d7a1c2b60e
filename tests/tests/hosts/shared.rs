// SPDX-License-Identifier: MIT OR Apache-2.0

//! All hosts together admit exactly the daily quota.

use limiter_common::day::Day;
use limiter_fleet::account_key;
use limiter_tests::{
    Hosts,
    clock::unix_now,
    engine::Program,
    eventually,
    hosts::{self, Verdict},
};

use crate::support::{
    HOSTS, QUOTA, SCOPE, admit, admit_until_some_is_left, begin, fleet, load, use_up, with_quota,
};

#[test]
fn hosts_that_are_asked_at_once_admit_exactly_the_quota() {
    for program in [Program::Redis7, Program::Valkey9] {
        begin();
        let hosts = Hosts::in_fleet(program, HOSTS, with_quota);
        let key = hosts.key(SCOPE);
        assert_eq!(use_up(&hosts.rigs, &key), QUOTA);
        // Each host now refuses further requests until midnight.
        for rig in &hosts.rigs {
            assert_eq!(hosts::ask(&rig.lab, &key), Verdict::UsedUp);
        }
        hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
    }
}

#[test]
fn one_host_may_use_the_whole_quota() {
    let (hosts, key) = fleet();
    let (first, others) = hosts.rigs.split_first().expect("there is a host");
    assert_eq!(use_up([first], &key), QUOTA);
    assert_eq!(use_up(others, &key), 0);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}

#[test]
fn an_idle_lease_comes_back_when_another_host_needs_it() {
    let (hosts, key) = fleet();
    let [first, second, third] = hosts.rigs.as_slice() else {
        panic!("{HOSTS} hosts")
    };
    let admitted = admit_until_some_is_left(first, &key) + admit_until_some_is_left(second, &key);
    assert_eq!(use_up([third], &key), QUOTA - admitted);
    for idle in [first, second] {
        let status = hosts::status(idle);
        assert!(
            status["leases"]["recalls"].as_u64() > Some(0),
            "no recall: {status}"
        );
        assert_eq!(hosts::left(idle), 0, "{status}");
    }
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
}

#[test]
fn a_raised_quota_can_be_used_at_once_and_exactly() {
    const RAISED: u64 = 500;
    let (hosts, key) = fleet();
    assert_eq!(use_up(&hosts.rigs, &key), QUOTA);
    hosts.set_quota(SCOPE, RAISED);
    assert_eq!(use_up(&hosts.rigs, &key), RAISED - QUOTA);
    hosts.assert_charged_as_served(SCOPE, &key, RAISED);
}

#[test]
fn a_quota_that_changes_while_clients_ask_is_used_exactly() {
    const HIGH: u64 = 4_000;
    const LOW: u64 = 1_000;
    let (hosts, raised) = fleet();
    let set_while_clients_ask = |scope, key: &str, quota| {
        let labs = hosts.rigs.iter().map(|rig| &rig.lab);
        let used_up = |verdict| verdict == Verdict::UsedUp;
        let admitted = load(labs, key, used_up, |load| {
            load.wait_for(100);
            hosts.set_quota(scope, quota);
        });
        // A host that did not know the new quota yet may have told its clients that the old one was
        // used up.
        admitted + use_up(&hosts.rigs, key)
    };
    assert_eq!(set_while_clients_ask(SCOPE, &raised, HIGH), HIGH);
    hosts.assert_charged_as_served(SCOPE, &raised, HIGH);

    let scope = "acme/lowered";
    let lowered = hosts.key(scope);
    hosts.set_quota(scope, HIGH);
    let admitted = set_while_clients_ask(scope, &lowered, LOW);
    // The hosts may have admitted more than the low quota before it was set.
    assert!((LOW..=HIGH).contains(&admitted), "{admitted}");
    hosts.set_quota(scope, HIGH);
    assert_eq!(use_up(&hosts.rigs, &lowered), HIGH - admitted);
    hosts.assert_charged_as_served(scope, &lowered, HIGH);
}

#[test]
fn a_lowered_quota_is_used_exactly() {
    const LOWERED: u64 = 200;
    let (hosts, key) = fleet();
    for rig in &hosts.rigs {
        admit(rig, &key, 30);
    }
    hosts.set_quota(SCOPE, LOWERED);
    assert_eq!(use_up(&hosts.rigs, &key), LOWERED - 90);
    hosts.assert_charged_as_served(SCOPE, &key, LOWERED);
}

#[test]
fn nothing_more_is_admitted_after_the_quota_is_lowered_below_the_count() {
    let (hosts, key) = fleet();
    for rig in &hosts.rigs {
        admit(rig, &key, 30);
    }
    hosts.set_quota(SCOPE, 50);
    // Each host gives back what it has leased, and does so before the command ends.
    for rig in &hosts.rigs {
        eventually("nothing is left", || hosts::left(rig) == 0);
    }
    assert_eq!(use_up(&hosts.rigs, &key), 0);
    hosts.assert_charged_as_served(SCOPE, &key, 90);
}

#[test]
fn a_host_copies_the_total_of_a_day_that_has_ended() {
    let (mut hosts, _) = fleet();
    // The engine has the account of yesterday, on which other hosts have served 42 requests.
    let yesterday = unix_now() / 86_400 - 1;
    let account = account_key(SCOPE, Day(u32::try_from(yesterday).expect("a day")));
    let fields = ["n", "0", "g", "50", "u", "42", "a", "2"];
    hosts
        .engine
        .cli(&[&["HSET", &account], &fields[..]].concat());
    let limiter = &mut hosts.rigs[0].limiter;
    limiter.terminate();
    limiter.run(&[]);
    eventually("the host has copied the day", || {
        let usage = limiter.json(&["usage", SCOPE, "--date", "yesterday"]);
        usage["used"] == 42 && usage["host_used"] == 0
    });
}
