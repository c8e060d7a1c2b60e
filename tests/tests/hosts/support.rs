// SPDX-License-Identifier: MIT OR Apache-2.0

//! Helpers of the tests.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use limiter_common::day::Day;
use limiter_fleet::account_key;
use limiter_tests::{
    Config, GUARDED, Hosts, Lab, Rig, avoid_midnight,
    clock::unix_now,
    engine::{Engine, Program},
    eventually,
    hosts::{self, ForHosts, Verdict},
};

/// The scope of all tests.
pub const SCOPE: &str = "acme/web";
/// The daily quota of the fleet.
pub const QUOTA: u64 = 300;
/// A quota that clients do not use up before a fault has happened.
pub const LARGE: u64 = 3_000;
/// The answer of a host that has used up its leases while the engine is away.
pub const AWAY: Verdict = Verdict::Later(5);
/// The number of hosts.
pub const HOSTS: usize = 3;
/// A number of requests that no test may admit. Without it, clients would never end if there were
/// no limit.
const TOO_MANY: u64 = 10_000;
/// The number of clients of each host.
pub const CLIENTS: usize = 2;

/// The maximum duration of a test. A test waits until midnight UTC has passed if it could not end
/// before it.
const MAX_DURATION: Duration = Duration::from_secs(180);

/// Keeps the test away from midnight UTC, so that all its requests are counted on one day.
pub fn begin() {
    avoid_midnight(MAX_DURATION);
}

/// Sets the daily quota [`QUOTA`].
pub fn with_quota(config: Config) -> Config {
    config.tier("profile", &format!("daily_quota = {QUOTA}"))
}

/// Starts a fleet of [`HOSTS`] hosts with the quota [`QUOTA`], and registers a key on all of them.
#[track_caller]
pub fn fleet() -> (Hosts, String) {
    begin();
    let hosts = Hosts::in_fleet(Program::Redis7, HOSTS, with_quota);
    let key = hosts.key(SCOPE);
    (hosts, key)
}

/// Sets the daily quota [`LARGE`].
pub fn with_large_quota(config: Config) -> Config {
    config.tier("profile", &format!("daily_quota = {LARGE}"))
}

/// Makes a fleet of [`HOSTS`] hosts of an engine that has none yet, with the quota [`QUOTA`], and
/// registers a key on all of them.
#[track_caller]
pub fn fleet_of<E: ForHosts>(
    hosts: &mut Hosts<E>,
    configure: impl Fn(Config) -> Config + Copy,
) -> String {
    begin();
    hosts.form_fleet(HOSTS, |config| configure(with_quota(config)));
    hosts.key(SCOPE)
}

/// Returns the sum of all leases of a scope that a server has for today.
#[track_caller]
pub fn leased(server: &Engine, scope: &str) -> u64 {
    leased_on(Day((unix_now() / 86_400) as u32), server, scope)
}

/// Does the same as [`leased`] for another day.
#[track_caller]
pub fn leased_on(day: Day, server: &Engine, scope: &str) -> u64 {
    let leased = server.cli(&["HGET", &account_key(scope, day), "g"]);
    leased.parse().unwrap_or(0)
}

/// Returns the number of calls for leases of a host with a result.
#[track_caller]
pub fn calls(rig: &Rig, result: &str) -> u64 {
    let calls = hosts::status(rig)["leases"][result].as_u64();
    calls.unwrap_or_else(|| panic!("no calls with the result {result}"))
}

/// The clients of some hosts, which send requests at the same time.
pub struct Load<'a> {
    key: &'a str,
    admitted: AtomicU64,
}

impl Load<'_> {
    /// Waits until `count` requests have been admitted.
    #[track_caller]
    pub fn wait_for(&self, count: u64) {
        eventually("enough requests are admitted", || {
            self.admitted.load(SeqCst) >= count
        });
    }

    /// Sends requests to a host until a refusal meets `ends`. A client that gets another refusal
    /// asks again at once, on another connection.
    fn ask(&self, lab: &Lab, ends: impl Fn(Verdict) -> bool) {
        eventually("the last request is refused", || {
            let mut conn = lab.connect(GUARDED);
            loop {
                match hosts::ask_on(&mut conn, self.key) {
                    Verdict::Admitted => {
                        let admitted = self.admitted.fetch_add(1, SeqCst);
                        assert!(admitted < TOO_MANY, "there is no limit");
                    }
                    verdict => return ends(verdict),
                }
            }
        });
    }
}

/// Runs clients in `labs` until each of them has received a refusal that meets `ends`. Meanwhile,
/// runs `meanwhile` on this thread. Returns the number of admitted requests.
pub fn load<'a>(
    labs: impl IntoIterator<Item = &'a Lab>,
    key: &str,
    ends: impl Fn(Verdict) -> bool + Sync,
    meanwhile: impl FnOnce(&Load<'_>),
) -> u64 {
    let load = Load {
        key,
        admitted: AtomicU64::new(0),
    };
    thread::scope(|threads| {
        for lab in labs {
            for _ in 0..CLIENTS {
                threads.spawn(|| load.ask(lab, &ends));
            }
        }
        meanwhile(&load);
    });
    load.admitted.into_inner()
}

/// Runs clients of `rigs` until each of them is told that the quota is used up, and returns the
/// number of admitted requests.
pub fn use_up<'a>(rigs: impl IntoIterator<Item = &'a Rig>, key: &str) -> u64 {
    let labs = rigs.into_iter().map(|rig| &rig.lab);
    load(labs, key, |verdict| verdict == Verdict::UsedUp, |_| {})
}

/// Sends requests to a host until `count` of them have been admitted.
#[track_caller]
pub fn admit(rig: &Rig, key: &str, count: u64) {
    let mut conn = rig.lab.connect(GUARDED);
    let mut admitted = 0;
    eventually("the requests are admitted", || {
        while admitted < count && hosts::ask_on(&mut conn, key) == Verdict::Admitted {
            admitted += 1;
        }
        admitted == count
    });
}

/// Sends requests to a host until it has a lease of which something is left, and returns the number
/// of admitted requests.
#[track_caller]
pub fn admit_until_some_is_left(rig: &Rig, key: &str) -> u64 {
    let mut admitted = 0;
    eventually("something of the lease is left", || {
        admit(rig, key, 1);
        admitted += 1;
        hosts::left(rig) > 0
    });
    admitted
}

/// Waits until a host refuses a key as unknown or disabled.
#[track_caller]
pub fn wait_until_refused(rig: &Rig, key: &str) {
    eventually("the key is refused", || rig.get(key).status == 401);
}

/// Returns the id of the only key of a scope.
#[track_caller]
pub fn id_of_key(rig: &Rig, scope: &str) -> String {
    let keys = rig.limiter.json(&["key", "list", scope]);
    let id = keys[0]["id"].as_str();
    id.unwrap_or_else(|| panic!("no key in {keys}")).to_owned()
}
