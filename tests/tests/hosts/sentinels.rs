// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hosts whose engine is a primary with two replicas and three Sentinels.

use limiter_tests::{
    Hosts,
    engine::{Program, Sentinels},
    eventually,
    hosts::{self, End, Verdict},
};

use crate::support::{AWAY, LARGE, QUOTA, SCOPE, calls, fleet_of, leased, load, use_up};

/// The primary at the start.
const PRIMARY: usize = 0;
const REPLICAS: [usize; 2] = [1, 2];

/// Returns the largest sum of leases that a replica has.
#[track_caller]
fn replicated(engine: &Sentinels) -> u64 {
    let leased = REPLICAS.map(|replica| leased(&engine.servers[replica], SCOPE));
    leased.into_iter().max().unwrap_or(0)
}

/// Uses up a quota while the primary is killed before its replicas have its last writes. `confirm`
/// is the number of replicas that have to confirm a lease.
#[track_caller]
fn use_up_while_the_primary_is_lost(program: Program, confirm: u32) {
    let mut hosts = Hosts::with_sentinels(program);
    let key = fleet_of(&mut hosts, |config| {
        config.fleet(&format!("confirm = {confirm}"))
    });
    assert_eq!(use_up(&hosts.rigs, &key), QUOTA);
    hosts.set_quota(SCOPE, QUOTA + LARGE);
    let Hosts {
        rigs,
        engine,
        network,
    } = &mut hosts;
    let served = || rigs.iter().map(|rig| rig.nginx.served(&key)).sum::<u64>();
    let labs = rigs.iter().map(|rig| &rig.lab);
    let used_up = |verdict| verdict == Verdict::UsedUp;
    let admitted = load(labs, &key, used_up, |load| {
        load.wait_for(LARGE / 10);
        for replica in REPLICAS {
            network.cut(End::Server(replica));
        }
        let replicated = replicated(engine);
        eventually("the replicas are behind", || {
            leased(&engine.servers[PRIMARY], SCOPE) > replicated
        });
        if confirm == 0 {
            eventually("hosts use leases that no replica has", || {
                served() > replicated
            });
        } else {
            for rig in &*rigs {
                eventually("calls are not confirmed", || calls(rig, "failed") > 0);
            }
            assert!(served() <= replicated, "{} of {replicated}", served());
        }
        engine.servers[PRIMARY].kill();
        network.cut(End::Server(PRIMARY));
        network.heal(&REPLICAS.map(End::Server));
        engine.be_alert();
    });
    assert_eq!(admitted, LARGE);
    let promoted = engine.primary(REPLICAS[0]);
    assert!(matches!(promoted, Some(1 | 2)), "{promoted:?}");
    let learning = hosts.rigs.iter().map(|rig| calls(rig, "learning"));
    assert!(learning.sum::<u64>() > 0, "the new primary granted at once");
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA + LARGE);
}

#[test]
fn a_primary_that_is_killed_while_its_replicas_are_behind_loses_nothing() {
    use_up_while_the_primary_is_lost(Program::Redis7, 1);
}

#[test]
fn leases_that_no_replica_has_are_learned_from_the_hosts() {
    use_up_while_the_primary_is_lost(Program::Redis6, 0);
}

#[test]
fn a_primary_that_is_cut_off_with_a_host_grants_nothing() {
    let mut hosts = Hosts::with_sentinels(Program::Valkey9);
    let key = fleet_of(&mut hosts, |config| config);
    hosts.set_quota(SCOPE, LARGE);
    let (rigs, network) = (&hosts.rigs, &hosts.network);
    let apart = [End::Server(PRIMARY), End::Host(0)];
    let labs = rigs.iter().map(|rig| &rig.lab);
    let used_up = |verdict| verdict == Verdict::UsedUp;
    let admitted = load(labs, &key, used_up, |load| {
        load.wait_for(LARGE / 10);
        network.separate(&apart);
        hosts.engine.be_alert();
        eventually("a replica is promoted", || {
            let primary = hosts.engine.primary(REPLICAS[0]);
            primary.is_some_and(|primary| primary != PRIMARY)
        });
        let before = rigs[0].nginx.served(&key);
        // Without confirmations for five seconds, the engine counts as away.
        eventually("the host that is cut off has no lease", || {
            hosts::ask(&rigs[0].lab, &key) == AWAY
        });
        // The other hosts go on until all the rest is leased to the host that is cut off.
        for rig in &rigs[1..] {
            eventually("the rest is leased out", || calls(rig, "leased_out") > 0);
        }
        let own = rigs[0].nginx.served(&key);
        assert!(own - before <= LARGE / 20, "{before} to {own}");
        network.heal(&apart);
    });
    assert_eq!(admitted, LARGE);
    eventually("the old primary is a replica", || {
        let info = hosts.engine.servers[PRIMARY].cli(&["INFO", "replication"]);
        info.contains("role:slave")
    });
    hosts.assert_charged_as_served(SCOPE, &key, LARGE);
}
