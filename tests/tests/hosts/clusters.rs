// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hosts whose engine is a cluster of three primaries, each with a replica.

use std::thread;

use limiter_fleet::Bucket;
use limiter_tests::{
    Hosts,
    engine::{Cluster, Engine, Program},
    hosts::Verdict,
};

use crate::support::{LARGE, QUOTA, fleet_of, load, use_up};

/// The number of primaries.
const PRIMARIES: usize = 3;

/// Returns the name of a scope whose bucket belongs to a primary.
fn scope_of(primary: &Engine) -> String {
    let buckets = primary.cli(&["KEYS", "limiter:{*}:e"]);
    let buckets: Vec<&str> = buckets.lines().collect();
    let mut names = (0..).map(|number| format!("acme/{number}"));
    let is_here = |name: &String| buckets.contains(&Bucket::of(name).state_key().as_str());
    names.find(is_here).expect("a scope of this primary")
}

#[test]
fn scopes_of_all_primaries_admit_exactly_their_quotas_also_after_a_failover() {
    let mut hosts = Hosts::with_cluster(Program::Valkey8);
    fleet_of(&mut hosts, |config| config);
    let primaries = &hosts.engine.servers[..PRIMARIES];
    let scopes: Vec<String> = primaries.iter().map(scope_of).collect();
    let keys: Vec<String> = scopes.iter().map(|scope| hosts.key(scope)).collect();
    thread::scope(|threads| {
        for key in &keys {
            threads.spawn(|| assert_eq!(use_up(&hosts.rigs, key), QUOTA));
        }
    });
    for (scope, key) in scopes.iter().zip(&keys) {
        hosts.assert_charged_as_served(scope, key, QUOTA);
    }
    for scope in &scopes {
        hosts.set_quota(scope, QUOTA + LARGE);
    }
    let servers = &mut hosts.engine.servers;
    let killed = servers[..PRIMARIES]
        .iter()
        .position(|server| !server.cli(&["KEYS", "limiter:{fleet}:f"]).is_empty());
    let killed = killed.expect("a primary has the registry");
    let rigs = &hosts.rigs;
    let labs = || rigs.iter().map(|rig| &rig.lab);
    let used_up = |verdict| verdict == Verdict::UsedUp;
    thread::scope(|threads| {
        for key in &keys[1..] {
            threads.spawn(|| assert_eq!(use_up(rigs, key), LARGE));
        }
        let admitted = load(labs(), &keys[0], used_up, |load| {
            load.wait_for(LARGE / 10);
            servers[killed].kill();
            let others = servers.iter().enumerate();
            let others = others.filter(|(number, _)| *number != killed);
            Cluster::replace_primary(&others.map(|(_, server)| server).collect::<Vec<_>>());
            // The new primary grants nothing until it has a replica.
            servers[killed].restart();
        });
        assert_eq!(admitted, LARGE);
    });
    for (scope, key) in scopes.iter().zip(&keys) {
        hosts.assert_charged_as_served(scope, key, QUOTA + LARGE);
    }
}
