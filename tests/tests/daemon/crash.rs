// SPDX-License-Identifier: MIT OR Apache-2.0

//! If the daemon is killed at any moment, or if the host crashes together with the daemon, a daily
//! quota is never granted twice, and the number of lost requests does not exceed the configured
//! maximum.

use std::{
    fs,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use limiter_tests::{GUARDED, Limiter, Rig, avoid_midnight, eventually, long};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// The daily quota of the scopes in these tests.
const QUOTA: u64 = 200;
/// The maximum number of requests by which the count of a scope in the maps may exceed the count in
/// the store: a tenth of the quota (`Accounting::ahead_of`).
const AHEAD: u64 = 20;

/// Returns the number of crashes to test, which is larger in a long run.
fn crashes() -> u64 {
    if long() { 200 } else { 12 }
}

/// The number of concurrent clients.
const CLIENTS: usize = 3;

/// Removes the pins of all maps and links of the limiter, as a reboot does.
pub fn forget_kernel(limiter: &Limiter) {
    for directory in fs::read_dir(limiter.pin_dir()).expect("the pin directory") {
        let directory = directory.expect("an entry").path();
        for pin in fs::read_dir(&directory).expect("a directory of pins") {
            fs::remove_file(pin.expect("an entry").path()).expect("remove a pin");
        }
    }
}

/// The value of `Retry-After` while no daemon extends the allowance of a scope.
const UNATTENDED_WAIT: &str = "5";

/// Runs clients that use up the quota of `scope`, kills the daemon after `dies_at` responses, and
/// starts the next daemon. If `reboots` is true, removes the pinned maps and links before the next
/// daemon starts. Returns the number of requests that were served.
fn crash(rig: &mut Rig, scope: &str, dies_at: u64, reboots: bool) -> u64 {
    let key = rig.limiter.key(scope);
    let served = AtomicU64::new(0);
    // The clients pause between the crash and the start of the next daemon. After a reboot,
    // requests that are sent during this time would pass without limits, because no programs are
    // attached.
    let (down, up) = (Barrier::new(CLIENTS + 1), Barrier::new(CLIENTS + 1));
    let crashed = AtomicU64::new(0);
    let (lab, limiter) = (&rig.lab, &mut rig.limiter);
    thread::scope(|threads| {
        for _ in 0..CLIENTS {
            threads.spawn(|| {
                let mut paused = false;
                let mut conn = lab.connect(GUARDED);
                loop {
                    if !paused && crashed.load(SeqCst) == 1 {
                        paused = true;
                        drop(conn);
                        down.wait();
                        up.wait();
                        conn = lab.connect(GUARDED);
                    }
                    let response = conn.get("/", &key);
                    if response.status == 200 {
                        served.fetch_add(1, SeqCst);
                        continue;
                    }
                    assert_eq!(response.status, 429);
                    // On a busy machine, the new daemon may be late too, and the rest of the quota
                    // is refused until it extends the allowance.
                    let is_late = response.required("retry-after").trim() == UNATTENDED_WAIT;
                    if paused && !is_late {
                        return;
                    }
                    conn = lab.connect(GUARDED);
                }
            });
        }
        eventually("enough requests are answered", || {
            served.load(SeqCst) >= dies_at
        });
        limiter.kill();
        crashed.store(1, SeqCst);
        down.wait();
        if reboots {
            forget_kernel(limiter);
        }
        limiter.run(&[]);
        up.wait();
    });
    served.into_inner()
}

#[test]
fn crash_at_any_moment_grants_no_quota_twice() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| {
        let tier = format!("daily_quota = {QUOTA}\nrate = \"unlimited\"\nconcurrency = 100\n");
        // After the daemon is killed, the clients still receive their last responses before the
        // maps are removed. Under the default policy, the limiter could admit more requests in this
        // time than the store has allowed.
        let strict = "unattended = \"reject\"";
        config
            .section("tiers.profile", &tier)
            .section("accounting", strict)
    });
    let mut runner = TestRunner::deterministic();
    if long() {
        runner = TestRunner::default();
    }
    let moments = 0..QUOTA;
    let (mut reboots, mut lost) = (0, 0);
    for number in 0..crashes() {
        let dies_at = moments.new_tree(&mut runner).expect("a number").current();
        let reboot = number % 2 == 1;
        let scope = format!("acme/{number}");
        let served = crash(&mut rig, &scope, dies_at, reboot);
        let usage = rig.limiter.usage(&scope);
        assert_eq!(usage.used, QUOTA, "{usage:?}");
        if reboot {
            reboots += 1;
            lost += usage.lost;
            assert!(
                (QUOTA - AHEAD..=QUOTA).contains(&served),
                "{served} of {QUOTA} served, and the daemon died after {dies_at}: {usage:?}"
            );
            // Every request of the quota that was not served must be reported as lost. A request
            // that was served may be reported as lost too.
            assert!(
                QUOTA - served <= usage.lost && usage.lost <= AHEAD,
                "{usage:?}"
            );
        } else {
            assert_eq!(
                (served, usage.lost),
                (QUOTA, 0),
                "the daemon died after {dies_at} responses"
            );
        }
    }
    // If no request was lost in any reboot, the test has not tested the maximum number of lost
    // requests.
    assert!(lost > 0, "nothing lost in {reboots} reboots");
}

#[test]
fn without_a_daemon_the_whole_quota_can_be_used() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 30"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    rig.limiter.kill();
    let mut conn = rig.lab.connect(GUARDED);
    for _ in 1..30 {
        assert_eq!(conn.get("/", &key).status, 200);
    }
    assert_eq!(conn.get("/", &key).status, 429);
    rig.limiter.run(&[]);
    rig.assert_charged_as_served("acme/web", &key, 30);
    assert!(rig.limiter.count("/coverage/unattended") >= 10);
}

#[test]
fn unattended_reject_stops_at_the_allowance() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| {
        let config = config.tier("profile", "daily_quota = 30");
        config.section("accounting", "ahead = 5\nunattended = \"reject\"")
    });
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    rig.limiter.kill();
    let mut served = 1;
    let refusal = loop {
        let response = rig.get(&key);
        if response.status != 200 {
            break response;
        }
        served += 1;
    };
    assert_eq!(refusal.violated(), ["daily-quota"]);
    assert_eq!(refusal.required("retry-after").trim(), "5");
    assert!((5..=7).contains(&served), "{served}");
    forget_kernel(&rig.limiter);
    rig.limiter.run(&[]);
    let usage = rig.limiter.usage("acme/web");
    assert!(usage.used >= served, "{usage:?}");
    while rig.get(&key).status == 200 {
        served += 1;
    }
    assert!(served <= 30, "{served}");
}

#[test]
fn terminated_daemon_loses_no_counts() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 9"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 4), [200; 4]);
    rig.limiter.terminate();
    forget_kernel(&rig.limiter);
    rig.limiter.run(&[]);
    let usage = rig.limiter.usage("acme/web");
    assert_eq!((usage.used, usage.lost), (4, 0));
    assert_eq!(rig.statuses(&key, 6), [200, 200, 200, 200, 200, 429]);
}
