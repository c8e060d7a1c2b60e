// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keys are added and removed, and limits and modes change. A change applies from the next request
//! on, also on open connections, and the count of the scope continues.

use std::{process::Command, thread, time::Duration};

use limiter_tests::{
    Conn, GUARDED, Rig, avoid_midnight, eventually,
    limiter::{RefusalCounts, exit, shape::is_time},
    process,
};
use serde_json::{Value, json};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// Returns the ids of the keys of `scope`, starting with the oldest key.
fn ids(rig: &Rig, scope: &str) -> Vec<String> {
    let keys = rig.limiter.json(&["key", "list", scope]);
    let keys = keys.as_array().expect("a list");
    keys.iter()
        .map(|key| key["id"].as_str().expect("an id").to_owned())
        .collect()
}

fn set(rig: &Rig, arguments: &[&str]) {
    let arguments = [&["limits", "set", "acme/web"], arguments, &["--note", "x"]].concat();
    rig.limiter.done(&arguments);
}

#[test]
fn keys_rotate_on_an_open_connection_and_share_the_count() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 100"));
    let first = rig.limiter.key("acme/web");
    let used = || rig.limiter.usage("acme/web").used;
    // The connection goes on after each refusal.
    let mut conn = rig.lab.connect(GUARDED);
    assert_eq!(conn.get("/", &first).status, 200);
    assert_eq!(used(), 1);
    // This key is not registered yet, so a request with it passes and is charged to no scope.
    assert_eq!(conn.get("/", "a-key-of-theirs").status, 200);
    assert_eq!(used(), 1);
    let import = ["key", "import", "acme/web", "--label", "theirs"];
    let imported = rig.limiter.cli_with_input(&import, "a-key-of-theirs");
    assert_eq!(imported.code, exit::DONE, "{imported:?}");
    assert_eq!(conn.get("/", "a-key-of-theirs").status, 200);
    assert_eq!(used(), 2);
    let second = rig.limiter.another_key("acme/web");
    assert_eq!(conn.get("/", &second).status, 200);
    assert_eq!(used(), 3);
    // While the old key is disabled, the new key works on the same connection.
    let old = &ids(&rig, "acme/web")[0];
    rig.limiter.done(&["key", "disable", old]);
    assert_eq!(conn.get("/", &second).status, 200);
    assert_eq!(conn.get("/", &first).status, 401);
    rig.limiter.done(&["key", "enable", old]);
    assert_eq!(conn.get("/", &first).status, 200);
    rig.limiter.done(&["key", "revoke", old]);
    assert_eq!(conn.get("/", &second).status, 200);
    assert_eq!(conn.get("/", &first).status, 401);
    rig.limiter
        .cli(&["key", "enable", old])
        .assert_fails(exit::FAILED, &["revoked"]);
    assert_eq!(conn.get("/", &second).status, 200);
    assert_eq!(conn.get("/", &first).status, 401);
    assert_eq!(used(), 7);
    assert_eq!(
        rig.limiter.usage("acme/web").refused,
        RefusalCounts::default()
    );
    drop(conn);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn removing_a_scope_with_active_keys_requires_with_keys() {
    let rig = Rig::veth(|config| config.policy("unknown_key = \"reject\""));
    let key = rig.limiter.key("acme/web");
    let other = rig.limiter.another_key("acme/web");
    let mut open = rig.lab.connect(GUARDED);
    assert_eq!(open.get("/", &key).status, 200);
    let remove = ["scope", "remove", "acme/web"];
    rig.limiter
        .cli(&remove)
        .assert_fails(exit::FAILED, &["acme/web", "2 active keys", "--with-keys"]);
    assert_eq!(open.get("/", &key).status, 200);
    for id in ids(&rig, "acme/web") {
        rig.limiter.done(&["key", "disable", &id]);
    }
    let enabled = &ids(&rig, "acme/web")[1];
    rig.limiter.done(&["key", "enable", enabled]);
    rig.limiter
        .cli(&remove)
        .assert_fails(exit::FAILED, &["1 active key:"]);
    rig.limiter
        .done(&["scope", "remove", "acme/web", "--with-keys"]);
    assert_eq!(open.get("/", &key).status, 401);
    assert_eq!(rig.get(&other).status, 401);
    assert_eq!(rig.limiter.json(&["key", "list"]), json!([]));
    // A scope whose keys are all revoked is removed without `--with-keys`.
    rig.limiter.key("acme/app");
    let id = &ids(&rig, "acme/app")[0];
    rig.limiter.done(&["key", "revoke", id]);
    rig.limiter.done(&["scope", "remove", "acme/app"]);
    assert_eq!(rig.limiter.json(&["scope", "list"]), json!([]));
}

/// By default, a request with a key that is not registered passes without limits. A revoked key
/// must never be treated like such a key.
#[test]
fn revoked_key_never_works_again() {
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 100"));
    let revoked = rig.limiter.key("acme/web");
    let [disabled, active] = [(); 2].map(|()| rig.limiter.another_key("acme/web"));
    let [first, second, third] = <[String; 3]>::try_from(ids(&rig, "acme/web")).expect("three");
    rig.limiter.scope("other");
    let mut open: Vec<Conn> = (0..3).map(|_| rig.lab.connect(GUARDED)).collect();
    for (conn, key) in open.iter_mut().zip([&revoked, &disabled, &active]) {
        assert_eq!(conn.get("/", key).status, 200);
    }
    rig.limiter.done(&["key", "revoke", &first]);
    rig.limiter.done(&["key", "disable", &second]);
    let removed = rig
        .limiter
        .done(&["scope", "remove", "acme/web", "--with-keys"]);
    // The removal of the scope takes effect with the next request on each open connection.
    for (conn, key) in open.iter_mut().zip([&revoked, &disabled, &active]) {
        assert_eq!(conn.get("/", key).status, 401);
    }
    assert!(
        removed.contains("3 keys are revoked permanently"),
        "{removed}"
    );
    for step in ["removed", "made again", "started again", "detached"] {
        match step {
            "made again" => rig.limiter.scope("acme/web"),
            "started again" => {
                rig.limiter.kill();
                rig.limiter.run(&[]);
            }
            "detached" => {
                // `detach` removes the maps from the kernel, so the next daemon knows the keys from
                // the store alone.
                rig.limiter.done(&["detach"]);
                assert_eq!(rig.limiter.wait_for_end(), Some(exit::DONE));
                rig.limiter.run(&[]);
            }
            _ => {}
        }
        for key in [&revoked, &disabled, &active] {
            assert_eq!(rig.get(key).status, 401, "{step}");
            let words = [
                "was revoked at 20",
                "of acme/web, a scope that has been removed",
            ];
            let alone = rig.limiter.cli_with_input(&["key", "import", "other"], key);
            alone.assert_fails(exit::FAILED, &words);
            let file = rig.lab.file("keys.csv");
            std::fs::write(&file, format!("scope,key\nnew,a-new-key\nacme/web,{key}\n"))
                .expect("the list");
            let listed = rig
                .limiter
                .cli(&["key", "import", "--csv", &file.display().to_string()]);
            listed.assert_fails(exit::FAILED, &[&["line 3"][..], &words].concat());
            assert!(!format!("{alone:?} {listed:?}").contains(key), "{listed:?}");
        }
        for id in [&first, &second, &third] {
            rig.limiter
                .cli(&["key", "enable", id])
                .assert_fails(exit::FAILED, &[id, "revoked", "cannot be undone"]);
        }
    }
    // The list of removed keys shows the last state of each key.
    assert_eq!(rig.limiter.json(&["key", "list"]), json!([]));
    let kept = rig.limiter.json(&["key", "list", "--removed", "acme/web"]);
    let kept = kept.as_array().expect("a list");
    assert_eq!(kept.len(), 3);
    for key in kept {
        assert_eq!(
            (&key["state"], &key["scope"], &key["scope_removed"]),
            (&json!("revoked"), &json!("acme/web"), &json!(true))
        );
        assert!(is_time(&key["revoked_at"]), "{key}");
        assert!(is_time(&key["last_used_at"]), "{key}");
    }
    let check = rig.limiter.cli_with_input(&["key", "check"], &active);
    for word in [third.as_str(), "acme/web (removed)", "revoked since 20"] {
        assert!(check.stdout.contains(word), "no {word} in {check:?}");
    }
    let explained = rig.limiter.json(&["explain", &third]);
    assert_eq!(
        (
            &explained["verdict"],
            &explained["reason"],
            &explained["key"]["state"]
        ),
        (&json!("refused"), &json!("disabled_key"), &json!("revoked"))
    );
    eventually("the refusal is reported with the key and its scope", || {
        let events = rig.limiter.json(&["events", "--limit", "1000"]);
        events.as_array().expect("a list").iter().any(|event| {
            event["reason"] == "disabled_key"
                && event["key"] == third.as_str()
                && event["scope"] == "acme/web"
        })
    });
}

#[test]
fn changed_quota_keeps_the_count_of_the_day() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 5"));
    let key = rig.limiter.key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    let mut ask =
        |count: usize| -> Vec<u16> { (0..count).map(|_| conn.get("/", &key).status).collect() };
    assert_eq!(ask(4), [200; 4]);
    set(&rig, &["--daily-quota", "7"]);
    assert_eq!(rig.limiter.usage("acme/web").remaining, Some(3));
    assert_eq!(ask(2), [200; 2]);
    // The scope has already used more requests than the new quota permits, so the next request is
    // refused.
    set(&rig, &["--daily-quota", "3"]);
    let usage = rig.limiter.usage("acme/web");
    assert_eq!((usage.used, usage.remaining), (6, Some(0)));
    assert_eq!(ask(1), [429]);
    set(&rig, &["--daily-quota", "8"]);
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
    rig.assert_charged_as_served("acme/web", &key, 8);
}

#[test]
fn override_expires_on_open_connections_too() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 2"));
    let key = rig.limiter.key("acme/web");
    let mut open = rig.lab.connect(GUARDED);
    set(&rig, &["--daily-quota", "1000", "--until", &in_seconds(10)]);
    let admitted = (0..5).filter(|_| open.get("/", &key).status == 200).count();
    assert_eq!(admitted, 5);
    eventually("the store has no override any more", || {
        rig.limiter.json(&["scope", "show", "acme/web"])["override"] == Value::Null
    });
    // The kernel programs no longer use the limits of the override.
    assert_eq!(open.get("/", &key).status, 429);
    assert_eq!(rig.limiter.usage("acme/web").daily_quota, Some(2));
    assert_eq!(rig.limiter.usage("acme/web").used, 5);
}

#[test]
fn an_old_key_ends_while_the_new_one_is_in_use() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = \"unlimited\""));
    let old = rig.limiter.key("acme/web");
    let new = rig.limiter.another_key("acme/web");
    let id = &ids(&rig, "acme/web")[0];
    let mut open = rig.lab.connect(GUARDED);
    rig.limiter.done(&[
        "key",
        "revoke",
        id,
        "--at",
        &in_seconds(5),
        "--note",
        "rotated",
    ]);
    assert_eq!(
        open.get("/", &old).status,
        200,
        "the key has some seconds left"
    );
    eventually("the old key has ended", || {
        assert_eq!(open.get("/", &new).status, 200);
        let key = rig.limiter.json(&["key", "list", "acme/web"])[0].clone();
        key["state"] == "revoked"
    });
    assert_eq!(open.get("/", &old).status, 401);
    let entries = rig.limiter.json(&["audit", id]);
    let last = entries.as_array().and_then(|all| all.last());
    assert_eq!(last.expect("an entry")["note"], "its end has passed");
}

#[test]
fn a_scope_moves_to_another_tier_on_an_open_connection() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| {
        config
            .tier("profile", "daily_quota = 2")
            .tier("gold", "daily_quota = 4")
    });
    let key = rig.limiter.key("acme/web");
    set(&rig, &["--burst", "7"]);
    let mut open = rig.lab.connect(GUARDED);
    let mut statuses = || [(); 3].map(|()| open.get("/", &key).status);
    assert_eq!(statuses(), [200, 200, 429]);
    let tier = |tier| {
        [
            "scope",
            "set",
            "acme/web",
            "--tier",
            tier,
            "--note",
            "contract 17",
        ]
    };
    let moved = rig.limiter.cli(&tier("gold"));
    for word in [
        "tier was profile and is now gold",
        "daily_quota was 2 and is now 4",
    ] {
        assert!(moved.stderr.contains(word), "{moved:?}");
    }
    assert_eq!(statuses(), [200, 200, 429]);
    rig.limiter.kill();
    rig.limiter.run(&[]);
    let shown = rig.limiter.json(&["scope", "show", "acme/web"]);
    assert_eq!(
        (&shown["tier"], &shown["limits"]["burst"]),
        (&json!("gold"), &json!(7))
    );
    let usage = rig.limiter.usage("acme/web");
    assert_eq!((usage.used, usage.daily_quota), (4, Some(4)));
    let wrong = rig.limiter.cli(&tier("golf"));
    wrong.assert_fails(exit::FAILED, &["golf", "did you mean `gold`"]);
    let entries = rig.limiter.json(&["audit", "acme/web"]);
    let last = entries.as_array().and_then(|all| all.last());
    let last = last.expect("an entry");
    assert_eq!(
        (&last["detail"], &last["note"]),
        (&json!("tier profile to gold"), &json!("contract 17"))
    );
}

#[test]
fn override_that_expired_without_a_daemon_stays_expired() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 2"));
    let key = rig.limiter.key("acme/web");
    set(&rig, &["--daily-quota", "1000", "--until", &in_seconds(10)]);
    assert_eq!(rig.statuses(&key, 3), [200; 3]);
    rig.limiter.kill();
    thread::sleep(Duration::from_secs(11));
    rig.limiter.run(&[]);
    assert_eq!(rig.get(&key).status, 429);
    let shown = rig.limiter.json(&["scope", "show", "acme/web"]);
    assert_eq!(
        (&shown["override"], &shown["limits"]["daily_quota"]),
        (&Value::Null, &json!(2))
    );
    let entries = rig.limiter.json(&["audit", "acme/web"]);
    let last = entries.as_array().and_then(|all| all.last());
    let last = last.expect("an entry");
    assert_eq!(
        (&last["who"], &last["note"]),
        (&json!("limiter"), &json!("its end has passed"))
    );
}

#[test]
fn a_scope_can_be_observed_alone_and_enforced_again() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 2"));
    let (key, other) = (rig.limiter.key("acme/web"), rig.limiter.key("acme/app"));
    assert_eq!(
        rig.limiter.json(&["scope", "show", "acme/web"])["mode"],
        "enforce"
    );
    let mut open = rig.lab.connect(GUARDED);
    assert_eq!(open.get("/", &key).status, 200);
    let mode = |rig: &Rig, mode: &str| {
        rig.limiter
            .json(&["scope", "mode", "acme/web", mode, "--note", "trial"])
    };
    let shown = mode(&rig, "observe");
    assert_eq!(
        (&shown["mode"], &shown["own_mode"]),
        (&json!("observe"), &json!("observe"))
    );
    for _ in 0..4 {
        assert_eq!(open.get("/", &key).status, 200);
    }
    let usage = rig.limiter.usage("acme/web");
    assert_eq!(
        (usage.refused.total(), usage.would_refuse.daily_quota),
        (0, 3)
    );
    assert_eq!(rig.statuses(&other, 3), [200, 200, 429]);
    // The scope keeps its mode after a reload, a change of its limits and a restart.
    rig.limiter.done(&["reload"]);
    set(&rig, &["--burst", "1000"]);
    rig.limiter.kill();
    rig.limiter.run(&[]);
    assert_eq!(open.get("/", &key).status, 200);
    assert_eq!(
        rig.limiter.json(&["scope", "show", "acme/web"])["mode"],
        "observe"
    );
    let shown = mode(&rig, "tier");
    assert_eq!(
        (&shown["mode"], &shown["own_mode"]),
        (&json!("enforce"), &Value::Null)
    );
    assert_eq!(open.get("/", &key).status, 429);
    rig.limiter
        .cli(&["scope", "mode", "acme/web", "observe"])
        .assert_fails(exit::USAGE, &["--note"]);
    rig.limiter
        .cli(&["scope", "mode", "acme/none", "observe", "--note", "x"])
        .assert_fails(exit::FAILED, &["acme/none"]);
}

/// Returns the time `seconds` seconds from now, in the format that `--until` expects.
fn in_seconds(seconds: u32) -> String {
    let at = format!("now + {seconds} seconds");
    let text = process::succeed(Command::new("date").args(["-u", "-d", &at, "+%FT%T.%3NZ"]));
    text.trim().to_owned()
}
