// SPDX-License-Identifier: MIT OR Apache-2.0

//! Each unknown key gets a scope of its own. The number of these scopes is limited, and their usage
//! is recorded. A scope is removed only when the day on which its key was used is over.

use std::{fs, time::Duration};

use limiter_tests::{
    Config, FakeTime, GUARDED, Lab, Limiter, Nginx, Rig, avoid_midnight, eventually, limiter::exit,
};
use serde_json::Value;

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// The maximum number of unknown keys that have scopes.
const ROOM: usize = 64;

const QUOTA: u64 = 100;

fn adopting(config: Config) -> Config {
    let tier = format!("daily_quota = {QUOTA}\nrate = \"unlimited\"\n");
    config
        .section("policy", "unknown_key = \"tier:guest\"")
        .section("tiers.guest", &tier)
        .section("tables", &format!("unknown_keys = {ROOM}"))
}

/// Returns the output of `key check` for `key`.
fn check(limiter: &Limiter, key: &str) -> Value {
    let checked = limiter.cli_with_input(&["key", "check", "--json"], key);
    checked.json()
}

/// Waits until the daemon has a scope for the unknown key `key`, and returns the name of the scope.
fn scope_of(limiter: &Limiter, key: &str) -> String {
    limiter_tests::eventually_some("the scope of an unknown key", || {
        check(limiter, key)["unknown_scope"]
            .as_str()
            .map(str::to_owned)
    })
}

#[test]
fn flood_of_random_keys_does_not_affect_known_keys() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(adopting);
    let registered = rig.limiter.key("acme");
    assert_eq!(rig.statuses(&registered, 5), [200; 5]);
    assert_eq!(rig.statuses("unknown-key", 70), [200; 70]);
    let scope = scope_of(&rig.limiter, "unknown-key");
    let flood = |from: usize, statuses: &mut Vec<u16>| {
        let mut conn = rig.lab.connect(GUARDED);
        for number in from..from + 200 {
            let status = conn.get("/", &format!("random-{number}")).status;
            statuses.push(status);
            if status != 200 {
                conn = rig.lab.connect(GUARDED);
            }
        }
    };
    let mut statuses = Vec::new();
    flood(0, &mut statuses);
    let passed = |statuses: &[u16]| statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(passed(&statuses), ROOM - 1);
    assert!(statuses.iter().all(|status| [200, 401].contains(status)));
    let refused = (statuses.len() - passed(&statuses)) as u64;
    let overflow = rig.limiter.count("/coverage/unknown_key_overflow");
    assert_eq!(overflow, refused);
    eventually("all of them are on record", || {
        rig.limiter.count("/unknown_scopes") == ROOM as u64
    });
    // The flood is charged neither to the scope of the registered key nor to the scope of the first
    // unknown key. This also holds while no daemon is running.
    rig.limiter.kill();
    assert_eq!(rig.get(&registered).status, 200);
    assert_eq!(rig.statuses("unknown-key", 10), [200; 10]);
    let mut more = Vec::new();
    flood(0, &mut more);
    assert_eq!(
        passed(&more),
        ROOM - 1,
        "the keys that have scopes keep them"
    );
    rig.limiter.run(&[]);
    assert_eq!(rig.limiter.usage("acme").used, 6);
    assert_eq!(rig.limiter.usage(&scope).used, 80);
    let statuses = rig.statuses("unknown-key", 30);
    assert_eq!(passed(&statuses), 20);
    assert_eq!(rig.limiter.usage(&scope).used, QUOTA);
}

#[test]
fn unknown_key_keeps_its_count_after_a_reboot() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(adopting);
    assert_eq!(rig.statuses("unknown-key", 95), [200; 95]);
    let scope = scope_of(&rig.limiter, "unknown-key");
    rig.limiter.terminate();
    for layout in fs::read_dir(rig.limiter.pin_dir()).expect("the pin directory") {
        let layout = layout.expect("an entry").path();
        for pin in fs::read_dir(layout).expect("pins") {
            fs::remove_file(pin.expect("a pin").path()).expect("remove a pin");
        }
    }
    rig.limiter.run(&[]);
    assert_eq!(rig.limiter.usage(&scope).used, 95);
    let statuses = rig.statuses("unknown-key", 10);
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5);
    assert_eq!(rig.limiter.usage(&scope).used, QUOTA);
    // Once registered, the key belongs to another scope. The usage of its former scope remains on
    // record.
    rig.limiter.scope("acme");
    let import = ["key", "import", "acme"];
    let imported = rig.limiter.cli_with_input(&import, "unknown-key");
    assert_eq!(imported.code, exit::DONE, "{imported:?}");
    assert_eq!(rig.get("unknown-key").status, 200);
    assert_eq!(rig.limiter.usage("acme").used, 1);
    assert_eq!(
        check(&rig.limiter, "unknown-key")["unknown_scope"],
        Value::Null
    );
}

#[test]
fn unknown_keys_are_forgotten_after_their_day_and_make_room() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let mut limiter = Limiter::prepare(&lab, "limiter", &adopting(Config::new(&lab)));
    let mut time = FakeTime::of(&mut limiter, &lab.file(""));
    time.set_before_midnight(3600);
    limiter.run(&[]);
    let ask = |key: &str| lab.connect(GUARDED).get("/", key).status;
    for number in 0..ROOM {
        assert_eq!(ask(&format!("old-{number}")), 200);
    }
    assert_eq!(ask("new"), 401);
    let scope = scope_of(&limiter, "old-0");
    let yesterday = time.date(0);
    // This unknown key has an open connection, so it is not forgotten.
    let mut held = lab.connect(GUARDED);
    assert_eq!(held.get("/", "old-1").status, 200);
    let holds = scope_of(&limiter, "old-1");
    time.set_ahead(time.ahead() + 3700);
    eventually("the old ones are forgotten", || {
        limiter.count("/unknown_scopes") == 1
    });
    assert_eq!(limiter.usage(&holds).used, 0);
    let old = limiter.json(&["usage", &scope, "--date", &yesterday]);
    assert_eq!((&old["used"], &old["removed"]), (&1.into(), &true.into()));
    eventually("there is room again", || ask("new") == 200);
    assert_eq!(held.get("/", "old-1").status, 200);
    assert_eq!(scope_of(&limiter, "old-1"), holds);
}
