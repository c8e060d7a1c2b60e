// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults of an engine of one server, while clients use up a quota.

use limiter_tests::{
    Hosts,
    engine::Program,
    eventually,
    hosts::{self, End, Verdict},
    limiter::exit,
    netfilter::Rules,
};

use crate::support::{HOSTS, LARGE, Load, begin, calls, load, use_up, with_large_quota};

/// An address at which there is no server.
const NOBODY: &str = "198.51.100.99";

#[track_caller]
fn fleet() -> Hosts {
    begin();
    Hosts::in_fleet(Program::Redis7, HOSTS, with_large_quota)
}

/// Uses up the quota of a new scope, and calls `fault` when a tenth of it is used. All of it must
/// be admitted, and no more.
#[track_caller]
fn use_up_during(hosts: &Hosts, scope: &str, fault: impl FnOnce(&Load<'_>)) {
    let key = hosts.key(scope);
    let labs = hosts.rigs.iter().map(|rig| &rig.lab);
    let used_up = |verdict| verdict == Verdict::UsedUp;
    let admitted = load(labs, &key, used_up, |load| {
        load.wait_for(LARGE / 10);
        fault(load);
    });
    assert_eq!(admitted, LARGE, "{scope}");
    hosts.assert_charged_as_served(scope, &key, LARGE);
}

/// Waits until a call for a lease of each host has failed, beginning now.
#[track_caller]
fn wait_for_failures(hosts: &Hosts) {
    let before = hosts.rigs.iter().map(|rig| calls(rig, "failed"));
    let before: Vec<u64> = before.collect();
    for (rig, before) in hosts.rigs.iter().zip(before) {
        eventually("a call has failed", || calls(rig, "failed") > before);
    }
}

/// Waits until each host has a problem with the engine whose description contains `reason`.
#[track_caller]
fn wait_for_problem(hosts: &Hosts, reason: &str) {
    for rig in &hosts.rigs {
        eventually(reason, || {
            let problem = &hosts::status(rig)["engine"]["problem"];
            problem.to_string().contains(reason)
        });
    }
}

#[test]
fn an_engine_that_is_late_full_or_forgets_scripts_grants_exactly_the_quota() {
    let hosts = fleet();
    let engine = &hosts.engine;
    use_up_during(&hosts, "acme/scripts", |load| {
        for tenth in 2..=5 {
            engine.cli(&["SCRIPT", "FLUSH"]);
            load.wait_for(LARGE / 10 * tenth);
        }
    });
    use_up_during(&hosts, "acme/memory", |_| {
        engine.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        wait_for_problem(&hosts, "OOM");
        wait_for_failures(&hosts);
        engine.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    use_up_during(&hosts, "acme/late", |load| {
        for tenth in [2, 3] {
            // The calls are executed after the hosts have given them up.
            engine.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
            wait_for_failures(&hosts);
            engine.cli(&["CLIENT", "UNPAUSE"]);
            load.wait_for(LARGE / 10 * tenth);
        }
    });
}

#[test]
fn an_engine_whose_answers_are_lost_grants_exactly_the_quota() {
    let hosts = fleet();
    use_up_during(&hosts, "acme/connections", |load| {
        for part in 10..=60 {
            hosts.engine.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            load.wait_for(LARGE / 100 * part);
        }
    });
    let server = hosts.network.place(0, hosts.engine.port).namespace;
    use_up_during(&hosts, "acme/loss", |load| {
        let matching = format!("sport {} numgen random mod 3 == 0", hosts.engine.port);
        let _lossy = Rules::lose(server, &matching);
        load.wait_for(LARGE / 2);
    });
    use_up_during(&hosts, "acme/cut", |load| {
        for tenth in [2, 3] {
            hosts.network.cut(End::Server(0));
            wait_for_failures(&hosts);
            hosts.network.heal(&[End::Server(0)]);
            load.wait_for(LARGE / 10 * tenth);
        }
    });
}

#[test]
fn an_engine_that_is_emptied_or_demoted_learns_all_leases() {
    let hosts = fleet();
    let engine = &hosts.engine;
    let learned = || {
        let learning = hosts.rigs.iter().map(|rig| calls(rig, "learning"));
        learning.sum::<u64>()
    };
    let before = learned();
    use_up_during(&hosts, "acme/emptied", |_| {
        engine.cli(&["FLUSHALL"]);
        wait_for_problem(&hosts, "the engine has no fleet");
        let early = hosts.rigs[1].limiter.cli(&["scope", "add", "acme/early"]);
        early.assert_fails(exit::FAILED, &["the engine has no fleet"]);
        hosts.rigs[0].limiter.done(&["fleet", "seed"]);
        hosts.wait_for_changes();
    });
    let after_first = learned();
    assert!(after_first > before, "the empty engine granted at once");
    use_up_during(&hosts, "acme/demoted", |_| {
        engine.cli(&["REPLICAOF", NOBODY, "6379"]);
        wait_for_problem(&hosts, "is a replica");
        engine.cli(&["REPLICAOF", "NO", "ONE"]);
    });
    assert!(
        learned() > after_first,
        "the promoted engine granted at once"
    );
    // Nothing is left of either quota.
    let key = hosts.rigs[0].limiter.another_key("acme/emptied");
    hosts.wait_for_changes();
    assert_eq!(use_up(&hosts.rigs, &key), 0);
}
