// SPDX-License-Identifier: MIT OR Apache-2.0

//! Midnight on hosts whose clocks differ.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use limiter_common::day::Day;
use limiter_tests::{
    FakeTime, Hosts,
    engine::Program,
    eventually,
    hosts::{self, SECRET, Verdict},
};

use crate::support::{HOSTS, QUOTA, SCOPE, admit, leased_on, load, with_quota};

/// The milliseconds by which the clocks of the hosts are ahead of that of the engine.
const SKEWS: [i64; HOSTS] = [-500, 0, 500];
/// The number of seconds before midnight at which hosts have leases of tomorrow.
const EVENING: i64 = 3_000;
/// The number of seconds before midnight at which the night begins.
const BEFORE: i64 = 5;
/// The seconds by which a request may be admitted before midnight. Its time in the log of the
/// server is rounded, and the daemons publish the time once a second.
const ROUNDING: f64 = 1.0;

const DAY: i64 = 86_400;

/// A fleet, and the times of its hosts and of its engine.
struct Night {
    hosts: Hosts,
    times: Vec<FakeTime>,
}

impl Night {
    /// Starts a fleet in the evening.
    fn new() -> Self {
        // The Redis of Debian does not start with libfaketime.
        let mut hosts = Hosts::alone(Program::Valkey9);
        hosts.engine.kill();
        let directory = hosts.network.directory().to_owned();
        let mut times = vec![FakeTime::of_engine(&mut hosts.engine, &directory)];
        for skew in SKEWS {
            let rig = hosts.add(&SECRET, with_quota);
            let mut time = FakeTime::of(&mut rig.limiter, rig.lab.directory());
            time.set_skew(skew);
            times.push(time);
        }
        let mut night = Self { hosts, times };
        night.set_before_midnight(EVENING);
        night.hosts.engine.restart();
        night.hosts.start_fleet();
        night
    }

    /// Moves all times forward to `seconds` before midnight, and returns the midnight in seconds
    /// since the epoch.
    fn set_before_midnight(&mut self, seconds: i64) -> i64 {
        self.times[0].set_before_midnight(seconds);
        let ahead = self.times[0].ahead();
        for time in &mut self.times {
            time.set_ahead(ahead);
        }
        (self.times[0].now() + seconds).div_euclid(DAY) * DAY
    }

    /// Waits until all hosts together have leased as much of tomorrow for a scope as each of them
    /// leases in the evening.
    #[track_caller]
    fn wait_for_leases_of_tomorrow(&self, scope: &str) {
        let tomorrow = Day((self.times[0].now() / DAY + 1) as u32);
        eventually("each host has a lease of tomorrow", || {
            leased_on(tomorrow, &self.hosts.engine, scope) == HOSTS as u64
        });
    }

    /// Returns the times of the requests with `key` that a host has served, in seconds since the
    /// epoch by the present clock of the host.
    fn served_at(&self, host: usize, key: &str) -> Vec<f64> {
        let log = self.hosts.rigs[host].nginx.log();
        let ahead = self.times[0].ahead() as f64 + SKEWS[host] as f64 / 1_000.0;
        let of_key = log.iter().filter(|access| access.api_key == key);
        of_key.map(|access| access.time + ahead).collect()
    }
}

#[test]
fn no_quota_is_exceeded_at_midnight_and_the_first_requests_need_no_engine() {
    let mut night = Night::new();
    let key = night.hosts.key(SCOPE);
    assert_eq!(use_rest(&night.hosts, &key, QUOTA), QUOTA);
    night.wait_for_leases_of_tomorrow(SCOPE);
    let midnight = night.set_before_midnight(BEFORE);
    assert_eq!(use_rest(&night.hosts, &key, QUOTA), QUOTA);
    assert_eq!(night.hosts.served(&key), 2 * QUOTA);
    let second_day = midnight as f64 - ROUNDING;
    let late = (0..HOSTS).map(|host| {
        let times = night.served_at(host, &key);
        times.iter().filter(|at| **at >= second_day).count() as u64
    });
    let late: Vec<u64> = late.collect();
    assert_eq!(late.iter().sum::<u64>(), QUOTA, "{late:?}");
    assert!(!late.contains(&0), "each host had a lease: {late:?}");
    for rig in &night.hosts.rigs {
        assert_eq!(rig.limiter.usage(SCOPE).used, QUOTA);
    }

    // At the next midnight, no host can reach the engine.
    night.set_before_midnight(EVENING);
    let scope = "acme/quiet";
    let quiet = night.hosts.key(scope);
    for rig in &night.hosts.rigs {
        admit(rig, &quiet, 1);
    }
    night.wait_for_leases_of_tomorrow(scope);
    night.hosts.rigs.iter().for_each(hosts::cut_off);
    let midnight = night.set_before_midnight(BEFORE);
    eventually("midnight has passed on all hosts", || {
        night.times.iter().all(|time| time.now() > midnight + 1)
    });
    for rig in &night.hosts.rigs {
        assert_eq!(hosts::ask(&rig.lab, &quiet), Verdict::Admitted);
        assert_ne!(hosts::ask(&rig.lab, &quiet), Verdict::Admitted);
    }
    night.hosts.rigs.iter().for_each(hosts::reconnect);
    let rest = QUOTA - HOSTS as u64;
    assert_eq!(use_rest(&night.hosts, &quiet, rest), rest);
    assert_eq!(night.hosts.served(&quiet), HOSTS as u64 + QUOTA);
}

/// Runs clients of all hosts until they have been admitted `rest` times, and each of them has then
/// been refused. Returns the number of admitted requests.
#[track_caller]
fn use_rest(hosts: &Hosts, key: &str, rest: u64) -> u64 {
    let labs = hosts.rigs.iter().map(|rig| &rig.lab);
    let is_used_up = AtomicBool::new(false);
    let ends = |_| is_used_up.load(SeqCst);
    load(labs, key, ends, |load| {
        load.wait_for(rest);
        is_used_up.store(true, SeqCst);
    })
}
