// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rates that the hosts share.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use limiter_tests::{Config, GUARDED, Hosts, Lab, Rig, engine::Program, eventually, hosts};

use crate::support::{CLIENTS, HOSTS, SCOPE, begin};

/// The rate of the scope, in requests a second.
const RATE: f64 = 90.0;
/// The time for which requests are counted.
const MEASURED: Duration = Duration::from_secs(5);
/// The time for which a host may save up unused parts of its share.
const TOLERANCE: f64 = 0.1;

fn with_shared_rate(config: Config) -> Config {
    config
        .tier("profile", &format!("rate = \"{RATE}/s\"\nburst = 1"))
        .fleet("rate = \"shared\"")
}

/// Sends requests to a host until `ends` is set.
fn ask_until(ends: &AtomicBool, lab: &Lab, key: &str) {
    let mut conn = lab.connect(GUARDED);
    while !ends.load(SeqCst) {
        let status = conn.get("/", key).status;
        assert!(matches!(status, 200 | 429), "{status}");
    }
}

/// Returns the number of scopes of whose rates the host enforces a share.
fn divided(rig: &Rig) -> u64 {
    let status = hosts::status(rig);
    status["divided_rates"].as_u64().expect("a number")
}

/// Runs clients of `labs` as fast as the hosts answer. Meanwhile, runs `meanwhile`.
fn with_clients<T>(labs: &[&Lab], key: &str, meanwhile: impl FnOnce() -> T) -> T {
    let ends = AtomicBool::new(false);
    thread::scope(|threads| {
        for lab in labs {
            for _ in 0..CLIENTS {
                threads.spawn(|| ask_until(&ends, lab, key));
            }
        }
        let value = meanwhile();
        ends.store(true, SeqCst);
        value
    })
}

/// Counts the requests that reach the servers of all hosts for some time. Returns their number, and
/// the time.
fn count(hosts: &Hosts, key: &str) -> (f64, f64) {
    let (start, before) = (Instant::now(), hosts.served(key));
    thread::sleep(MEASURED);
    let served = hosts.served(key) - before;
    (served as f64, start.elapsed().as_secs_f64())
}

#[test]
fn hosts_share_a_rate_that_the_demand_exceeds() {
    begin();
    let hosts = Hosts::in_fleet(Program::Redis7, HOSTS, with_shared_rate);
    let key = hosts.key(SCOPE);
    let labs: Vec<&Lab> = hosts.rigs.iter().map(|rig| &rig.lab).collect();
    let (served, seconds) = with_clients(&labs, &key, || {
        for rig in &hosts.rigs {
            eventually("the rate is divided", || divided(rig) == 1);
        }
        count(&hosts, &key)
    });
    let at_most = 1.01 * RATE * (seconds + TOLERANCE);
    assert!(served <= at_most, "{served} requests in {seconds} s");
    // A machine with other work may leave parts of the rate unused.
    assert!(served >= 0.5 * RATE * seconds, "{served} in {seconds} s");
    // One host alone may use the whole rate, also while it is divided.
    let (served, seconds) = with_clients(&labs[..1], &key, || {
        let first = &hosts.rigs[0];
        eventually("the host has the whole rate", || divided(first) == 0);
        count(&hosts, &key)
    });
    let share = RATE / HOSTS as f64;
    assert!(served > 1.5 * share * seconds, "{served} in {seconds} s");
    assert!(
        served <= 1.01 * RATE * (seconds + TOLERANCE),
        "{served} in {seconds} s"
    );
}

#[test]
fn without_the_engine_each_host_enforces_the_whole_rate() {
    begin();
    let mut hosts = Hosts::in_fleet(Program::Redis7, HOSTS, with_shared_rate);
    let key = hosts.key(SCOPE);
    let labs: Vec<&Lab> = hosts.rigs.iter().map(|rig| &rig.lab).collect();
    let engine = &mut hosts.engine;
    let rigs = &hosts.rigs;
    with_clients(&labs, &key, || {
        for rig in rigs {
            eventually("the rate is divided", || divided(rig) == 1);
        }
        engine.kill();
        for rig in rigs {
            eventually("the host has the whole rate", || divided(rig) == 0);
        }
        engine.restart();
        for rig in rigs {
            eventually("the rate is divided again", || divided(rig) == 1);
        }
    });
}
